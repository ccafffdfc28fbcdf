"""`tasks`, `events` and `deliveries`: what is in the journal, for people and for scripts. Real processes."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from servers import Result, receiver
from test_cli import on_terminal
from ulid import ULID

from receiver.clock import Clock
from receiver.deliveries import Completion, Receipt
from receiver.events import Submission, new_id
from receiver.intake import Intake, Policy, Route, transitions
from receiver.journal import Journal, Trouble
from receiver.journal.sqlite import open_store
from receiver.tasks import Button, Task

LONG = "a very long prompt about a paper boat " * 130
NASTY = "a boat\x1b[2J\x1b]0;owned\x07\n[red]not markup[/red] 猫"
PATH = "/somewhere/with/quite/a/long/path/outputs/2026-11-22_a-very-long-prompt-about-a-paper-boat_01M81Q0NKV05TQ.png"


@dataclass(frozen=True)
class Library:
    """A folder with a journal: one task that succeeded, one that failed, one that was only prepared."""

    folder: Path
    succeeded: str
    failed: str
    prepared: str
    delivery: str

    def run(self, *arguments: str) -> Result:
        return receiver(*arguments, folder=self.folder, env={})

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert (result.code, result.err) == (0, "")
        return json.loads(result.out)


async def fill(folder: Path) -> Library:
    journal = Journal(await open_store(folder / ".receiver/journal.db"))
    clock = Clock()
    routes = (Route(destination="file", progress=True),)
    intake = Intake(journal, policy=Policy(), routes=routes, clock=clock, changed=lambda row: None)
    ids = []
    for prompt in ("first", LONG, NASTY):
        row = Submission(
            id=new_id(clock.now_ms()),
            kind="imagine",
            created_ms=clock.now_ms(),
            prompt=prompt,
            request={"prompt": prompt},
            labels={"team": "red"},
            user_state="mine",
            deadline_ms=clock.now_ms() + 4_200_000,
        )
        await journal.add(row)
        ids.append(row.id)
    prepared, succeeded, failed = ids
    buttons = (Button(custom_id="c", label="U1"), Button(custom_id="d", emoji="🔄"))
    for id, task in (
        (
            succeeded,
            Task(
                id="1773314942177684",
                status="SUCCESS",
                progress=100,
                buttons=buttons,
                action="DESCRIBE",
                description="a boat",
            ),
        ),
        (failed, Task(id="1773314942177685", status="FAILURE", fail_reason="任务超时 [bold]")),
    ):
        await intake.take(id, transitions.answered, (task.id,), "accepted")
        await intake.polled(id, task)
    now_ms = clock.now_ms() + 1
    works = await journal.claim("file", owner="me", limit=10, now_ms=now_ms)
    delivery = next(work.delivery for work in works if work.delivery.submission_id == succeeded)
    done = Completion(
        delivery_id=delivery.id,
        submission_id=delivery.submission_id,
        destination=delivery.destination,
        attempt=delivery.attempt,
        owner="me",
        outcome="succeeded",
        status="succeeded",
        finished_ms=now_ms + 1500,
        due_ms=now_ms,
        counts=False,
        receipt=Receipt(ref=PATH),
    )
    assert await journal.complete(done)
    await journal.aclose()
    return Library(folder, succeeded, failed, prepared, delivery.id)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return asyncio.run(fill(tmp_path_factory.mktemp("library")))


def test_tasks_list(library: Library) -> None:
    """The newest first, a line each, ids and prompts whole in a pipe, and no control characters."""
    result = library.run("tasks", "list")
    header, *lines = result.out.splitlines()
    assert header.split() == ["SUBMISSION", "AGE", "MADE", "BY", "STATUS", "LABELS", "PROMPT"]
    assert [line.split()[0] for line in lines] == [library.failed, library.succeeded, library.prepared]
    assert lines[1].endswith(LONG.strip())
    assert "[red]not markup[/red] 猫" in lines[0]
    assert "\x1b" not in result.out
    assert "…" not in result.out


def test_tasks_list_json(library: Library) -> None:
    """As JSON everything is there as it was sent; --status and --limit choose."""
    rows = library.json("tasks", "list")
    assert [(row["id"], row["status"]) for row in rows] == [
        (library.failed, "failed"),
        (library.succeeded, "succeeded"),
        (library.prepared, "prepared"),
    ]
    assert rows[0]["prompt"] == NASTY
    assert set(rows[0]) >= {"id", "task", "status", "prompt", "labels", "state", "created_ms", "detail"}
    assert [row["id"] for row in library.json("tasks", "list", "--status", "succeeded")] == [library.succeeded]
    assert len(library.json("tasks", "list", "--limit", "1")) == 1


def test_nothing_of_that_status(library: Library) -> None:
    """An empty list is said on standard error, so that a pipe stays empty."""
    result = library.run("tasks", "list", "--status", "lost")
    assert (result.code, result.out, result.err) == (0, "", "No submission matches all of that.\n")


def test_tasks_list_on_a_terminal(library: Library) -> None:
    """At 80 columns each task is one line; only its prompt is cut."""
    code, text, lines = on_terminal("tasks", "list", folder=library.folder, env={})
    assert code == 0
    assert len(lines) == 4
    assert [line.split()[0] for line in lines[1:]] == [
        id[-6:] for id in (library.failed, library.succeeded, library.prepared)
    ]
    assert " succeeded " in lines[2]
    assert lines[2].endswith("…")
    assert max(len(line) for line in lines) <= 80
    assert "\x1b]0;" not in text


def test_deliveries_list_on_a_terminal(library: Library) -> None:
    """A path is never cut, because people copy it: it has a line of its own."""
    _, text, lines = on_terminal("deliveries", "list", "--task", library.succeeded, folder=library.folder, env={})
    assert lines[0].split() == ["DELIVERY", "DESTINATION", "STATUS", "EVENT", "ATTEMPTS"]
    assert lines[1].split() == [library.delivery[-6:], "file", "succeeded", "task.succeeded", "1"]
    assert lines[2] == f"  {PATH}"
    assert "\x1b[32msucceeded" in text


def test_lists_by_what_was_asked(library: Library) -> None:
    """By label, words and time; the same for submissions, events and deliveries."""
    asked = {
        ("--search", "PAPER boat"): {library.succeeded},
        ("--search", "[2J owned"): {library.failed},
        ("--label", "team=red"): {library.succeeded, library.failed, library.prepared},
        ("--label", "team=blue"): set(),
        ("--since", "today", "--search", "first"): {library.prepared},
        ("--until", "yesterday"): set(),
        ("--since", "1h", "--label", "team=red", "--search", "boat"): {library.succeeded, library.failed},
    }
    for options, found in asked.items():
        assert {row["id"] for row in library.json("tasks", "list", *options)} == found, options
        known = found - {library.prepared}  # which has neither events nor deliveries
        assert {row["submission_id"] for row in library.json("events", "list", *options)} == known, options
        assert {row["submission_id"] for row in library.json("deliveries", "list", *options)} == known, options
    assert [row["id"] for row in library.json("tasks", "list", "--kind", "imagine", "--after", library.succeeded)] == [
        library.prepared
    ]


def test_a_full_page_names_the_next_one(library: Library) -> None:
    """On a terminal. The command of the last line gives the rest."""
    _, _, lines = on_terminal("tasks", "list", "--limit", "2", folder=library.folder, env={})
    command = " ".join(lines[3:]).partition("receiver ")[2].partition(",")[0].split()
    assert [row["id"] for row in library.json(*command)] == [library.prepared]


def test_the_newest_is_named_last(library: Library) -> None:
    """`last` is an id everywhere, and so are 6 characters of one."""
    assert library.json("tasks", "show", "last")["id"] == library.failed
    assert library.json("deliveries", "show", "last")["delivery"]["submission_id"] == library.failed
    assert library.json("deliveries", "show", library.delivery[-6:])["delivery"]["id"] == library.delivery
    short = library.run("events", "show", f"{library.succeeded[-6:]}.task.succeeded")
    assert json.loads(short.out)["id"] == f"{library.succeeded}.task.succeeded"


def test_times_are_local(library: Library) -> None:
    """Times are printed and read in the zone of the machine, and their zone is named."""
    for zone, hours in (("UTC", 0), ("Asia/Tokyo", 9)):
        shown = receiver("tasks", "show", library.failed, folder=library.folder, env={"TZ": zone}).out
        found = re.search(r"^created +(\S+) (\S+) (\S+)$", shown, re.MULTILINE)
        assert found is not None
        assert found[3] == {"UTC": "UTC", "Asia/Tokyo": "JST"}[zone]
        time = datetime.fromisoformat(f"{found[1]}T{found[2]}") - timedelta(hours=hours)
        assert abs(time.replace(tzinfo=UTC).timestamp() * 1000 - ULID.from_str(library.failed).milliseconds) < 2000
        since = f"{found[1]}T{found[2]}"
        listed = receiver("tasks", "list", "--since", since, "--json", folder=library.folder, env={"TZ": zone})
        assert library.failed in listed.out


def test_chinese_reasons_have_english_advice(library: Library) -> None:
    """The provider's own words, and ours behind them."""
    advice = "任务超时 [bold]. The provider ran out of time: submit it again."
    assert f"reason       {advice}\n" in library.run("tasks", "show", library.failed).out
    assert advice in library.run("events", "list").out


def test_tasks_show(library: Library) -> None:
    """A task by its id, the end of its id or the provider's id, with events, deliveries and buttons."""
    whole = library.run("tasks", "show", library.succeeded).out
    assert f"submission   {library.succeeded}\n" in whole
    assert "task         1773314942177684\n" in whole
    assert "status       succeeded\n" in whole
    assert "buttons      U1 🔄\n" in whole
    assert f"{library.succeeded}.task.succeeded" in whole
    assert PATH in whole
    assert library.run("tasks", "show", library.succeeded[-10:]).out == whole
    assert library.run("tasks", "show", "1773314942177684").out == whole


def test_tasks_show_json(library: Library) -> None:
    """The same for scripts, with why it failed."""
    shown = library.json("tasks", "show", library.failed)
    assert shown["id"] == library.failed
    assert [event["type"] for event in shown["events"]] == ["task.accepted", "task.failed"]
    assert shown["events"][-1]["reason"] == "任务超时 [bold]"
    assert {delivery["destination"] for delivery in shown["deliveries"]} == {"file"}


def test_what_a_prompt_says_does_not_steer_the_terminal(library: Library) -> None:
    """Control characters of a prompt are not written to a terminal."""
    _, text, _ = on_terminal("tasks", "show", library.failed, folder=library.folder, env={})
    assert "owned" in text
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text


def test_events(library: Library) -> None:
    """Events by task and type, ids whole; one event is shown as handlers get it."""
    text = library.run("events", "list").out
    ids = re.findall(r"^\w{26}\.task\.[a-z_.0-9]+", text, re.MULTILINE)
    assert len(ids) == 4
    of_one = library.json("events", "list", "--task", library.failed, "--type", "task.failed")
    assert [event["id"] for event in of_one] == [f"{library.failed}.task.failed"]
    shown = library.run("events", "show", f"{library.failed}.task.failed")
    assert json.loads(shown.out) == of_one[0]


def test_deliveries(library: Library) -> None:
    """Deliveries by task, destination and status; one is shown attempt by attempt."""
    done = library.json("deliveries", "list", "--status", "succeeded", "--destination", "file")
    assert [delivery["id"] for delivery in done] == [library.delivery]
    text = library.run("deliveries", "show", library.delivery).out
    assert f"receipt      {PATH}\n" in text
    assert re.search(r"^1 +Receiver .* 1\.500 +succeeded$", text, re.MULTILINE)
    shown = library.json("deliveries", "show", library.delivery)
    assert shown["delivery"]["receipt"]["ref"] == PATH
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["tasks", "show", "01NOSUCH"],
        ["tasks", "show", "01"],
        ["events", "show", "nope"],
        ["events", "list", "--type", "nope"],
        ["deliveries", "show", "nope"],
        ["deliveries", "list", "--status", "nope"],
        ["tasks", "list", "--kind", "nope"],
        ["tasks", "list", "--status", "nope"],
        ["tasks", "list", "--since", "nope"],
        ["tasks", "list", "--after", "nope"],
        ["events", "list", "--label", "nope"],
    ],
)
def test_unknown(library: Library, arguments: list[str]) -> None:
    """What is not there, or is no such word, is one sentence and exit status 1."""
    result = library.run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"Error: [^\n]+\n", result.err)
    assert arguments[-1] in result.err


def test_no_journal(tmp_path: Path) -> None:
    """Listing makes no journal where there is none."""
    result = receiver("tasks", "list", folder=tmp_path, env={})
    assert result.code == 1
    assert result.err.startswith("Error: There is no journal at .receiver/journal.db yet.")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_the_last_line_of_the_list(tmp_path: Path) -> None:
    """People see it on standard error, with its beginning; scripts do not."""
    library = asyncio.run(fill(tmp_path))
    assert library.run("tasks", "list").err == ""
    trouble = Trouble(name="provider", since_ms=1_800_000_000_000, text="The provider does not accept the key.")

    async def note() -> None:
        journal = Journal(await open_store(tmp_path / ".receiver/journal.db"))
        await journal.note(trouble)
        await journal.aclose()

    asyncio.run(note())
    line = "Since 2027-01-15 08:00:00 UTC: The provider does not accept the key."
    assert library.run("tasks", "list").err == f"{line}\n"

    async def more() -> None:
        journal = Journal(await open_store(tmp_path / ".receiver/journal.db"))
        await journal.register({"slack": "slack", "gone": "webhook"})
        await journal.pause("slack", 9_000_000_000_000, "it asked for an hour")
        await journal.aclose()

    asyncio.run(more())
    assert library.run("tasks", "list").err == f"{line} Also wrong: paused slack. See: receiver doctor\n"
    assert library.run("tasks", "list", "--json").err == ""
    assert len(library.json("tasks", "list")) == 3
