"""Submit endpoints: the bodies clients send, the provider's checks, and the answers (PROTOCOL.md §1, §2, §12)."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from receiver.simulator import answers, prompts, tasks, timeline, works
from receiver.simulator.answers import Answer
from receiver.simulator.tasks import Task
from receiver.simulator.works import Button, Film, Picture, Press, Repainted, Scene, Upload, Work
from receiver.simulator.world import World

_CHANGE = re.compile(r"^\s*(\S+)\s+(?:([UV])([1-4])|(R))\s*$", re.IGNORECASE)
_DIMENSIONS = {"PORTRAIT": 2 / 3, "SQUARE": 1.0, "LANDSCAPE": 3 / 2}
_VIDEO_KINDS = ("vid_1.1_i2v_480", "vid_1.1_i2v_720")
_DATA_URI = re.compile(r"^data:[\w.+/-]*(?:;[\w=-]+)*;base64,", re.IGNORECASE)
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
)


# --- bodies --------------------------------------------------------------------------------------------------


class AccountFilter(msgspec.Struct):
    """Accounts that may do the work. Only the speed matters here."""

    modes: list[str] | None = None


class Fields(msgspec.Struct, rename="camel"):
    """Body of a submit, one model for all endpoints as at the relay. Unknown keys are ignored."""

    bot_type: str | None = None
    account_filter: AccountFilter | None = None
    state: str | None = None
    notify_hook: str | None = None
    prompt: str | None = None
    base64_array: list[str] | None = None
    task_id: str | int | None = None
    custom_id: str | None = None
    enable_remix: bool | None = None
    mask_base64: str | None = None
    dimensions: str | None = None
    base64: str | None = None
    link: str | None = None
    action: str | None = None
    index: int | None = None
    content: str | None = None
    motion: str | None = None
    image: str | None = None
    end_image: str | None = None
    loop: bool | None = None
    video_type: str | None = None
    batch_size: int | None = None
    source_base64: str | None = None
    target_base64: str | None = None
    source_url: str | None = None
    target_url: str | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """Speeds of accountFilter, empty when not given."""
        return tuple(self.account_filter.modes or ()) if self.account_filter else ()


def json_object(content: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object, or None if it is anything else."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if isinstance(body, dict) else None


def read(body: Mapping[str, Any], *, coerces: bool) -> Fields | None:
    """Return the fields, None when a type is wrong. ``coerces`` reads numbers as text, like Java."""
    if coerces:
        body = {key: str(value) if type(value) in {int, float} else value for key, value in body.items()}
    try:
        # Not strict, because a number that was just made a text is a number again where one belongs.
        return msgspec.convert(body, Fields, strict=not coerces)
    except msgspec.ValidationError:
        return None


def decoded(text: str) -> bytes | None:
    """Return the picture in a data URI or in bare base64, None if there is none in it."""
    try:
        content = base64.b64decode(_DATA_URI.sub("", text.strip(), count=1), validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if media_type(content) else None


def media_type(content: bytes) -> str | None:
    """Return PNG, JPEG, WebP or GIF by the first bytes, None for anything else."""
    return next((name for magic, name in _MAGIC if magic.match(content)), None)


# --- from a submit to its answer -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """Outcome of a valid submit."""

    works: tuple[Work, ...] = ()  # one task for each
    window: Press | None = None  # the button whose window opens first while its task waits
    waiting: Task | None = None  # the task in MODAL that continues with the work
    result: object = None  # of the answer if no task is made


@dataclass(frozen=True, slots=True)
class Submit:
    """One readable submit: its place in the run, and its order, which faults may still refuse."""

    world: World
    fields: Fields
    origin: str
    speed: str | None
    number: int  # 1 for the first submit of this simulator
    chance: str  # name of its dice
    order: Order = Order()

    @property
    def work(self) -> Work:
        """The work that decides the answer. Of a follow-up it has the prompt of the task it builds on."""
        return self.order.works[0] if self.order.works else Work("", "")

    @property
    def properties(self) -> Mapping[str, str]:
        """The properties of an accepting answer."""
        return self.world.profile.properties

    @property
    def seed(self) -> int:
        """Midjourney's seed."""
        return tasks.midjourney_seed(self.chance)

    def accept(self) -> object:
        """Make or continue the tasks, and return the result."""
        order = self.order
        if not order.works:
            return order.result
        if task := order.waiting:  # it leaves MODAL under the same id and state, and its time starts now
            elapsed = self.world.clock.now() - task.submitted
            steps = timeline.continued(self.world.planned(order.works[0], task.mode, task.chance), elapsed)
            hook = task.hook or self.fields.notify_hook
            again = replace(task, work=order.works[0], window=None, timeline=steps, hook=hook)
            return self.world.start(again).id
        several = len(order.works) > 1
        return ",".join(
            self._make(work, number if several else 0).id for number, work in enumerate(order.works, start=1)
        )

    def _make(self, work: Work, place: int) -> Task:
        """Plan a task from now to its end and start its callbacks. ``place`` counts several of one submit."""
        chance, now = f"{self.chance}/{place}" if place else self.chance, self.world.clock.now()
        fields, profile, window = self.fields, self.world.profile, self.order.window
        mode = prompts.speed(self.speed, fields.modes, work.prompt)
        steps = timeline.parked(profile.window_timeout) if window else self.world.planned(work, mode, chance)
        task = self.world.start(
            Task(
                id=self.world.new_id(chance, now),
                work=work,
                bot_type=fields.bot_type or "MID_JOURNEY",
                state=f"{fields.state or ''}::{place}" if place and profile.numbers_states else fields.state,
                hook=fields.notify_hook,
                mode=mode,
                filter_modes=fields.modes,
                origin=self.origin,
                submitted=now,
                timeline=steps,
                chance=chance,
                window=window,
            )
        )
        self.world.start_double(task)
        return task

    def accepted(self) -> Answer:
        """Return code 1, or 21 where a window opened."""
        result, profile = self.accept(), self.world.profile
        if window := self.order.window:
            facts = {"finalPrompt": window.prompt, "remix": True, **self.properties}
            return answers.coded(answers.EXISTS, "Waiting for window confirm", result, facts)
        return answers.coded(answers.ACCEPTED, profile.accepted, result, self.properties)

    def existing(self) -> Answer | None:
        """Return code 21 with an old task of the same request, None where a window opens or no task is made."""
        order = self.order
        if len(order.works) != 1 or order.window or order.waiting:
            return None
        task = self.world.existing(order.works[0], self.origin, self.chance)
        facts = {"status": "SUCCESS", "imageUrl": self.world.live(task).picture or ""}
        return answers.coded(answers.EXISTS, "任务已存在", task.id, {**facts, **self.properties})


# --- endpoints -----------------------------------------------------------------------------------------------


def imagine(submit: Submit, fields: Fields) -> Order | Answer:
    prompt = fields.prompt or ""
    if not prompt.strip():
        return submit.world.profile.no_prompt
    if _pictures(submit, fields.base64_array) is None:
        return answers.NO_PICTURE
    if requested := prompts.video(prompt):
        still = _picture(submit, requested[0], prompts.scene_words(prompt))
        return Order((works.filmed(prompt, still, Film(requested[1])),)) if still else answers.NO_PICTURE
    return Order((works.imagined(prompt, submit.seed),))


def action(submit: Submit, fields: Fields) -> Order | Answer:
    parent = submit.world.finished(fields.task_id)
    if isinstance(parent, Answer):
        return parent
    button = submit.world.offered(parent, fields.custom_id or "")
    if button is None:
        return answers.NO_BUTTON
    return _pressed(submit, parent, button, remix=bool(fields.enable_remix))


def _pressed(submit: Submit, parent: Task, button: Button, *, remix: bool = False) -> Order:
    if button.effect == "bookmark":
        # No task is made, and the proxy answers with the id of the liked one.
        return Order(result=parent.id)
    if button.effect == "imagine_all":
        texts = enumerate(works.text_prompts(parent.work))
        return Order(tuple(works.imagined(text, submit.seed + n, parent=parent.id) for n, text in texts))
    asks = button.asks == works.ALWAYS or (remix and button.asks == works.WITH_REMIX)
    press = works.press(parent.work, parent.id, button, submit.seed)
    return Order((press.work(),), press if asks else None)


def modal(submit: Submit, fields: Fields) -> Order | Answer:
    task = submit.world.waiting(fields.task_id)
    if isinstance(task, Answer) or task.window is None:
        return task if isinstance(task, Answer) else answers.WRONG_STATUS
    mask = decoded(fields.mask_base64) if fields.mask_base64 else None
    if fields.mask_base64 and mask is None:
        return answers.NO_PICTURE
    if task.window.button.effect == "repaint" and mask is None:
        return answers.NO_MASK
    press = replace(task.window, prompt=fields.prompt or task.window.prompt, mask=mask)
    return Order((press.work(),), waiting=task)


def change(submit: Submit, fields: Fields) -> Order | Answer:
    if submit.world.profile.no_change:
        return submit.world.profile.no_change
    effect = {"UPSCALE": "upscale", "VARIATION": "vary", "REROLL": "reroll"}.get((fields.action or "").upper())
    if effect is None or not fields.task_id:
        return answers.validation()
    if not fields.index and (effect != "reroll" or submit.world.profile.index_always):
        return submit.world.profile.no_index
    parent = submit.world.finished(fields.task_id)
    if isinstance(parent, Answer):
        return parent
    place = 0 if effect == "reroll" else fields.index
    offers = (button for button in parent.work.offers if (button.effect, button.place) == (effect, place))
    button = next(offers, None)
    return _pressed(submit, parent, button) if button else answers.validation()


def simple_change(submit: Submit, fields: Fields) -> Order | Answer:
    if submit.world.profile.no_simple_change:
        return submit.world.profile.no_simple_change
    found = _CHANGE.match(fields.content or "")
    if found is None:
        return answers.validation()
    action = {"U": "UPSCALE", "V": "VARIATION", "R": "REROLL"}[(found[2] or found[4]).upper()]
    return change(submit, Fields(task_id=found[1], action=action, index=int(found[3] or 1)))


def blend(submit: Submit, fields: Fields) -> Order | Answer:
    sent, ratio = _pictures(submit, fields.base64_array), _DIMENSIONS.get((fields.dimensions or "SQUARE").upper())
    if sent is None or ratio is None:
        return answers.NO_PICTURE if sent is None else answers.validation()
    if not 2 <= len(sent) <= 5:
        return answers.validation("base64List参数错误")
    parts = tuple(replace(part, ratio=ratio) if isinstance(part, Scene | Upload) else part for part in sent)
    return Order((Work("BLEND", "", tuple(works.blended(parts, n) for n in range(4)), command="/blend"),))


def describe(submit: Submit, fields: Fields) -> Order | Answer:
    sent = fields.base64 or fields.link
    if not sent:
        return answers.validation("base64或link参数不能为空")
    picture = _picture(submit, sent)
    if picture is None:
        return answers.NO_PICTURE
    scene = works.first_scene(picture)
    return Order((works.described(picture, scene.words if scene else "", submit.seed),))


def video(submit: Submit, fields: Fields) -> Order | Answer:
    profile = submit.world.profile
    if profile.no_video_prompt and not (fields.prompt or "").strip():
        return profile.no_video_prompt
    film = Film((fields.motion or profile.motion).lower(), fields.video_type or _VIDEO_KINDS[0], fields.batch_size or 4)
    wrong = (
        film.motion not in {"low", "high"},
        film.kind not in _VIDEO_KINDS,
        film.count not in {1, 2, 4},
        fields.index is not None and not 0 <= fields.index <= 3,
        bool(fields.action) and not fields.task_id,
        bool(fields.end_image) and _picture(submit, fields.end_image or "") is None,
    )
    if any(wrong):
        return answers.validation()
    if not fields.task_id:
        prompt = fields.prompt or ""
        still = _picture(submit, fields.image or "", prompt)
        return Order((works.filmed(prompt, still, film),)) if still else answers.NO_PICTURE
    parent, index = submit.world.finished(fields.task_id), fields.index or 0
    if isinstance(parent, Answer) or index >= len(parent.work.pictures):
        return parent if isinstance(parent, Answer) else answers.validation()
    prompt = fields.prompt or parent.work.prompt
    return Order((works.filmed(prompt, parent.work.pictures[index], film, parent=parent.id),))


def edits(action: str, submit: Submit, fields: Fields) -> Order | Answer:
    prompt = fields.prompt or ""
    if not prompt.strip():
        return submit.world.profile.no_prompt
    picture = _picture(submit, fields.image or "")
    mask = decoded(fields.mask_base64) if fields.mask_base64 else None
    if picture is None or (fields.mask_base64 and mask is None):
        return answers.NO_PICTURE
    new = works.scenes(prompt, submit.seed, picture.ratio)
    return Order((Work(action, prompt, tuple(Repainted(picture, one, mask) for one in new)),))


def swap(submit: Submit, fields: Fields) -> Order | Answer:
    face = _picture(submit, fields.source_base64 or fields.source_url or "")
    target = _picture(submit, fields.target_base64 or fields.target_url or "")
    if face is None or target is None:
        return answers.NO_PICTURE
    return Order((works.single("SWAP_FACE", "", Repainted(target, face, "face")),))


def shorten(submit: Submit, fields: Fields) -> Order | Answer:
    prompt = fields.prompt or ""
    return Order((works.shortened(prompt),)) if prompt.strip() else submit.world.profile.no_prompt


def upload(submit: Submit, fields: Fields) -> Order | Answer:
    found = [decoded(text) for text in fields.base64_array or () if text]
    sent = [content for content in found if content is not None]
    if not sent or len(sent) < len(found):
        return answers.NO_PICTURE
    return Order(result=[submit.world.stored(one, submit.origin) for one in sent])


def _pictures(submit: Submit, sent: list[str] | None) -> list[Picture] | None:
    """Return every picture of a base64Array, None when one is none. Empty texts do not count, and only some servers
    take links (PROTOCOL.md §13.6)."""
    texts = [text for text in sent or () if text]
    if not submit.world.profile.links_in_lists and any(map(_is_link, texts)):
        return None
    found = [_picture(submit, text) for text in texts]
    pictures = [picture for picture in found if picture is not None]
    return pictures if len(pictures) == len(found) else None


def _is_link(sent: str) -> bool:
    return sent.startswith(("http://", "https://"))


def _picture(submit: Submit, sent: str, words: str = "") -> Picture | None:
    """Return a picture sent as base64 or as a link, which is never downloaded: an unknown one becomes a scene."""
    if _is_link(sent):
        return submit.world.linked(sent) or Scene(words or sent, submit.seed, 0, 1.0)
    content = decoded(sent)
    return Upload(content, 1.0) if content is not None else None


ENDPOINTS: Mapping[str, Callable[[Submit, Fields], Order | Answer]] = {
    "/submit/imagine": imagine,
    "/submit/action": action,
    "/submit/modal": modal,
    "/submit/blend": blend,
    "/submit/describe": describe,
    "/submit/shorten": shorten,
    "/submit/change": change,
    "/submit/simple-change": simple_change,
    "/submit/video": video,
    "/submit/edits": partial(edits, "EDIT"),
    "/submit/edit": partial(edits, "EDIT"),
    "/submit/retexture": partial(edits, "RETEXTURE"),
    "/insight-face/swap": swap,
    "/submit/upload-discord-images": upload,
}
"""Path below the prefix of each endpoint, and the check that turns a body into an order or a refusal."""
