"""What callers send: a struct for each body. It checks the body, and OpenAPI documents it from the same declaration.

Structs say which fields there are and of which type. What a value may be is said once, by the builders in
`provider.requests` and by `submissions.Options`, in sentences.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from receiver.errors import InputError
from receiver.provider import MAX_PICTURES, SPEEDS, PictureField, Request, requests
from receiver.provider.checks import BOT_TYPES, MAX_PROMPT
from receiver.submissions import MAX_LABEL, MAX_LABELS, Options
from receiver.submissions.options import MAX_AUTO
from receiver.tasks import MAX_TASK_ID


def _meta(description: str, **schema: Any) -> Meta:
    """Documents what a value may be; whoever uses it checks that, in a sentence."""
    return Meta(description=description, extra_json_schema=schema)


def _words(description: str, allowed: Iterable[str | int]) -> Meta:
    return _meta(description, enum=[*allowed, None])


_DATA = "^[Dd][Aa][Tt][Aa]:"
_BUTTON = {"minLength": 1, "maxLength": MAX_LABEL}

Prompt = Annotated[
    str, _meta("1 to 6000 characters; parameters such as `--ar 3:2` stand in it.", minLength=1, maxLength=MAX_PROMPT)
]
Uri = Annotated[str, _meta("A picture as data URI: `data:image/png;base64,…`, at most 16 MiB.", pattern=_DATA)]
Source = Annotated[str, _meta("A picture as data URI, or an http(s) link to it.", pattern=f"{_DATA}|^https?://")]
Mask = Annotated[
    str | None,
    _meta("Where to repaint, as data URI of at most 4 MiB: white is repainted, black is kept.", pattern=_DATA),
]
Bot = Annotated[str | None, _words("The bot; the provider's default if not given.", BOT_TYPES)]
Filter = Annotated[
    dict[str, Any] | None,
    _meta("The provider's accountFilter: instanceId, modes, remix, nijiRemix, remixAutoConsidered, remark."),
]


class Carried(msgspec.Struct, kw_only=True):
    """What goes along with a submission whatever it asks for."""

    labels: Annotated[
        dict[str, str], _meta("Names and values of your own; every event carries them.", maxProperties=MAX_LABELS)
    ] = {}
    state: Annotated[str | None, _meta("A text of your own; every event carries it.")] = None
    to: Annotated[list[str] | None, _meta("Names of destinations; all of them if not given.", minItems=1)] = None
    auto: Annotated[
        list[Annotated[str, Meta(extra_json_schema=_BUTTON)]],
        _meta("Buttons to press by itself, once, when the task has succeeded: `U1`.", maxItems=MAX_AUTO),
    ] = []

    def options(self, *, once: str | None = None, once_digest: str | None = None) -> Options:
        """For `Submissions`."""
        return Options(
            speed=getattr(self, "speed", None),
            labels=self.labels,
            state=self.state,
            to=None if self.to is None else tuple(self.to),
            auto=tuple(self.auto),
            once=once,
            once_digest=once_digest,
        )


class Sent(Carried, kw_only=True):
    """What goes along with a request that is sent to the provider."""

    speed: Annotated[str | None, _words("The provider's default if not given.", SPEEDS)] = None


class Imagine(Sent, kw_only=True):
    """A grid of four pictures from a prompt."""

    kind: Literal["imagine"] = "imagine"
    prompt: Prompt
    bot_type: Bot = None
    pictures: Annotated[list[Uri], _meta("At most 5 reference pictures.", maxItems=MAX_PICTURES)] = []
    account_filter: Filter = None


class Blend(Sent, kw_only=True):
    """One grid out of 2 to 5 pictures."""

    kind: Literal["blend"]
    pictures: Annotated[list[Uri], _meta("2 to 5 pictures.", minItems=2, maxItems=MAX_PICTURES)]
    dimensions: Annotated[str | None, _words("The shape of the result.", requests.DIMENSIONS)] = None
    bot_type: Bot = None


class Describe(Sent, kw_only=True):
    """Prompts that could have made a picture."""

    kind: Literal["describe"]
    source: Source
    bot_type: Bot = None
    language: Annotated[str | None, _meta("Of the texts, like `en`, where the provider knows it.")] = None


class Shorten(Sent, kw_only=True):
    """Shorter prompts that mean the same."""

    kind: Literal["shorten"]
    prompt: Prompt
    bot_type: Bot = None


class Video(Sent, kw_only=True):
    """Videos out of a picture, or of an earlier video task."""

    kind: Literal["video"]
    image: Annotated[Source | None, _meta("The first frame; an `action` needs none.")] = None
    prompt: Annotated[str | None, _meta("What happens in the video.")] = None
    motion: Annotated[str, Meta(extra_json_schema={"enum": list(requests.MOTIONS)})] = "low"
    action: Annotated[str | None, _meta("What to do with an earlier video: `extend`.")] = None
    index: Annotated[int | None, _words("Which of the earlier task's videos.", range(4))] = None
    task_id: Annotated[str | None, _meta("The task of the earlier video.")] = None
    end_image: Annotated[Source | None, _meta("The last frame.")] = None
    loop: Annotated[bool | None, _meta("Whether the end leads into the beginning.")] = None
    video_type: Annotated[str | None, _words("The size.", requests.VIDEO_TYPES)] = None
    batch_size: Annotated[int | None, _words("How many videos.", requests.BATCH_SIZES)] = None


class Edits(Sent, kw_only=True):
    """A grid of four pictures made out of one by a prompt."""

    kind: Literal["edits"]
    prompt: Prompt
    image: Source
    mask: Mask = None
    account_filter: Filter = None


class Swap(Sent, kw_only=True):
    """The face of one picture in another."""

    kind: Literal["swap"]
    source: Source
    target: Source


class Upload(msgspec.Struct, kw_only=True):
    """Pictures that get links, to be used in prompts."""

    pictures: Annotated[list[Uri], _meta("1 to 5 pictures.", minItems=1, maxItems=MAX_PICTURES)]
    account_filter: Filter = None


class Press(Sent, kw_only=True):
    """A button of a finished task; what is not given is inherited from that task's submission."""

    button: Annotated[str, _meta("`U2`, `V1`, `reroll`, `zoom`, `pan left`, or any of its `buttons`.", **_BUTTON)]
    prompt: Annotated[str | None, _meta("For a button that asks for one.")] = None
    mask: Mask = None
    again: Annotated[bool, _meta("Press it once more although it was pressed before.")] = False


class Answer(msgspec.Struct, kw_only=True):
    """What a task asked for."""

    prompt: Annotated[str | None, _meta("The prompt it has if not given.")] = None
    mask: Mask = None


class Watch(Carried, kw_only=True):
    """A task somebody else submitted."""

    task_id: Annotated[str, _meta("The provider's id of it.", minLength=1, maxLength=MAX_TASK_ID)]


KINDS: Mapping[str, tuple[type[Sent], Callable[..., Request]]] = {
    "imagine": (Imagine, requests.imagine),
    "blend": (Blend, requests.blend),
    "describe": (Describe, requests.describe),
    "shorten": (Shorten, requests.shorten),
    "video": (Video, requests.video),
    "edits": (Edits, requests.edits),
    "swap": (Swap, requests.swap),
}
"""The kinds `POST /submissions` takes: what is asked for, and who builds the request."""

ELSEWHERE: Mapping[str, str] = {
    "action": "/submissions/{id}/actions",
    "change": "/submissions/{id}/actions",
    "modal": "/submissions/{id}/modal",
    "upload": "/uploads",
}
"""Kinds of request that have an address of their own."""

T = TypeVar("T", bound=msgspec.Struct)


def read_kind(value: Any) -> Sent:
    """The body of `POST /submissions`. Raises InputError."""
    body = _object(value)
    kind = body.get("kind", "imagine")
    if not isinstance(kind, str):
        raise InputError("The kind must be text.")
    if kind in ELSEWHERE:
        raise InputError(f"Requests of the kind {kind} go to POST {ELSEWHERE[kind]}.")
    if kind not in KINDS:
        raise InputError(f"The kind must be one of {', '.join(KINDS)}.{_guess(kind, KINDS)}")
    return read(KINDS[kind][0], body)


def read(type: type[T], value: Any) -> T:
    """A body as the struct that describes it.

    Raises:
        InputError: no object, an unknown field, one that is missing, or one of another type.
    """
    body = _object(value)
    known = [field.encode_name for field in msgspec.structs.fields(type)]
    for name in body:
        if name not in known:
            raise InputError(f"There is no field {name[:40]!r} here.{_guess(name, known)}")
    try:
        return msgspec.convert(body, type)
    except msgspec.ValidationError as exc:
        raise InputError(_sentence(str(exc))) from exc


def request(asked: Sent | Upload) -> Request:
    """The request as the builder of its kind makes it.

    Raises:
        InputError: a value the provider could not take, or a picture that is neither data URI nor link.
    """
    build = requests.upload if isinstance(asked, Upload) else KINDS[str(getattr(asked, "kind", ""))][1]
    carried = {"kind", *Sent.__struct_fields__}
    own = [name for name in asked.__struct_fields__ if name not in carried]
    built = build(**{name: getattr(asked, name) for name in own})
    check_pictures(built.pictures)
    return built


def check_pictures(pictures: Iterable[PictureField]) -> None:
    """Raises InputError for anything but data URIs: builders take paths too, and those would name files of *this*
    machine. Links never come here, because builders put them into the body."""
    for picture in pictures:
        check_uri(picture.source)


def check_uri(source: str | None) -> None:
    """Raises InputError unless it is a data URI, or None."""
    if source is not None and source[:5].lower() != "data:":
        raise InputError("A picture comes as `data:image/…;base64,…` or, where a link can stand, as http(s) link.")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("The body must be a JSON object.")
    return value


def _guess(name: Any, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" Did you mean {close[0]}?" if close else f" There are: {', '.join(known)}."


_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _sentence(text: str) -> str:
    """msgspec's words as a sentence. They hold names and types, no values but those of `kind`."""
    if match := _MISSING.match(text):
        return f"The field {match[1]} is missing."
    problem, _, place = text.partition(" - at `$")
    field = place.strip("`.")
    return f"{f'The field {field}' if field else 'The body'} is wrong: {problem[:1].lower()}{problem[1:]}."
