"""`usage`: disk space of the installation, by age."""

from __future__ import annotations

from receiver.app import Usage, usage_of
from receiver.cli.options import AsJSON
from receiver.cli.output import Table, note, print_list
from receiver.cli.process import run, settings_for
from receiver.disk import size


def usage(as_json: AsJSON = False) -> None:
    """Show what journal, archived files and file destinations take, by age.

    A bucket is listed to count it. Every page of the list is a request.
    """
    settings = settings_for(quiet=True)

    def row(item: Usage) -> tuple[str, ...]:
        numbers = (item.today, item.week, item.month, item.older, item.all)
        form = (lambda number: f"{number:,}") if item.name == "submissions" else size
        return item.name, *("" if number is None else form(number) for number in numbers), item.place

    table = Table[Usage](("WHAT", "TODAY", "7 DAYS", "30 DAYS", "OLDER", "ALL", "PLACE"), row, below=True, ids=False)
    print_list(run(usage_of(settings)), table, none="", as_json=as_json)
    if settings.database_kind != "sqlite" and not as_json:
        note("The database's own tools show the size of the journal (receiver help backup).")
