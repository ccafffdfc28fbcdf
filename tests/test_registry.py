"""The registry: finding a handler, checking its options, and telling what is wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from enum import Enum
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import pytest
from msgspec import Meta

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.extras import install
from receiver.handlers.base import Attempt, HandlerOptions, Kind, Secret
from receiver.handlers.registry import (
    BrokenHandler,
    Registry,
    build,
    choose_handlers,
    contract_problem,
    describe_handlers,
    installed_handlers,
)
from receiver.settings import Destination
from receiver.settings.kinds import parse_seconds
from receiver.settings.options import type_in_words


def check_ring(ring: Secret) -> Secret:
    if ring.text in {"s3cret", "easy"}:
        raise ValueError("it is too easy to guess")
    return ring


class PigeonOptions(HandlerOptions):
    loft: Annotated[str, "Where the pigeon lands."]
    grain: Annotated[int, Meta(ge=1), "Grains per flight."] = 3
    ring: Annotated[Secret | None, Kind(check=check_ring), "What the ring says."] = None
    color: Literal["white", "grey"] = "grey"
    stops: tuple[str, ...] = ()

    def check_together(self) -> None:
        if self.color == "white" and self.grain == 1:
            raise ValueError("a white pigeon needs more grain")


class Pigeon:
    """A handler of our own, as a stranger would write it."""

    name: ClassVar[str] = "pigeon"
    summary: ClassVar[str] = "Sends results by pigeon."
    schemes: ClassVar[tuple[str, ...]] = ("pigeon", "dove")
    Options: ClassVar[type[HandlerOptions]] = PigeonOptions

    def __init__(self, options: PigeonOptions) -> None:
        if options.loft == "burning":
            raise OSError("the loft burns; authorization: Bearer s3cret")
        if options.loft == "closed":
            raise SettingsError("The loft is closed.")
        self.options = options

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        if not (host := urlsplit(url).hostname):
            raise ValueError("it names no loft")
        return {"loft": host}

    async def deliver(self, attempt: Attempt) -> Receipt:
        return Receipt(ref=attempt.idempotency_key)

    async def aclose(self) -> None: ...


BROKEN = BrokenHandler("s3", "receiver.handlers.s3 could not be loaded: ModuleNotFoundError: No module named 'obstore'")
REGISTRY: Registry = {"pigeon": Pigeon, "s3": BROKEN}


@pytest.mark.parametrize(
    ("destination", "loft", "grain"),
    [
        (Destination(name="a", url="pigeon://tower"), "tower", 3),
        (Destination(name="a", url="DOVE://tower", options={"grain": "5"}), "tower", 5),
        (Destination(name="a", url="pigeon://tower", options={"loft": "attic"}), "attic", 3),
        (Destination(name="a", handler="pigeon", options={"loft": "attic"}), "attic", 3),
        (Destination(name="a", handler="pigeon", url="other://tower"), "tower", 3),
    ],
)
def test_a_handler_is_found_by_name_or_scheme(destination: Destination, loft: str, grain: int) -> None:
    """`handler` names it, else the URL's scheme; the table's options go before the URL's."""
    handler = build(destination, REGISTRY)
    assert isinstance(handler, Pigeon)
    assert (handler.options.loft, handler.options.grain) == (loft, grain)


WRONG = [
    ({}, 'it has neither handler nor url. Write, for instance, handler = "pigeon".'),
    ({"handler": "pidgeon"}, "there is no handler called pidgeon. Did you mean pigeon?"),
    ({"handler": "zzz"}, "there is no handler called zzz. There are: pigeon, s3."),
    ({"handler": "s3"}, "the handler s3 cannot be used. receiver.handlers.s3 could not be loaded: ModuleNotFoundError"),
    ({"url": "s3://bucket"}, "the handler s3 cannot be used."),
    (
        {"url": "pigeom://s3cret"},
        "no handler takes URLs that begin with pigeom: (not loaded: s3). Did you mean pigeon?",
    ),
    ({"url": "pigeon:"}, "its url cannot be used: it names no loft"),
    ({"handler": "pigeon"}, "the option loft is missing. Write a text. Where the pigeon lands."),
    (
        {"url": "dove://a", "options": {"grian": "s3cret"}},
        "the option grian does not exist. Did you mean grain?",
    ),
    (
        {"url": "dove://a", "options": {"zz": 1}},
        "the option zz does not exist. There are: loft, grain, ring, color, stops.",
    ),
    (
        {"url": "dove://a", "options": {"grain": "s3cret"}},
        "the option grain is wrong. Write a whole number from 1. Grains per flight.",
    ),
    (
        {"url": "dove://a", "options": {"grain": 0}},
        "the option grain cannot be 0. Write a whole number from 1. Grains per flight.",
    ),
    (
        {"url": "dove://a", "options": {"color": "pink"}},
        "the option color cannot be 'pink'. Write white or grey.",
    ),
    (
        {"url": "dove://a", "options": {"ring": "easy"}},
        "the option ring is wrong: it is too easy to guess. What the ring says.",
    ),
    (
        {"url": "dove://a", "options": {"ring": "s3cret"}},
        "the option ring is wrong: it is too easy to guess. What the ring says.",
    ),
    (
        {"url": "dove://a", "options": {"color": "s3cret"}},
        "the option color is wrong. Write white or grey.",
    ),
    (
        {"url": "dove://a", "options": {"color": "white", "grain": 1}},
        "its options are wrong: a white pigeon needs more",
    ),
    ({"url": "dove://closed"}, "The loft is closed."),
    ({"url": "dove://burning"}, "the handler pigeon could not be set up: OSError: the loft burns"),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG)
def test_a_wrong_destination_is_named_without_a_secret(fields: dict[str, Any], sentence: str) -> None:
    """Each problem names the destination and the option, the nearest known name, and a value that is no secret."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="post", **fields), REGISTRY)
    text = str(caught.value)
    assert text.startswith("Destination post: ")
    assert sentence in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("type", "words"),
    [
        (Annotated[int, Meta(ge=1, le=9)], "a whole number from 1 to 9"),
        (Annotated[float, Meta(gt=0, lt=1)], "a number above 0 and below 1"),
        (Annotated[float, Meta(gt=0, le=5)], "a number above 0 and up to 5"),
        (
            Annotated[str, Meta(min_length=2, max_length=5)],
            "a text of at least 2 characters and of at most 5 characters",
        ),
        (str, "a text"),
    ],
)
def test_bounds_are_told_in_words(type: Any, words: str) -> None:
    """Two of them are joined as a sentence has them."""
    assert type_in_words(type) == words


def test_texts_of_an_environment_become_values() -> None:
    """A list is separated by spaces or commas, and a choice may be in capitals. Secrets are not printed."""
    options = {"stops": "mill, bridge", "color": "White", "ring": "made in 1920"}
    handler = build(Destination(name="a", url="dove://tower", options=options), REGISTRY)
    assert isinstance(handler, Pigeon)
    assert (handler.options.stops, handler.options.color) == (("mill", "bridge"), "white")
    assert "1920" not in repr(handler.options)


def test_all_wrong_options_are_told_at_once() -> None:
    """One start tells every wrong option of a destination, a line each."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="a", handler="pigeon", options={"grain": 0, "zz": 1}), REGISTRY)
    assert len(str(caught.value).splitlines()) == 3


def test_handlers_are_described_with_their_options() -> None:
    """The list has each option's type, default and help in words, and the problem of what cannot be loaded."""
    pigeon, broken = describe_handlers(REGISTRY)
    assert (pigeon.name, pigeon.summary, pigeon.schemes) == ("pigeon", Pigeon.summary, ("pigeon", "dove"))
    assert [(option.name, option.type, option.default) for option in pigeon.options] == [
        ("loft", "text", None),
        ("grain", "whole number from 1", "3"),
        ("ring", "secret text", "none"),
        ("color", "white or grey", "grey"),
        ("stops", "list of text", "none"),
    ]
    assert asdict(pigeon)["options"][0]["help"] == "Where the pigeon lands."
    assert (broken.name, broken.problem) == ("s3", BROKEN.problem)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="receiver.handlers")


def test_a_plug_in_that_fails_is_listed_and_stops_nobody() -> None:
    """Missing modules and things that are no handler are kept with their problem; the others work."""
    registry = choose_handlers(
        [
            entry("gone", "no_such_module:Handler"),
            entry("odd", "pathlib:Path"),
            entry("function", "os.path:join"),
            entry("file", "receiver.handlers.file:FileHandler"),
            entry("renamed", "receiver.handlers.file:FileHandler"),
        ]
    )
    problems = {name: found.problem for name, found in registry.items() if isinstance(found, BrokenHandler)}
    assert problems == {
        "function": "os.path:join is not a class",
        "gone": "no_such_module:Handler could not be loaded: ModuleNotFoundError: No module named 'no_such_module'",
        "odd": "pathlib:Path is not a handler: name, summary, schemes, Options, deliver, aclose, options_from_url "
        "missing or of another type",
        "renamed": "receiver.handlers.file:FileHandler calls itself file, not renamed",
    }
    assert build(Destination(name="a", url="file:./outputs"), registry)


class Strange(Pigeon):
    """A handler with an option that no text can be read as."""

    name = "strange"

    class Options(HandlerOptions):
        loft: Path | Secret


def test_a_type_that_cannot_be_read_is_the_problem_of_its_plug_in() -> None:
    """It is listed as any other that cannot be loaded."""
    found = choose_handlers([entry("strange", f"{__name__}:Strange")])["strange"]
    assert isinstance(found, BrokenHandler)
    assert "could not be loaded: TypeError: " in found.problem


class Tint(Enum):
    RED = "red"
    BLUE = "blue"


class Perch(HandlerOptions):
    height: Annotated[float, Kind(parse_seconds)]
    ring: Secret | None = None


def broken_check(value: str) -> str:
    return {"a": "b"}[value]


class Dovecote(Pigeon):
    """A handler with options of many types."""

    name = "dovecote"

    class Options(HandlerOptions):
        loft: str = ""
        tint: Tint = Tint.RED
        perch: Perch | None = None
        perches: tuple[Perch, ...] = ()
        post: int | tuple[int, ...] | None = None
        boxes: dict = {}  # type: ignore[type-arg] # as strangers write it
        doors: frozenset[Any] = frozenset()
        seats: Annotated[tuple[str, ...], Meta(min_length=1, max_length=4)] = ("a", "b")
        floors: Annotated[int, Meta(multiple_of=2)] = 2
        word: Annotated[str, Kind(check=broken_check)] = "a"


def test_options_of_many_types_are_described_in_words() -> None:
    """Neither a type's name nor an object's repr is shown."""
    (dovecote,) = describe_handlers({"dovecote": Dovecote})
    assert [(option.name, option.type, option.default) for option in dovecote.options[1:-1]] == [
        ("tint", "red or blue", "red"),
        ("perch", "table of height, ring (JSON in a variable)", "none"),
        ("perches", "list of table of height, ring (JSON in a variable)", "none"),
        ("post", "whole number or a list of whole number", "none"),
        ("boxes", "table (JSON in a variable)", "none"),
        ("doors", "list of value", "none"),
        ("seats", "list of text of at least 1 item and of at most 4 items", "a b"),
        ("floors", "whole number divisible by 2", "2"),
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tint": "s3cret"}, "the option tint is wrong. Write red or blue."),
        ({"perch": {"height": "s3cret"}}, "the option perch.height is wrong: it is not a length of time."),
        ({"perch": {"rung": "s3cret"}}, "the option perch.rung does not exist. Did you mean ring?"),
        ({"perch": "s3cret"}, "the option perch is wrong. Write a table of height, ring (JSON in a variable)."),
        ({"perches": [{"height": 1, "rung": "s3cret"}]}, "the option perches is wrong. Write a list of table of"),
        ({"post": "s3cret"}, "the option post is wrong. Write a whole number or a list of whole number."),
        ({"seats": []}, "the option seats is wrong. Write a list of text of at least 1 item and of at most 4 items."),
        ({"word": "s3cret"}, "a check of the handler dovecote failed by KeyError, so that is a fault in its code."),
    ],
)
def test_what_may_be_written_for_an_option_of_any_type(options: dict[str, Any], sentence: str) -> None:
    """A part of a table is named with its table, and a check that breaks fails its destination alone."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="post", handler="dovecote", options=options), {"dovecote": Dovecote})
    assert f"Destination post: {sentence}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_table_of_options_is_read_as_options_are() -> None:
    """Units and secrets within it are known, too."""
    options = {"perch": {"height": "2m", "ring": "made in 1920"}, "tint": "blue"}
    handler = build(Destination(name="post", handler="dovecote", options=options), {"dovecote": Dovecote})
    assert isinstance(handler, Dovecote)
    assert handler.options.perch == Perch(height=120.0, ring=Secret("made in 1920"))
    assert "1920" not in repr(handler.options)


def test_a_missing_extra_is_named() -> None:
    """A handler of ours that needs more packages says how to get them, where a destination wants it and in the list."""
    script = """
import sys
sys.modules["standardwebhooks"] = None  # as if it were not installed
from receiver.handlers.registry import build, describe_handlers
from receiver.settings import Destination
print(*[handler.problem for handler in describe_handlers() if handler.problem])
build(Destination(name="hook", url="https://x.example/y"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    remedy = f"It needs the package standardwebhooks: {install('webhook')}"
    assert done.stdout.strip() == remedy
    assert f"Destination hook: the handler webhook cannot be used. {remedy}" in done.stderr


def test_a_handler_is_imported_when_a_destination_wants_it() -> None:
    """A file destination does not wait for the imports of the other handlers."""
    script = """
import sys
from receiver.handlers.registry import build
from receiver.settings import Destination
build(Destination(name="a", url="file:./outputs"))
print(*[name for name in ("chat", "command", "discord", "file", "s3") if f"receiver.handlers.{name}" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "file"


def test_of_two_with_one_name_the_first_stays() -> None:
    """A second plug-in under a known name does not replace the first."""
    registry = choose_handlers([entry("file", "receiver.handlers.file:FileHandler"), entry("file", "zzz:Handler")])
    assert not isinstance(registry["file"], BrokenHandler)


def test_built_in_handlers_come_through_the_same_door(tmp_path: Path) -> None:
    """The installed package brings its own handlers by entry point, and each keeps the contract."""
    registry = installed_handlers()
    for name in ("command", "file", "webhook"):
        assert not isinstance(registry[name], BrokenHandler)
        assert contract_problem(registry[name], name) is None
    assert build(Destination(name="a", url=f"file:{tmp_path}"))


@pytest.mark.parametrize("url", ["ntfy://boats", "mmost://host/s3cret", "msteams://s3cret"])
def test_a_service_of_apprise_is_named_with_chat_before_it(url: str) -> None:
    """The scheme that the service's own page shows is none of ours."""
    with pytest.raises(SettingsError, match=rf"knows such URLs, write .*chat:{url.partition(':')[0]}://\."):
        build(Destination(name="a", url=url))


@pytest.mark.parametrize("url", ["r2://acme/x", "minio://s3cret/x", "azure://acme", "gcs://acme", "B2://acme"])
def test_a_bucket_of_another_programs_scheme_is_told_ours(url: str) -> None:
    """Not those of chats."""
    with pytest.raises(SettingsError, match=r"Write s3://BUCKET/FOLDER, .*, gs:// or az://\.$"):
        build(Destination(name="a", url=url))
