"""The provider's task (PROTOCOL.md §5): reading it, the event type of each status, the merge of two views (§6).

Reading is tolerant, because each sender has its own ways: missing keys, null, "" and 0 are unset. Extra keys, numbers
for strings and unknown statuses are accepted.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from receiver.errors import NotATask, NotJSON

TERMINAL = frozenset({"SUCCESS", "FAILURE", "CANCEL"})
RANKS: dict[str, int] = {
    "NOT_START": 0,
    "MODAL": 1,
    "SUBMITTED": 2,
    "IN_PROGRESS": 3,
    "SUCCESS": 4,
    "FAILURE": 4,
    "CANCEL": 4,
}
"""Order in which statuses merge. Other statuses change nothing."""

MAX_TEXT, MAX_REASON, MAX_LABEL = 8_000, 4_000, 100
"""Characters of a prompt or description, of a reason, and of a button's label or another single word."""
MAX_STATE, MAX_CUSTOM_ID, MAX_URL = 512, 256, 4_096
"""Characters. A longer state is none of ours. A longer customId or link is left out, because cutting spoils it."""
MAX_BUTTONS, MAX_LINKS = 50, 64
"""Buttons of a task, and links in one of its lists."""

_RELAY_TIMEOUTS = ("上游任务超时", "upstream task timeout", "upstream task timed out")
"""The relay's own reason, as its source writes it, and translated. "任务超时" is the upstream's."""
_TEXT_ACTIONS = frozenset({"DESCRIBE", "SHORTEN"})


class Button(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A follow-up the provider offers (PROTOCOL.md §5 `buttons`). `custom_id` is not stable over time."""

    custom_id: Annotated[str, msgspec.Meta(max_length=MAX_CUSTOM_ID)]
    label: Annotated[str, msgspec.Meta(max_length=MAX_LABEL)] = ""
    emoji: Annotated[str, msgspec.Meta(max_length=MAX_LABEL)] = ""

    @property
    def text(self) -> str:
        """Its name for people."""
        return self.label or self.emoji


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as read from a callback, a fetch or a list. Times are epoch milliseconds, None when unset."""

    id: str  # 1–64 characters, opaque
    status: str = ""  # upper case, "" before the relay's first look (§5)
    other_status: str = ""  # the last status seen that is none of the protocol's, in a merged view
    progress: int | None = None  # 0–100, None when absent or no number ("Waiting to start")
    action: str = ""
    prompt: str = ""
    prompt_en: str = ""
    final_prompt: str = ""
    description: str = ""
    state: str = ""  # as the provider echoes it, "" until the relay's first poll
    submit_ms: int | None = None
    start_ms: int | None = None
    finish_ms: int | None = None
    image_url: str = ""  # the result, or a preview while IN_PROGRESS. May be an mp4 for videos
    image_urls: tuple[str, ...] = ()
    video_url: str = ""
    video_urls: tuple[str, ...] = ()
    fail_reason: str = ""
    buttons: tuple[Button, ...] = ()
    seed: str = ""
    problems: tuple[str, ...] = ()  # parts that could not be read, one phrase each

    @property
    def terminal(self) -> bool:
        """True if no further status follows (§6)."""
        return self.status in TERMINAL

    @property
    def relay_timed_out(self) -> bool:
        """True for a FAILURE that a relay wrote by its own clock. The upstream's task may go on (PROTOCOL.md §6)."""
        return self.status == "FAILURE" and any(words in self.fail_reason.lower() for words in _RELAY_TIMEOUTS)

    @property
    def rank(self) -> tuple[int, int]:
        """Order of merging: (order of the status, percent)."""
        return RANKS.get(self.status, -1), self.progress or 0

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts found by a describe or shorten, without their numbers and markup (PROTOCOL.md §13.1, §13.2)."""
        numbered: tuple[str, ...]
        plain: tuple[str, ...]
        if self.action == "DESCRIBE":
            numbered = plain = (self.final_prompt, self.prompt_en, self.prompt)
        elif self.action == "SHORTEN":
            numbered = (self.final_prompt, self.description, self.prompt_en, self.prompt)
            plain = () if self.final_prompt == self.prompt else (self.final_prompt,)
        else:
            return ()
        candidates = (*map(numbered_prompts, numbered), *map(plain_prompts, plain))
        return next(filter(None, candidates), ())

    @property
    def is_text(self) -> bool:
        """True if the result is text. Its picture is the one that was sent."""
        return self.action in _TEXT_ACTIONS

    @property
    def links(self) -> dict[str, tuple[str, ...]]:
        """Links to the files of a finished result by field, the best field first, each link once.

        The links of one field are the whole result. The other fields have further copies of it.
        """
        found: dict[str, tuple[str, ...]] = {}
        fields = (self.video_urls, (self.video_url,), (self.image_url,), self.image_urls)
        for name, urls in zip(_LINKS, fields, strict=True) if not self.is_text else ():
            known = {url for others in found.values() for url in others}
            if fresh := tuple(dict.fromkeys(url for url in urls if url and url not in known)):
                found[name] = fresh
        return found

    @property
    def result_urls(self) -> tuple[str, ...]:
        """Links to the files of a finished result: its videos, else its picture."""
        return next(iter(self.links.values()), ())


EventType = Literal[
    "task.accepted",
    "task.progressed",
    "task.input_required",
    "task.succeeded",
    "task.failed",
    "task.lost",
    "receiver.destination_paused",
    "receiver.destination_resumed",
    "receiver.delivery_dead",
    "receiver.delivery_recovered",
    "receiver.provider_unreachable",
    "receiver.provider_recovered",
    "receiver.callbacks_missing",
    "receiver.callbacks_returned",
    "receiver.disk_low",
    "receiver.disk_recovered",
]
"""Types of events: facts about a task, and alerts about this installation (`receiver.…`)."""


def event_type(task: Task) -> EventType | None:
    """Return the event type of a task's status, None for "" and unknown statuses."""
    return _EVENT_TYPES.get(task.status)


_EVENT_TYPES: dict[str, EventType] = {
    "NOT_START": "task.accepted",
    "SUBMITTED": "task.accepted",
    "MODAL": "task.input_required",
    "IN_PROGRESS": "task.progressed",
    "SUCCESS": "task.succeeded",
    "FAILURE": "task.failed",
    "CANCEL": "task.failed",
}

# --- texts of describe and shorten ---------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"[*_\s]{0,8}(?:"
    "[0-9\N{KEYCAP TEN}]\ufe0f?\u20e3?(?<=[\u20e3\N{KEYCAP TEN}])"
    r"|[(（［\[【]\d{1,2}[)）］\]】]|[①-⑳❶-❿]|\d{1,2}(?:[.．:：](?!\d)|[)）、])"
    r")[*_\s]{0,8}"
)
"""The provider's numbering of prompts: a keycap emoji, `1.`, `1)`, `(1)`, `1、`, `①`, in bold or not."""
_BAR = re.compile(r"[█▇▆▅▄▃▂▁▓▒░■□]{2}")
_LINK = re.compile(r"\[([^\[\]]*)\]\(<?[^\s()<>]*>?\)")


def numbered_prompts(text: str) -> tuple[str, ...]:
    """Return the numbered prompts of a text. The line after one goes on with it, unless a blank line, a heading or a
    bar comes between."""
    found: list[list[str]] = []
    follows = False
    for line in text.splitlines():
        number = _NUMBER.match(line)
        words = "" if not line or _is_frame(line) else _unmarked(line[number.end() :] if number else line)
        if words and number:
            found.append([words])
        elif words and follows:
            found[-1].append(words)
        follows = bool(found and words)
    return tuple(map(" ".join, found))


def plain_prompts(text: str) -> tuple[str, ...]:
    """Return the lines of a text that numbers nothing: those below its last heading, without bars and marked words."""
    found: list[str] = []
    for line in filter(None, text.splitlines()):
        if line.lstrip().startswith("#"):
            found = []
        elif not _is_frame(line) and "~~" not in line and (words := _unmarked(line)):
            found.append(words)
    return tuple(found)


def _is_frame(line: str) -> bool:
    """Return True for a heading or a bar, which is no part of a prompt."""
    return line.lstrip().startswith("#") or _BAR.search(line) is not None


def _unmarked(line: str) -> str:
    """Return a line without Discord's markup for bold, struck and linked words."""
    return _LINK.sub(r"\1", line).replace("**", "").replace("~~", "").replace("`", "").strip()


# --- merging ------------------------------------------------------------------------------------------------------

_LASTING: tuple[str, ...] = (
    "action", "prompt", "prompt_en", "final_prompt", "description", "state", "submit_ms", "start_ms", "finish_ms",
    "image_url", "image_urls", "video_url", "video_urls", "fail_reason", "buttons", "seed",
)  # fmt: skip
_lasting = attrgetter(*_LASTING)
_LINKS = ("video_urls", "video_url", "image_url", "image_urls")


def merge(old: Task | None, new: Task) -> Task:
    """Return the later of two views of one task.

    Views are ordered by (rank, progress). A duplicate, a late callback or a relay that lags changes nothing. A SUCCESS
    beats a FAILURE or CANCEL of the same rank, because both may be false (PROTOCOL.md §8). An equal view may still
    fill in unset values, because buttons and links come late.
    """
    if old is None:
        return new
    if new.status not in RANKS:
        return msgspec.structs.replace(old, other_status=new.status) if new.status else old
    if new.status == "SUCCESS" and old.status in ("FAILURE", "CANCEL"):
        return _fill(new, msgspec.structs.replace(old, fail_reason=""))
    rank, before = new.rank, old.rank
    later = rank > before and not (old.terminal and new.terminal)
    same = new.status == old.status and rank >= before
    return _fill(new, old) if later or same else old


def _fill(new: Task, old: Task) -> Task:
    """Return `new` with its unset values from `old`. A preview is no result, so an end keeps only its own links."""
    ends = new.terminal and new.status != old.status
    kept = {
        name: before
        for name, value, before in zip(_LASTING, _lasting(new), _lasting(old), strict=True)
        if before and not value and not (ends and name in _LINKS)
    }
    return msgspec.structs.replace(new, **kept) if kept else new


# --- grids --------------------------------------------------------------------------------------------------------

_UPSAMPLE = re.compile(r"::upsample::([1-4])::", re.IGNORECASE)
_U_LABEL = re.compile(r"U([1-4])\Z", re.IGNORECASE)
_GRID_ACTIONS = frozenset(
    {"IMAGINE", "VARIATION", "REROLL", "BLEND", "ZOOM", "PAN", "EDIT", "RETEXTURE"}
    | {"INPAINT", "CUSTOM_ZOOM", "HIGH_VARIATION", "LOW_VARIATION"}
)
_OTHER_ACTIONS = frozenset(
    {"UPSCALE", "UPSCALE_HD", "DESCRIBE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "VIDEO"}
)
_GRID_KINDS = frozenset({"imagine", "blend", "edits"})
_GRID_BUTTONS = re.compile(
    r"\s*(?:v[1-4]|reroll|vary|region|(?:custom )?zoom|pan|left|right|up|down|make square|[🔄⬅➡⬆⬇])\b|\s*[🔄⬅➡⬆⬇]",
    re.IGNORECASE,
)


def is_grid(task: Task, kind: str, button: str | None) -> bool:
    """Return True if a finished task's one picture shows four (PROTOCOL.md §5 `buttons` and `action`, §9).

    The buttons decide: only a grid has U1 to U4. Without buttons (Java callbacks have none, relays fill them late) the
    action decides. Where the action is unclear (ACTION, MODAL, unknown), the request does. In doubt it is no grid,
    because a single picture cut in four is worse than a grid left whole. A video's U1 to U4 look the same, so ask only
    about pictures.
    """
    if task.buttons:
        found = (_UPSAMPLE.search(item.custom_id) or _U_LABEL.match(item.label) for item in task.buttons)
        return {match[1] for match in found if match} == set("1234")
    if task.action in _GRID_ACTIONS:
        return True
    if task.action in _OTHER_ACTIONS:
        return False
    return kind in _GRID_KINDS or _GRID_BUTTONS.match(button or "") is not None


# --- reading ------------------------------------------------------------------------------------------------------

MAX_TASK_ID = 64
MAX_DEPTH = 64
"""Deepest nesting read; real task objects have 4 levels."""
MAX_BRACKETS = 50_000
"""Most lists and objects in one body. Fifty real task objects have 2,000, and each list takes 56 bytes of memory."""

CUT = "… (cut)"
"""End of a text that was cut."""

_PERCENTS = {text: number for number in range(101) for text in (f"{number}%", str(number))}
_DIGITS = re.compile(r"\d{10,16}\Z")
_LINK_KEYS = frozenset({"url", "imageUrl", "image_url", "videoUrl", "video_url"})
_NEXT_LINK = re.compile(r"[\s,](?=https?://)", re.IGNORECASE)
"""Between two links in one text."""
_AROUND = " \t\r\n\"',"
"""Characters around a link that are not part of it."""
_LATEST_SECONDS = 10**11
"""A time in the far future. Larger numbers are milliseconds."""
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return `text` with lone surrogates and NUL as U+FFFD, so that every database can store it."""
    if "\x00" not in text:
        try:
            if text.isascii() or text.encode():
                return text  # nearly every text, at a quarter of the cost
        except UnicodeEncodeError:
            pass  # it has lone surrogates
    return _FORBIDDEN.sub("�", text)


def integral(value: Any) -> int | None:
    """Return an integer, also from a float: relays decode numbers to float64 and encode them anew (PROTOCOL.md §1)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None


def decode_json(body: bytes, *, any_depth: bool = False) -> Any:
    """Read JSON from outside: UTF-8, an optional BOM. Strings may still hold lone surrogates (see `clean_text`).

    Raises:
        NotJSON: not UTF-8, not JSON, NaN or Infinity, an integer beyond 4,300 digits, nested deeper than 64 (or than
            Python reads, with `any_depth`), or more than 50,000 lists and objects.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_BRACKETS:
        raise NotJSON(f"The JSON holds more than {MAX_BRACKETS} lists and objects.")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        try:  # the standard library reads lone surrogates, which msgspec refuses
            value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise NotJSON("The body is not JSON.") from exc
    # Walking the value costs as much as decoding it, and real bodies have few brackets.
    if brackets > MAX_DEPTH and not any_depth:
        _check_depth(value)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise NotJSON(f"The JSON is nested deeper than {MAX_DEPTH} levels.")


def decode_task(body: bytes) -> Task:
    """Read a task from a body, as `read_task` and `decode_json`. Every database can store its texts.

    The depth of values that are not read does not count.
    """
    return read_task(decode_json(body, any_depth=True))


def decode_any_task(body: bytes) -> tuple[Task, bytes]:
    """Read a task as `decode_task`, and return its body in UTF-8 with it: the same one, or a new one.

    A body that is not UTF-8 is read as ISO-8859-1, which old Java senders write (PROTOCOL.md §13.12). Its texts may be
    wrong.
    """
    try:
        return decode_task(body), body
    except NotJSON:
        try:
            body.decode()
        except UnicodeDecodeError:
            text = body.decode("latin-1").encode()
            return decode_task(text), text
        raise


def read_task(value: Any) -> Task:
    """Read a task from decoded JSON, also inside an envelope. Raise NotATask without an object and a usable `id`.

    Some gateways write keys with underscores (PROTOCOL.md §13.3).
    """
    value = unwrapped(value)
    if not isinstance(value, dict):
        raise NotATask("The JSON is not an object, so it is no task.")
    get = value.get
    id = get("id")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not id.strip():
        raise NotATask("The object has no task id.")
    if len(id) > MAX_TASK_ID:
        raise NotATask(f"The task id is longer than {MAX_TASK_ID} characters.")
    read = _Reader()
    properties = _from_text(get("properties"))
    final = properties.get("finalPrompt") if isinstance(properties, dict) else None
    images = read.links("imageUrls", get("imageUrls") or get("image_urls"))
    image, images = read.one_or_more("imageUrl", get("imageUrl") or get("image_url"), images)
    videos = read.links("videoUrls", get("videoUrls") or get("video_urls"))
    video, videos = read.one_or_more("videoUrl", get("videoUrl") or get("video_url"), videos)
    status = read.text("status", get("status"), MAX_TEXT).strip().upper()
    if status and status not in RANKS:
        read.problems.append("status is none of the protocol's; it changes nothing")
    return Task(
        id=clean_text(id),
        status=cut(status, MAX_LABEL),
        progress=read.percent("progress", get("progress")),
        action=read.text("action", get("action")),
        prompt=read.text("prompt", get("prompt"), MAX_TEXT),
        prompt_en=read.text("promptEn", get("promptEn") or get("prompt_en"), MAX_TEXT),
        final_prompt=read.text("finalPrompt", final, MAX_TEXT),
        description=read.text("description", get("description"), MAX_TEXT),
        state=read.text("state", get("state"), MAX_STATE),
        submit_ms=read.time("submitTime", get("submitTime")),
        start_ms=read.time("startTime", get("startTime")),
        finish_ms=read.time("finishTime", get("finishTime")),
        image_url=image,
        image_urls=images,
        video_url=video,
        video_urls=videos,
        fail_reason=read.text("failReason", get("failReason") or get("fail_reason"), MAX_REASON),
        buttons=read.buttons("buttons", get("buttons")),
        seed=read.text("seed", get("seed")),
        problems=tuple(read.problems),
    )


def unwrapped(value: Any) -> Any:
    """Return the protocol's own object or list out of a gateway's envelope, as in `{"code": 200, "data": {…}}`.

    The content may be JSON as text. An object with an `id`, an `error` or `success: false` is no envelope. The
    `result` of a submit answer stays in it, unless it holds task objects.
    """
    if not isinstance(value, dict) or "id" in value or value.get("error") or value.get("success") is False:
        return value
    for key in ("data", "result", "task"):
        inner = _from_text(value.get(key))
        if isinstance(inner, dict) and ("id" in inner or ("code" in inner and "result" in inner)):
            return inner
        if isinstance(inner, list) and (key == "data" or any(isinstance(item, dict) for item in inner)):
            return inner
    return value


def _from_text(value: Any) -> Any:
    """Return the list or object that a text holds as JSON, else the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(NotJSON):
            return decode_json(value.encode("utf-8", "surrogatepass"))
    return value


class _Reader:
    """Reader of values of any type. It bounds them, and notes those that do not fit."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def text(self, key: str, value: Any, longest: int = MAX_LABEL) -> str:
        if not value and (value is None or value == ""):
            return ""
        if isinstance(value, str):
            text = clean_text(value)
            return text if len(text) <= longest else cut(text, longest)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cut(str(value), longest)
        _check_depth([value])
        self.problems.append(f"{key} is neither text nor number")
        return ""

    def time(self, key: str, value: Any) -> int | None:
        """Return epoch milliseconds. Some gateways write seconds."""
        if not value or value == "0":
            return None
        number = int(value) if isinstance(value, str) and _DIGITS.match(value) else integral(value)
        if number is not None and 0 < number < 2**53:
            return number if number > _LATEST_SECONDS else number * 1000
        self.problems.append(f"{key} is no time in milliseconds")
        return None

    def percent(self, key: str, value: Any) -> int | None:
        if value is None or value == "":
            return None
        number = _PERCENTS.get(value.strip()) if isinstance(value, str) else integral(value)
        if number is not None and 0 <= number <= 100:
            return number
        self.problems.append(f"{key} is no percentage")
        return None

    def one_or_more(self, key: str, value: Any, more: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return the link of a field that has one by the protocol, and `more`. Its own links, if it has several, are
        the more where there are no others."""
        links = self.links(key, value)
        return (links[0], more) if len(links) == 1 else ("", more or links)

    def links(self, key: str, value: Any) -> tuple[str, ...]:
        """Return the links of a text, or of a list or an object of texts and of objects with an `url`. A text may hold
        several, or JSON. A link that is too long is left out, because cutting would spoil it."""
        if not value:
            return ()
        value = _from_text(value)
        if isinstance(value, dict):
            value = [value] if _LINK_KEYS & value.keys() else [*value.values()]
        found: list[str] = []
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, dict):
                text = next((item[name] for name in item if name in _LINK_KEYS and item[name]), None)
            else:
                text = item
            if isinstance(text, str):
                text = clean_text(text)
                # Nearly every text is one link, and the pattern would take five times as long.
                parts = _NEXT_LINK.split(text) if "," in text or len(text.split()) > 1 else [text]
                found += [link for part in parts if (link := part.strip(_AROUND))]
        kept = [link for link in found if len(link) <= MAX_URL][:MAX_LINKS]
        if not found:
            self.problems.append(f"{key} holds no link")
        elif not kept and found[0].startswith("data:"):
            self.problems.append(f"{key} holds the file itself instead of a link")
        elif len(kept) < len(found):
            self.problems.append(f"{key} is cut to {MAX_LINKS} links of {MAX_URL} characters")
        return tuple(kept)

    def buttons(self, key: str, value: Any) -> tuple[Button, ...]:
        if not value:
            return ()
        found = [
            Button(
                custom_id=self.text("customId", id, MAX_CUSTOM_ID + 1),
                label=self.text("label", item.get("label")),
                emoji=self.text("emoji", item.get("emoji")),
            )
            for item in self._list(key, value)
            if isinstance(item, dict) and (id := item.get("customId") or item.get("custom_id"))
        ]
        kept = [button for button in found if len(button.custom_id) <= MAX_CUSTOM_ID][:MAX_BUTTONS]
        if len(kept) < len(found):
            self.problems.append(f"{key} are cut to {MAX_BUTTONS} with ids of {MAX_CUSTOM_ID} characters")
        return tuple(kept)

    def _list(self, key: str, value: Any) -> list[Any]:
        """Return the items of a list, which some gateways send as text (PROTOCOL.md §13.3)."""
        value = _from_text(value)
        if isinstance(value, list):
            return value
        self.problems.append(f"{key} is no list")
        return []


def cut(text: str, longest: int) -> str:
    """Return at most `longest` characters of a text. One that was cut says so."""
    return text if len(text) <= longest else f"{text[: longest - len(CUT)]}{CUT}"
