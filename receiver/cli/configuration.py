"""Commands about what is configured: `settings`, `handlers`, `destinations`, `slack`, `doctor` and `inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated

import msgspec
import typer

from receiver import provider
from receiver import settings as all_settings
from receiver.app.doctor import findings
from receiver.app.factory import route_of
from receiver.app.test_delivery import find_destination, try_destination
from receiver.cli import group
from receiver.cli.options import AsJSON, duration, optional, read_file
from receiver.cli.output import ago, at, note, one_line, out, print_json, print_list, print_table, say, when
from receiver.cli.process import on_journal, run, settings_for
from receiver.clock import Clock
from receiver.deliveries import MAX_PAUSE_SECONDS, DestinationRecord
from receiver.errors import InputError, NotFound, SettingsError
from receiver.events import EVENT_TYPES
from receiver.handlers import registry
from receiver.handlers.registry import describe_handlers
from receiver.handlers.slack.api import SCOPES, manifest
from receiver.journal import Journal
from receiver.settings import Destination, Settings

_MARKS = {"ok": ("✓", "green"), "note": ("•", None), "problem": ("✗", "red")}

destinations = group("destinations")
slack = group("slack")


@destinations.command("list")
def list_destinations(as_json: AsJSON = False) -> None:
    """List destinations with their status and deliveries.

    Those of the settings, with what is wrong with each, and every other one an engine has known. A paused one says why
    and until when.
    """
    now_ms = Clock().now_ms()
    settings = settings_for(quiet=True)
    configured = {item.name: item for item in settings.resolved_destinations()}
    checked = run(_check_each(configured.values()))
    found = _known_destinations(settings)
    names = {item.name for item in found}
    new = [
        DestinationRecord(name=item.name, handler=checked[item.name][0])
        for item in configured.values()
        if item.name not in names
    ]
    found = sorted([*found, *new], key=lambda item: item.name)

    def status_of(item: DestinationRecord) -> str:
        return "unusable" if checked.get(item.name, ("", ""))[1] else item.display_status(now_ms)

    def print_destinations(found: Sequence[DestinationRecord]) -> None:
        rows = []
        for item in found:
            error = f"{ago(item.last_error_ms)} ago: {item.last_error}" if item.last_error_ms is not None else ""
            numbers = (str(item.pending), str(item.dead), when(item.last_success_ms))
            rows.append((item.name, item.handler, status_of(item), *numbers, error))
        columns = ("DESTINATION", "HANDLER", "STATUS", "PENDING", "DEAD", "LAST SUCCESS", "LAST ERROR")
        print_table(columns, rows, below=True)

    records = [{"name": item.name, "status": status_of(item), **msgspec.to_builtins(item)} for item in found]
    none = "No destinations are configured, and no engine has known one."
    print_list(found, print_destinations, none=none, as_json=as_json, records=records)
    if as_json:
        return
    for name, (_, problem) in checked.items():
        if problem:
            note(f"{name} cannot be used: {problem}")
    for item in found:
        if item.paused(now_ms):
            say(f"{item.name} is paused until {at(item.paused_until_ms)}: {item.paused_reason}")
            say(f"End the pause now with: receiver destinations resume {item.name}")
        if item.pending and item.name not in configured and item.handler != "function":
            say(f"{item.name} is not in the settings: its deliveries wait until it is.")


async def _check_each(items: Iterable[Destination]) -> dict[str, tuple[str, str]]:
    """Return the handler's name and what is wrong, "" for nothing, of each configured destination."""
    found = {}
    handlers = registry.installed_handlers()
    for item in items:
        try:
            route_of(item)
            handler = registry.build(item, handlers)
            await handler.aclose()
            found[item.name] = str(getattr(handler, "name", None) or type(handler).__name__), ""
        except SettingsError as exc:
            found[item.name] = item.handler or "", str(exc)
    return found


def _known_destinations(settings: Settings) -> list[DestinationRecord]:
    """Return the destinations of the journal. A journal that is not there yet has none."""
    if settings.database_kind == "none" or (settings.database_kind == "sqlite" and not settings.database_path.exists()):
        return []
    return on_journal(lambda journal: journal.destinations(), settings)


@destinations.command("pause")
def pause_destination(
    name: Annotated[str, typer.Argument(help="The destination's name.")],
    length: Annotated[str, typer.Option("--for", help="How long, for instance 2h or 7d; at most 30d.")] = "1d",
) -> None:
    """Deliver nothing to a destination for a time.

    Its deliveries wait. Of two pauses the longer one counts.
    """
    seconds = duration("--for", length)
    if seconds > MAX_PAUSE_SECONDS:
        raise InputError(f"--for takes at most 30d, not {length[:80]!r}.", page="destinations")

    async def pause(journal: Journal) -> int | None:
        if name not in await journal.registered():
            return None
        await journal.pause(name, Clock().now_ms() + int(seconds * 1000), "paused by a command", by_hand=True)
        now = await journal.pause_of(name)
        return now and now[0]

    until_ms = on_journal(pause)
    if until_ms is None:
        raise _unknown(name)
    say(f"{name} is paused until {at(until_ms)}. End the pause with: receiver destinations resume {name}")


@destinations.command("resume")
def resume_destination(name: Annotated[str, typer.Argument(help="The destination's name.")]) -> None:
    """End a destination's pause now, and forget its failures.

    All due deliveries are attempted again.
    """

    async def resume(journal: Journal) -> DestinationRecord | None:
        found = next((item for item in await journal.destinations() if item.name == name), None)
        return found if await journal.resume(name) else None

    found = on_journal(resume)
    if found is None:
        raise _unknown(name)
    paused = found.display_status(Clock().now_ms()) == "paused"
    say(f"{name} {'goes on' if paused else 'was not paused'}; {found.pending} deliveries are owed to it.")


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no destination {name[:80]!r} in this journal. See: receiver destinations list")


@destinations.command("test")
def send_sample(
    name: Annotated[str, typer.Argument(help="The destination's name.")],
    type: Annotated[str, typer.Option("--type", help="Which type of event to send.")] = "task.succeeded",
    url: Annotated[str | None, optional("Where to, for a destination whose URL comes with each submission.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Send one sample through a destination's real handler.

    The sample is marked as one and has a small picture. Print the receipt, or the reason of a failure. Only the
    settings are read, and nothing is journalled.
    """
    settings = settings_for(quiet=True)
    item = find_destination(settings, name)
    if type not in EVENT_TYPES:
        raise InputError(
            f"There are no events of type {type[:40]!r}. There are: {', '.join(EVENT_TYPES)}.", page="words"
        )
    others = [other.name for other in settings.resolved_destinations()]
    receipt = run(try_destination(item, type, others=others, reply_to=url))
    if as_json:
        print_json(receipt)
        return
    say(f"{name} took the sample.")
    for what, text in (("ref", receipt.ref), ("url", receipt.url)):
        if text:
            say(f"{what}  {one_line(text)}")


@slack.callback()
def _group() -> None:
    """Keep `slack` a group although it has one command: its name says what the manifest is for."""


@slack.command("manifest")
def print_manifest(
    name: Annotated[str, typer.Option(help="What the app and its bot are called.")] = "Receiver",
) -> None:
    """Print the manifest of the Slack app whose bot posts.

    Paste it, install the app, take its bot token.
    """
    print_json(manifest(name))
    note("Paste this at https://api.slack.com/apps?new_app=1 (From a manifest), then install the app to the workspace.")
    note("Set SLACK_BOT_TOKEN to the Bot User OAuth Token from its page OAuth & Permissions. The bot may:")
    for scope, purpose in SCOPES.items():
        note(f"  {scope}: {purpose}")


def handlers(as_json: AsJSON = False) -> None:
    """List the handlers with their options."""
    found = describe_handlers()
    if as_json:
        print_json([asdict(handler) for handler in found])
        return
    for handler in found:
        say(f"{handler.name}: {handler.problem or f'{handler.summary} ({handler.guarantee})'}")
        for option in handler.options:
            default = "required" if option.default is None else f"default {option.default}"
            say(f"  {option.name} ({option.type}, {default}): {option.help}")


def settings(as_json: AsJSON = False) -> None:
    """List every setting, its value and its source. Secrets are masked."""
    found = settings_for(quiet=True)
    rows = all_settings.show(found)
    if as_json:
        print_json([{"name": name, "value": value, "source": source} for name, value, source in rows])
    else:
        print_table(("SETTING", "VALUE", "SOURCE"), rows, flexible=1, fold=True)
        none = "none: neither receiver.toml here nor ~/.config/receiver/receiver.toml exists"
        note(f"File read: {', '.join(found.files) or none}")


def inspect(
    file: Annotated[str, typer.Argument(help="A file with a payload of the provider; - reads it.")],
    http_status: Annotated[int, typer.Option(help="The HTTP status it came with.", min=100, max=599)] = 200,
) -> None:
    """Show Receiver's reading of a payload of the provider, as JSON."""
    print_json(provider.inspect(read_file(file), http_status))


def doctor(as_json: AsJSON = False) -> None:
    """Check everything that Receiver depends on.

    Settings, provider, journal, engines, media store and destinations. Nothing is submitted or delivered. Exit status 1
    if something is wrong.
    """
    found = run(findings(settings_for(quiet=True)))
    if as_json:
        print_json(found)
    else:
        for item in found:
            mark, style = _MARKS[item.verdict]
            say(f"{mark if out.is_terminal else f'{item.verdict:8}'} {item.name}: {item.text}", style)
    if any(item.verdict == "problem" for item in found):
        raise typer.Exit(1)
