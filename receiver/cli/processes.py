"""`engines` and `migrate`: the journal that several processes share."""

from __future__ import annotations

from receiver.cli.listings import AsJSON
from receiver.cli.output import note, print_json, print_table, say
from receiver.cli.running import run, settings_for
from receiver.journal import EngineRecord
from receiver.runtime import journal_of

COLUMNS = ("ROLE", "HOST", "ENGINE", "VERSION", "LEADS", "LAST SIGN", "MEDIA STORE")


def engines(as_json: AsJSON = False) -> None:
    """Which processes poll and deliver, where, and which leads."""
    settings = settings_for(quiet=True)

    async def main() -> list[EngineRecord]:
        async with journal_of(settings, existing=True) as opened:
            return await opened.engines()

    found = run(main())
    if as_json:
        print_json(found)
        return
    if found:
        print_table(COLUMNS, map(_row, found))
    else:
        note("No engine lives: nothing is polled or delivered until one starts (receiver serve, or receiver worker).")


def _row(item: EngineRecord) -> tuple[str, ...]:
    leads = "yes" if item.leads else ""
    return (item.role, item.host, item.owner, item.version, leads, f"{item.seconds:.0f} s ago", item.store)


def migrate() -> None:
    """Bring the journal's tables up to date.

    A start does that by itself, unless RECEIVER_DATABASE_MIGRATE is false.
    """
    settings = settings_for(quiet=True)

    async def main() -> None:
        async with journal_of(settings, migrate=True):
            pass

    run(main())
    say(f"{settings.database_shown} is up to date.")
