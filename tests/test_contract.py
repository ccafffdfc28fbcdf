"""`check_handler`: what keeps the contract passes, and a handler that breaks a rule is told which and how."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from receiver.deliveries import Receipt
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Rejected, RetryLater
from receiver.handlers.file import FileHandler
from receiver.testing import HandlerBroken, check_handler
from receiver.testing.contract import RULES

DECISIVE = {"task.succeeded", "task.failed", "task.lost", "task.input_required"}


class Board:
    """A place that everybody sees: texts under keys, as a server that drops repeats would keep them."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def effects(self) -> Iterable[Hashable]:
        return list(self.texts.items())


class Good:
    """Keeps the contract: one text for each delivery, under its key."""

    name = "board"
    summary = "Texts on a board."
    schemes = ("board",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        return {}

    def __init__(self, board: Board) -> None:
        self.board = board

    async def deliver(self, attempt: Attempt) -> Receipt:
        if attempt.event.type not in DECISIVE:
            return Receipt()
        await asyncio.sleep(0)
        await self.put(attempt)
        await asyncio.sleep(0)
        return Receipt(ref=attempt.idempotency_key)

    async def put(self, attempt: Attempt) -> None:
        self.board.texts[attempt.idempotency_key] = attempt.event.prompt

    async def aclose(self) -> None:
        pass


class Chat(Good):
    """Each attempt posts again: all a place without keys can do."""

    guarantee: ClassVar[Guarantee] = "at least once"

    async def put(self, attempt: Attempt) -> None:
        self.board.texts[uuid.uuid4().hex] = attempt.event.prompt


# --- one broken handler for each way to break a rule --------------------------------------------------------------


class ClaimsOnce(Chat):
    """Says it makes an effect once, and posts each time."""

    guarantee: ClassVar[Guarantee] = "once"


class AnotherRef(Good):
    """A retry reports something else than the first attempt."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        await super().deliver(attempt)
        return Receipt(ref=f"{attempt.idempotency_key}-{attempt.number}")


class RemembersItself(Chat):
    """Knows what it has posted, until its process ends."""

    guarantee: ClassVar[Guarantee] = "once"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.posted: set[str] = set()

    async def put(self, attempt: Attempt) -> None:
        if attempt.idempotency_key not in self.posted:
            self.posted.add(attempt.idempotency_key)
            await super().put(attempt)


class LooksThenPosts(Good):
    """Looks whether it is there, and posts: two at once both find nothing."""

    async def put(self, attempt: Attempt) -> None:
        there = any(key.startswith(attempt.idempotency_key) for key in self.board.texts)
        await asyncio.sleep(0)
        if not there:
            self.board.texts[f"{attempt.idempotency_key} {uuid.uuid4().hex}"] = attempt.event.prompt


class Draft(Good):
    """Shows a draft first, and leaves it there when it is interrupted."""

    async def put(self, attempt: Attempt) -> None:
        self.board.texts[f"draft of {attempt.idempotency_key}"] = "…"
        await asyncio.sleep(0)
        self.board.texts.pop(f"draft of {attempt.idempotency_key}", None)
        await super().put(attempt)


class ManyDrafts(Good):
    """A draft under another name each time: what is interrupted stays for ever."""

    async def put(self, attempt: Attempt) -> None:
        draft = uuid.uuid4().hex
        self.board.texts[draft] = "…"
        await asyncio.sleep(0)
        del self.board.texts[draft]
        await super().put(attempt)


class NotesFirst(Good):
    """Notes that it is done before it does it: interrupted in between, it never does it."""

    noted: ClassVar[set[str]] = set()

    async def put(self, attempt: Attempt) -> None:
        if attempt.idempotency_key not in self.noted:
            self.noted.add(attempt.idempotency_key)
            await asyncio.sleep(0)
            await super().put(attempt)


class Deaf(Good):
    """Goes on when it is told to end."""

    async def put(self, attempt: Attempt) -> None:
        until = asyncio.get_running_loop().time() + 0.01
        while asyncio.get_running_loop().time() < until:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                until += 5
        await super().put(attempt)


class LosesItsPlace(Good):
    """Removes what others have put when it is interrupted."""

    async def put(self, attempt: Attempt) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.board.texts.clear()
            raise
        await super().put(attempt)


class WantsAPicture(Good):
    """Takes it for granted that there is a picture: progress has none."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        _ = attempt.media[0]
        return await super().deliver(attempt)


class FirstWordOnly(Good):
    """What it has posted once for a submission, it never changes."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        return attempt.previous or await super().deliver(attempt)


class EndsOnProgress(Good):
    """Knows results only."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        if attempt.event.type == "task.progressed":
            raise LookupError("progress")
        return await super().deliver(attempt)


class WaitsForEver(Good):
    """Waits for a picture that will not come."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        if attempt.media_problem:
            raise RetryLater(5)
        return await super().deliver(attempt)


class GivesUpEarly(Good):
    """Rejects what only has to wait."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        if attempt.media_problem:
            raise Rejected("no picture")
        return await super().deliver(attempt)


class OnePicture(Good):
    """Fails on a result of four."""

    async def put(self, attempt: Attempt) -> None:
        if len(attempt.media) > 1:
            raise ValueError("too many")
        await super().put(attempt)


def returning(value: Any) -> type[Good]:
    """A handler that returns `value`."""

    class Returning(Good):
        async def deliver(self, attempt: Attempt) -> Receipt:
            await super().deliver(attempt)
            return value  # type: ignore[no-any-return]

    return Returning


class ClosesOnce(Good):
    """Fails when it is closed again."""

    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class NeverCloses(Good):
    """Hangs when it is closed."""

    async def aclose(self) -> None:
        await asyncio.sleep(60)


BROKEN: list[tuple[type[Good], set[str], str]] = [
    (ClaimsOnce, {"same key", "crash", "duplicate", "deadline", "cancellation", "order"}, "there are 2 effects where"),
    (AnotherRef, {"same key"}, "the second attempt reports another ref"),
    (RemembersItself, {"crash", "duplicate"}, "after a crash between effect and record, and another attempt"),
    (LooksThenPosts, {"duplicate"}, "after two attempts side by side, there are 2 effects where one delivery makes 1"),
    (Draft, {"deadline", "cancellation"}, "something half made was visible: ('draft of"),
    (ManyDrafts, {"deadline", "cancellation"}, "there are 2 effects where one delivery makes 1"),
    (NotesFirst, {"deadline", "cancellation"}, "there are 0 effects of 1: none"),
    (Deaf, {"deadline", "cancellation"}, "was still running 1 s later"),
    (LosesItsPlace, {"deadline", "cancellation"}, "effects of other deliveries are gone"),
    (WantsAPicture, {"order", "media"}, "task.accepted failed with IndexError"),
    (FirstWordOnly, {"order"}, "the result changed nothing that is visible"),
    (EndsOnProgress, {"order"}, "attempt 1 at task.progressed failed with LookupError: progress"),
    (WaitsForEver, {"media"}, "whose picture is gone must be delivered or Rejected"),
    (GivesUpEarly, {"media"}, "failed with Rejected: no picture"),
    (OnePicture, {"media"}, "failed with ValueError: too many"),
    (returning(None), {"receipt"}, "deliver returned NoneType instead of a Receipt"),
    (returning(Receipt(data={"at": object()})), {"receipt"}, "the receipt cannot be kept"),
    (returning(Receipt(data={"at": (1, 2)})), {"receipt"}, "the receipt comes back changed"),
    (ClosesOnce, {"close"}, "closing a new handler a second time failed with RuntimeError: closed already"),
    (NeverCloses, {"close"}, "closing a new handler took longer than 1 s"),
]


async def check(handler: type[Good], **options: Any) -> None:
    board = Board()
    await check_handler(lambda: handler(board), effects=board.effects, **options)


async def test_file_keeps_the_contract(tmp_path: Path) -> None:
    """The built-in folder handler, with every file in the folder as an effect, drafts too."""
    folder = tmp_path / "outputs"

    async def effects() -> Iterable[Hashable]:
        return [(path.name, path.read_bytes()) for path in folder.glob("*")] if folder.exists() else []

    await check_handler(FileHandler, {"path": folder}, effects=effects)


@pytest.mark.parametrize("handler", [Good, Chat])
async def test_good_handlers_pass(handler: type[Good]) -> None:
    """Also one that can only promise at least once, and says so."""
    await check(handler)


@pytest.mark.parametrize(("handler", "rules", "sentence"), BROKEN, ids=[item[0].__name__ for item in BROKEN])
async def test_each_broken_rule_is_named(handler: type[Good], rules: set[str], sentence: str) -> None:
    """Exactly the rules it breaks, and a sentence that says what happened."""
    with pytest.raises(HandlerBroken) as caught:
        await check(handler)
    assert {broken.rule for broken in caught.value.broken} == rules, str(caught.value)
    assert sentence in str(caught.value)


def test_every_rule_has_a_handler_that_breaks_it() -> None:
    """A rule that nothing breaks might see nothing."""
    assert {rule for _, rules, _ in BROKEN for rule in rules} == {*RULES, "close"}


async def test_at_least_once_is_no_licence() -> None:
    """Such a handler may post again with each attempt, but not more than that."""

    class Chatty(Chat):
        async def put(self, attempt: Attempt) -> None:
            for _ in range(attempt.number):
                await super().put(attempt)

    with pytest.raises(HandlerBroken, match="there are 3 effects where 2 attempts of 1 make 2 at most"):
        await check(Chatty)


async def test_the_guarantee_can_be_demanded() -> None:
    """A check may ask for more than the class declares."""
    with pytest.raises(HandlerBroken, match="same key"):
        await check(Chat, guarantee="once")


@pytest.mark.parametrize("effects", ["none", "failing"])
async def test_a_check_that_sees_nothing_fails(effects: str) -> None:
    """Without a visible effect no rule could be seen broken."""

    class Nothing(Good):
        async def put(self, attempt: Attempt) -> None:
            if effects == "failing":
                raise OSError("the board is gone")

    with pytest.raises(HandlerBroken) as caught:
        await check(Nothing)
    assert [broken.rule for broken in caught.value.broken] == ["effects"]


async def test_a_class_that_is_no_plug_in_is_refused() -> None:
    """With options, it is looked at as `receiver handlers` would."""

    class NoSummary(Good):
        summary = None  # type: ignore[assignment]

    class NoGuarantee(Good):
        guarantee = "exactly once"

    for plugin, missing in ((NoSummary, "summary"), (NoGuarantee, "guarantee")):
        with pytest.raises(HandlerBroken, match=f"plug-in: {plugin.__name__} is not a handler: {missing} missing"):
            await check_handler(plugin, {}, effects=Board().effects)


async def test_steps_of_real_connections() -> None:
    """A handler that speaks to a real server over a socket: stopped at each read and write, it still tells once."""
    board, answer = Board(), b"ok\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if key := (await reader.readline()).decode().strip():
            board.texts[key] = "told"
            writer.write(answer)
        writer.close()

    class Speaks(Good):
        async def put(self, attempt: Attempt) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"{attempt.idempotency_key}\n".encode())
                await writer.drain()
                assert await reader.readline() == answer
            finally:
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await check_handler(lambda: Speaks(board), effects=board.effects)
