"""Registry of handlers: load the plug-ins, check a destination's options, and build its handler.

Every handler comes through the entry-point group `receiver.handlers`, the built-in ones too. A plug-in that cannot be
loaded is listed with its problem, and only a destination that needs it fails.
Every function takes the table of handlers as an argument, so that a test passes its own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol, get_args

import msgspec
from msgspec import NODEFAULT

from receiver.errors import SettingsError
from receiver.extras import DISTRIBUTION, install
from receiver.handlers.base import Guarantee, Handler, HandlerOptions
from receiver.settings import Destination
from receiver.settings.options import Secret, WrongValues, declared, guessed, read_options
from receiver.telemetry import Log, learn, redact

GROUP = "receiver.handlers"
OURS = ("chat", "command", "discord", "file", "s3", "slack", "webhook")
"""The built-in handlers. Each has a page in the handbook."""

_OTHER_NAMES = {"http": "webhook", "https": "webhook", "gs": "s3", "az": "s3"}
"""Names of our handlers by schemes that differ from them, for handlers that cannot be loaded."""
_STORES = frozenset({"abfs", "abfss", "azure", "b2", "gcs", "minio", "r2", "wasb", "wasbs"})
"""Schemes that other programs have for buckets."""

log = Log("receiver.handlers")


class HandlerPlugin(Handler, Protocol):
    """Class of a handler, with the members it needs beside the two methods of `Handler`.

    A `guarantee` (`receiver.handlers.base.Guarantee`) is optional and `once` by default. An attribute `waits_for` of an
    instance names the destination whose receipt it shows. The start checks that it exists. `reply_origins` of an
    instance make it a destination for submissions that name a URL (`reply_to`) at one of these origins, and no others.
    """

    name: ClassVar[str]  # the name of its entry point, and of `handler` in a destination
    summary: ClassVar[str]  # one sentence for `receiver handlers`
    schemes: ClassVar[tuple[str, ...]]  # the URL schemes it takes, without colon
    Options: ClassVar[type[HandlerOptions]]  # the class of its options

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        """Return the options in a URL. Raise ValueError or SettingsError with a reason for a person."""
        ...

    def __init__(self, options: Any) -> None: ...


HandlerClass = type[HandlerPlugin]


@dataclass(frozen=True, slots=True)
class BrokenHandler:
    """Plug-in that cannot be used, and its problem in a sentence."""

    name: str
    problem: str


Registry = Mapping[str, HandlerClass | BrokenHandler]


@dataclass(frozen=True, slots=True)
class OptionDoc:
    """One option of a handler. `default` is None for a required option."""

    name: str
    type: str
    default: str | None
    help: str


@dataclass(frozen=True, slots=True)
class HandlerDoc:
    """Entry of a handler in the list. `problem` says why it cannot be used, or is None."""

    name: str
    summary: str
    schemes: tuple[str, ...]
    options: tuple[OptionDoc, ...]
    guarantee: Guarantee | None = None
    problem: str | None = None


class Installed(Mapping[str, HandlerClass | BrokenHandler]):
    """Installed handlers by name. Each is imported when it is looked up."""

    def __init__(self, entries: Mapping[str, EntryPoint]) -> None:
        self._entries = entries
        self._loaded: dict[str, HandlerClass | BrokenHandler] = {}

    def __getitem__(self, name: str) -> HandlerClass | BrokenHandler:
        if name not in self._loaded:
            self._loaded[name] = _load(self._entries[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def installed_handlers() -> Installed:
    """Return all installed handlers."""
    return _installed_on(tuple(sys.path))


@cache
def _installed_on(path: tuple[str, ...]) -> Installed:
    """Read them once for each `sys.path`, because that takes 30 ms with many packages."""
    return choose_handlers(entry_points(group=GROUP))


def choose_handlers(entries: Iterable[EntryPoint]) -> Installed:
    """Return handlers by name. Of two with one name, ours wins, else the first."""

    def ours(entry: EntryPoint) -> bool:
        return entry.dist is not None and entry.dist.name == DISTRIBUTION

    chosen: dict[str, EntryPoint] = {}
    for entry in sorted(entries, key=lambda entry: (not ours(entry), entry.name, entry.value)):
        if entry.name not in chosen:
            chosen[entry.name] = entry
        elif not ours(entry):
            log.warning("handler.shadowed", handler=entry.name, ignored=entry.value)
    return Installed(dict(sorted(chosen.items())))


def _load(entry: EntryPoint) -> HandlerClass | BrokenHandler:
    try:
        plugin = entry.load()
        wrong = contract_problem(plugin, entry.name)
        if wrong is None:
            for item in declared(plugin.Options).values():
                msgspec.json.Decoder(item.type)  # raises for a type that cannot be read
            return plugin  # type: ignore[no-any-return] # it has been checked
        problem = f"{entry.value} {wrong}"
    except Exception as exc:
        problem = f"{entry.value} could not be loaded: {in_words(exc)}"
        # Our extras have the names of the handlers that need them.
        extras = (entry.dist.metadata.get_all("Provides-Extra") if entry.dist is not None else None) or ()
        if isinstance(exc, ModuleNotFoundError) and entry.dist is not None and entry.name in extras:
            remedy = install(entry.name, entry.dist.name)
            problem = f"It needs the package {exc.name}: {remedy}"
    return BrokenHandler(entry.name, problem)


def contract_problem(plugin: Any, name: str) -> str | None:
    """Return the members that a handler of this name lacks, as a phrase, or None."""
    if not inspect.isclass(plugin):
        return "is not a class"
    wanted = {"name": str, "summary": str, "schemes": tuple}
    has = {attribute: getattr(plugin, attribute, None) for attribute in wanted}
    wrong = [attribute for attribute, kind in wanted.items() if not isinstance(has[attribute], kind)]
    options = getattr(plugin, "Options", None)
    if not (inspect.isclass(options) and issubclass(options, HandlerOptions)):
        wrong.append("Options")
    wrong += [verb for verb in ("deliver", "aclose") if not inspect.iscoroutinefunction(getattr(plugin, verb, None))]
    if getattr(plugin, "guarantee", "once") not in get_args(Guarantee):
        wrong.append("guarantee")
    if not callable(getattr(plugin, "options_from_url", None)):
        wrong.append("options_from_url")
    if wrong:
        return f"is not a handler: {', '.join(wrong)} missing or of another type"
    return None if has["name"] == name else f"calls itself {has['name']}, not {name}"


def build(destination: Destination, registry: Registry | None = None) -> HandlerPlugin:
    """Return the handler of one destination, ready to deliver. A SettingsError has a line for each problem."""
    registry = installed_handlers() if registry is None else registry
    name = destination.handler or _by_scheme(destination, registry)
    plugin = registry.get(name)
    if plugin is None:
        raise _wrong(destination, f"there is no handler called {name}. {guessed(name, registry)}")
    if isinstance(plugin, BrokenHandler):
        raise _wrong(destination, f"the handler {name} cannot be used. {plugin.problem}", name)
    options = _options(plugin, destination)
    try:
        return plugin(options)
    except SettingsError as exc:
        raise _wrong(destination, str(exc), name) from exc
    except Exception as exc:
        raise _wrong(destination, f"the handler {plugin.name} could not be set up: {in_words(exc)}", name) from exc


def _by_scheme(destination: Destination, registry: Registry) -> str:
    if destination.url is None:
        example = next(filter(registry.__contains__, (destination.name, "file", *registry)), "file")
        raise _wrong(destination, f'it has neither handler nor url. Write, for instance, handler = "{example}".')
    scheme = destination.url.partition(":")[0].lower()
    name = _OTHER_NAMES.get(scheme, scheme)
    plugin = registry.get(name)
    if plugin is not None and not isinstance(plugin, BrokenHandler) and scheme in plugin.schemes:
        return name  # without importing the other handlers
    usable = {name: plugin for name, plugin in registry.items() if not isinstance(plugin, BrokenHandler)}
    schemes = {known: name for name, plugin in usable.items() for known in plugin.schemes}
    if scheme in schemes:
        return schemes[scheme]
    if plugin is not None:  # its problem, such as a missing extra, says more
        return name
    broken = [name for name in registry if name not in usable]
    hint = f" (not loaded: {', '.join(broken)})" if broken else ""
    problem = f"no handler takes URLs that begin with {scheme}:{hint}. {guessed(scheme, schemes)}"
    if scheme in _STORES:
        problem += " Write s3://BUCKET/FOLDER, with ?endpoint=https://… where it is not Amazon's, gs:// or az://."
    elif "chat" in registry:
        problem += f" If Apprise knows such URLs, write chat: before it, as in chat:{scheme}://."
    raise _wrong(destination, problem)


def _options(plugin: HandlerClass, destination: Destination) -> HandlerOptions:
    """Return validated options: from variables that people already have, from the URL, and from the table."""
    try:
        from_url = plugin.options_from_url(destination.url) if destination.url is not None else {}
    except (ValueError, SettingsError) as exc:
        problem = f"its url cannot be used: {redact(str(exc))}"
        raise _wrong(destination, problem, plugin.name) from exc
    known = declared(plugin.Options)
    from_variables = {
        name: destination.variables[variable]
        for name, item in known.items()
        for variable in item.known_as
        if variable in destination.variables
    }
    try:
        options = read_options(plugin.Options, {**from_variables, **from_url, **destination.options})
    except WrongValues as exc:
        lines = []
        for path, problem in exc.problems.items():
            option = f"the option {'.'.join(path)}" if path else "its options"
            meaning = f" {known[path[0]].help}" if path and path[0] in known and known[path[0]].help else ""
            lines.append(_wrong(destination, f"{option} {redact(problem)}{meaning}", plugin.name))
        raise SettingsError("\n".join(map(str, lines)), page=lines[0].page) from None
    except Exception as exc:  # its text may hold a value
        problem = (
            f"a check of the handler {plugin.name} failed by {type(exc).__name__}, so that is a fault in its code."
        )
        raise _wrong(destination, problem, plugin.name) from exc
    for name in known:
        value = getattr(options, name)
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        learn(item.text for item in items if isinstance(item, Secret))
    return options


def _wrong(destination: Destination, problem: str, plugin: str = "") -> SettingsError:
    """Return the error of a destination, with the page of its handler if it is one of ours."""
    page = plugin if plugin in OURS else "destinations"
    return SettingsError(f"Destination {destination.name}: {problem}", page=page)


def in_words(exc: BaseException) -> str:
    """Return the type and text of an error without secrets."""
    return redact(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)


def describe_handlers(registry: Registry | None = None) -> list[HandlerDoc]:
    """Return all handlers with their options, for `receiver handlers` and the handbook."""
    docs = []
    for plugin in (installed_handlers() if registry is None else registry).values():
        if isinstance(plugin, BrokenHandler):
            docs.append(HandlerDoc(plugin.name, "", (), (), problem=plugin.problem))
            continue
        options = [
            OptionDoc(
                item.name,
                item.write.removeprefix("a "),
                None if item.default is NODEFAULT else item.show(item.default),
                item.help,
            )
            for item in declared(plugin.Options).values()
        ]
        guarantee: Guarantee = getattr(plugin, "guarantee", "once")
        docs.append(HandlerDoc(plugin.name, plugin.summary, plugin.schemes, tuple(options), guarantee=guarantee))
    return docs
