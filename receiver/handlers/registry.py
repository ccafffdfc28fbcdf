"""Finds handlers, checks a destination's options, and builds the handler.

Every handler comes through the entry-point group `receiver.handlers`: ours through the same door as yours. A plug-in
that cannot be loaded stops nobody else; it is listed with its problem, and only a destination that needs it fails.
Every function takes the table of handlers as an argument, so that a test passes its own.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, get_args, get_origin

import structlog
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from receiver.errors import SettingsError
from receiver.handlers.base import Guarantee, Handler, HandlerOptions
from receiver.settings import Destination
from receiver.settings.kinds import KnownAs
from receiver.settings.load import nearest, reason
from receiver.telemetry import learn, redact

GROUP = "receiver.handlers"
_DISTRIBUTION = "imagine-receiver"
_OTHER_NAMES = {"http": "webhook", "https": "webhook", "gs": "s3", "az": "s3"}
"""Handlers of ours whose schemes are not their names, for when they cannot be asked."""

log = structlog.get_logger()


class HandlerPlugin(Handler, Protocol):
    """What a handler's class has to have, beside the two methods of `Handler`.

    Attributes:
        name: the name of its entry point, and what a destination's `handler` says.
        summary: one sentence for `receiver handlers`.
        schemes: the URL schemes it takes, without colon.
        Options: the model of its options; each field's description is its help.

    A `guarantee` (`receiver.handlers.base.Guarantee`) may stand beside them; without one it is `once`.
    An attribute `waits_for` of an instance names the destination whose receipt it shows; the start checks that there is
    one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    Options: ClassVar[type[HandlerOptions]]

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        """The options a URL stands for. Raises ValueError or SettingsError with a reason for a person."""
        ...

    def __init__(self, options: Any) -> None: ...


HandlerClass = type[HandlerPlugin]


@dataclass(frozen=True, slots=True)
class BrokenHandler:
    """A plug-in that cannot be used, and why, in a sentence."""

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
    """One handler as listed; `problem` says why it cannot be used, if so."""

    name: str
    summary: str
    schemes: tuple[str, ...]
    options: tuple[OptionDoc, ...]
    guarantee: Guarantee | None = None
    problem: str | None = None


def load_handlers(entries: Iterable[EntryPoint] | None = None) -> dict[str, HandlerClass | BrokenHandler]:
    """All installed handlers by name. Of two with one name, ours wins, else the first found."""
    found = entry_points(group=GROUP) if entries is None else entries
    registry: dict[str, HandlerClass | BrokenHandler] = {}
    for entry in sorted(found, key=lambda entry: (not _is_ours(entry), entry.name, entry.value)):
        if entry.name not in registry:
            registry[entry.name] = _load(entry)
        elif not _is_ours(entry):
            log.warning("handler.shadowed", handler=entry.name, ignored=entry.value)
    return dict(sorted(registry.items()))


def build(destination: Destination, registry: Registry | None = None) -> Handler:
    """The handler of one destination, ready to deliver.

    Raises:
        SettingsError: no such handler, or its options are wrong; a line for each that is.
    """
    plugin = _find(destination, load_handlers() if registry is None else registry)
    options = _validated(plugin, destination)
    try:
        return plugin(options)
    except SettingsError as exc:
        raise _wrong(destination, str(exc)) from exc
    except Exception as exc:
        raise _wrong(destination, f"the handler {plugin.name} could not be set up: {_told(exc)}") from exc


def describe_handlers(registry: Registry | None = None) -> list[HandlerDoc]:
    """All handlers with their options, for `receiver handlers` and the README."""
    known = load_handlers() if registry is None else registry
    return [_doc(plugin) for plugin in known.values()]


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == _DISTRIBUTION


def _load(entry: EntryPoint) -> HandlerClass | BrokenHandler:
    try:
        plugin = entry.load()
    except ModuleNotFoundError as exc:
        return BrokenHandler(entry.name, _missing(entry, exc))
    except Exception as exc:
        return BrokenHandler(entry.name, f"{entry.value} could not be loaded: {_told(exc)}")
    problem = contract_problem(plugin, entry.name)
    return BrokenHandler(entry.name, f"{entry.value} {problem}") if problem else plugin


def _missing(entry: EntryPoint, exc: ModuleNotFoundError) -> str:
    """What to install. Our extras are called like the handlers that need them."""
    if entry.dist is not None and entry.name in (entry.dist.metadata.get_all("Provides-Extra") or ()):
        return f'It needs the package {exc.name}: pip install "{entry.dist.name}[{entry.name}]"'
    return f"{entry.value} could not be loaded: {_told(exc)}"


def contract_problem(plugin: Any, name: str) -> str | None:
    """What is missing for a handler of this name, if anything is."""
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


def _find(destination: Destination, registry: Registry) -> HandlerClass:
    name = destination.handler or _by_scheme(destination, registry)
    found = registry.get(name)
    if found is None:
        guess = nearest(name, registry)
        raise _wrong(destination, f"there is no handler called {name}. {_guessed(guess, registry)}")
    if isinstance(found, BrokenHandler):
        raise _wrong(destination, f"the handler {name} cannot be used. {found.problem}")
    return found


def _by_scheme(destination: Destination, registry: Registry) -> str:
    if destination.url is None:
        example = next(filter(registry.__contains__, (destination.name, "file", *registry)), "file")
        raise _wrong(destination, f'it has neither handler nor url. Write, for instance, handler = "{example}".')
    scheme = destination.url.partition(":")[0].lower()
    usable = {name: plugin for name, plugin in registry.items() if not isinstance(plugin, BrokenHandler)}
    schemes = {known: name for name, plugin in usable.items() for known in plugin.schemes}
    if scheme in schemes:
        return schemes[scheme]
    if (name := _OTHER_NAMES.get(scheme, scheme)) in registry:  # broken, most likely by a missing extra: its problem
        return name  # says more than "unknown"
    broken = [name for name in registry if name not in usable]
    hint = f" (not loaded: {', '.join(broken)})" if broken else ""
    guess = nearest(scheme, schemes)
    raise _wrong(destination, f"no handler takes URLs that begin with {scheme}:{hint}. {_guessed(guess, schemes)}")


def _validated(plugin: HandlerClass, destination: Destination) -> HandlerOptions:
    try:
        from_url = plugin.options_from_url(destination.url) if destination.url is not None else {}
    except (ValueError, SettingsError) as exc:
        raise _wrong(destination, f"its url cannot be used: {redact(str(exc))}") from exc
    given = {**_from_variables(plugin, destination), **from_url, **destination.options}
    try:
        options = plugin.Options.model_validate(given)
    except ValidationError as exc:
        problems = [_sentence(plugin, error) for error in exc.errors(include_url=False)]
        raise SettingsError("\n".join(str(_wrong(destination, problem)) for problem in problems)) from None
    learn(value.get_secret_value() for _, value in options if isinstance(value, SecretStr))
    return options


def _from_variables(plugin: HandlerClass, destination: Destination) -> dict[str, Any]:
    """Options by the names people already have for them, such as SLACK_BOT_TOKEN."""
    return {
        name: destination.variables[marker.name]
        for name, field in plugin.Options.model_fields.items()
        for marker in field.metadata
        if isinstance(marker, KnownAs) and marker.name in destination.variables
    }


def _sentence(plugin: HandlerClass, error: ErrorDetails) -> str:
    """What is wrong with one option, without its value: which of them are secret, we cannot know."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = plugin.Options.model_fields
        return f"the handler {plugin.name} has no option {name}. {_guessed(nearest(name, known), known)}"
    problem = redact(reason(error))
    field = plugin.Options.model_fields.get(name.partition(".")[0])
    if field is None:  # a rule over several options
        return f"its options are wrong: {problem}."
    meaning = f" {field.description}" if field.description else ""
    option = f"the option {name} ({_type_name(field.annotation)})"
    return f"{option} is missing.{meaning}" if error["type"] == "missing" else f"{option} is wrong: {problem}.{meaning}"


def _wrong(destination: Destination, problem: str) -> SettingsError:
    return SettingsError(f"Destination {destination.name}: {problem}")


def _told(exc: BaseException) -> str:
    return redact(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)


def _guessed(guess: str | None, known: Iterable[str]) -> str:
    return f"Did you mean {guess}?" if guess else f"There are: {', '.join(known) or 'none'}."


def _doc(plugin: HandlerClass | BrokenHandler) -> HandlerDoc:
    if isinstance(plugin, BrokenHandler):
        return HandlerDoc(plugin.name, "", (), (), problem=plugin.problem)
    options = tuple(_option(name, field) for name, field in plugin.Options.model_fields.items())
    guarantee: Guarantee = getattr(plugin, "guarantee", "once")
    return HandlerDoc(plugin.name, plugin.summary, plugin.schemes, options, guarantee=guarantee)


def _option(name: str, field: FieldInfo) -> OptionDoc:
    default = None if field.is_required() else _default(field.get_default(call_default_factory=False))
    return OptionDoc(name, _type_name(field.annotation), default, field.description or "")


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _type_name(annotation: Any) -> str:
    """A type as one would say it: `true or false`, `path`, `list of text`, `a | b`."""
    simple = {str: "text", int: "whole number", float: "number", bool: "true or false", SecretStr: "secret text"}
    if annotation in simple:
        return simple[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type_name(arguments[0])}"
    return "table" if origin is dict else str(getattr(annotation, "__name__", annotation)).lower()
