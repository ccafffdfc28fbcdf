"""From a prompt to a picture, through every fault of the simulator, and the first thirteen also in pairs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from flows import PROMPT, SPEED, World, world
from waiting import PATIENCE

from receiver.simulator import FAULTS

PICTURE, FAILED, LOST, REFUSED = "P", "F", "L", "R"

# How a run ends, for each fault alone (on the diagonal) and each pair of faults:
#   P  the picture lies in the folder, once     F  task.failed, with the provider's reason
#   L  task.lost, with the reason               R  refused at once: no task, no event, a sentence
ENDS = """
                   queued queue_full banned_word validation unauthorized failure hook_stripped duplicated dropped reordered late ambiguous_created ambiguous_lost
queued             P      P          R           R          R            F       P             P          P       P         P    P                 L
queue_full                P          R           R          R            F       P             P          P       P         P    P                 L
banned_word                          R           R          R            R       R             R          R       R         R    R                 R
validation                                       R          R            R       R             R          R       R         R    R                 R
unauthorized                                                R            R       R             R          R       R         R    R                 R
failure                                                                  F       F             F          F       F         F    F                 L
hook_stripped                                                                    P             P          P       P         P    L                 L
duplicated                                                                                     P          P       P         P    P                 L
dropped                                                                                                   P       P         P    P                 L
reordered                                                                                                         P         P    P                 L
late                                                                                                                        P    P                 L
ambiguous_created                                                                                                                P                 P
ambiguous_lost                                                                                                                                     L
"""  # noqa: E501 - a table


def read_table(text: str) -> dict[str, dict[str, str]]:
    """Row fault → column fault → end; a row starts at its diagonal."""
    names, *lines = [line.split() for line in text.strip().splitlines()]
    return {name: dict(zip(names[-len(ends) :], ends, strict=True)) for name, *ends in lines}


TABLE = read_table(ENDS)

# How a run ends with one of the other faults alone; besides the letters above:
#   FP  task.failed, and then the picture, which supersedes it     S  task.succeeded, but the picture is gone for good
ALONE = {
    "submit_html": "P",
    "submit_500": "L",
    "system_error": "R",
    "saturated": "P",
    "no_channel": "P",
    "no_account": "P",
    "existed": "P",
    "slow_answer": "P",
    "numeric_result": "P",
    "banned_later": "F",
    "false_failure": "FP",
    "stuck_100": "P",
    "relay_timeout": "P",
    "state_missing": "P",
    "state_mangled": "P",
    "old_encoding": "P",
    "foreign_token": "P",
    "odd_progress": "P",
    "no_buttons": "P",
    "forgotten": "P",
    "unknown_to_fetch": "P",
    "provider_500": "P",
    "provider_html": "P",
    "expired_link": "P",
    "expired_for_good": "S",
}
UNCLEAR = {"ambiguous_created", "ambiguous_lost", "submit_html", "submit_500"}
"""Answers after which nobody knows whether a task was made."""

IN_TIME = {"false_failure", "relay_timeout"}
"""A busy machine needs more time for these: the one must be seen while it lasts, the other not before the callbacks."""


def test_the_tables_name_every_fault_and_every_pair() -> None:
    """A fault added to the simulator has no place to hide."""
    pairs = {frozenset((row, column)) for row, columns in TABLE.items() for column in columns}
    assert pairs == {frozenset((one, other)) for one in TABLE for other in TABLE}
    assert ALONE.keys() | TABLE.keys() == FAULTS.keys()
    assert not ALONE.keys() & TABLE.keys()


@pytest.mark.parametrize(("fault", "end"), ALONE.items())
async def test_a_run_with_one_fault_ends_as_the_table_says(fault: str, end: str, tmp_path: Path) -> None:
    """Each further fault has one end, and no submit goes out again after an unclear answer."""
    await check(tmp_path / fault, {fault}, end)


@pytest.mark.parametrize("fault", TABLE)
async def test_a_run_ends_as_the_table_says(fault: str, tmp_path: Path) -> None:
    """Every pair of faults has one end, reached without a second submit after an unclear answer."""
    gate = asyncio.Semaphore(4)

    async def run(other: str, end: str) -> str | None:
        async with gate:
            try:
                await check(tmp_path / other, {fault, other}, end)
            except AssertionError as exc:
                return f"{fault} + {other} must end {end}: {exc}"
        return None

    problems = await asyncio.gather(*(run(other, end) for other, end in TABLE[fault].items()))
    assert not any(problems), "\n".join(problem for problem in problems if problem)


async def check(folder: Path, faults: set[str], end: str) -> None:
    folder.mkdir()
    # What gets lost is lost soon; whatever else comes has all the time a busy machine needs.
    deadline = 240.0 if end == LOST else 4200.0
    speed = SPEED / 10 if faults & IN_TIME else SPEED
    async with world(folder, faults=faults, deadline=deadline, speed=speed) as here:
        row = await here.submit()
        try:
            async with asyncio.timeout(PATIENCE):
                row = await here.rest(row.id, files=end != "S")
        except TimeoutError:
            raise AssertionError(f"it never rests: {await here.receiver.journal.find(row.id)}") from None
        await CHECKS[end](here, row.id)
        if faults & UNCLEAR:
            assert len(here.simulator.submits) == 1, "a submit was sent again after an unclear answer"


async def check_picture(here: World, submission_id: str) -> None:
    row = await here.receiver.journal.find(submission_id)
    types = [event.type for event in await here.events(row) if not event.further]
    deliveries = await here.receiver.journal.deliveries(limit=10, submission_id=row.id, status="succeeded")
    assert row.ended == "task.succeeded", f"it ended {row.ended}: {row.detail}"
    assert types.count("task.succeeded") == 1, f"events were {types}"
    assert deliveries[0].event_id.startswith(f"{row.id}.task.succeeded")
    (picture,) = here.pictures()
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = msgspec.json.decode(picture.with_suffix(".json").read_bytes())
    assert record["prompt"] == PROMPT
    assert record["task"]["id"] == row.task_id


async def check_failed(here: World, submission_id: str) -> None:
    row = await here.receiver.journal.find(submission_id)
    events = await here.events(row)
    assert row.ended == "task.failed", f"it ended {row.ended}: {row.detail}"
    assert events[-1].type == "task.failed"
    assert events[-1].reason, "a failure has a reason"
    assert here.pictures() == []
    (record,) = here.outputs.glob("*.json")
    assert msgspec.json.decode(record.read_bytes())["event"]["reason"] == events[-1].reason


async def check_lost(here: World, submission_id: str) -> None:
    row = await here.receiver.journal.find(submission_id)
    events = await here.events(row)
    assert row.ended == "task.lost", f"it ended {row.ended}"
    assert row.status == "unknown"
    assert "no callback told what became of it" in (events[-1].reason or "").lower()
    assert here.pictures() == []


async def check_refused(here: World, submission_id: str) -> None:
    row = await here.receiver.journal.find(submission_id)
    assert row.status == "refused", f"it is {row.status}, ended {row.ended}"
    assert row.outcome in ("banned_word", "validation", "unauthorized", "failed")
    assert row.detail
    assert await here.events(row) == []
    assert not here.outputs.exists(), "nothing is half-written"


async def check_failed_then_picture(here: World, submission_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not here.pictures():
            await here.receiver.clock.sleep(1)
    row = await here.rest(submission_id)
    events = await here.events(row)
    assert [event.type for event in events if event.type != "task.accepted"] == ["task.failed", "task.succeeded"]
    assert events[-1].supersedes == f"{submission_id}.task.failed"
    await check_picture(here, submission_id)


async def check_no_file(here: World, submission_id: str) -> None:
    row = await here.receiver.journal.find(submission_id)
    (delivery,) = await here.receiver.journal.deliveries(limit=10, submission_id=row.id)
    assert row.ended == "task.succeeded"
    assert delivery.status == "succeeded"  # in two minutes, because the file may come for a day
    assert row.media_due_ms is not None
    assert here.pictures() == []
    (record,) = here.outputs.glob("*.json")
    assert msgspec.json.decode(record.read_bytes())["media_problem"]


CHECKS = {
    PICTURE: check_picture,
    FAILED: check_failed,
    LOST: check_lost,
    REFUSED: check_refused,
    "FP": check_failed_then_picture,
    "S": check_no_file,
}


@pytest.mark.parametrize("half", ["state_missing", "state_mangled"])
@pytest.mark.parametrize("unclear", ["ambiguous_created", "submit_html"])
async def test_a_lost_answer_and_half_signed_callbacks_are_a_picture(half: str, unclear: str, tmp_path: Path) -> None:
    """Nobody knows the task's id but callbacks that are not believed: the provider's own answer about it holds our
    state token, and that binds it."""
    await check(tmp_path / "run", {unclear, half}, PICTURE)


async def test_a_lost_answer_and_a_provider_that_knows_nothing_is_lost(tmp_path: Path) -> None:
    """The same, but no fetch confirms whose task it is: nothing is bound on a callback's word."""
    await check(tmp_path / "run", {"ambiguous_created", "state_missing", "unknown_to_fetch"}, LOST)


@pytest.mark.parametrize("profile", ["default", "relay", "java", "csharp"])
async def test_a_prompt_becomes_a_picture_under_every_profile(profile: str, tmp_path: Path) -> None:
    """Whatever sender or relay stands between, callbacks and polls give one picture."""
    async with world(tmp_path, profile=profile) as here, asyncio.timeout(PATIENCE):
        row = await here.submit()
        row = await here.rest(row.id)
        await check_picture(here, row.id)
        assert row.callbacks > 0


async def test_twenty_tasks_without_a_callback_are_twenty_pictures(tmp_path: Path) -> None:
    """The hook stripped by the relay, polling alone brings every result, and the operator is told in some minutes."""
    async with world(tmp_path, faults={"hook_stripped"}) as here, asyncio.timeout(PATIENCE):
        rows = await asyncio.gather(*(here.submit(f"boat number {number} --v 6.1") for number in range(20)))
        rested = await asyncio.gather(*(here.rest(row.id) for row in rows))
        assert [row.ended for row in rested] == ["task.succeeded"] * 20
        assert len(here.pictures()) == 20
        assert here.simulator.callbacks == []
        assert [trouble.name for trouble in await here.troubles()] == ["callbacks missing"]


async def test_without_a_public_url_nothing_but_polling_is_needed(tmp_path: Path) -> None:
    """`submit --wait` on a laptop: no server, no callback URL, a picture."""
    async with world(tmp_path, public_url=None) as here, asyncio.timeout(PATIENCE):
        row = await here.submit()
        assert "notifyHook" not in here.simulator.submits[0]
        await here.rest(row.id)
        await check_picture(here, row.id)


async def test_our_token_is_in_nothing_that_leaves_the_journal(tmp_path: Path) -> None:
    """The provider echoes `state`; neither the row, the events nor the files in the folder hold it."""
    async with world(tmp_path, profile="csharp") as here, asyncio.timeout(PATIENCE):
        row = await here.submit()
        row = await here.rest(row.id)
        (token,) = {submit["state"] for submit in here.simulator.submits}
        kept = [row, *await here.events(row), *(path.read_text() for path in here.outputs.glob("*.json"))]
        assert row.callbacks > 0
        assert not any(token in str(item) for item in kept)
