"""What Python users ask of the provider: one method for each kind of request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from receiver.provider import Request, requests
from receiver.runtime.handle import TaskHandle, send
from receiver.runtime.options import How, to_options
from receiver.runtime.wiring import Runtime


class Requests(ABC):
    """The requests of `Receiver`. All take `How` beside their own fields, and raise the same errors."""

    @abstractmethod
    def _started(self) -> Runtime:
        """What a Receiver that has started is made of. Raises NotStarted."""

    async def imagine(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        pictures: Sequence[str] = (),
        account_filter: Mapping[str, Any] | None = None,
        **how: Unpack[How],
    ) -> TaskHandle:
        """A grid of four pictures from a prompt; a video, where the prompt starts with a link and says `--video`.

        Example::

            task = await receiver.imagine("a paper boat --v 6.1", labels={"order": "17"}, to=["album"])

        Args:
            prompt: 1–6000 characters; parameters such as `--ar 3:2` stand in it, links to reference pictures at its
                start.
            bot_type: MID_JOURNEY or NIJI_JOURNEY.
            pictures: at most 5 reference pictures, as paths or data URIs.
            account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.
            how: see `How`.

        Returns:
            The task. A provider that is only busy is no error: the request is kept, and the engine sends it again.

        Raises:
            InputError: a value that cannot be sent; nothing was.
            Conflict: the name `once` was given to another request.
            Refused: the provider will make no task of it.
            Unreachable: the provider could not be reached; nothing was sent.
            Ambiguous: the answer was lost. It may have been charged, so it is never sent again; if a task was made
                and a callback URL went along, the result still comes to the destinations.
            JournalError, MediaError: nothing was sent.
        """
        request = requests.imagine(prompt, bot_type=bot_type, pictures=pictures, account_filter=account_filter)
        return await self._submit(request, how)

    async def blend(
        self, pictures: Sequence[str], *, dimensions: str | None = None, bot_type: str | None = None, **how: Unpack[How]
    ) -> TaskHandle:
        """One grid out of 2–5 pictures.

        Example::

            task = await receiver.blend(["cat.png", "boat.png"], dimensions="LANDSCAPE")

        Args:
            pictures: paths or data URIs.
            dimensions: PORTRAIT, SQUARE or LANDSCAPE.
            bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.blend(pictures, dimensions=dimensions, bot_type=bot_type), how)

    async def describe(
        self, source: str, *, bot_type: str | None = None, language: str | None = None, **how: Unpack[How]
    ) -> TaskHandle:
        """Prompts that could have made a picture: the result's `task.texts`.

        Example::

            task = await receiver.describe("boat.png")
            event = await task.result()
            print(event.task.texts)

        Args:
            source: a path, data URI or link.
            language: of the texts, like `en` or `zh-CN`; not every provider knows it.
            bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.describe(source, bot_type=bot_type, language=language), how)

    async def shorten(self, prompt: str, *, bot_type: str | None = None, **how: Unpack[How]) -> TaskHandle:
        """Shorter prompts that mean the same: the result's `task.texts`.

        Example::

            task = await receiver.shorten("a very, very small paper boat on calm and quiet water")

        Args:
            prompt, bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.shorten(prompt, bot_type=bot_type), how)

    async def video(
        self,
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
        **how: Unpack[How],
    ) -> TaskHandle:
        """Videos out of a picture, or of an earlier video task.

        Example::

            task = await receiver.video("boat.png", prompt="the boat sails away", motion="high")

        Args:
            image: the first frame, as a path, data URI or link; an `action` needs none.
            prompt: what happens in the video.
            motion: low or high.
            action: what to do with an earlier video task, e.g. `extend`; needs `task_id` and `index`.
            index: which of that task's videos, 0–3.
            task_id: that task, as the provider calls it.
            end_image: the last frame, given as `image`.
            loop: whether the end leads into the beginning.
            video_type: vid_1.1_i2v_480 or vid_1.1_i2v_720.
            batch_size: how many videos: 1, 2 or 4.
            how: as `imagine`, whose errors are raised here too.
        """
        request = requests.video(
            image,
            prompt=prompt,
            motion=motion,
            action=action,
            index=index,
            task_id=task_id,
            end_image=end_image,
            loop=loop,
            video_type=video_type,
            batch_size=batch_size,
        )
        return await self._submit(request, how)

    async def edits(
        self,
        prompt: str,
        image: str,
        *,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **how: Unpack[How],
    ) -> TaskHandle:
        """A grid of four pictures made out of one by a prompt.

        Example::

            task = await receiver.edits("the boat is red", "boat.png", mask="hull.png")

        Args:
            image: a path, data URI or link.
            mask: where to repaint, as a path or data URI: white is repainted.
            prompt, account_filter, how: as `imagine`, whose errors are raised here too.
        """
        request = requests.edits(prompt, image, mask=mask, account_filter=account_filter)
        return await self._submit(request, how)

    async def swap(self, source: str, target: str, **how: Unpack[How]) -> TaskHandle:
        """The face of one picture in another.

        Example::

            task = await receiver.swap("face.png", "portrait.png")

        Args:
            source: the picture with the face, as a path, data URI or link.
            target: the picture it goes into.
            how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.swap(source, target), how)

    async def upload(self, pictures: Sequence[str], *, account_filter: Mapping[str, Any] | None = None) -> list[str]:
        """Links for 1–5 pictures, to be used in prompts. No task is made, and nothing is journalled.

        Example::

            [link] = await receiver.upload(["boat.png"])
            task = await receiver.imagine(f"{link} in a storm --v 6.1")

        Raises:
            InputError, ProviderError: as `imagine`.
        """
        request = requests.upload(pictures, account_filter=account_filter)
        return await self._started().submissions.upload(request)

    async def _submit(self, request: Request, how: How) -> TaskHandle:
        runtime = self._started()
        row = await runtime.submissions.prepare(request, to_options(how, request))
        return TaskHandle(self._started, await send(runtime, row))
