"""Without a journal: what travels in `state`, and a callback that is confirmed and delivered in its own request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import (
    KEYS,
    PNG,
    POLICY,
    PUBLIC_URL,
    TLS,
    Origin,
    Recording,
    Relay,
    StillClock,
    answer,
    destination,
    logged,
    serving,
    until,
    wire_task,
)
from receiver.courier import Courier

from receiver.clock import Clock
from receiver.deliveries import Receipt
from receiver.errors import Ambiguous, InputError, NotDelivered, Refused
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.handlers.file import FileHandler
from receiver.intake import Policy, Route
from receiver.media import Fetcher
from receiver.provider import Provider
from receiver.requests import build
from receiver.submissions import Options
from receiver.tasks import decode_task
from receiver.tokens import Tag, Tokens
from receiver.verification import trust

TASK = "17"


@dataclass
class Direct:
    """A courier with its provider and its origin of pictures."""

    courier: Courier
    relay: Relay
    origin: Origin
    tokens: Tokens
    clock: Clock

    async def submit(self, **options: Any) -> str:
        """Submit; the submission's id."""
        row = await self.courier.submit(build("imagine", prompt="a boat --v 6.1"), Options(**options))
        assert row.task_id == TASK
        return row.id

    def ends(self, status: str = "SUCCESS", **other: Any) -> None:
        """From now on the provider says so of the task, with the `state` it was given."""
        links = {"imageUrl": f"{self.origin.url}/1.png"} if status == "SUCCESS" else {}
        state = self.relay.submitted[-1]["state"] if self.relay.submitted else ""
        self.relay.tasks[TASK] = wire_task(TASK, status, state=state, finishTime=1_799_999_999_000, **links | other)

    async def calls_back(self, body: dict[str, Any] | None = None, *, url: bool = True, **other: Any) -> bool:
        """The provider calls back: as the endpoint does, its tokens first."""
        body = (body or self.relay.tasks[TASK]) | other
        hook = self.relay.submitted[-1]["notifyHook"].rpartition("/")[2]
        view = decode_task(json.dumps(body).encode())
        submission_id, cause = trust(self.tokens, self.tokens.read_url_token(hook) if url else None, view.state)
        return await self.courier.received(submission_id, view, b"", cause)


@asynccontextmanager
async def direct(
    *handlers: Any,
    clock: Clock | None = None,
    policy: Policy = POLICY,
    budget: float = 20.0,
    routes: tuple[Route, ...] = (),
) -> AsyncIterator[Direct]:
    clock = clock or StillClock()
    relay = Relay()
    names = ["album", "team", "third"][: len(handlers)]
    async with serving(Origin()) as origin:
        origin.files["/1.png"] = PNG
        provider = Provider(
            base_url="https://relay.test", key="sk-0123456789", clock=clock, transport=httpx.MockTransport(relay)
        )
        fetcher = Fetcher(hosts=[], origins=[origin.url], max_bytes=10**6, timeout=5.0, tls=TLS)
        tokens = Tokens(KEYS, max_age=72 * 3600, clock=clock)
        courier = Courier(
            provider=provider,
            fetcher=fetcher,
            tokens=tokens,
            clock=clock,
            destinations={name: destination(name, handler) for name, handler in zip(names, handlers, strict=True)},
            routes=routes or tuple(Route(destination=name) for name in names),
            policy=policy,
            public_url=PUBLIC_URL,
            budget=budget,
        )
        yield Direct(courier, relay, origin, tokens, clock)
        await provider.aclose()
        await fetcher.aclose()


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
        ({"state": "mine"}, "use a label"),
        ({"auto": ("U1",)}, "nobody remembers"),
        ({"once": "order 17"}, "nobody remembers"),
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
    """All that a journal's engine would do, before the answer: and nothing of it is left on disk here."""
    paths: list[Path] = []

    async def look(attempt: Attempt) -> Receipt:
        paths.append(attempt.media[0].path)
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
    assert album.attempts[0].idempotency_key == f"{submission_id}.task.succeeded.album"
    assert not paths[0].exists()


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
    """Its state is "" until its own first poll (PROTOCOL.md §5); that is no contradiction."""
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
        clock.advance(3)
        assert await asking
        assert len(world.relay.asked) == 3
    assert album.attempts[0].event.confirmed


async def test_a_task_that_is_ours_but_lags_to_the_end_is_delivered_unconfirmed() -> None:
    """The provider has shown our state with it, so it is our task; only its end is not seen there yet."""
    album, clock = Recording(), StillClock()
    async with direct(album, clock=clock) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.relay.tasks[TASK] = truth | {"status": "IN_PROGRESS", "progress": "93%"}
        asking = asyncio.create_task(world.calls_back(truth))
        for seconds in (2, 3, 5, 6, 14):
            asked = len(world.relay.asked)
            await until(lambda asked=asked: len(world.relay.asked) > asked or asking.done())  # type: ignore[misc]
            clock.advance(seconds)
        assert await asking
    assert not album.attempts[0].event.confirmed


async def test_a_task_the_provider_never_shows_with_our_state_is_not_believed() -> None:
    """Both tokens may have leaked: they travel in clear. What the provider shows decides whose task it is."""
    album = Recording()
    async with direct(album, clock=Clock(1000)) as world:
        await world.submit()
        world.ends()
        truth = dict(world.relay.tasks[TASK])
        world.relay.tasks[TASK] = truth | {"state": ""}
        with pytest.raises(NotDelivered, match="did not show task 17 with our state within 30 s"):
            await world.calls_back(truth)
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
        world.ends("FAILURE", failReason="timeout")
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
    """It is tried again while there is time; then the answer is an error, and the log says why."""
    album, team, clock = Recording(), Recording(OSError("no space")), Clock(100)
    async with direct(album, team, clock=clock, budget=2000) as world:
        await world.submit()
        world.ends()
        with logged() as lines, pytest.raises(NotDelivered, match="team: no space"):
            await world.calls_back()
    assert (len(album.attempts), len(team.attempts)) == (1, 3)
    assert [line["destination"] for line in lines if line["event"] == "delivery.failed"] == ["team"] * 3


async def test_a_destination_that_asks_to_wait_is_waited_for_within_the_budget() -> None:
    """A rate limit of seconds costs nothing; one of minutes is an error."""
    album = Recording(RetryLater(5), Receipt(ref="made"))
    async with direct(album, clock=Clock(100), budget=2000) as world:
        await world.submit()
        world.ends()
        assert await world.calls_back()
    team = Recording(RetryLater(300))
    async with direct(team, clock=Clock(100), budget=200) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="asked to wait 300 s"):
            await world.calls_back()
    assert (len(album.attempts), len(team.attempts)) == (2, 1)


async def test_what_a_handler_rejects_is_not_tried_again() -> None:
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
        assert attempt.deadline <= 5
        await asyncio.Event().wait()
        return Receipt()

    async with direct(Recording(hang), clock=Clock(100), budget=100) as world:
        await world.submit()
        world.ends()
        with pytest.raises(NotDelivered, match="took longer than"):
            await world.calls_back()


async def test_a_picture_that_cannot_be_had_is_told_as_everywhere() -> None:
    """The handler decides what that is worth; tried twice."""
    album = Recording(Rejected("without the picture"))
    async with direct(album) as world:
        await world.submit()
        world.origin.files.clear()
        world.ends()
        with pytest.raises(NotDelivered, match="without the picture"):
            await world.calls_back()
        assert world.origin.requests == ["/1.png", "/1.png"]
    assert album.attempts[0].media_problem is not None
    assert not album.attempts[0].media_pending


async def test_the_same_callback_twice_at_once_is_delivered_once_by_one_process() -> None:
    """Senders repeat the end after seconds (PROTOCOL.md §7); a chat that gets it once is luck, here it is made."""
    album, team = Recording(), Recording(OSError("down"), OSError("down"), OSError("down"), Receipt(ref="made"))
    async with direct(album, team, clock=Clock(100), budget=2000) as world:
        await world.submit()
        world.ends()
        results = await asyncio.gather(world.calls_back(), world.calls_back(), return_exceptions=True)
    assert [type(result) for result in results] == [NotDelivered, bool]
    assert (len(album.attempts), len(team.attempts)) == (1, 4)


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


async def test_a_destination_that_shows_anothers_link_comes_after_it() -> None:
    """As with a journal, its receipt is there."""
    album, team = Recording(Receipt(ref="made", url="https://pictures.example.com/1.png")), Recording()
    team.waits_for = "album"  # type: ignore[attr-defined]
    async with direct(album, team) as world:
        await world.submit()
        world.ends()
        assert await world.calls_back()
    assert team.attempts[0].receipts["album"].url == "https://pictures.example.com/1.png"
