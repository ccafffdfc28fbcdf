"""Kinds of request, each declared once (PROTOCOL.md §2): fields, limits, checks and texts.

`build` checks the values and returns a `Request`. The commands, the bodies of the HTTP API and OpenAPI are derived from
`KINDS`. The methods of `Receiver` have explicit signatures, and a test compares them with it.

A request is sent with more than it holds. `state` and `notifyHook` carry the submission's tokens, and pictures are kept
outside the journalled body. Submissions add both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from receiver.errors import InputError
from receiver.tasks import MAX_TASK_ID, clean_text

BOTS = {"midjourney": "MID_JOURNEY", "niji": "NIJI_JOURNEY"}
"""Name on the command line → name in the protocol."""
SPEEDS = ("fast", "turbo", "relax")
MAX_PROMPT, MAX_LINK = 6000, 2048
"""Characters."""
MAX_PICTURES = 5
"""Pictures of one request."""
REQUIRED: Final = object()
"""Default of a field that must be given."""

LIST = "base64Array"
MASK = "maskBase64"

_DATA = "^[Dd][Aa][Tt][Aa]:"
_MODES = ("RELAX", "FAST", "TURBO")
_LINK = re.compile(r"https?://", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureField:
    """A picture, and the field of the body it goes into as a data URI."""

    field: str  # e.g. `base64Array`, `image`, `maskBase64`
    source: str  # a path or a data URI, not read yet. The body itself holds links

    @property
    def mask(self) -> bool:
        """True if it marks where to repaint: white is repainted, black is kept (PROTOCOL.md §2, modal)."""
        return self.field == MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked request."""

    kind: str  # a key of `KINDS`
    body: dict[str, Any]  # the provider's fields, without `state`, `notifyHook` and pictures. Unset fields are left out
    prompt: str = ""  # its prompt, "" where it has none
    pictures: tuple[PictureField, ...] = ()  # for `with_pictures`


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a value. `check` takes its name in sentences and the value, and returns the value as it is sent."""

    type: Any  # its type in JSON
    check: Callable[[str, Any], Any]
    http: str = ""  # sentence about its form, for OpenAPI
    command: str = ""  # sentence about its form, for the command line
    schema: Mapping[str, Any] = field(default_factory=dict)  # its limits as JSON Schema. They only document
    picture: bool = False  # True if the values are pictures. `check` then returns sources: a list, a file or a link


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind of request."""

    name: str  # its name in Python and HTTP
    key: str  # its name in the provider's body
    form: Form  # the form of its values
    help: str  # its description. OpenAPI and the command line add the sentence of the form
    default: Any = None  # the value if not given. None is not sent. REQUIRED: it must be given
    link_key: str = ""  # the key that a link goes to instead of `key`
    option: str = ""  # its name on the command line, if another one
    argument: bool = False  # True if the command line takes it by position

    @property
    def command_help(self) -> str:
        """Its description on the command line."""
        return f"{self.help} {self.form.command}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of request. `combine` raises InputError for values that do not belong together. Unset ones are None."""

    path: str  # its path after `/mj/`
    summary: str  # its description in OpenAPI
    fields: tuple[Field, ...] = ()  # its fields, in the order of the body. Links come first there
    address: str = "/submissions"  # its address in the HTTP API
    answered_by_links: bool = False  # True if the answer holds links and names no task
    combine: Callable[[Mapping[str, Any]], None] | None = None


def build(kind: str, **given: Any) -> Request:
    """Return the request of a kind, of values by the names of its fields, or raise InputError."""
    declared = KINDS[kind]
    if unknown := sorted(given.keys() - {item.name for item in declared.fields}):
        raise TypeError(f"A request of the kind {kind} has no field {unknown[0]!r}.")
    unset = {item.name: None if item.default is REQUIRED else item.default for item in declared.fields}
    values = unset | given
    if declared.combine is not None:
        declared.combine(values)
    links: dict[str, str] = {}
    body: dict[str, Any] = {}
    pictures: list[PictureField] = []
    for item in declared.fields:
        value = values[item.name]
        if value is None and item.default is None:
            continue
        checked = item.form.check(item.name if item.form.picture else item.key, value)
        if not item.form.picture:
            body[item.key] = checked
        elif isinstance(checked, str) and is_link(checked):
            links[item.link_key or item.key] = checked
        else:
            sources = [checked] if isinstance(checked, str) else checked
            if any(map(is_link, sources)):
                body[item.key] = [source if is_link(source) else "" for source in sources]
            pictures += [PictureField(field=item.key, source=source) for source in sources if not is_link(source)]
    body = links | {key: value for key, value in body.items() if value is not None}
    return Request(kind=kind, body=body, prompt=body.get("prompt", ""), pictures=tuple(pictures))


def with_pictures(body: Mapping[str, Any], pictures: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return a request's body with its pictures, (field, data URI) in the order of `Request.pictures`, in place.

    A list that also holds links has "" where a picture belongs.
    """
    whole = dict(body)
    for name, uri in pictures:
        if name != LIST:
            whole[name] = uri
        elif "" in (array := whole.get(name, [])):
            whole[name] = [*array[: array.index("")], uri, *array[array.index("") + 1 :]]
        else:
            whole[name] = [*array, uri]
    return whole


# --- checks -------------------------------------------------------------------------------------------------------


def sendable(what: str, value: Any) -> str:
    """Return text that JSON can carry and databases can store, or raise InputError."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be text.")
    if clean_text(value) != value:
        raise InputError(f"{what} holds a NUL or half a character, which cannot be sent; remove it.")
    return value


def one_of(what: str, value: Any, allowed: Iterable[str]) -> str:
    """Return one of a few words, or raise InputError."""
    text = sendable(what, value)
    if text in allowed:
        return text
    raise InputError(f"{text[:40]!r} cannot be {what}; use one of {', '.join(allowed)}.")


def check_speed(speed: str | None) -> str | None:
    """Return `fast`, `turbo`, `relax`, or None for the provider's default. Raises InputError for anything else."""
    return None if speed is None else one_of("speed", speed, SPEEDS)


def check_prompt(prompt: Any) -> str:
    """Return the prompt, stripped, or raise InputError."""
    text = sendable("The prompt", prompt).strip()
    if not text:
        raise InputError("The prompt is empty; say what the picture should show.")
    if len(text) > MAX_PROMPT:
        raise InputError(f"The prompt has {len(text)} characters; shorten it to {MAX_PROMPT}.")
    return text


def check_task_id(task_id: Any) -> str:
    """Return a task's id, stripped: opaque, 1–64 printable characters (PROTOCOL.md §3). Raises InputError."""
    text = sendable("The task id", task_id).strip()
    if not text.strip("."):
        raise InputError("The task id is empty; name the task to go on with.")
    if len(text) > MAX_TASK_ID:
        raise InputError(f"The task id has {len(text)} characters; no provider's has more than {MAX_TASK_ID}.")
    if not text.isprintable() or re.search(r"[\s,]", text):
        raise InputError(f"{text[:40]!r} is no task id; name one, without spaces or commas.")
    return text


def is_link(source: str) -> bool:
    """Return True for an http or https address."""
    return _LINK.match(source) is not None


def _check_flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what} must be true or false.")
    return value


def check_filter(value: Any) -> dict[str, Any] | None:
    """Return an account filter without its unset keys, or None for an empty one. Raises InputError."""
    return None if value is None else _check_filter("accountFilter", value)


def _check_modes(what: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{what} must be a list of {', '.join(_MODES)}.")
    return [one_of("a mode of accountFilter", mode, _MODES) for mode in value]


def _check_filter(what: str, value: Any) -> dict[str, Any] | None:
    """Check an account filter. Unset keys are left out, and an empty one is not sent."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what} must be an object, like {{'modes': ['FAST']}}.")
    checks = {key: _FILTER_KEYS[one_of(f"a key of {what}", key, _FILTER_KEYS)] for key in value}
    found = {key: checks[key](f"{what}.{key}", item) for key, item in value.items() if item is not None}
    return found or None


_FILTER_KEYS: Mapping[str, Callable[[str, Any], Any]] = {
    "instanceId": sendable,
    "modes": _check_modes,
    "remix": _check_flag,
    "nijiRemix": _check_flag,
    "remixAutoConsidered": _check_flag,
    "remark": sendable,
}


def _check_source(what: str, value: Any) -> str:
    """Check a picture given as a path, a data URI or a link. The file need not exist yet."""
    text = sendable(what, value)
    source = text.strip()
    if not source:
        raise InputError(f"{what} is empty; give a path, a data URI or a link.")
    if source[:5].lower() == "data:":
        return source
    if not _URL.match(source):
        return text  # spaces may belong to a path
    if len(source) > MAX_LINK:
        raise InputError(f"The link has {len(source)} characters; shorten it to {MAX_LINK}.")
    try:
        usable = is_link(source) and source.isprintable() and " " not in source and bool(urlsplit(source).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{source[:80]!r} is no http or https link.")
    return source


def _check_file(what: str, value: Any) -> str:
    checked = _check_source(what, value)
    if is_link(checked):
        raise InputError(
            f"{what} is a link, {checked[:80]!r}, but must be a file or a data URI here. Download it and give the file."
        )
    return checked


def _check_picture(name: str, value: Any) -> str:
    if value is None:
        raise InputError(f"The picture for {name} is missing; give a path, a data URI or a link.")
    return _check_source(f"The picture for {name}", value)


def _combine_video(values: Mapping[str, Any]) -> None:
    """An action needs the task and the index of an earlier video. Without one, a picture is needed."""
    if values["action"] is None:
        if values["task_id"] is not None or values["index"] is not None:
            raise InputError("A task and an index need an action, like extend, that says what to do with them.")
        if values["image"] is None:
            _check_picture("image", None)
    elif values["task_id"] is None:
        raise InputError("The action needs the task id of an earlier video.")
    elif values["index"] is None:
        raise InputError(f"Say which one: index must be one of {', '.join(map(str, _VIDEOS))}.")


# --- forms --------------------------------------------------------------------------------------------------------


def _words(*allowed: str) -> Form:
    return Form(
        str,
        lambda what, value: one_of(what, value, allowed),
        command=f"One of {', '.join(allowed)}.",
        schema={"enum": allowed},
    )


def _numbers(allowed: Sequence[int]) -> Form:
    words = f"one of {', '.join(map(str, allowed))}."

    def check(what: str, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
            return value
        raise InputError(f"{what} must be {words}")

    return Form(int, check, command=words.capitalize(), schema={"enum": tuple(allowed)})


def _matching(pattern: str, problem: str) -> Form:
    def check(what: str, value: Any) -> str:
        text = sendable(what, value)
        if re.fullmatch(pattern, text):
            return text
        raise InputError(f"{text[:40]!r} {problem}")

    return Form(str, check)


def _pictures(least: int, *, links: bool = True) -> Form:
    """Form of the pictures of `base64Array`. An upload takes no links there (PROTOCOL.md §13.6)."""

    def check(_: str, value: Any) -> list[str]:
        if not isinstance(value, list | tuple):
            raise InputError("Pictures must be a list of paths, links or data URIs.")
        if not least <= len(value) <= MAX_PICTURES:
            allowed = f"{least} to {MAX_PICTURES}" if least else f"at most {MAX_PICTURES}"
            raise InputError(f"A request like this takes {allowed} pictures, not {len(value)}.")
        return [(_check_source if links else _check_file)("A picture", source) for source in value]

    form = "`data:image/png;base64,…`, at most 16 MiB"
    item = {"description": f"A picture as data URI: {form}.", "pattern": _DATA}
    if links:
        item = {"description": f"A picture as data URI: {form}, or as link.", "pattern": f"{_DATA}|^https?://"}
    schema = {"maxItems": MAX_PICTURES, "items": {"type": "string", **item}} | ({"minItems": least} if least else {})
    words = "Files, links or data URIs." if links else "Files or data URIs."
    return Form(list[str], check, command=words, schema=schema, picture=True)


_PROMPT = Form(
    str,
    lambda _, value: check_prompt(value),
    http="1 to 6000 characters; parameters such as `--ar 3:2` stand in it.",
    schema={"minLength": 1, "maxLength": MAX_PROMPT},
)
_TASK_ID = Form(str, lambda _, value: check_task_id(value))
_SOURCE = Form(
    str,
    _check_picture,
    http="A data URI, or an http(s) link.",
    command="A file, a link, or a data URI.",
    schema={"pattern": f"{_DATA}|^https?://"},
    picture=True,
)
_MASK = Form(
    str,
    lambda _, value: _check_file("The mask", value),
    http="A data URI of at most 4 MiB.",
    command="A file or a data URI.",
    schema={"pattern": _DATA},
    picture=True,
)
_LANGUAGE = _matching("[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,2}", "is no language; write it like en or zh-CN.")
_WORD = _matching("[A-Za-z][A-Za-z0-9_-]{0,31}", "cannot be action; it is a single word, like extend.")
_BOT_TYPE = replace(_words(*BOTS.values()), command=f"One of {', '.join(BOTS)}.")
_ACCOUNT_FILTER = Form(dict[str, Any], _check_filter, command='As JSON: {"modes": ["FAST"]}.')
_VIDEOS = range(4)

# --- kinds --------------------------------------------------------------------------------------------------------

_PROMPT_ARGUMENT = Field("prompt", "prompt", _PROMPT, "The prompt.", default=REQUIRED, argument=True)
_BOT = Field("bot_type", "botType", _BOT_TYPE, "The bot; the provider's default if not given.", option="bot")
_REPAINTED = Field("mask", MASK, _MASK, "Where to repaint: white is repainted, black is kept.")
_FILTER = Field(
    "account_filter", "accountFilter", _ACCOUNT_FILTER, f"The provider's accountFilter: {', '.join(_FILTER_KEYS)}."
)


def _source(name: str, key: str, link_key: str, help: str, option: str = "") -> Field:
    return Field(name, key, _SOURCE, help, REQUIRED, link_key, option, argument=True)


KINDS: Mapping[str, Kind] = {
    "imagine": Kind(
        path="submit/imagine",
        summary="A grid of four pictures from a prompt.",
        fields=(
            _PROMPT_ARGUMENT,
            _BOT,
            Field("pictures", LIST, _pictures(0), "At most 5 reference pictures.", default=(), option="picture"),
            _FILTER,
        ),
    ),
    "blend": Kind(
        path="submit/blend",
        summary="One grid out of 2 to 5 pictures.",
        fields=(
            Field("pictures", LIST, _pictures(2), "2 to 5 pictures.", default=REQUIRED, argument=True),
            Field("dimensions", "dimensions", _words("PORTRAIT", "SQUARE", "LANDSCAPE"), "The shape of the result."),
            _BOT,
            _FILTER,
        ),
    ),
    "describe": Kind(
        path="submit/describe",
        summary="Prompts that could have made a picture.",
        fields=(
            _source("source", "base64", "link", "The picture.", option="picture"),
            _BOT,
            Field("language", "language", _LANGUAGE, "Language of the texts, like `en`, where the provider knows it."),
            _FILTER,
        ),
    ),
    "shorten": Kind(
        path="submit/shorten",
        summary="Shorter prompts that mean the same.",
        fields=(_PROMPT_ARGUMENT, _BOT, _FILTER),
    ),
    "video": Kind(
        path="submit/video",
        summary="Videos out of a picture, or of an earlier video task.",
        fields=(
            Field("image", "image", _SOURCE, "The first frame; an `action` needs none.", argument=True),
            Field("motion", "motion", _words("low", "high"), "How much moves.", default="low"),
            # One provider calls it optional. The proxies behind it refuse a video without it (PROTOCOL.md §13.3).
            Field("prompt", "prompt", _PROMPT, "What happens in the video.", default=REQUIRED),
            Field("end_image", "endImage", _SOURCE, "The last frame."),
            Field("loop", "loop", Form(bool, _check_flag), "Let the end lead into the beginning."),
            Field("video_type", "videoType", _words("vid_1.1_i2v_480", "vid_1.1_i2v_720"), "The size."),
            Field("batch_size", "batchSize", _numbers((1, 2, 4)), "How many videos."),
            Field("action", "action", _WORD, "What to do with an earlier video: `extend`."),
            Field("index", "index", _numbers(_VIDEOS), "Which of the earlier task's videos."),
            Field("task_id", "taskId", _TASK_ID, "The task of the earlier video.", option="task"),
        ),
        combine=_combine_video,
    ),
    "edits": Kind(
        path="submit/edits",
        summary="A grid of four pictures made out of one by a prompt.",
        fields=(
            replace(_PROMPT_ARGUMENT, help="What the picture should become."),
            Field("image", "image", _SOURCE, "The picture to change.", default=REQUIRED),
            _REPAINTED,
            _FILTER,
        ),
    ),
    "swap": Kind(
        path="insight-face/swap",
        summary="The face of one picture in another.",
        fields=(
            _source("source", "sourceBase64", "sourceUrl", "The picture with the face."),
            _source("target", "targetBase64", "targetUrl", "The picture that gets it."),
        ),
    ),
    "upload": Kind(
        path="submit/upload-discord-images",
        summary="Pictures that get links, to be used in prompts.",
        fields=(
            Field("pictures", LIST, _pictures(1, links=False), "1 to 5 pictures.", default=REQUIRED, argument=True),
            _FILTER,
        ),
        address="/uploads",
        answered_by_links=True,
    ),
    "modal": Kind(
        path="submit/modal",
        summary="The answer to a task that waits for input; the same task goes on.",
        fields=(
            Field("task_id", "taskId", _TASK_ID, "The task in MODAL.", default=REQUIRED),
            Field("prompt", "prompt", _PROMPT, "The prompt it has if not given."),
            _REPAINTED,
        ),
        address="/submissions/{id}/modal",
    ),
    "action": Kind(path="submit/action", summary="A button of a finished task.", address="/submissions/{id}/actions"),
    "change": Kind(
        path="submit/change",
        summary="A button of a finished task, for relays that show none.",
        address="/submissions/{id}/actions",
    ),
}
"""Every kind of request by name.

`action` and `change` declare no fields, because submissions build their bodies from a button. `simple-change` is
missing, because relays read it as `change`.
"""
