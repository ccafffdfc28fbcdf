"""Kinds of values: how options and settings are declared, read, checked and shown, and what to write for a wrong one.

A class of `Options` declares each value as a field with a type and a default. The type's `Annotated` has a text, which
is its help, bounds (msgspec's `Meta`), and a `Kind` for what msgspec cannot read: units, URLs, names.

An error repeats a number or a single word, and no other value: people paste secrets into the wrong variable.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, EnumType
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import NODEFAULT, Meta, Struct, StructMeta

from receiver.errors import SettingsError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_WHOLE = re.compile(r"[+-]?\d{1,15}\Z", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\Z")
_YEAR = 366 * 86400.0
_LARGEST = 10**18
"""Limit of whole numbers, because TOML has some that no float can hold."""
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_BARE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\Z")
_JOINED = re.compile(r"[,;](?:\Z|[A-Za-z][A-Za-z0-9+.-]*://|(?:file|command):)")
_OPEN_SCHEMES = frozenset({"file", "s3", "gs", "az"})
"""Schemes whose URLs name a place and carry no secret outside userinfo and query."""
_PASSWORD = re.compile(r"\A([\w+.-]+://[^/?#@:]*):([^?#]+)@")
_PUBLIC_SCHEMES = _OPEN_SCHEMES | {"command", "slack"}
"""Schemes whose URLs hold a secret in userinfo or query only."""
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
_WORDS = re.compile(r"[A-Z]?[a-z]*(?:[-_.][A-Z]?[a-z]*)*\Z")
_SHORTEST_TOKEN = 8
"""Characters from which a part of a URL can be a secret, unless it consists of words."""
_LONG = 10
"""Characters from which a whole path and query count as a secret."""
_BUCKETS = frozenset({"s3", "gs", "az"})
_CALLER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_SHORTEST_API_SECRET = 16
_API_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}\Z")
"""The characters a bearer token may have (RFC 6750 §2.1)."""
_HIDDEN = r"([?&](?=[^?=&#]*=)[^?=&#]*(?:pass|secret|key|token|auth|credential|sig)[^?=&#]*=)([^&#]*)"
"""Query parameters whose value is a secret."""

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


# --- declaration ---


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


# --- values ---


def parse_seconds(value: object) -> float:
    """Return seconds from a number or a text like `30s`, `15m`, `72h` or `2d`."""
    seconds = _amount(value, _SECONDS, "a length of time")
    if not seconds <= _YEAR:  # written so that NaN is refused too
        raise ValueError("it is longer than a year")
    return seconds


def parse_keep(value: object) -> float:
    """Return seconds as `parse_seconds` does, but of up to 100 years, and 0 for `forever`."""
    if str(value).strip().lower() in {"forever", "for ever"}:
        return 0.0
    seconds = _amount(value, _SECONDS, "a length of time")
    if not 0 <= seconds <= 100 * _YEAR:  # written so that NaN is refused too
        raise ValueError("it is longer than a hundred years, or less than nothing")
    return seconds


def parse_size(value: object) -> int:
    """Return bytes, at least one, from a number or a text like `256MiB`."""
    size = _amount(value, _BYTES, "a size")
    if not 1 <= size < math.inf:  # written so that NaN is refused too
        raise ValueError("it is not a size")
    return int(size)


def _amount(value: object, units: dict[str, int], what: str) -> float:
    if isinstance(value, str):
        match = _AMOUNT.match(value.strip())
        if match is not None and (unit := units.get(match[2].lower())):
            return float(match[1]) * unit
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value if isinstance(value, float) else float(max(min(value, _LARGEST), -_LARGEST))
    raise ValueError(f"it is not {what}")


def show_seconds(seconds: float) -> str:
    """Return the shortest way to write it: 4200 becomes `70m`."""
    return _shown(seconds, {"d": 86400, "h": 3600, "m": 60}) or f"{seconds:g}s"


def show_size(size: int) -> str:
    """Return the shortest exact way to write it: 268435456 becomes `256MiB`."""
    return _shown(size, {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}) or str(size)


def _shown(amount: float, units: dict[str, int]) -> str | None:
    return next((f"{int(amount // size)}{unit}" for unit, size in units.items() if amount and amount % size == 0), None)


def split_words(text: str) -> list[str]:
    """Split a text at spaces and commas."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def join_words(value: object) -> object:
    """Return a list of texts as one text. Other values stay as they are."""
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value


def split_named(value: object) -> object:
    """Return a table from a text or list of `name:secret` pairs. Other values stay as they are."""
    words = split_words(value) if isinstance(value, str) else value
    if not isinstance(words, list):
        return words
    if not all(isinstance(word, str) and ":" in word for word in words):
        raise ValueError("an entry of it has no colon")
    pairs = [word.split(":", 1) for word in words]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is in it twice")
    return dict(pairs)


def check_token(secret: Secret) -> Secret:
    """Return a secret that is long enough to be one."""
    if len(secret.text) < _SHORTEST_API_SECRET:
        raise ValueError(f"it has less than {_SHORTEST_API_SECRET} characters")
    return secret


def check_origin_url(value: str) -> str:
    """Check a base URL: http(s), a host, no query. Return it without its last slash."""
    parts = _split(value)
    if parts is None or parts[0] not in {"http", "https"} or any(char.isspace() for char in value):
        raise ValueError("it is not an http:// or https:// URL with a host")
    if "?" in value or "#" in value:
        raise ValueError("it must not have a query or a fragment")
    if len(value) > 400:  # a callback URL below it has at most 512
        raise ValueError("it is longer than 400 characters")
    return value.rstrip("/")


def check_proxy(value: str) -> str | None:
    """Check the URL of an HTTP proxy. Return it with its scheme, or None for `none`."""
    if value.lower() == "none":
        return None
    url = value if "://" in value else f"http://{value}"
    parts = _split(url)
    if parts is None or parts[0] not in {"http", "https"} or parts[2].strip("/"):
        raise ValueError("it is no http:// or https:// URL of a proxy. RECEIVER_PROXY=none goes without one")
    return url.rstrip("/")


def check_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check host names, or exact origins such as `http://127.0.0.1:8000`. Return them in lower case."""
    hosts = tuple(value.lower() for value in values)
    for number, host in enumerate(hosts, start=1):
        parts = _split(host)
        is_origin = parts is not None and parts[0] in {"http", "https"} and host == f"{parts[0]}://{parts[1]}"
        if "*" in host:
            raise ValueError(f"entry {number} of it has a *, and each host is named in full")
        if not (_HOST.match(host) or is_origin):
            raise ValueError(f"entry {number} of it is neither a host name nor an origin")
    return hosts


def check_urls(value: str) -> str:
    """Check destination URLs separated by whitespace: each needs a scheme."""
    for number, word in enumerate(value.split(), start=1):
        if not _SCHEME.match(word):
            place = "names no place behind its scheme" if _BARE_SCHEME.match(word) else "is not a URL with a scheme"
            raise ValueError(f"entry {number} of it {place}")
        if _JOINED.search(word):
            raise ValueError(
                f"entry {number} of it has a comma or semicolon between two URLs, or behind the last. Separate them by "
                "spaces: file:./outputs slack://C0123ABCD. A comma inside a URL is written %2C"
            )
    return value


PAGE_ROLES = ("viewer", "maker", "operator")
"""Roles of the page's users. Each may do what the ones before it may."""


def check_api_tokens(value: dict[str, Secret]) -> dict[str, Secret]:
    """Check the names of callers, and that their secrets are long and all different."""
    secrets = [secret.text for secret in value.values()]
    for number, (name, secret) in enumerate(zip(value, secrets, strict=True), start=1):
        if not _CALLER.match(name):
            raise ValueError(f"the name of entry {number} is not made of a-z, 0-9, - and _")
        if not _API_SECRET.match(secret):
            raise ValueError(f"the secret of entry {number} does not have 16 to 200 letters, digits or -._~+/=")
    if len(set(secrets)) < len(secrets):
        raise ValueError("two names have the same secret")
    return value


def check_page_users(value: dict[str, Secret]) -> dict[str, Secret]:
    """Check that each user of the page has a role and a secret, as `ROLE:SECRET`."""
    secrets = {}
    for number, (name, text) in enumerate(value.items(), start=1):
        role, mark, secret = text.text.partition(":")
        if not mark or role not in PAGE_ROLES:
            raise ValueError(f"entry {number} is not NAME:ROLE:SECRET with a role of {', '.join(PAGE_ROLES)}")
        secrets[name] = Secret(secret)
    check_api_tokens(secrets)
    return value


def check_media(value: str) -> str:
    """Check a folder, or a bucket's URL without a secret in it. The media store checks the bucket when it opens."""
    scheme, found, rest = value.partition("://")
    if value.lower().startswith("file:"):
        raise ValueError("a folder is written as its path alone, without file:")
    if not found:
        return str(expanded(value))
    if scheme.lower() not in _BUCKETS:
        raise ValueError("it is neither a folder nor a URL that begins with s3://, gs:// or az://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("it holds a user name or a secret, which belong into the environment")
    return value


def _split(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host with port, and path, or None without a host or with a port that is no number."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return (parts.scheme, host if port is None else f"{host}:{port}", parts.path) if host else None


def show_url(url: str) -> str:
    """Mask what may be secret in a URL: userinfo, query, and the path where paths hold tokens (chats, webhooks)."""
    scheme, _, rest = url.partition(":")
    if scheme in _OPEN_SCHEMES:
        place = re.sub(r"^//[^/]*@", f"//{MASK}@", rest)
        return f"{scheme}:{re.sub(r'[?].*', f'?{MASK}', place)}"
    parts = _split(url)
    if scheme not in {"http", "https"} or parts is None:
        return f"{scheme}:{MASK}"
    return f"{scheme}://{parts[1]}" + (f"/{MASK}" if parts[2].strip("/") else "")


def show_base_url(url: str) -> str:
    """Mask the userinfo of a base URL. Its path names a route and is no token."""
    return re.sub(r"//[^/]*@", f"//{MASK}@", url)


def show_length(secret: Secret) -> str:
    """Return the length of a secret, enough to notice a copy that was cut off."""
    return f"set, {len(secret.text)} characters"


def show_keep(age: float) -> str:
    """Return a length of time that may be `forever`."""
    return show_seconds(age) if age else "forever"


def show_keys(keys: tuple[Secret, ...]) -> str:
    """Return the number of keys."""
    return f"set, {len(keys)} key{'s' if len(keys) != 1 else ''}"


def show_users(users: dict[str, Secret]) -> str:
    """Return names and roles."""
    return ", ".join(f"{name}: {text.text.partition(':')[0]}" for name, text in users.items())


def show_urls(urls: str) -> str:
    """Mask what may be secret in URLs."""
    return " ".join(map(show_url, urls.split()))


Seconds = Annotated[
    float,
    Kind(parse_seconds, write="seconds above 0, or a time such as 30s, 15m or 72h", show=show_seconds),
    Meta(gt=0),
]
Keep = Annotated[
    float, Kind(parse_keep, write="for instance 12h or 90d, or forever (0 means that too)", show=show_keep)
]
Size = Annotated[int, Kind(parse_size, write="bytes as a number, or for instance 256MiB", show=show_size)]
Folder = Annotated[Path, Kind(write="a folder this user may write")]
OriginURL = Annotated[
    str, Kind(check=check_origin_url, write="a URL, for instance https://receiver.example.com", show=show_base_url)
]
Key = Annotated[Secret, Kind(write="the key as you were given it", show=show_length)]
Hosts = Annotated[
    tuple[str, ...],
    Kind(check=check_hosts, write="host names or exact origins, for instance: cdn.example.com http://127.0.0.1:9000"),
]

DatabaseKind = Literal["sqlite", "postgres", "bucket", "none"]
_DRIVER = re.compile(r"(?<=^postgres)\+\w+\Z|(?<=^postgresql)\+\w+\Z")
"""The driver that SQLAlchemy names in a scheme: `postgresql+asyncpg://`."""
_DATABASES: dict[str, DatabaseKind] = {"sqlite": "sqlite", "postgres": "postgres", "postgresql": "postgres"}


def database_kind(value: str) -> DatabaseKind:
    """Return the kind of journal that a database URL names. Raise ValueError if the scheme is not known."""
    if value.lower() == "none":
        return "none"
    scheme, colon, _ = value.lower().partition(":")
    scheme = _DRIVER.sub("", scheme)
    kind = "bucket" if scheme in _BUCKETS else _DATABASES.get(scheme)
    if kind is None or not colon:
        pasted = re.search(r"postgres(?:ql)?://", value)
        take = ". Leave out all before postgresql:// and quotes at the end" if pasted else ""
        raise ValueError(f"it does not begin with sqlite:, postgresql://, s3://, gs:// or az://{take}")
    return kind


def check_database(value: str) -> str:
    """Check that the value names a database for a journal."""
    kind = database_kind(value)
    if kind == "sqlite":
        sqlite_path(value)
    if kind not in {"postgres", "bucket"}:
        return value
    try:
        parts = urlsplit(value)
        if "," not in parts.netloc:  # several hosts, one of which is the primary
            _ = parts.port
    except ValueError:
        raise ValueError("it is no URL. In a password write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D") from None
    if not value.partition(":")[2].startswith("//") or len(value) <= len(f"{parts.scheme}://"):
        needs = "a user, a host and a database" if kind == "postgres" else "a bucket"
        raise ValueError(f"it needs // and {needs} after it")
    if kind == "bucket" and not parts.hostname:
        raise ValueError("it names no bucket")
    return value


def sqlite_path(value: str) -> Path:
    """Return the path in `sqlite:PATH` or `sqlite:///PATH`, or raise ValueError.

    With three slashes PATH is relative and a fourth makes it absolute, as in the `DATABASE_URL`s people have.
    """
    scheme, _, rest = value.partition(":")
    if scheme.lower() != "sqlite":
        raise ValueError("it does not begin with sqlite:")
    path = rest.removeprefix("///")
    if not path or path.startswith(("//", ":memory:")) or "?" in path or "\0" in path:
        raise ValueError("it has no usable path after sqlite:")
    return expanded(path)


def without_passwords(url: str) -> str:
    """Mask the passwords of a URL."""
    shown = _PASSWORD.sub(rf"\1:{MASK}@", url)
    return re.sub(_HIDDEN, rf"\1{MASK}", shown, flags=re.IGNORECASE)


def url_secrets(url: str) -> list[str]:
    """Return the secrets of a URL of ours, both decoded and as written: its password, and secret parts of its query.

    A password that is a common word of ours, or repeats another part of the URL, is left out: it protects nothing, and
    masking it would hide the subject of log lines.
    """
    try:
        parts = urlsplit(url)
        password = _PASSWORD.match(url)
        written = [password[2] if password else "", *(match[2] for match in re.finditer(_HIDDEN, url, re.IGNORECASE))]
        words = {"receiver", parts.scheme, parts.username, parts.hostname, parts.path.strip("/")}
    except ValueError:
        return []
    if parts.scheme in {"http", "https"} and parts.username and not parts.password:
        written.append(parts.username)  # a token alone, as GitHub and others take it
        words.discard(parts.username)
    return [text for item in written if item not in {"", *words} for text in dict.fromkeys((item, unquote(item)))]


def destination_secrets(url: str) -> list[str]:
    """Return the secrets of a destination's URL. Where a path or query may be one, these and their parts.

    Parts that are plain words are left out, because they would hide the same words elsewhere.
    """
    scheme, _, rest = url.partition(":")
    found = url_secrets(url)
    if scheme not in _PUBLIC_SCHEMES:
        host, slash, path = rest.removeprefix("//").partition("/")
        whole = [f"{slash}{path}"] if scheme in {"http", "https"} else [rest.removeprefix("//"), f"{slash}{path}"]
        pieces = re.split(r"[/?&=#:@,]", path if scheme in {"http", "https"} else f"{host}/{path}")
        secrets = [*(text for text in whole if len(text) >= _LONG), *(text for text in pieces if _is_token(text))]
        found += [text for item in secrets for text in dict.fromkeys((item, unquote(item)))]
    return found


def _is_token(text: str) -> bool:
    return len(text) >= _SHORTEST_TOKEN and not _WORDS.match(text)
