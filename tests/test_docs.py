"""The README is tested: its tables come from the code, its commands exist, its words are used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from receiver.app.factory import route_of
from receiver.cli import app
from receiver.events import EVENT_TYPES
from receiver.handlers.registry import build, describe_handlers
from receiver.settings import describe, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TOP_LEVEL = {"pyproject.toml", "receiver", "tests", "scripts", "Procfile", "README.md"}


def section(name: str) -> str:
    """What stands between `<!-- name -->` and `<!-- /name -->`."""
    return README.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_settings_table_is_the_declared_settings() -> None:
    """Name, default and help stand in the README as they are declared; the failure shows the table to paste."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for doc in describe():
        names = ", ".join(f"`{name}`" for name in (doc.env, *doc.aliases))
        rows.append(f"| {names} | {cell(doc.default)} | {cell(doc.help)} |")
    assert section("settings") == "\n".join(rows) + "\n"


def test_the_handlers_table_is_what_handlers_say() -> None:
    """Every handler stands in the README as declared; the failure shows the table to paste."""
    rows = ["| handler | what it does | effect | URL in `RECEIVER_TO` |", "|---|---|---|---|"]
    for handler in describe_handlers():
        urls = " ".join(f"`{scheme}:`" for scheme in handler.schemes[:4]) + (" …" if len(handler.schemes) > 4 else "")
        rows.append(f"| `{handler.name}` | {handler.summary} | {handler.guarantee} | {urls} |")
    assert section("handlers") == "\n".join(rows) + "\n"


async def test_the_table_of_destinations_holds(tmp_path: Path) -> None:
    """A row for each handler, with its guarantee; what is said to be the least that works starts as it stands there."""
    declared = {handler.name: handler for handler in describe_handlers()}
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in section("destinations").splitlines()[2:]
    ]
    assert [row[0].strip("`") for row in rows] == list(declared)
    for name, least, guarantee, *_ in rows:
        given = dict(re.findall(r'`([A-Z_]+)="([^"`]+)"`', least))
        secret = "whsec_Zm9yIHRoZSB0ZXN0IG9mIHRoZSBSRUFETUU="
        environ = {key: value.replace("whsec_…", secret) for key, value in given.items()}
        (tmp_path / "publish").touch(mode=0o755)
        [destination] = load(environ, tmp_path).resolved_destinations()
        if name == "`command`":
            destination = destination.model_copy(update={"options": {"folder": str(tmp_path)}})
        handler = build(destination)
        assert handler.name == name.strip("`")
        assert guarantee.startswith(declared[handler.name].guarantee)
        await handler.aclose()


def test_the_options_tables_are_the_declared_options() -> None:
    """One table for each handler; the failure shows the tables to paste."""
    rows = []
    for handler in describe_handlers():
        rows += [f"<details><summary>Options of <code>{handler.name}</code></summary>", ""]
        rows += ["| option | default | what it is |", "|---|---|---|"]
        for option in handler.options:
            default = "required" if option.default is None else f"`{option.default}`"
            rows.append(f"| `{option.name}` | {cell(default)} | {cell(option.help)} |")
        rows += ["", "</details>", ""]
    assert section("options") == "\n".join(rows)


BLOCKS = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
TABLES = [text for kind, text in BLOCKS if kind == "toml" and "[destinations." in text]


@pytest.mark.parametrize("table", TABLES)
def test_every_destination_of_the_readme_can_be_read(tmp_path: Path, table: str) -> None:
    """With all it says about itself, but for what its handler alone knows."""
    environ = dict.fromkeys(re.findall(r"\$(\w+)", table), "x")
    (tmp_path / "receiver.toml").write_text(table)
    for item in load(environ, tmp_path).resolved_destinations():
        assert route_of(item).destination == item.name


COMMANDS = sorted(set(re.findall(r"^(?:receiver) +([a-z]+(?: [a-z]+)?)", README, re.MULTILINE)))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_receiver_command_of_the_readme_exists(line: str) -> None:
    """A command that was renamed is found here."""
    words = line.split()
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert words[0] in known
    if hasattr(known[words[0]], "commands"):
        assert words[1] in known[words[0]].commands


def test_every_command_stands_in_the_readme() -> None:
    """No command is a secret."""
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {name for name in known if f"receiver {name}" not in README} == set()


def test_every_event_type_stands_in_the_words() -> None:
    """A newcomer finds each type explained."""
    assert {type for type in EVENT_TYPES if f"`{type}`" not in README} == set()


def test_every_proof_named_by_a_promise_exists() -> None:
    """A promise without its proof is not printed."""
    promises = README.partition("## Promises")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(tests/[\w./]+)`", promises))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_top_level_holds_what_belongs_there() -> None:
    """Six names and dot-files, nothing else that git would keep."""
    ignored = {"outputs", "build", "dist"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - ignored
    assert found == TOP_LEVEL


@pytest.mark.parametrize("text", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_to_a_file_leads_somewhere(text: str) -> None:
    """Pictures and files the README shows are in the repository."""
    assert text.startswith("https://") or (ROOT / text).exists()
