"""State of the simulated provider: its tasks, uploads, answers about them, and callbacks."""

import asyncio
import json
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from uuid import uuid4

import httpx

from receiver.simulator import answers, timeline, works
from receiver.simulator.answers import Answer
from receiver.simulator.faults import Faults
from receiver.simulator.profiles import Profile
from receiver.simulator.tasks import Task, View, discord_link, midjourney_seed
from receiver.simulator.timeline import Call, Clock, Timeline, dice
from receiver.simulator.works import Button, Picture, Upload, Work

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

OLD = 600.0
"""Simulated seconds since the submit of an old task that code 21 returns."""

LISTED = 100
"""Tasks in the list of all (PROTOCOL.md §2)."""

SEED_TIME = 2.0
"""Simulated seconds to find a seed. The real provider may take 60 (PROTOCOL.md §2)."""

_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
"""Real seconds. The real senders wait far longer (§7), which is too long for a test."""


@cache
def _certificates() -> ssl.SSLContext:
    """Read the certificates to trust once. That takes 20 ms, and tests make many simulators."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class SentCallback:
    """One callback that was tried: its HTTP status, or the error."""

    task_id: str
    status: str
    progress: str | None
    http_status: int | None
    error: str | None


class CallbackSender:
    """Posts each task's callbacks in the background, never twice, and only records the answers (PROTOCOL.md §7).

    The callbacks of one task are sent one after the other. With a fast clock they would otherwise overtake each other
    by chance, and the same seed would not give the same run.
    """

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, client: httpx.AsyncClient | None) -> None:
        self.sent: list[SentCallback] = []
        self._profile = profile
        self._faults = faults
        self._clock = clock
        self._own_client = client is None
        # trust_env: a proxy in the environment must not receive calls to a loopback address.
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT, verify=_certificates(), trust_env=False)
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, task: Task, hook: str, state: str | None, calls: Iterable[Call]) -> None:
        """Send the calls at their time, and drop the task's earlier ones that are not sent yet."""
        if earlier := self._running.get(task.id):
            earlier.cancel()
        task, planned = replace(task, state=state, hook=hook), list(calls)

        async def send_all() -> None:
            for call in planned:
                await self._clock.until(task.submitted + call.after)
                await self._send(View(task, call.step, task.origin, task.submitted + call.after, self._profile))
            self._running.pop(task.id, None)

        self._running[task.id] = asyncio.create_task(send_all())

    async def _send(self, view: View) -> None:
        http_status, error, profile = None, None, self._profile
        body = self._faults.apply("callback", profile.called(view))
        old = json.dumps(body, ensure_ascii=False).encode("iso-8859-1", "replace") if self._faults.latin_1 else None
        try:
            request = self._client.build_request(
                "POST",
                profile.call_address(view.task.hook or ""),
                content=old or profile.call_encode(body),
                headers=dict(profile.call_headers),
                timeout=_TIMEOUT,
            )
            # httpx adds headers of its own, but the C# sender has none of them.
            for name in {"User-Agent", "Accept", "Accept-Encoding"} - set(profile.call_headers):
                request.headers.pop(name, None)
            http_status = (await self._client.send(request, follow_redirects=False)).status_code
        # InvalidURL and ValueError: the hook may be any text.
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            error = f"{type(exc).__name__}: {exc}"
        self.sent.append(SentCallback(view.task.id, view.step.status, view.step.progress, http_status, error))

    async def aclose(self) -> None:
        """Drop what has not been sent yet."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._own_client:
            await self._client.aclose()


class World:
    """Tasks by id, and the answers to every request about them, without HTTP."""

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, sender: CallbackSender) -> None:
        self.profile = profile
        self.clock = clock
        self._faults = faults
        self._sender = sender
        self._tasks: dict[str, Task] = {}
        self._jobs: dict[str, str] = {}
        self._uploads: dict[str, bytes] = {}
        self._queries = 0
        self._downloads = 0

    def new_id(self, chance: str, now: float) -> str:
        """Return an unused id: epoch milliseconds and three digits (PROTOCOL.md §3)."""
        digits = dice(chance, "id")
        while (found := f"{int(now * 1000)}{digits.randrange(1000):03d}") in self._tasks:
            now += 0.001
        return found

    def planned(self, work: Work, mode: str, chance: str) -> Timeline:
        """Return the timeline of a work, faults included."""
        return self._faults.apply("timeline", timeline.plan(mode, dice(chance, "timeline"), work.pace), chance)

    def start(self, task: Task, since: float = 0.0) -> Task:
        """Add or replace a task, and send the callbacks of its timeline from ``since`` so many seconds on."""
        fetched = self._faults.apply("fetched_timeline", task.timeline, task.chance)
        task = self._add(replace(task, fetched=fetched))
        self._call_back(task, task.hook, task.state, since)
        return task

    def start_double(self, task: Task) -> None:
        """Start another client's task whose callbacks carry this one's state to its hook, if that fault is active."""
        if not self._faults.doubles:
            return
        chance = f"{task.chance}/double"
        steps = timeline.plan("turbo", dice(chance, "timeline"))
        double = replace(
            task,
            id=self.new_id(chance, task.submitted),
            work=works.imagined("somebody else's prompt", midjourney_seed(chance)),
            state="somebody-else",
            hook=None,
            chance=chance,
            timeline=steps,
            fetched=None,
            window=None,
        )
        self._call_back(self._add(double), task.hook, task.state)

    def existing(self, work: Work, origin: str, chance: str) -> Task:
        """Return a finished task of the same work, invented if there is none."""
        for task in self._tasks.values():
            if task.work.prompt == work.prompt and task.work.action == work.action and self._succeeded(task):
                return task
        chance, then = f"{chance}/existing", self.clock.now() - OLD
        steps = timeline.plan("fast", dice(chance, "timeline"), work.pace)
        return self._add(
            Task(
                id=self.new_id(chance, then),
                work=work,
                origin=origin,
                submitted=then,
                timeline=steps,
                chance=chance,
            )
        )

    def _add(self, task: Task) -> Task:
        self._tasks[task.id] = task
        self._jobs[task.job] = task.id
        return task

    def _call_back(self, task: Task, hook: str | None, state: str | None, since: float = 0.0) -> None:
        if hook:
            calls = self._faults.apply("calls", self.profile.schedule(task.timeline), task.chance)
            calls = sorted((call for call in calls if call.step.after >= since), key=lambda call: call.after)
            self._sender.start(task, hook, state, calls)

    def finished(self, task_id: object) -> Task | Answer:
        """Return the task to build on, or the refusal."""
        task = self._tasks.get(str(task_id))
        if task is None:
            return self.profile.unknown_parent
        return task if self._succeeded(task) else self.profile.unready_parent

    def _succeeded(self, task: Task) -> bool:
        return self.profile.step(task, self.clock.now()).status == "SUCCESS"

    def waiting(self, task_id: object) -> Task | Answer:
        """Return the task that waits for submit/modal, or the refusal."""
        task = self._tasks.get(str(task_id))
        if task is None:
            return self.profile.unknown_parent
        waits = task.step(self.clock.now()).status == "MODAL"
        return task if waits else answers.WRONG_STATUS

    def offered(self, task: Task, custom_id: str) -> Button | None:
        """Return the button of this shape below a task. Its hash must be fresh unless the profile is lenient."""
        if self.profile.by_prefix and (button := works.by_prefix(custom_id)):
            return button
        generation = task.generation(self.clock.now())
        good = {"", *(task.button_hash(number) for number in (generation, generation - 1))}
        for button in task.work.offers:
            found = button.hash_in(custom_id)
            if found is not None and (self.profile.outdated_buttons or found in good):
                return button
        return None

    def linked(self, link: str) -> Picture | None:
        """Return the picture behind one of our own links: an upload, or a task's, of a grid the first."""
        if (content := self.upload_in_link(link)) is not None:
            return Upload(content, 1.0)
        task = self.task_in_link(link) or self._tasks.get(link.partition("?")[0].rsplit("/", 1)[-1])
        if task is None or not task.work.pictures:
            return None
        place = re.search(r"/0_([0-3])", link)
        return task.work.pictures[int(place[1]) % len(task.work.pictures) if place else 0]

    def stored(self, content: bytes, origin: str) -> str:
        """Store a client's picture, and return a link to it."""
        name = str(uuid4())
        self._uploads[name] = content
        return discord_link(origin, f"/attachments/1/2/{name}.png", int(self.clock.now()))

    def fetch(self, task_id: str, origin: str) -> Answer:
        """Return one task as the profile shows it now."""
        if error := self._query_error():
            return error
        task = self._tasks.get(task_id) if not self._faults.hides("fetch") else None
        return Answer(200, self._object(task, origin)) if task else self.profile.unknown_task

    def listed(self, ids: Iterable[str], origin: str) -> Answer:
        """Return the existing tasks among the ids, newest first whatever order was requested (PROTOCOL.md §2)."""
        if error := self._query_error():
            return error
        wanted = set(ids) if not self._faults.hides("list") else set()
        found = [task for task in reversed(self._tasks.values()) if task.id in wanted]
        return Answer(200, [self._object(task, origin) for task in found])

    def every(self, name: str, origin: str) -> Answer:
        """Return the newest hundred tasks, or of a ``queue`` those that have not started (PROTOCOL.md §13.8)."""
        if name not in self.profile.lists:
            return Answer(404, None)
        if error := self._query_error():
            return error
        now, newest = self.clock.now(), list(reversed(self._tasks.values()))[:LISTED]
        found = [task for task in newest if name == "list" or task.step(now).status in {"NOT_START", "SUBMITTED"}]
        return Answer(200, [self._object(task, origin) for task in found])

    def _query_error(self) -> Answer | None:
        self._queries += 1
        return self._faults.query(self._queries - 1)

    def _object(self, task: Task, origin: str) -> dict[str, Any]:
        return self._faults.apply("fetched", self.profile.shape(self.view(task, origin)))

    def image_seed(self, task_id: str, origin: str) -> Answer:
        """Return Midjourney's seed as text."""
        task = self.finished(task_id)
        if isinstance(task, Answer):
            return Answer(404 if task is self.profile.unknown_parent else 400, task.body)
        return replace(answers.coded(answers.ACCEPTED, self.profile.accepted, str(task.seed)), after=SEED_TIME)

    def cancel(self, task_id: str, origin: str) -> Answer:
        """Make a running task fail. The answer is empty in either case (PROTOCOL.md §2)."""
        task, now = self._tasks.get(task_id), self.clock.now()
        if task is None:
            return self.profile.unknown_task
        if not task.step(now).terminal:
            elapsed = now - task.submitted
            self.start(replace(task, timeline=timeline.cancelled(task.timeline, elapsed), window=None), elapsed)
        return Answer(200, None)

    def view(self, task: Task, origin: str) -> View:
        """Return the task as this profile knows it now."""
        now = self.clock.now()
        return View(task, self.profile.step(task, now), origin, now, self.profile)

    def live(self, task: Task) -> View:
        """Return the task's true view now, whatever a relay knows of it."""
        now = self.clock.now()
        return View(task, task.step(now), task.origin, now, self.profile)

    def task(self, task_id: str) -> Task | None:
        """Return the task of this id."""
        return self._tasks.get(task_id)

    def task_in_link(self, link: str) -> Task | None:
        """Return the task of a picture's link, which names its job."""
        found = _UUID.search(link)
        return self._tasks.get(self._jobs.get(found[0], "")) if found else None

    def upload_in_link(self, link: str) -> bytes | None:
        """Return the client's picture of a link."""
        found = _UUID.search(link)
        return self._uploads.get(found[0]) if found else None

    def download(self) -> bool:
        """Count a download, and return True if its link still works."""
        self._downloads += 1
        return not self._faults.gone(self._downloads - 1)
