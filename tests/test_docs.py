"""README and handbook are tested: their tables come from the code, their commands exist, their pages stay short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import handbook
import pytest
from handbooks import BLOCKS, EVERYTHING, PAGES, ROOT, TEXTS, region
from msgspec.structs import replace

from receiver.app.factory import route_of
from receiver.errors import SettingsError
from receiver.events import EVENT_TYPES
from receiver.handbook import PAGES as LISTED
from receiver.handlers.registry import HandlerDoc, build, describe_handlers
from receiver.settings import Settings, declared, load
from receiver.settings.model import PAGES as SETTING_PAGES

TOP_LEVEL = {"pyproject.toml", "receiver", "tests", "scripts", "Procfile", "README.md"}


@pytest.mark.parametrize("page", TEXTS)
def test_generated_tables_are_up_to_date(page: str) -> None:
    """If this fails, run .venv/bin/python scripts/handbook.py and look at the difference."""
    assert TEXTS[page] == handbook.rewritten(TEXTS[page])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_listed(page: str) -> None:
    """A page has a title and a sentence for the list, and at most 150 lines."""
    title, sentence, *_ = PAGES[page].split("\n\n")
    assert title.startswith("# ")
    assert re.fullmatch(r"[A-Z`].*\.", sentence, re.DOTALL)
    assert len(PAGES[page].splitlines()) <= 150
    assert page in LISTED


def test_the_list_names_no_page_that_is_missing() -> None:
    """Every listed page exists."""
    assert set(LISTED) == set(PAGES)


def test_the_readme_is_short() -> None:
    """It fits into five minutes."""
    assert len(TEXTS["README"].splitlines()) <= 250
    assert len(TEXTS["README"].encode()) <= 12 * 1024


def test_every_setting_is_in_the_handbook() -> None:
    """Every variable, with the names it has besides."""
    settings = declared(Settings)
    names = {f"RECEIVER_{name.upper()}" for name in settings.keys() - {"destinations"}}
    names |= {name for item in settings.values() for name in item.known_as}
    assert {name for name in names if f"`{name}`" not in PAGES["settings"]} == set()


@pytest.mark.parametrize("handler", describe_handlers(), ids=lambda item: item.name)
def test_every_option_is_on_the_page_of_its_handler(handler: HandlerDoc) -> None:
    """Every handler has a page with its options."""
    table = region(handler.name, f"options {handler.name}")
    assert {option.name for option in handler.options if f"| `{option.name}` |" not in table} == set()


def test_every_command_and_its_options_are_in_the_handbook() -> None:
    """No command is a secret."""
    for name, command in handbook.commands():
        [row] = [line for line in region("cli", "commands").splitlines() if re.match(rf"\| `{name}[` ]", line)]
        for item in command.params:
            if item.param_type_name == "option" and not item.hidden and item.name != "help":
                assert f"`{max(item.opts, key=len)}`" in row


async def test_the_table_of_destinations_holds(tmp_path: Path) -> None:
    """A row for each handler with its guarantee. The minimal configuration starts as it is written."""
    declared = {handler.name: handler for handler in describe_handlers()}
    lines = region("destinations", "destinations").splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    assert [row[0].strip("`") for row in rows] == list(declared)
    for name, least, guarantee, *_ in rows:
        given = dict(re.findall(r'`([A-Z_]+)="([^"`]+)"`', least))
        secret = "whsec_Zm9yIHRoZSB0ZXN0IG9mIHRoZSBSRUFETUU="
        environ = {key: value.replace("whsec_…", secret) for key, value in given.items()}
        (tmp_path / "publish").touch(mode=0o755)
        [destination] = load(environ, tmp_path).resolved_destinations()
        if name == "`command`":
            destination = replace(destination, options={"folder": str(tmp_path)})
        handler = build(destination)
        assert handler.name == name.strip("`")
        assert guarantee.startswith(declared[handler.name].guarantee)
        await handler.aclose()


TABLES = [item.text for item in BLOCKS if item.kind == "toml" and "[destinations." in item.text]


@pytest.mark.parametrize("table", TABLES)
def test_every_destination_that_is_shown_can_be_read(tmp_path: Path, table: str) -> None:
    """With everything but the options that its handler alone knows."""
    environ = dict.fromkeys(re.findall(r"\$(\w+)", table), "x")
    (tmp_path / "receiver.toml").write_text(table)
    for item in load(environ, tmp_path).resolved_destinations():
        assert route_of(item).destination == item.name


def test_every_command_that_is_named_exists() -> None:
    """In sentences and in blocks. A command that was renamed is found here."""
    known = {name for name, _ in handbook.commands()}
    groups = {name.rpartition(" ")[0] for name in known}
    for first, second in re.findall(r"(?:^ *|`)receiver ([a-z]+)(?: ([a-z]+))?", EVERYTHING, re.MULTILINE):
        name = f"receiver {first}"
        assert (f"{name} {second}" if second and name in groups else name) in known | groups


def test_pages_that_are_named_exist() -> None:
    """`receiver help PAGE` leads somewhere."""
    named = set(re.findall(r"`receiver help ([\w-]+)`", EVERYTHING)) - {"PAGE", "TOPIC"}
    assert named
    assert named - set(PAGES) == set()


def test_every_event_type_is_in_the_words() -> None:
    """A newcomer finds each type explained."""
    assert {type for type in EVENT_TYPES if f"`{type}`" not in PAGES["words"]} == set()


def test_every_proof_named_by_a_promise_exists() -> None:
    """A promise without its proof is not printed."""
    named = set(re.findall(r"`(tests/[\w./]+)`", PAGES["promises"]))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_top_level_holds_what_belongs_there() -> None:
    """Six names and dot-files, nothing else that git would keep."""
    ignored = {"outputs", "build", "dist"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - ignored
    assert found == TOP_LEVEL


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    """Pictures and pages that are linked are in the repository."""
    folder = ROOT if page == "README" else ROOT / "receiver/handbook"
    links = re.findall(r"\]\(([^)#]+)\)", TEXTS[page])
    assert [link for link in links if not link.startswith("https://") and not (folder / link).exists()] == []


def test_the_description_for_an_index_links_to_no_file() -> None:
    """An index shows neither pictures nor pages of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    description = (ROOT / project["readme"]).read_text()
    assert "](" not in description
    assert "receiver help" in description


def test_nothing_is_installed_by_a_name_that_no_index_has() -> None:
    """Only from a clone or a wheel."""
    assert not re.search(r"pip install[^\n]*imagine-receiver", EVERYTHING)


def test_pages_that_errors_name_exist() -> None:
    """As an attribute of a class, of one error, or of a setting."""
    sources = [path.read_text() for path in (ROOT / "receiver").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'\bpage=?(?: = )?"([a-z0-9]+)"', text)}
    assert {"settings", "proxy", "callbacks", "destinations", "bucket", "server"} <= named | set(SETTING_PAGES.values())
    assert (named | set(SETTING_PAGES.values())) - set(PAGES) == set()
    assert set(SETTING_PAGES) <= declared(Settings).keys()


@pytest.mark.parametrize(
    ("environ", "page"),
    [
        ({"RECEIVER_PUBLIC_URL": "receiver.example.com"}, "proxy"),
        ({"RECEIVER_KEEP_MEDIA": "soon"}, "operate"),
        ({"RECEIVER_NOPE": "1"}, "settings"),
        ({"RECEIVER_KEEP_MEDIA": "soon", "RECEIVER_PUBLIC_URL": "x"}, "settings"),
        ({"RECEIVER_TO": "slack://pictures?nope=1"}, "slack"),
        ({"RECEIVER_TO": "nope://pictures"}, "destinations"),
    ],
)
def test_a_wrong_setting_names_its_page(tmp_path: Path, environ: dict[str, str], page: str) -> None:
    """The page of the setting or of the handler, or the list of settings for several."""
    with pytest.raises(SettingsError) as caught:
        [build(item) for item in load(environ, tmp_path).resolved_destinations()]
    assert caught.value.with_page == f"{caught.value} (receiver help {page})"
