"""Requests that make tasks, one builder for each kind, checked before anything goes out (PROTOCOL.md §2).

All give a `Request`, which submissions journal and send alike. `state` and `notifyHook` are added by whoever submits,
because they hold the submission's tokens; so are the pictures, because the journal keeps them outside the body.

`simple-change` has no builder: relays read it as `change`, which says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from receiver.errors import InputError
from receiver.provider.checks import (
    check_account_filter,
    check_bot_type,
    check_custom_id,
    check_flag,
    check_language,
    check_number,
    check_prompt,
    check_task_id,
    check_word,
    one_of,
    optional,
)
from receiver.provider.pictures import PictureField, files, link_or_file, mask_field

PATHS: dict[str, str] = {
    "imagine": "submit/imagine",
    "action": "submit/action",
    "modal": "submit/modal",
    "blend": "submit/blend",
    "describe": "submit/describe",
    "shorten": "submit/shorten",
    "change": "submit/change",
    "video": "submit/video",
    "edits": "submit/edits",
    "swap": "insight-face/swap",
    "upload": "submit/upload-discord-images",
}
"""Every kind of request, and its path after `/mj/`."""

ANSWERED_BY_LINKS = frozenset({"upload"})
"""Kinds whose answer holds links and names no task: the result is there at once."""

CHANGES = ("UPSCALE", "VARIATION", "REROLL")
DIMENSIONS = ("PORTRAIT", "SQUARE", "LANDSCAPE")
MOTIONS = ("low", "high")
VIDEO_TYPES = ("vid_1.1_i2v_480", "vid_1.1_i2v_720")
BATCH_SIZES = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked request.

    Attributes:
        kind: a key of `PATHS`.
        body: what goes out, without `state`, `notifyHook` and pictures; what is unset is left out.
        prompt: what a person calls it; "" where the request has no words of its own.
        pictures: what goes into the body as it is sent (`with_pictures`).
    """

    kind: str
    body: dict[str, Any]
    prompt: str = ""
    pictures: tuple[PictureField, ...] = ()


def imagine(
    prompt: str,
    *,
    bot_type: str | None = None,
    pictures: Sequence[str] = (),
    account_filter: Mapping[str, Any] | None = None,
) -> Request:
    """A grid of four pictures from a prompt; a video, where the prompt starts with a link and says `--video`.

    Args:
        prompt: 1–6000 characters after stripping; parameters such as `--ar 3:2` stand in it, links to reference
            pictures at its start.
        bot_type: MID_JOURNEY or NIJI_JOURNEY; None is the provider's default.
        pictures: at most 5 reference pictures, as paths or data URIs.
        account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {
        "prompt": check_prompt(prompt),
        "botType": optional(check_bot_type, bot_type),
        "accountFilter": optional(check_account_filter, account_filter),
    }
    return _request("imagine", body, files(pictures, 0, remedy="Put the link at the start of the prompt"))


def action(
    task_id: str,
    custom_id: str,
    *,
    enable_remix: bool | None = None,
    choose_same_channel: bool | None = None,
) -> Request:
    """What a button of a task does: upscale, variation, zoom, pan …

    Args:
        task_id: the task that has the button.
        custom_id: of the button, from a fresh fetch: it is not stable over time.
        enable_remix: whether the provider may ask for a new prompt.
        choose_same_channel: whether it stays with the channel that made the task.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {
        "taskId": check_task_id(task_id),
        "customId": check_custom_id(custom_id),
        "enableRemix": optional(partial(check_flag, "enableRemix"), enable_remix),
        "chooseSameChannel": optional(partial(check_flag, "chooseSameChannel"), choose_same_channel),
    }
    return _request("action", body)


def modal(task_id: str, *, prompt: str | None = None, mask: str | None = None) -> Request:
    """The answer to a task that waits for input; the same task goes on.

    Args:
        task_id: the task in MODAL.
        prompt: None keeps the one it has.
        mask: where to repaint, as a path or data URI: white is repainted, black is kept.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {"taskId": check_task_id(task_id), "prompt": optional(check_prompt, prompt)}
    return _request("modal", body, mask_field(mask))


def blend(pictures: Sequence[str], *, dimensions: str | None = None, bot_type: str | None = None) -> Request:
    """One grid out of 2–5 pictures, given as paths or data URIs.

    Args:
        pictures: what is blended.
        dimensions: PORTRAIT, SQUARE or LANDSCAPE; None is the provider's default.
        bot_type: as `imagine`.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {
        "dimensions": optional(partial(one_of, "dimensions", allowed=DIMENSIONS), dimensions),
        "botType": optional(check_bot_type, bot_type),
    }
    return _request("blend", body, files(pictures, 2))


def describe(source: str, *, bot_type: str | None = None, language: str | None = None) -> Request:
    """Prompts that could have made a picture.

    Args:
        source: the picture, as a path, data URI or link.
        bot_type: as `imagine`.
        language: of the texts, like `en` or `zh-CN`; not every provider knows it.

    Raises:
        InputError: a value the provider could not take.
    """
    given, pictures = link_or_file("base64", _required("describe", source), link="link")
    body = {
        **given,
        "botType": optional(check_bot_type, bot_type),
        "language": optional(check_language, language),
    }
    return _request("describe", body, pictures)


def shorten(prompt: str, *, bot_type: str | None = None) -> Request:
    """Shorter prompts that mean the same.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {"prompt": check_prompt(prompt), "botType": optional(check_bot_type, bot_type)}
    return _request("shorten", body)


def change(task_id: str, action: str, index: int | None = None) -> Request:
    """A follow-up as providers without `action` take it.

    Args:
        task_id: of a finished grid.
        action: UPSCALE, VARIATION or REROLL.
        index: which of the four pictures, 1–4. REROLL needs none, but relays want one (PROTOCOL.md §2), so 1 is sent.

    Raises:
        InputError: a value the provider could not take.
    """
    change = one_of("action", action, CHANGES)
    if index is None and change == "REROLL":
        index = 1
    body = {"taskId": check_task_id(task_id), "action": change, "index": _index(index, range(1, 5))}
    return _request("change", body)


def video(
    image: str | None = None,
    *,
    prompt: str | None = None,
    motion: str = "low",
    action: str | None = None,
    index: int | None = None,
    task_id: str | None = None,
    end_image: str | None = None,
    loop: bool | None = None,
    video_type: str | None = None,
    batch_size: int | None = None,
) -> Request:
    """Videos out of a picture, or of an earlier video task.

    Args:
        image: the first frame, as a path, data URI or link; an `action` needs none.
        prompt: what happens in the video.
        motion: low or high.
        action: what to do with an earlier video task, e.g. `extend`; needs `task_id` and `index`.
        index: which of that task's videos, 0–3.
        task_id: that task.
        end_image: the last frame, given as `image`.
        loop: whether the end leads into the beginning.
        video_type: vid_1.1_i2v_480 or vid_1.1_i2v_720.
        batch_size: how many videos: 1, 2 or 4.

    Raises:
        InputError: a value the provider could not take, or parts that do not belong together.
    """
    first, first_file = link_or_file("image", image)
    last, last_file = link_or_file("endImage", end_image)
    body = {
        **first,
        **last,
        "motion": one_of("motion", motion, MOTIONS),
        "prompt": optional(check_prompt, prompt),
        "loop": optional(partial(check_flag, "loop"), loop),
        "videoType": optional(partial(one_of, "videoType", allowed=VIDEO_TYPES), video_type),
        "batchSize": optional(partial(check_number, "batchSize", allowed=BATCH_SIZES), batch_size),
        **_earlier_video(action, index, task_id, image),
    }
    return _request("video", body, first_file + last_file)


def edits(
    prompt: str, image: str, *, mask: str | None = None, account_filter: Mapping[str, Any] | None = None
) -> Request:
    """A grid of four pictures made out of one by a prompt.

    Args:
        prompt: as `imagine`.
        image: as a path, data URI or link.
        mask: as `modal`.
        account_filter: as `imagine`.

    Raises:
        InputError: a value the provider could not take.
    """
    given, pictures = link_or_file("image", _required("image", image))
    body = {
        **given,
        "prompt": check_prompt(prompt),
        "accountFilter": optional(check_account_filter, account_filter),
    }
    return _request("edits", body, pictures + mask_field(mask))


def swap(source: str, target: str) -> Request:
    """The face of one picture in another.

    Args:
        source: the picture with the face, as a path, data URI or link; not every provider takes links here.
        target: the picture it goes into, given alike.

    Raises:
        InputError: a value the provider could not take.
    """
    face, face_file = link_or_file("sourceBase64", _required("source", source), link="sourceUrl")
    scene, scene_file = link_or_file("targetBase64", _required("target", target), link="targetUrl")
    return _request("swap", {**face, **scene}, face_file + scene_file)


def upload(pictures: Sequence[str], *, account_filter: Mapping[str, Any] | None = None) -> Request:
    """Links for 1–5 pictures, to be used in prompts. It makes no task: the links are the answer.

    Args:
        pictures: as paths or data URIs.
        account_filter: as `imagine`.

    Raises:
        InputError: a value the provider could not take.
    """
    body = {"accountFilter": optional(check_account_filter, account_filter)}
    return _request("upload", body, files(pictures, 1))


def _request(kind: str, body: Mapping[str, Any], pictures: tuple[PictureField, ...] = ()) -> Request:
    given = {name: value for name, value in body.items() if value is not None}
    return Request(kind=kind, body=given, prompt=given.get("prompt", ""), pictures=pictures)


def _required(name: str, source: str | None) -> str:
    if source is None:
        raise InputError(f"The picture for {name} is missing; give a path, a data URI or a link.")
    return source


def _index(index: int | None, allowed: range) -> int:
    if index is None:
        raise InputError(f"Say which one: index must be one of {', '.join(map(str, allowed))}.")
    return check_number("index", index, allowed)


def _earlier_video(action: str | None, index: int | None, task_id: str | None, image: str | None) -> dict[str, Any]:
    """With an action its task and index are needed; without one a picture is, and they mean nothing."""
    if action is None:
        if task_id is not None or index is not None:
            raise InputError("A task and an index need an action, like extend, that says what to do with them.")
        _required("image", image)
        return {}
    if task_id is None:
        raise InputError("The action needs the task id of an earlier video.")
    return {
        "action": check_word("action", action),
        "index": _index(index, range(4)),
        "taskId": check_task_id(task_id),
    }
