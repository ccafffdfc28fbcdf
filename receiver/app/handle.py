"""Handle of a task for Python users: its status, its result, and its follow-ups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from receiver.app.container import Runtime
from receiver.errors import InputError, InputRequired, JournalError, MediaError, NoResult, Refused, TaskFailed, TaskLost
from receiver.events import Event, EventType, Submission, event_id
from receiver.submissions.options import to_options

MOST_EVENTS = 1000
"""Events of one submission: at most a hundred percentages and a few decisive ones."""

_NO_RESULTS: Mapping[EventType, tuple[type[NoResult], str]] = {
    "task.failed": (TaskFailed, "failed"),
    "task.lost": (TaskLost, "was lost"),
    "task.input_required": (InputRequired, "asks for input; answer with `await task.modal(prompt=…)`"),
}


class TaskHandle:
    """One submission and its task. Everything is read from the journal, so a handle made after a restart
    (`await receiver.task(id)`) works like the first one.

    Example::

        task = await receiver.imagine("a paper boat --v 6.1")
        await task.result()
        large = await task.action("U2")
        print(await large.files())
    """

    def __init__(self, runtime: Callable[[], Runtime], submission: Submission) -> None:
        self._runtime = runtime
        self.submission = submission
        """The submission as last read. `status` reads it again."""

    def __repr__(self) -> str:
        return f"TaskHandle(id={self.id!r}, task_id={self.task_id!r}, prompt={self.submission.prompt[:40]!r})"

    @property
    def id(self) -> str:
        """The submission's id. Store it to find the task again."""
        return self.submission.id

    @property
    def task_id(self) -> str | None:
        """The provider's id. None until it has accepted the request."""
        return self.submission.task_id

    async def status(self) -> Submission:
        """Read and return the submission.

        Example::

            row = await task.status()
            print(row.task_status, row.task and row.task.progress)
        """
        self.submission = await self._runtime().journal.find(self.id)
        return self.submission

    async def result(self, timeout: float | None = None) -> Event:  # noqa: ASYNC109 - it counts in our clock's seconds
        """Wait for the event `task.succeeded`, also one that came while no process of ours ran.

        A failure may be false, and a success follow it within minutes. A later call then returns the success.

        Example::

            event = await task.result(timeout=600)
            print(event.task.image_url)

        Args:
            timeout: seconds to wait. None waits until the end, at most as long as the setting `deadline`.

        Raises:
            TaskFailed, TaskLost, InputRequired: it ended without one, or waits for input. `event` has the reason.
            Refused: the provider refused the request.
            TimeoutError: it has not ended yet.
            ReceiverError: this process could not become the engine.
        """
        return await self._result_of(await self._until(_has_last_word, timeout))

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield every journalled event in order, from the first until the end: `task.succeeded`, `task.failed` or
        `task.lost`, and a success that superseded one of them meanwhile.

        Progress is journalled only if a destination gets it (`progress = true`, or `@receiver.on`).

        Example::

            async for event in task.events():
                print(event.type, event.progress)
        """
        seen: set[str] = set()

        def read() -> Awaitable[list[Event]]:
            return self._runtime().journal.events(limit=MOST_EVENTS, submission_id=self.id)

        async with aclosing(self._runtime().watch(self.id)) as rows:
            async for row in rows:
                self.submission = row
                while fresh := [event for event in await self._runtime().retry_outage(read) if event.id not in seen]:
                    for event in reversed(fresh):
                        seen.add(event.id)
                        yield event
                if row.ended is not None or row.status == "refused":
                    return

    async def action(
        self,
        button: str,
        *,
        again: bool = False,
        prompt: str | None = None,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        to: Sequence[str] | None = None,
        auto: Sequence[str] = (),
        reply_to: str | None = None,
    ) -> TaskHandle:
        """Press a button of the finished task. The same one twice returns the first one's task, unless `again`.

        Example::

            large = await task.action("U2")
            wide = await large.action("Custom Zoom", prompt="a paper boat in a wide bay --zoom 2")

        Args:
            button: its name: `U2`, `V1`, `reroll`, `zoom`, `pan left`, any label or emoji.
            again: press it once more.
            prompt: the reply, if the button asks for one.
            mask: area to repaint, as a path or data URI: white is repainted.
            account_filter: the provider's accountFilter. None inherits this task's.
            labels: None inherits this task's.
            to: names of destinations. None inherits this task's.
            auto: buttons that Receiver presses when that has succeeded.
            reply_to: a URL for the follow-up's events. It is not inherited.

        Raises:
            InputError: this task has not succeeded, or has no such button. Nothing was sent.
            Refused, Ambiguous, Unreachable: as `Receiver.imagine`.
        """
        runtime = self._runtime()
        options = to_options({"labels": labels, "to": to, "auto": auto, "reply_to": reply_to})
        row = await runtime.submissions.follow_up(
            await self.status(), button, options, again=again, prompt=prompt, mask=mask, account_filter=account_filter
        )
        return TaskHandle(self._runtime, await runtime.submissions.send_or_keep(row.id))

    async def modal(self, *, prompt: str | None = None, mask: str | None = None) -> None:
        """Reply to a task that asks for input. It then goes on under the same id.

        Example::

            await task.modal(prompt="a paper boat in a wide bay --zoom 2")
            await task.result()

        Raises:
            InputError: it does not ask for input, or the reply cannot be sent.
            Refused, Ambiguous, Unreachable: the provider did not accept it.
        """
        runtime = self._runtime()
        await runtime.submissions.reply(await self.status(), prompt=prompt, mask=mask)
        try:
            self.submission = await runtime.submissions.send_reply(self.id)
        except Refused as exc:
            if not exc.retry:
                raise
            await self.status()  # the engine sends it again

    async def seed(self) -> str:
        """Return the seed of the finished picture, for `--seed`. May take a minute.

        Refused says that there is none yet, or that this provider does not give it.
        """
        return await self._runtime().provider.image_seed(await self._known_task_id())

    async def cancel(self) -> None:
        """Ask the provider to stop the task. A stopped task fails. Raise Refused if this provider cancels nothing."""
        await self._runtime().provider.cancel(await self._known_task_id())

    async def files(self, timeout: float | None = None) -> list[Path]:  # noqa: ASYNC109 - as above
        """Wait for the result and its download, and return the paths of its files in the media store.

        After two minutes, these are the files that are here. `task.files()` gives more as they come.

        Do not change the files. With a media store in a bucket they are in its cache, which deletes old files: copy
        them soon.

        Example::

            for path in await task.files():
                shutil.copy(path, "album")

        Raises:
            MediaError: none of them could be downloaded, or the media store cannot be read.
            NoResult, TimeoutError: as `result`.
        """
        clock = self._runtime().clock
        row = await self._until(lambda row: _has_last_word(row) and not row.awaits_files(clock.now_ms()), timeout)
        await self._result_of(row)
        if row.media_problem is not None and not row.media:
            raise MediaError(f"The files of task {row.task_id} are not here: {row.media_problem}")
        async with self._runtime().store.holding(row.media) as paths:
            return list(paths)

    async def _until(self, done: Callable[[Submission], bool], seconds: float | None) -> Submission:
        if done(row := await self.status()):
            return row
        runtime = self._runtime()
        waiting = asyncio.timeout(None if seconds is None else seconds / runtime.clock.speed)
        try:
            async with waiting, aclosing(runtime.watch(self.id)) as rows:
                async for row in rows:
                    self.submission = row
                    if done(row):
                        return row
        except TimeoutError as exc:
            if not waiting.expired():
                raise
            raise TimeoutError(f"Task {self.task_id or self.id} has not come to its end within {seconds:g} s.") from exc
        raise AssertionError("a watch ends only with its caller")

    async def _result_of(self, row: Submission) -> Event:
        """Return the row's last event, if it is the result."""
        type = row.last_word
        if type is None:
            text = row.detail or "The provider refused the request."
            raise Refused(text, outcome=row.outcome or "refused", retry=False)
        runtime = self._runtime()
        event = await runtime.retry_outage(lambda: runtime.journal.event(event_id(row.id, type)))
        if event is None:
            raise JournalError(f"The journal says that submission {row.id} has ended, but holds no event of that.")
        if type in _NO_RESULTS:
            error, words = _NO_RESULTS[type]
            reason = f": {event.reason}" if event.reason else "."
            raise error(f"Task {row.task_id or row.id} {words}{reason}", event)
        return event

    async def _known_task_id(self) -> str:
        row = await self.status()
        if row.task_id is None:
            raise InputError(f"Submission {row.id} has no task yet, because the provider has not accepted it.")
        return row.task_id


def _has_last_word(row: Submission) -> bool:
    return row.last_word is not None or row.status == "refused"
