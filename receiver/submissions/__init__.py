"""Submit: journal the request, mint its tokens, send it once, and hand the answer to intake.

The submission is journalled before the HTTP call, because a callback can outrun the answer and a timed-out request may
have been charged.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog

from receiver.clock import Clock
from receiver.errors import Ambiguous, Conflict, InputError, NotFound, Refused, Unreachable
from receiver.events import Input, Reply, Submission, new_id
from receiver.followups import find_button, follow_up, once_name
from receiver.inputs import data_uri, read_mask, read_picture
from receiver.intake import Intake
from receiver.intake.decisions import GRACE_MS
from receiver.intake.facts import replace
from receiver.journal import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.requests import PictureField, Request, build, check_task_id, with_pictures
from receiver.submissions.addresses import Addresses
from receiver.submissions.options import MAX_LABEL, MAX_LABELS, Options, check_button
from receiver.submissions.replies import Replies
from receiver.submissions.sending import Sending
from receiver.tokens import Tokens

__all__ = ["MAX_LABEL", "MAX_LABELS", "Options", "Submissions"]

log = structlog.get_logger("receiver.submissions")

SENDS_AT_ONCE = 10


class Submissions:
    """Prepares and sends submissions, follow-ups and replies, and takes over tasks of others.

    Args:
        journal, provider, intake, tokens, store, clock: what it works with.
        destinations: the names there are.
        public_url: where the provider can reach us; None: no callback URL is sent, and results are polled.
        deadline_ms: how long a task may take before it counts as lost.
        submit_timeout: seconds; a `sending` row older than that and a grace was orphaned by a crash.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        tokens: Tokens,
        store: Store,
        clock: Clock,
        destinations: Collection[str],
        public_url: str | None,
        deadline_ms: int,
        submit_timeout: float,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._store = store
        self._clock = clock
        self._destinations = destinations
        self._deadline_ms = deadline_ms
        self._addresses = Addresses(tokens, public_url)
        sending_ms = int(submit_timeout * clock.speed * 1000) + GRACE_MS
        self._sending = Sending(
            journal=journal,
            provider=provider,
            intake=intake,
            addresses=self._addresses,
            store=store,
            clock=clock,
            sending_ms=sending_ms,
        )
        self._replies = Replies(
            journal=journal,
            provider=provider,
            intake=intake,
            store=store,
            sending=self._sending,
            clock=clock,
            sending_ms=sending_ms,
        )

    async def prepare(self, request: Request, options: Options | None = None) -> Submission:
        """Check a request and journal it. Nothing has gone out when this returns.

        Returns:
            The submission, or the one that already has the name `options.once`.

        Raises:
            InputError: something in the request or the options cannot be sent.
            Conflict: the name belongs to another request.
            MediaError: a picture could not be kept.
            JournalError: it could not be journalled.
        """
        options = options or Options()
        options.check(self._destinations)
        now_ms = self._clock.now_ms()
        submission = Submission(
            id=new_id(now_ms),
            kind=request.kind,
            created_ms=now_ms,
            prompt=request.prompt,
            request=request.body,
            inputs=tuple([await self._keep(picture) for picture in request.pictures]),
            hooked=self._addresses.hooked,
            send_due_ms=now_ms + GRACE_MS,
            deadline_ms=now_ms + self._deadline_ms,
        )
        return await self._add(_with_options(submission, options))

    async def follow_up(
        self,
        parent: Submission,
        button: str,
        options: Options | None = None,
        *,
        again: bool = False,
        prompt: str | None = None,
        mask: str | None = None,
    ) -> Submission:
        """Journal a follow-up by button. A second one of the same button gives the first one, unless `again`.

        Args:
            parent: its task must have succeeded.
            button: as a person calls it: `U2`, `reroll`, `zoom`, a label, an emoji.
            options: None inherits the parent's.
            again: press it once more although it was pressed before.
            prompt: the reply, if the button asks for input.
            mask: where to repaint, as a path or data URI, if the button asks for that.

        Raises:
            InputError: the parent has not succeeded, or has no such button.
            ProviderError: the buttons could not be asked for.
        """
        check_button(button)
        await self._check_parent(parent, button)
        now_ms = self._clock.now_ms()
        submission = follow_up(parent, button, now_ms=now_ms, deadline_ms=self._deadline_ms)
        submission = replace(submission, send_due_ms=now_ms + GRACE_MS, hooked=self._addresses.hooked)
        if options is not None:
            options.check(self._destinations)
            submission = _with_options(submission, options)
        once = (options.once if options else None) if again else once_name(parent.id, button)
        reply = await self._reply(parent.task_id, prompt, mask) if prompt is not None or mask is not None else None
        return await self._add(replace(submission, once=once, reply=reply))

    async def reply(self, row: Submission, *, prompt: str | None = None, mask: str | None = None) -> Submission:
        """Journal the reply to a task that asks for input; `send_reply` sends it.

        Raises:
            InputError: the task does not ask for input, or the reply cannot be sent.
        """
        reply = await self._reply(row.task_id, prompt, mask)
        row = await self._intake.reply_given(row.id, reply)
        if row.reply != reply:
            raise InputError(f"Task {row.task_id} does not ask for input now. See: receiver tasks show {row.id}")
        return row

    async def adopt(self, task_id: str, options: Options | None = None) -> Submission:
        """Take over a task somebody else submitted: it is followed and delivered like our own.

        Raises:
            InputError: that can be no task id.
            NotFound: the provider does not know the task.
            ProviderError: the provider could not be asked.
        """
        options = options or Options()
        options.check(self._destinations)
        task_id = check_task_id(task_id)
        view = await self._provider.fetch(task_id)
        if view is None:
            raise NotFound(f"The provider does not know task {task_id}. Check the id, and that the key is the same.")
        now_ms = self._clock.now_ms()
        submission = Submission(
            id=new_id(now_ms),
            kind=view.action.lower() or "imagine",
            created_ms=now_ms,
            prompt=view.prompt,
            request={},
            status="accepted",
            outcome="adopted",
            task_id=task_id,
            poll_due_ms=now_ms,
            deadline_ms=now_ms + self._deadline_ms,
        )
        row = await self._journal.add(replace(_with_options(submission, options), once=f"task {task_id}"))
        return await self._intake.polled(row.id, view) if row.ended is None else row

    async def upload(self, request: Request) -> list[str]:
        """Send pictures that make no task; their links, in order. Nothing is journalled: nothing is owed.

        Raises:
            InputError: a picture cannot be sent.
            ProviderError: the provider did not take them.
        """
        kept = [(item.field, await read_picture(item.source)) for item in request.pictures]
        body = with_pictures(request.body, [(field, data_uri(*picture)) for field, picture in kept])
        return list((await self._provider.submit(request.kind, body, speed=None)).urls)

    async def send(self, submission_id: str, *, tell: bool = False) -> Submission:
        """Send a prepared submission, once; see `Sending.send`."""
        return await self._sending.send(submission_id, tell=tell)

    async def send_reply(self, submission_id: str) -> Submission:
        """Send a waiting reply, once; see `Replies.send`."""
        return await self._replies.send(submission_id)

    async def drain(self, grace: float) -> None:
        """Wait `grace` seconds for the answers under way. What is cut off then becomes `unknown` in time."""
        await self._sending.drain(grace)

    async def send_once(self) -> int:
        """The engine's step: send what is due, and give up what a crash orphaned. Returns how many were due.

        One that fails keeps no other back; the first such error is raised at the end.
        """
        due = await self._journal.due_sends(self._clock.now_ms(), limit=SENDS_AT_ONCE)
        errors = []
        for row in due:
            try:
                await self._move(row)
            except (Refused, Ambiguous, Unreachable) as exc:
                log.warning("submission.not_accepted", submission=row.id, problem=str(exc))
            except Exception as exc:
                errors.append(exc)
        if errors:
            raise errors[0]
        return len(due)

    async def _move(self, row: Submission) -> None:
        lost = "the process that sent it has ended."
        if row.status == "sending":
            await self._intake.unanswered(row.id, f"The answer to the submit was lost: {lost}")
        elif row.status == "accepted" and row.reply is not None:
            if row.reply.status == "sending":
                await self._intake.reply_unanswered(row.id, f"The answer to the reply was lost: {lost}")
            else:
                await self.send_reply(row.id)
        elif row.ended is None and row.deadline_ms <= self._clock.now_ms():
            await self._intake.expired(row.id)  # nobody waits for it any more, so it must not be charged
        else:
            await self.send(row.id, tell=True)

    async def _check_parent(self, parent: Submission, button: str) -> None:
        """Before any money is spent: the parent has an end, and a button that answers to that name."""
        if parent.ended != "task.succeeded" or parent.task_id is None:
            raise InputError(
                f"Task {parent.task_id or parent.id} has not succeeded, so nothing can follow it. "
                f"See: receiver tasks show {parent.id}"
            )
        view = await self._provider.fetch(parent.task_id)
        if view is not None and view.buttons:
            find_button(view, button)

    async def _reply(self, task_id: str | None, prompt: str | None, mask: str | None) -> Reply:
        request = build("modal", task_id=task_id or "", prompt=prompt, mask=mask)
        body = {key: value for key, value in request.body.items() if key != "taskId"}
        kept = [await self._keep(picture) for picture in request.pictures]
        return Reply(body=body, mask=kept[0] if kept else None)

    async def _keep(self, picture: PictureField) -> Input:
        """Put a request's picture into the media store; the journal keeps digest and size."""
        data, type = await (read_mask if picture.mask else read_picture)(picture.source)
        media = await self._store.put_bytes(data, url="")
        return Input(digest=media.digest, type=type, size=media.size, field=picture.field)

    async def _add(self, submission: Submission) -> Submission:
        self._addresses.of(submission)  # a URL that is too long must fail before anything is journalled
        row = await self._journal.add(submission)
        if row.id != submission.id and row.once_digest != submission.once_digest:
            raise Conflict(f"That name was given to another request before, which is submission {row.id}.")
        return row


def _with_options(submission: Submission, options: Options) -> Submission:
    return replace(
        submission,
        speed=options.speed or submission.speed,
        labels=dict(options.labels) or submission.labels,
        user_state=options.state if options.state is not None else submission.user_state,
        destinations=options.to or submission.destinations,
        auto=tuple(button.strip() for button in options.auto),
        once=options.once,
        once_digest=options.once_digest,
    )
