"""Without a journal: what travels in `state`, and a callback that is confirmed and delivered in its own request."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from engine import (
    PNG,
    POLICY,
    PUBLIC_URL,
    Origin,
    Recording,
    Relay,
    StillClock,
    answer,
    destination,
    engine,
    until,
    wire_task,
)

from receiver.app.container import Runtime
from receiver.app.stateless import StatelessReceive
from receiver.app.stateless_submit import StatelessSubmit
from receiver.clock import Clock
from receiver.deliveries import Receipt
from receiver.engine.engine import Engine
from receiver.errors import Ambiguous, InputError, NotDelivered, Refused
from receiver.events import steady_id
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.handlers.file import FileHandler
from receiver.intake import Policy
from receiver.requests import build
from receiver.submissions import Options
from receiver.tasks import decode_task
from receiver.tokens import Tag, Tokens, trust

TASK = "17"


@dataclass
class Direct:
    """The mode without a journal, with its provider and its origin of pictures."""

    sending: StatelessSubmit
    receiving: StatelessReceive
    relay: Relay
    origin: Origin
    tokens: Tokens
    clock: Clock

    async def submit(self, **options: Any) -> str:
        """Submit. Return the submission's id."""
        row = await self.sending.submit(build("imagine", prompt="a boat --v 6.1"), Options(**options))
        assert row.task_id == TASK
        return row.id

    def ends(self, status: str = "SUCCESS", **other: Any) -> None:
        """Let the provider say so of the task from now on, with the `state` it was given."""
        links = {"imageUrl": f"{self.origin.url}/1.png"} if status == "SUCCESS" else {}
        state = self.relay.submitted[-1]["state"] if self.relay.submitted else ""
        self.relay.tasks[TASK] = wire_task(TASK, status, state=state, finishTime=1_799_999_999_000, **links | other)

    async def calls_back(self, body: dict[str, Any] | None = None, *, url: bool = True, **other: Any) -> bool:
        """Call back as the provider does: the endpoint reads the tokens first."""
        body = (body or self.relay.tasks[TASK]) | other
        hook = self.relay.submitted[-1]["notifyHook"].rpartition("/")[2]
        view = decode_task(json.dumps(body).encode())
        submission_id, cause = trust(self.tokens, self.tokens.read_url_token(hook) if url else None, view.state)
        return await self.receiving.received(submission_id, view, b"", cause)


@asynccontextmanager
async def direct(
    *handlers: Any, clock: StillClock | None = None, policy: Policy = POLICY, budget: float = 20.0
) -> AsyncIterator[Direct]:
    names = ["album", "team", "third"][: len(handlers)]
    with tempfile.TemporaryDirectory() as folder:
        steady = dataclasses.replace(policy, steady=True)
        async with engine(Path(folder), clock=clock, routes=names, policy=steady) as kit:
            kit.origin.files["/1.png"] = PNG
            opened = [destination(name, handler, timeout=60) for name, handler in zip(names, handlers, strict=True)]
            dispatcher = kit.dispatcher(*opened)
            made = Engine(
            function=True,
                journal=kit.journal, dispatcher=dispatcher, archiver=kit.archiver, submissions=kit.submissions,
                waiting=lambda: 0, store=kit.store, destinations=dict.fromkeys(names, "recording"),
                leading={"send": kit.submissions.send_once, "reconcile": kit.reconciler.reconcile_once,
                         "archive": kit.archiver.archive_once},
                clock=kit.clock,
            )  # fmt: skip
            made.progress = False
            dispatcher.changed, kit.intake.changed = made.slot_free, made.changed
            yield Direct(
                StatelessSubmit(provider=kit.provider, tokens=kit.tokens, clock=kit.clock, public_url=PUBLIC_URL),
                StatelessReceive(
                    cast(Runtime, SimpleNamespace(
                        journal=kit.journal, intake=kit.intake, engine=made, provider=kit.provider, tokens=kit.tokens,
                        clock=kit.clock, destinations=names,
                    )),
                    confirm_seconds=policy.confirm_ms / 1000, budget=budget,
                ),
                kit.relay, kit.origin, kit.tokens, kit.clock,
            )  # fmt: skip
            await made.stop()


async def passing(clock: StillClock, work: Awaitable[Any]) -> Any:
    """Let the clock go until the work has ended. Return or raise its outcome."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=0.05)  # what happens at this time takes real time
        if not task.done():
            clock.advance(0.5)
    return await task


# Submitting


async def test_what_the_endpoint_must_know_travels_in_the_state() -> None:
    """Names of destinations and labels go along, signed; the endpoint's destinations need not be known here."""
    async with direct() as world:
        submission_id = await world.submit(to=("elsewhere",), labels={"order": "17"})
        sent = world.relay.submitted[0]
        tag = Tag(submission_id=submission_id, destinations=("elsewhere",), labels={"order": "17"})
        assert world.tokens.read_tag(sent["state"]) == tag
        assert world.tokens.read_url_token(sent["notifyHook"].rpartition("/")[2]) == submission_id


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"labels": {"a": "x" * 180}}, "have 174 characters there"),
        ({"labels": {"a": "猫" * 60}}, "three for each byte"),
        ({"state": "mine"}, "but a label has"),
        ({"auto": ("U1",)}, "nothing remembers"),
        ({"once": "order 17"}, "nothing remembers"),
        ({"speed": "warp"}, "speed"),
    ],
)
async def test_what_needs_a_journal_is_refused_before_anything_is_sent(options: dict[str, Any], text: str) -> None:
    """A sentence says so, and no money is spent."""
    async with direct() as world:
        with pytest.raises(InputError, match=text):
            await world.submit(**options)
        assert world.relay.submitted == []


async def test_an_unclear_answer_is_told_and_its_callback_is_delivered_all_the_same() -> None:
    """The task may have been made; its callback says all the endpoint needs."""
    album = Recording()
    async with direct(album) as world:
        world.relay.submits = [httpx.ReadTimeout("")]
        with pytest.raises(Ambiguous):
            await world.submit(labels={"order": "17"})
        world.ends()
        assert await world.calls_back()
        assert album.attempts[0].event.labels == {"order": "17"}


async def test_a_busy_provider_is_an_error_because_nothing_sends_it_again() -> None:
    """The submitter is told at once."""
    async with direct() as world:
        world.relay.submits = [answer(23)]
        with pytest.raises(Refused):
            await world.submit()


# Callbacks


async def test_a_result_is_confirmed_downloaded_and_delivered_in_the_request() -> None:
    """All that an engine with a lasting journal would do, before the answer."""

    async def look(attempt: Attempt) -> Receipt:
        assert attempt.media[0].path.read_bytes() == PNG
        return Receipt(ref="made")

    album = Recording(look)
    async with direct(album) as world:
        submission_id = await world.submit(labels={"order": "17"})
        world.ends()
        assert await world.calls_back()
    event = album.attempts[0].event
    assert event.id == f"{submission_id}.task.succeeded"
    assert (event.confirmed, event.labels, event.prompt, event.task_id) == (True, {"order": "17"}, "a boat", TASK)
    assert event.task is not None
    assert event.task.state == ""
    assert album.attempts[0].idempotency_key == steady_id(event.id, "album")


async def test_only_the_named_destinations_get_it() -> None:
    """As with a journal: names beat what destinations want."""
    album, team = Recording(), Recording()
    async with direct(album, team) as world:
        await world.submit(to=("team",))
        world.ends()
        assert await world.calls_back()
    assert (len(album.attempts), len(team.attempts)) == (0, 1)


async def test_a_name_that_is_not_here_is_an_error_that_says_so() -> None:
    """The submitter may have misspelt it; the endpoint's log knows which there are."""
    async with direct(Recording()) as world:
        await world.submit(to=("elsewhere",))
        world.ends()
        with pytest.raises(NotDelivered, match=r"'elsewhere', which is not here. There are: album"):
            await world.calls_back()


@pytest.mark.parametrize("status", ["NOT_START", "SUBMITTED", "IN_PROGRESS", "MODAL"])
async def test_what_is_no_end_owes_nothing(status: str) -> None:
    """It is answered at once, and costs no question."""
    album = Recording()
    async with direct(album) as world:
        await world.submit()
        world.ends(status)
        assert await world.calls_back()
        assert (world.relay.asked, album.attempts) == ([], [])


async def test_a_failure_is_told_with_its_reason() -> None:
    """It is an end like another."""
    album = Recording()
    async with direct(album) as world:
        await world.submit()
        world.ends("FAILURE", failReason="banned")
        assert await world.calls_back()
    assert (album.attempts[0].event.type, album.attempts[0].event.reason) == ("task.failed", "banned")


async def test_a_relay_that_lags_is_asked_again_until_it_agrees() -> None:
    """Its state is "" until its own first poll (PROTOCOL.md §5). That is no contradiction."""
    album, clock = Recording(), StillClock()
    async with direct(album, clock=clock) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.relay.tasks[TASK] = truth | {"status": "", "state": ""}
        asking = asyncio.create_task(world.calls_back(truth))
        await until(lambda: len(world.relay.asked) == 1)
        clock.advance(2)
        await until(lambda: len(world.relay.asked) == 2)
        world.relay.tasks[TASK] = truth
        assert await passing(clock, asking)
    assert album.attempts[0].event.confirmed


async def test_a_task_that_is_ours_but_lags_to_the_end_is_delivered_unconfirmed() -> None:
    """The provider has shown our state with it, so it is our task. Only its end is not seen there yet."""
    album, clock = Recording(), StillClock()
    async with direct(album, clock=clock) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.relay.tasks[TASK] = truth | {"status": "IN_PROGRESS", "progress": "93%"}
        assert await passing(clock, world.calls_back(truth))
    assert not album.attempts[0].event.confirmed


async def test_a_task_the_provider_never_shows_with_our_state_is_not_accepted() -> None:
    """Both tokens may have leaked, because they travel in clear. The provider's answer decides whose task it is."""
    album, clock = Recording(), StillClock()
    async with direct(album, clock=clock) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.relay.tasks[TASK] = truth | {"state": ""}
        with pytest.raises(NotDelivered, match="did not show task 17 with our state within 30 s"):
            await passing(clock, world.calls_back(truth))
    assert album.attempts == []


async def test_another_submissions_task_is_refused_at_once() -> None:
    """A forged callback costs one question, not half a minute."""
    album = Recording()
    async with direct(album) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        await world.submit()
        with pytest.raises(NotDelivered, match="is not the one"):
            await world.calls_back(truth, state=world.relay.submitted[1]["state"])
        world.relay.tasks[TASK] = truth | {"state": "somebody's"}
        with pytest.raises(NotDelivered, match="is not the one"):
            await world.calls_back()
        assert len(world.relay.asked) == 2
    assert album.attempts == []


async def test_one_good_token_is_enough_where_the_provider_shows_the_other() -> None:
    """A relay with a fixed URL, or one that drops the state from callbacks: the fetch shows what is missing."""
    album = Recording()
    async with direct(album) as world:
        await world.submit(labels={"order": "17"})
        world.ends()
        assert await world.calls_back(url=False)
        assert await world.calls_back(state="")
    assert [attempt.event.labels for attempt in album.attempts] == [{"order": "17"}]


async def test_a_false_failure_loses_against_a_picture_that_can_be_downloaded() -> None:
    """Relays fail tasks by their own clock (PROTOCOL.md §6)."""
    album = Recording()
    async with direct(album) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.ends("FAILURE", failReason="上游任务超时（超过1小时）")
        assert await world.calls_back(truth)
    assert (album.attempts[0].event.type, album.attempts[0].event.confirmed) == ("task.succeeded", False)
    assert album.attempts[0].media[0].media.size == len(PNG)


async def test_confirm_within_0_trusts_a_doubly_signed_callback() -> None:
    """The operator's choice, as with a journal."""
    album = Recording()
    async with direct(album, policy=Policy(confirm_ms=0)) as world:
        await world.submit(labels={"order": "17"})
        world.ends()
        assert await world.calls_back()
        assert world.relay.asked == []
    assert album.attempts[0].event.labels == {"order": "17"}


# Delivering


async def test_one_failing_destination_keeps_no_other_and_is_told() -> None:
    """It is tried again while there is time. Then the answer is an error that says why."""
    album, team, clock = Recording(), Recording(OSError("no space")), StillClock()
    async with direct(album, team, clock=clock) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="team: no space"):
            await passing(clock, world.calls_back())
    assert (len(album.attempts), len(team.attempts)) == (1, 2)


async def test_a_destination_that_asks_to_wait_is_waited_for_within_the_budget() -> None:
    """A rate limit of seconds costs nothing. One of minutes is an error."""
    album, clock = Recording(RetryLater(5), Receipt(ref="made")), StillClock()
    async with direct(album, clock=clock) as world:
        await world.submit()
        world.ends()
        assert await passing(clock, world.calls_back())
    team = Recording(RetryLater(300))
    async with direct(team, clock=clock) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="asked to wait 300 s"):
            await passing(clock, world.calls_back())
    assert (len(album.attempts), len(team.attempts)) == (2, 1)


async def test_a_rejected_delivery_is_not_tried_again() -> None:
    """It would say the same."""
    album = Recording(Rejected("no such channel"))
    async with direct(album) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="no such channel"):
            await world.calls_back()
    assert len(album.attempts) == 1


async def test_a_handler_that_hangs_ends_with_the_budget() -> None:
    """The request answers in time whatever a destination does."""

    async def hang(attempt: Attempt) -> Receipt:
        await asyncio.Event().wait()
        return Receipt()

    clock = StillClock()
    async with direct(Recording(hang), clock=clock) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="album: "):
            await passing(clock, world.calls_back())
        assert clock.passed <= 52


async def test_a_picture_that_cannot_be_had_is_told_as_everywhere() -> None:
    """The handler decides what that is worth."""
    album = Recording(Rejected("without the picture"))
    async with direct(album) as world:
        await world.submit()
        world.ends(imageUrl="http://elsewhere.example/1.png")
        with pytest.raises(NotDelivered, match="without the picture"):
            await world.calls_back()
    assert album.attempts[0].media_problem is not None
    assert not album.attempts[0].media_pending


async def test_a_repeated_callback_delivers_only_what_is_missing() -> None:
    """Senders repeat the end after seconds (PROTOCOL.md §7)."""
    album, team, clock = Recording(), Recording(OSError("down"), OSError("down"), Receipt(ref="made")), StillClock()
    async with direct(album, team, clock=clock) as world:
        await world.submit()
        world.ends()
        results = await passing(
            clock, asyncio.gather(world.calls_back(), world.calls_back(), return_exceptions=True)
        )  # fmt: skip
    assert [type(result) for result in results] == [NotDelivered, bool]
    assert (len(album.attempts), len(team.attempts)) == (1, 3)


async def test_a_folder_gets_it_once_however_often_and_wherever_it_comes(tmp_path: Path) -> None:
    """Two processes that share nothing write the same names and the same bytes."""
    found = []
    relay: Relay | None = None
    for _ in range(2):
        async with direct(FileHandler(FileHandler.Options(path=tmp_path / "album"))) as world:
            if relay is None:
                await world.submit(labels={"order": "17"})
                relay = world.relay
                first = world.origin.url
            world.relay.submitted = relay.submitted
            world.ends(imageUrl=f"{world.origin.url}/1.png")
            assert await world.calls_back()
            pages = {
                path.name: path.read_bytes().replace(world.origin.url.encode(), first.encode())
                for path in (tmp_path / "album").iterdir()
            }
            found.append(pages)
    assert found[0] == found[1]
    assert sorted(name.rpartition(".")[2] for name in found[0]) == ["json", "png"]
