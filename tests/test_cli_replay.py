"""`events replay`, `deliveries replay` and `deliveries show` as a person and a script meet them. Real processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from servers import Command, Result, receiver
from test_cli_listings import PATH, Library, fill

from receiver.journal import Journal
from receiver.journal.selection import Order
from receiver.journal.sqlite import open_store

KEY = {"COMETAPI_KEY": "sk-0123456789"}


@pytest.fixture
async def library(tmp_path: Path) -> Library:
    return await fill(tmp_path)


def deliver(library: Library, env: dict[str, str], until: str) -> Result:
    """Run an engine until its log says so."""
    log = {"RECEIVER_LOG_FORMAT": "json", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9"}
    with Command("worker", folder=library.folder, env={**KEY, **log, **env}) as worker:
        worker.err.line(until)
        return worker.stop()


async def test_a_replay_is_foreseen_ordered_and_delivered(library: Library) -> None:
    """Dry first, then for good; the next engine delivers it under the same id, and the story tells both attempts."""
    dry = library.run("deliveries", "replay", library.delivery, "--dry-run")
    assert dry.code == 0
    assert dry.out.splitlines()[1].split()[:4] == [
        library.delivery, f"{library.succeeded}.task.succeeded", "file", "succeeded",
    ]  # fmt: skip
    assert "1 would be replayed. Nothing was written." in dry.err
    assert library.json("deliveries", "show", library.delivery)["delivery"]["status"] == "succeeded"
    done = library.run("deliveries", "replay", library.delivery)
    assert "1 replayed. An engine delivers them" in done.err
    assert "owed already" in library.run("deliveries", "replay", library.delivery).out
    assert "pending: a person asked for it again" in library.run("deliveries", "show", library.delivery).out
    deliver(library, {}, library.delivery)
    shown = library.json("deliveries", "show", library.delivery)
    assert [item["manual"] for item in shown["attempts"]] == [False, True]
    story = library.run("deliveries", "show", library.delivery).out
    assert re.search(r"^1 +Receiver .* succeeded$", story, re.MULTILINE)
    assert re.search(r"^2 +a person .* succeeded", story, re.MULTILINE)


async def test_to_a_destination_configured_since(library: Library) -> None:
    """The event goes there as a delivery of its own; that no engine knows it yet is said."""
    env = {"RECEIVER_DESTINATIONS__ALBUM__URL": f"file:{library.folder}/album"}
    done = receiver(
        "events", "replay", "--task", library.succeeded, "--to", "album", "--json", folder=library.folder, env=env
    )
    [made] = json.loads(done.out)
    assert (made["outcome"], made["destination"]) == ("new", "album")
    assert "No engine has known the destination album yet" in done.err
    deliver(library, env, made["delivery"])
    assert len(list((library.folder / "album").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deliveries", "replay"], "A replay of everything is refused"),
        (["events", "replay"], "A replay of everything is refused"),
        (["deliveries", "replay", "--status", "nope"], "--status is one of"),
        (["deliveries", "replay", "--status", "dead", "--to", "nope"], "There are: file"),
        (["deliveries", "replay", "--since", "soon"], "--since takes today"),
        (["events", "replay", "--type", "nope"], "--type is one of"),
        (["events", "replay", "nope"], "There is no event 'nope'"),
        (["deliveries", "replay", "nope"], "There is no delivery 'nope'"),
        (["deliveries", "replay", "--task", "nothing"], "no submission or task 'nothing'"),
    ],
)
async def test_what_is_refused(library: Library, arguments: list[str], words: str) -> None:
    """One sentence, exit status 1, and nothing written."""
    result = library.run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert words in result.err
    assert library.json("deliveries", "list", "--status", "pending") == []


async def test_times(library: Library) -> None:
    """How long ago, or an ISO time."""

    def found(*arguments: str) -> int:
        return len(library.json("deliveries", "replay", "--dry-run", *arguments))

    everything = found("--since", "2h")
    assert everything == found("--since", "2020-01-01T00:00") == found("--destination", "file", "--until", "2099-01-01")
    assert everything > 1
    assert found("--until", "2h") == found("--since", "2099-01-01T00:00+02:00") == 0
    none = library.run("deliveries", "replay", "--until", "2h")
    assert (none.code, none.err) == (0, "Nothing fits, so nothing is replayed.\n")


async def test_many_must_be_meant(library: Library) -> None:
    """More than fifty need --yes, unless it is only a look."""
    journal = Journal(await open_store(library.folder / ".receiver/journal.db"))
    order = Order(
        event_id=f"{library.succeeded}.task.succeeded", submission_id=library.succeeded, destination="file", as_new=True
    )
    await journal.replay([order] * 60, 1)
    await journal.aclose()
    refused = library.run("deliveries", "replay", "--destination", "file")
    assert refused.code == 1
    assert re.search(r"That would replay \d+ deliveries\. Look at them with --dry-run, then add --yes\.", refused.err)
    assert library.run("deliveries", "replay", "--destination", "file", "--dry-run").code == 0
    assert library.run("deliveries", "replay", "--destination", "file", "--yes").code == 0


async def test_the_story_of_a_delivery(library: Library) -> None:
    """Somebody who has never seen it learns what it was, what happened, and what can be done."""
    story = library.run("deliveries", "show", library.delivery).out
    assert re.search(r"^event +\S+: the task succeeded, ", story, re.MULTILINE)
    assert re.search(r"^status +succeeded at .* at attempt 1$", story, re.MULTILINE)
    assert f"receipt      {PATH}\n" in story
    assert f"receiver deliveries replay {library.delivery}" in story
    cancelled = library.json("deliveries", "list", "--status", "cancelled")[0]["id"]
    gone = library.run("deliveries", "show", cancelled).out
    assert "a newer event of the same task took its place" in gone
    assert f"receiver deliveries show {library.delivery}" in gone or "Its successor" in gone
