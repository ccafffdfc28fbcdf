"""Declaration of options and settings: how a class says which values it takes, and how they are read.

A class of `Options` declares each value as a field with a type and a default. The type's `Annotated` has a text, which
is its help, bounds (msgspec's `Meta`), and a `Kind` for what msgspec cannot read: units, URLs, names.

An error repeats a number or a single word, and no other value: people paste secrets into the wrong variable.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, EnumType
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct, StructMeta

from receiver.errors import SettingsError

_WHOLE = re.compile(r"[+-]?\d{1,15}\Z", re.ASCII)
_FLAGS = {"yes": True, "on": True, "no": False, "off": False}
"""Words for true and false beside those of JSON, as environments have them."""
_LISTS = (tuple, list, set, frozenset)
_BOUNDS = {
    "ge": "from {}",
    "gt": "above {}",
    "le": "up to {}",
    "lt": "below {}",
    "multiple_of": "divisible by {}",
    "min_length": "of at least {} {}",
    "max_length": "of at most {} {}",
    "pattern": "that matches {}",
}
"""Bounds of msgspec's `Meta`, in words."""
_HARMLESS = re.compile(r"[A-Za-z]{1,16}|-?\d{1,6}(?:\.\d{1,6})?\s?[A-Za-z]{0,5}")
"""Values that an error may repeat: a single word, or a number with or without a unit."""

MASK = "••••"


class Secret:
    """A text that is masked wherever it is printed."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class Kind(Struct, frozen=True):
    """Part of a type's `Annotated`: what the type alone does not say about a value.

    Attributes:
        read: returns what is converted to the type, from what was given. Raises ValueError with what is wrong.
        check: returns the value to keep, from one of the type. Raises ValueError with what is wrong.
        write: what a person should write, in place of words for the type.
        show: returns a value as text.
    """

    read: Callable[[Any], Any] | None = None
    check: Callable[[Any], Any] | None = None
    write: str = ""
    show: Callable[[Any], str] | None = None


class KnownAs(Struct, frozen=True):
    """Part of a type's `Annotated`: an environment variable that people already have for the value."""

    name: str


class Unset(Struct, frozen=True):
    """Part of a type's `Annotated`: words for the value None, or an empty one, in a table."""

    words: str


class Field(Struct, frozen=True):
    """One declared value of a class of `Options`.

    Attributes:
        type: of the value, with its bounds.
        optional: True if it may be None.
        default: NODEFAULT if it is required.
        known_as: variables people already have for it.
        unset: words for None, or an empty one, in a table.
    """

    name: str
    type: Any
    optional: bool
    default: Any
    help: str
    kind: Kind
    known_as: tuple[str, ...]
    unset: str

    @property
    def write(self) -> str:
        """Words for what a person should write."""
        return self.kind.write or type_in_words(self.type)

    def read(self, given: object) -> Any:
        """Return the value of what was given, or of a value. Raise ValueError with what is wrong, or without a text."""
        if given is None and self.optional:
            return None
        if self.kind.read is not None:
            given = self.kind.read(given)
        elif isinstance(self.type, _OptionsMeta) and isinstance(given, Mapping):
            given = read_options(self.type, given)  # type: ignore[arg-type] # a class of `Options`, which comes below
        elif isinstance(given, str):
            given = _from_text(given, self.type)
        try:
            value = msgspec.convert(given, self.type, strict=False, dec_hook=_from_object)
        except msgspec.ValidationError:
            raise ValueError from None
        return value if self.kind.check is None else self.kind.check(value)

    def show(self, value: Any) -> str:
        """Return a value as text."""
        if self.unset and value in (None, "", (), {}):
            return self.unset
        if value is None or (isinstance(value, (*_LISTS, Mapping)) and not value):
            return "none"
        if self.kind.show is not None:
            return self.kind.show(value)
        if isinstance(value, Mapping):
            return ", ".join(f"{name}: {item}" for name, item in value.items())
        if isinstance(value, _LISTS):
            return " ".join(map(str, value))
        value = value.value if isinstance(value, Enum) else value
        return str(value).lower() if isinstance(value, bool) else str(value)


def _taken_apart(hint: Any) -> tuple[Any, bool, list[Any]]:
    """Return a type without None and `Annotated`, True if it had None, and what `Annotated` had."""
    optional, markers = False, []
    while True:
        some = [item for item in get_args(hint) if item is not NoneType]
        if get_origin(hint) is Annotated:
            markers += hint.__metadata__
            hint = hint.__origin__
        elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
            optional, hint = True, Union[tuple(some)]  # noqa: UP007 - their number is known only here
        else:
            return hint, optional, markers


def _from_text(text: str, hint: Any) -> Any:
    """Return what msgspec takes for a text of an environment: a flag by other words, a name in capitals, a list.

    A whole number may have a sign and zeros before it.
    """
    type, _, _ = _taken_apart(hint)
    if type is bool:
        return _FLAGS.get(text.lower(), text)
    if type is int and _WHOLE.match(text):
        return int(text)
    if get_origin(type) is Literal:
        return text.lower() if text.lower() in get_args(type) else text
    return split_words(text) if get_origin(type) in _LISTS else text


def _from_object(type: type, given: object) -> Any:
    """Return an instance of a type that msgspec does not know."""
    if type is Secret and isinstance(given, str):
        return Secret(given)
    if type is Path and isinstance(given, str | Path):
        return expanded(given)
    if not isinstance(given, type):
        raise ValueError
    return given


def expanded(path: str | Path) -> Path:
    """Return a path with its `~` expanded, because a variable from a file never passed a shell. Raise ValueError."""
    try:
        return Path(path).expanduser() if str(path).startswith("~") else Path(path)
    except RuntimeError:
        raise ValueError("there is no home folder for the ~ in it") from None


def type_in_words(hint: Any) -> str:
    """Return what a person should write for a type: `a whole number from 1 to 64`, `auto, json or console`."""
    type, _, markers = _taken_apart(hint)
    origin, arguments = get_origin(type) or type, get_args(type)
    if origin in (Union, UnionType):
        return " or ".join(map(type_in_words, arguments))
    if origin is Literal or isinstance(type, EnumType):
        *others, last = map(str, arguments or [item.value for item in type])
        return f"{', '.join(others)} or {last}" if others else last
    unit = "character"
    if origin in (*_LISTS, dict):
        name, unit = ("a table" if origin is dict else "a list"), "item"
        name += f" of {type_in_words(arguments[origin is dict]).removeprefix('a ')}" if arguments else ""
        name += " (JSON in a variable)" if origin is dict else ""
    elif isinstance(type, StructMeta):
        name = f"a table of {', '.join(type.__struct_fields__)} (JSON in a variable)"
    else:
        names = {str: "text", int: "whole number", float: "number", Secret: "secret text", Any: "value"}
        name = "true or false" if type is bool else f"a {names.get(type) or type.__name__.lower()}"
    given = [(bound, getattr(item, bound)) for item in markers if isinstance(item, Meta) for bound in _BOUNDS]
    bounds = {bound: limit for bound, limit in given if limit is not None}
    words = [f"from {bounds.pop('ge')} to {bounds.pop('le')}"] if {"ge", "le"} <= bounds.keys() else []
    words += [_BOUNDS[bound].format(limit, f"{unit}{'s' * (limit != 1)}") for bound, limit in bounds.items()]
    return f"{name} {' and '.join(words)}".rstrip()


class WrongValues(SettingsError):
    """Values that cannot be read: by its place, the end of a sentence about each. Without a place, about all."""

    def __init__(self, problems: Mapping[tuple[str, ...], str]) -> None:
        super().__init__("\n".join(f"{'.'.join(path)} {problem}" for path, problem in problems.items()))
        self.problems = problems


def wrong(reason: str, write: str, given: object = None) -> str:
    """Return the end of a sentence about a wrong value, which repeats what was given unless it may be a secret."""
    text = str(given).lower() if isinstance(given, bool) else str(given)
    shown = given is not None and _HARMLESS.fullmatch(text)
    told = f"cannot be {repr(text) if isinstance(given, str) else text}" if shown else "is wrong"
    return f"{told}{reason and ': '}{reason}." + (f" Write {write}." if write else "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like this one, or None if none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def guessed(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name most like this one, or with all."""
    guess = nearest(name, known)
    return f"Did you mean {guess}?" if guess else f"There are: {', '.join(known) or 'none'}."


class _OptionsMeta(StructMeta):
    """Makes every class of `Options` frozen, with fields by name only, so that required ones may come last."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], frozen: bool = True) -> type:
        return super().__new__(mcls, name, bases, namespace, frozen=frozen, kw_only=True, forbid_unknown_fields=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options(Struct, frozen=True, metaclass=_OptionsMeta):
    """Base of a class of values, each read by its type and `Kind`. Raises WrongValues with all that are wrong.

    The repr shows no secret.
    """

    INNER: ClassVar[frozenset[str]] = frozenset()
    """Fields that no table holds. They are kept as they are."""

    def __post_init__(self) -> None:
        values, problems = _read(type(self), {name: getattr(self, name) for name in declared(type(self))})
        for name, value in values.items():
            msgspec.structs.force_setattr(self, name, value)
        if not problems:
            try:
                self.check_together()
            except ValueError as exc:
                problems[()] = f"are wrong: {str(exc).rstrip('.')}."
        if problems:
            raise WrongValues(problems)

    def check_together(self) -> None:
        """Raise ValueError if values do not go together. Each of them is right by itself."""

    def __repr__(self) -> str:
        values = [(item, getattr(self, item.name)) for item in declared(type(self)).values()]
        shown = (f"{item.name}={item.show(value)!r}" for item, value in values if value != item.default)
        return f"{type(self).__name__}({', '.join(shown)})"


T = TypeVar("T", bound=Options)


def read_options(model: type[T], given: Mapping[str, Any]) -> T:
    """Return the options in a table. Raise WrongValues, also for names that are unknown or missing."""
    known = declared(model)
    problems = {(name,): f"does not exist. {guessed(name, known)}" for name in given if name not in known}
    for name, item in known.items():
        if item.default is NODEFAULT and name not in given:
            problems[name,] = f"is missing. Write {item.write}."
    if problems:
        raise WrongValues(problems | _read(model, given)[1])
    return model(**given)


def _read(model: type[Options], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the values that are not the default, and the problems."""
    values: dict[str, Any] = {}
    problems: dict[tuple[str, ...], str] = {}
    for name, item in declared(model).items():
        value = given.get(name, item.default)
        try:
            if value is not item.default:
                values[name] = item.read(value)
        except WrongValues as exc:
            problems |= {(name, *path): problem for path, problem in exc.problems.items()}
        except ValueError as exc:
            reason = str(exc).rstrip(".")
            given_here = None if _holds_secret(item.type) else value
            problems[name,] = wrong(reason, item.kind.write if reason else item.write, given_here)
    return values, problems


def _holds_secret(hint: Any) -> bool:
    return hint is Secret or any(map(_holds_secret, get_args(hint)))


@cache
def declared(model: type[Options]) -> dict[str, Field]:
    """Return the fields of a class by name, in the order of their declaration."""
    found = {}
    for info in msgspec.structs.fields(model):
        type, optional, markers = _taken_apart(info.type)
        kinds = [item for item in markers if isinstance(item, Kind)]
        texts = [item for item in markers if isinstance(item, str)]
        words = [item.words for item in markers if isinstance(item, Unset)]
        bounds = tuple(item for item in markers if isinstance(item, Meta))
        found[info.name] = Field(
            name=info.name,
            type=Annotated[type, *bounds] if bounds else type,
            optional=optional,
            default=info.default if info.default_factory is NODEFAULT else info.default_factory(),
            help=texts[0] if texts else "",
            kind=kinds[0] if kinds else Kind(),
            known_as=tuple(item.name for item in markers if isinstance(item, KnownAs)),
            unset=words[0] if words else "",
        )
    return {name: item for name, item in found.items() if name not in model.INNER}


def split_words(text: str) -> list[str]:
    """Split a text at spaces and commas."""
    return [word for word in re.split(r"[\s,]+", text) if word]
