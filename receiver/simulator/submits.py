"""The submit endpoints: what each asks for, checked as the provider checks it (PROTOCOL.md §2)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from receiver.simulator import answers, followups, prompts, requests, shots, uploads, works
from receiver.simulator.answers import Answer
from receiver.simulator.buttons import Button
from receiver.simulator.followups import Press
from receiver.simulator.profiles import Profile
from receiver.simulator.shots import Shot
from receiver.simulator.tasks import Task
from receiver.simulator.works import Film, Work

NO_PICTURE = "base64格式错误"
NO_MASK = "局部重绘时，蒙版不能为空"
NO_BUTTON = "customId 无效"
NOT_WAITING = "关联任务状态错误"

_CHANGE = re.compile(r"^\s*(\S+)\s+(?:([UV])([1-4])|(R))\s*$", re.IGNORECASE)
_DIMENSIONS = {"PORTRAIT": 2 / 3, "SQUARE": 1.0, "LANDSCAPE": 3 / 2}
_VIDEO_KINDS = ("vid_1.1_i2v_480", "vid_1.1_i2v_720")


@dataclass(frozen=True, slots=True)
class Made:
    """The request makes tasks; a window that opens first makes one that waits."""

    works: tuple[Work, ...]
    window: Press | None = None


@dataclass(frozen=True, slots=True)
class Continued:
    """The request lets a task go on that waited in MODAL."""

    task: Task
    work: Work


@dataclass(frozen=True, slots=True)
class Kept:
    """The request makes no task; this is its result."""

    result: object


Order = Made | Continued | Kept


class Counter(Protocol):
    """What an endpoint needs to know of the world."""

    @property
    def profile(self) -> Profile:
        """Whose checks to make."""

    @property
    def seed(self) -> int:
        """What Midjourney's seed for this submit would be."""

    def finished(self, task_id: object) -> Task | Answer:
        """The task to build on, or the refusal: it must be known here and have succeeded."""

    def waiting(self, task_id: object) -> Task | Answer:
        """The task that waits for submit/modal, or the refusal."""

    def offered(self, task: Task, custom_id: str) -> Button | None:
        """The button below a task that this customId stands for, if it is still good."""

    def linked(self, link: str) -> Shot | None:
        """The picture behind a link of our own."""

    def stored(self, content: bytes) -> str:
        """A link to a picture somebody sent."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path below the prefix, the body it takes, and what comes of it."""

    path: str
    fields: type[requests.Submit]
    order: Callable[[Counter, Any], Order | Answer]

    @property
    def name(self) -> str:
        """The last part of the path: ``imagine``, ``simple-change``, ``swap``."""
        return self.path.rsplit("/", 1)[-1]


def _imagine(counter: Counter, fields: requests.Imagine) -> Order | Answer:
    prompt = fields.prompt or ""
    if not prompt.strip():
        return counter.profile.no_prompt
    sent = _pictures(fields.base64_array)
    if sent is None:
        return answers.validation(NO_PICTURE)
    if prompts.wants_video(prompt):
        still = _linked(counter, prompts.picture_links(prompt)[0], prompts.scene_words(prompt))
        return Made((works.filmed(prompt, still, Film(prompts.motion(prompt))),))
    return Made((works.imagined(prompt, counter.seed),))


def _action(counter: Counter, fields: requests.Action) -> Order | Answer:
    parent = counter.finished(fields.task_id)
    if isinstance(parent, Answer):
        return parent
    button = counter.offered(parent, fields.custom_id or "")
    if button is None:
        return answers.validation(NO_BUTTON)
    return _pressed(counter, parent, button, remix=bool(fields.enable_remix))


def _pressed(counter: Counter, parent: Task, button: Button, *, remix: bool = False) -> Order:
    if button.effect == "bookmark":
        # Nothing is made, and the proxy answers with the id of what was liked.
        return Kept(parent.id)
    if button.effect == "imagine_all":
        return Made(followups.all_texts(parent.work, parent.id, counter.seed))
    press = followups.pressed(parent.work, parent.id, button, counter.seed)
    return Made((press.work,), press if button.opens_window(remix=remix) else None)


def _modal(counter: Counter, fields: requests.Modal) -> Order | Answer:
    task = counter.waiting(fields.task_id)
    if isinstance(task, Answer) or task.window is None:
        return task if isinstance(task, Answer) else answers.validation(NOT_WAITING)
    mask = uploads.decoded(fields.mask_base64) if fields.mask_base64 else None
    if fields.mask_base64 and mask is None:
        return answers.validation(NO_PICTURE)
    if task.window.button.effect == "repaint" and mask is None:
        return answers.validation(NO_MASK)
    return Continued(task, task.window.answered(fields.prompt, mask).work)


def _change(counter: Counter, fields: requests.Change) -> Order | Answer:
    return _changed(counter, fields.task_id, (fields.action or "").upper(), fields.index)


def _simple_change(counter: Counter, fields: requests.SimpleChange) -> Order | Answer:
    if counter.profile.no_simple_change:
        return counter.profile.no_simple_change
    found = _CHANGE.match(fields.content or "")
    if found is None:
        return answers.validation()
    action = {"U": "UPSCALE", "V": "VARIATION", "R": "REROLL"}[(found[2] or found[4]).upper()]
    return _changed(counter, found[1], action, int(found[3]) if found[3] else 1)


def _changed(counter: Counter, task_id: object, action: str, index: int | None) -> Order | Answer:
    effect = {"UPSCALE": "upscale", "VARIATION": "vary", "REROLL": "reroll"}.get(action)
    if effect is None or not task_id:
        return answers.validation()
    if not index and (effect != "reroll" or counter.profile.index_always):
        return counter.profile.no_index
    parent = counter.finished(task_id)
    if isinstance(parent, Answer):
        return parent
    place = 0 if effect == "reroll" else index
    offers = (button for button in parent.work.offers if (button.effect, button.place) == (effect, place))
    button = next(offers, None)
    return _pressed(counter, parent, button) if button else answers.validation()


def _blend(counter: Counter, fields: requests.Blend) -> Order | Answer:
    sent = _pictures(fields.base64_array)
    dimensions = (fields.dimensions or "SQUARE").upper()
    if sent is None or dimensions not in _DIMENSIONS:
        return answers.validation(NO_PICTURE) if sent is None else answers.validation()
    if not 2 <= len(sent) <= 5:
        return answers.validation("base64List参数错误")
    ratio = _DIMENSIONS[dimensions]
    parts = tuple(shots.Uploaded(content, ratio) for content in sent)
    return Made((Work("BLEND", "", tuple(shots.Blended(parts, n, ratio) for n in range(4)), command="/blend"),))


def _describe(counter: Counter, fields: requests.Describe) -> Order | Answer:
    sent = fields.base64 or fields.link
    if not sent:
        return answers.validation("base64或link参数不能为空")
    picture = _picture(counter, sent)
    if picture is None:
        return answers.validation(NO_PICTURE)
    scene = shots.base(picture)
    return Made((works.described(picture, scene.words if scene else "", counter.seed),))


def _shorten(counter: Counter, fields: requests.Shorten) -> Order | Answer:
    prompt = fields.prompt or ""
    return Made((works.shortened(prompt),)) if prompt.strip() else counter.profile.no_prompt


def _video(counter: Counter, fields: requests.Video) -> Order | Answer:
    film = Film((fields.motion or "").lower(), fields.video_type or _VIDEO_KINDS[0], fields.batch_size or 4)
    wrong = (
        film.motion not in {"low", "high"},
        film.kind not in _VIDEO_KINDS,
        film.count not in {1, 2, 4},
        fields.index is not None and not 0 <= fields.index <= 3,
        bool(fields.action) and not fields.task_id,
        bool(fields.end_image) and _picture(counter, fields.end_image or "") is None,
    )
    if any(wrong):
        return answers.validation()
    if fields.task_id:
        return _extended(counter, fields, film)
    still = _picture(counter, fields.image, fields.prompt or "") if fields.image else None
    return Made((works.filmed(fields.prompt or "", still, film),)) if still else answers.validation(NO_PICTURE)


def _extended(counter: Counter, fields: requests.Video, film: Film) -> Order | Answer:
    parent = counter.finished(fields.task_id)
    if isinstance(parent, Answer):
        return parent
    pictures = parent.work.shots
    if not pictures or (fields.index or 0) >= len(pictures):
        return answers.validation()
    prompt = fields.prompt or parent.work.prompt
    return Made((works.filmed(prompt, pictures[fields.index or 0], film, parent=parent.id),))


def _edits(action: str, counter: Counter, fields: requests.Edits) -> Order | Answer:
    if not (fields.prompt or "").strip():
        return counter.profile.no_prompt
    prompt = fields.prompt or ""
    picture = _picture(counter, fields.image or "")
    mask = uploads.decoded(fields.mask_base64) if fields.mask_base64 else None
    if picture is None or (fields.mask_base64 and mask is None):
        return answers.validation(NO_PICTURE)
    words = prompts.scene_words(prompt)
    new = [shots.Painted(words, counter.seed, index, picture.ratio) for index in range(4)]
    return Made((Work(action, prompt, tuple(shots.Repainted(picture, one, mask) for one in new)),))


def _swap(counter: Counter, fields: requests.Swap) -> Order | Answer:
    face = _picture(counter, fields.source_base64 or fields.source_url or "")
    target = _picture(counter, fields.target_base64 or fields.target_url or "")
    if face is None or target is None:
        return answers.validation(NO_PICTURE)
    return Made((works.single("SWAP_FACE", "", shots.Swapped(face, target)),))


def _upload(counter: Counter, fields: requests.Upload) -> Order | Answer:
    sent = _pictures(fields.base64_array)
    return Kept([counter.stored(content) for content in sent]) if sent else answers.validation(NO_PICTURE)


def _pictures(sent: list[str] | None) -> list[bytes] | None:
    """Every picture of a base64Array, None when one is none; empty texts do not count."""
    found = [uploads.decoded(text) for text in sent or () if text]
    pictures = [content for content in found if content is not None]
    return pictures if len(pictures) == len(found) else None


def _picture(counter: Counter, sent: str, words: str = "") -> Shot | None:
    """A picture sent as base64 or as a link."""
    if uploads.is_link(sent):
        return _linked(counter, sent, words)
    content = uploads.decoded(sent)
    return shots.Uploaded(content, 1.0) if content is not None else None


def _linked(counter: Counter, link: str, words: str) -> Shot:
    # Nothing is ever fetched from elsewhere: an unknown link stands for some picture of its own.
    return counter.linked(link) or shots.Painted(words or link, counter.seed, 0, 1.0)


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.name: endpoint
    for endpoint in (
        Endpoint("/submit/imagine", requests.Imagine, _imagine),
        Endpoint("/submit/action", requests.Action, _action),
        Endpoint("/submit/modal", requests.Modal, _modal),
        Endpoint("/submit/blend", requests.Blend, _blend),
        Endpoint("/submit/describe", requests.Describe, _describe),
        Endpoint("/submit/shorten", requests.Shorten, _shorten),
        Endpoint("/submit/change", requests.Change, _change),
        Endpoint("/submit/simple-change", requests.SimpleChange, _simple_change),
        Endpoint("/submit/video", requests.Video, _video),
        Endpoint("/submit/edits", requests.Edits, partial(_edits, "EDIT")),
        Endpoint("/submit/edit", requests.Edits, partial(_edits, "EDIT")),
        Endpoint("/submit/retexture", requests.Edits, partial(_edits, "RETEXTURE")),
        Endpoint("/insight-face/swap", requests.Swap, _swap),
        Endpoint("/submit/upload-discord-images", requests.Upload, _upload),
    )
}
"""Every submit endpoint by its name."""
