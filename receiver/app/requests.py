"""The requests of `Receiver`: one method for each kind. A test compares their signatures with `KINDS`."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import msgspec

from receiver.app.container import Runtime
from receiver.errors import InputError
from receiver.requests import Request, build
from receiver.submissions import Options

if TYPE_CHECKING:
    from receiver.app.handle import TaskHandle


class SubmitOptions(TypedDict, total=False):
    """Arguments that every request takes besides its own fields.

    Under the name `once` a request exists once, even over restarts. A repeat returns the first one's task, and the same
    name with another request raises Conflict.
    """

    labels: Mapping[str, str] | None  # your own names and values. Every event carries them
    state: str | None  # a text of your own. Every event carries it
    to: Sequence[str] | None  # names of the destinations that get the result. None: all of them
    auto: Sequence[str] | None  # buttons that Receiver presses, once, when it has succeeded, e.g. `["U1", "U3"]`
    reply_to: str | None  # a URL that gets the events too, signed, at a host that a webhook destination allows
    speed: str | None  # fast, turbo or relax. None: the provider's default
    once: str | None


def to_options(given: SubmitOptions, request: Request | None = None) -> Options:
    """Return the options for `Submissions`. A single name may stand for a list of one."""

    def names(value: Sequence[str]) -> tuple[str, ...]:
        return (value,) if isinstance(value, str) else tuple(value)

    if unknown := sorted(given.keys() - SubmitOptions.__annotations__.keys()):
        raise TypeError(f"There is no argument {unknown[0][:80]!r}.")
    labels = given.get("labels") or {}
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"The label {str(name)[:40]!r} must be text, and its name too.")
    to = given.get("to")
    options = Options(
        speed=given.get("speed"),
        labels=dict(labels),
        state=given.get("state"),
        to=None if to is None else names(to),
        auto=names(given.get("auto") or ()),
        reply_to=given.get("reply_to"),
        once=given.get("once"),
    )
    if request is None or options.once is None:
        return options
    content = msgspec.json.encode([request, options], order="deterministic")
    return dataclasses.replace(options, once_digest=hashlib.sha256(content).hexdigest())


class Requests(ABC):
    """The requests of `Receiver`. All take `SubmitOptions`, and raise the same errors."""

    @abstractmethod
    def _started(self) -> Runtime:
        """Return the runtime of a started Receiver. Raise NotStarted."""

    @abstractmethod
    async def _submit(self, request: Request, options: SubmitOptions) -> TaskHandle:
        """Journal a request and send it."""

    async def imagine(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        pictures: Sequence[str] = (),
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """A grid of four pictures from a prompt, or a video if the prompt starts with a link and says `--video`.

        Example::

            task = await receiver.imagine("a paper boat --v 6.1", labels={"order": "17"}, to=["album"])

        Args:
            prompt: 1–6000 characters. It holds parameters such as `--ar 3:2`, and links to reference pictures at its
                start.
            bot_type: MID_JOURNEY or NIJI_JOURNEY.
            pictures: at most 5 reference pictures, as paths, data URIs or links.
            account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.
            options: see `SubmitOptions`.

        Returns:
            The task. A busy provider is no error: the request is kept, and the engine sends it again.

        Raises:
            InputError: a value cannot be sent, and nothing was.
            Conflict: the name `once` was given to another request.
            Refused: the provider will make no task of it.
            Unreachable: the provider could not be reached, and nothing was sent.
            Ambiguous: the answer was lost. The request may have been charged, so it is never sent again. If a task
                was made and a callback URL was sent, the result still comes to the destinations.
            JournalError, MediaError: nothing was sent.
        """
        return await self._submit(
            build("imagine", prompt=prompt, bot_type=bot_type, pictures=pictures, account_filter=account_filter),
            options,
        )

    async def blend(
        self,
        pictures: Sequence[str],
        *,
        dimensions: str | None = None,
        bot_type: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """One grid out of 2–5 pictures.

        Example::

            task = await receiver.blend(["cat.png", "boat.png"], dimensions="LANDSCAPE")

        Args:
            pictures: paths, data URIs or links.
            dimensions: PORTRAIT, SQUARE or LANDSCAPE.
            bot_type, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(
            build("blend", pictures=pictures, dimensions=dimensions, bot_type=bot_type, account_filter=account_filter),
            options,
        )

    async def describe(
        self,
        source: str,
        *,
        bot_type: str | None = None,
        language: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Prompts that could have made a picture: the result's `task.texts`.

        Example::

            task = await receiver.describe("boat.png")
            event = await task.result()
            print(event.task.texts)

        Args:
            source: a path, data URI or link.
            language: of the texts, like `en` or `zh-CN`. Not every provider knows it.
            bot_type, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(
            build("describe", source=source, bot_type=bot_type, language=language, account_filter=account_filter),
            options,
        )

    async def shorten(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Shorter prompts that mean the same: the result's `task.texts`. Arguments and errors are as in `imagine`.

        Example::

            task = await receiver.shorten("a very, very small paper boat on calm and quiet water")
        """
        return await self._submit(
            build("shorten", prompt=prompt, bot_type=bot_type, account_filter=account_filter), options
        )

    async def video(
        self,
        image: str | None = None,
        *,
        prompt: str,
        motion: str = "low",
        action: str | None = None,
        index: int | None = None,
        task_id: str | None = None,
        end_image: str | None = None,
        loop: bool | None = None,
        video_type: str | None = None,
        batch_size: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Videos out of a picture, or of an earlier video task.

        Example::

            task = await receiver.video("boat.png", prompt="the boat sails away", motion="high")

        Args:
            image: the first frame, as a path, data URI or link. An `action` needs none.
            prompt: the events in the video.
            motion: low or high.
            action: a word like `extend`, for an earlier video task. It needs `task_id` and `index`.
            index: number of a video of that task, 0–3.
            task_id: the provider's id of that task.
            end_image: the last frame, given as `image`.
            loop: True if the end leads into the beginning.
            video_type: vid_1.1_i2v_480 or vid_1.1_i2v_720.
            batch_size: number of videos: 1, 2 or 4.
            options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(
            build(
                "video",
                image=image,
                prompt=prompt,
                motion=motion,
                action=action,
                index=index,
                task_id=task_id,
                end_image=end_image,
                loop=loop,
                video_type=video_type,
                batch_size=batch_size,
            ),
            options,
        )

    async def edits(
        self,
        prompt: str,
        image: str,
        *,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """A grid of four pictures made out of one by a prompt.

        Example::

            task = await receiver.edits("the boat is red", "boat.png", mask="hull.png")

        Args:
            image: a path, data URI or link.
            mask: area to repaint, as a path or data URI: white is repainted.
            prompt, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(
            build("edits", prompt=prompt, image=image, mask=mask, account_filter=account_filter), options
        )

    async def swap(self, source: str, target: str, **options: Unpack[SubmitOptions]) -> TaskHandle:
        """The face of one picture in another.

        Example::

            task = await receiver.swap("face.png", "portrait.png")

        Args:
            source: the picture with the face, as a path, data URI or link.
            target: the picture it goes into.
            options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(build("swap", source=source, target=target), options)

    async def upload(self, pictures: Sequence[str], *, account_filter: Mapping[str, Any] | None = None) -> list[str]:
        """Links for 1–5 pictures, to be used in prompts. No task is made, and nothing is journalled.

        Example::

            [link] = await receiver.upload(["boat.png"])
            task = await receiver.imagine(f"{link} in a storm --v 6.1")
        """
        request = build("upload", pictures=pictures, account_filter=account_filter)
        return await self._started().submissions.upload(request)
