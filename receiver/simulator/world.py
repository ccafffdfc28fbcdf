"""Everything the simulated provider knows: its tasks, and how it answers for them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from receiver.simulator import answers, course, shots, tasks, works
from receiver.simulator.answers import Answer
from receiver.simulator.buttons import Button
from receiver.simulator.callbacks import CallbackSender
from receiver.simulator.chance import dice
from receiver.simulator.clock import Clock
from receiver.simulator.course import Course
from receiver.simulator.faults import Faults
from receiver.simulator.profiles import Profile
from receiver.simulator.shots import Shot
from receiver.simulator.submits import NOT_WAITING
from receiver.simulator.tasks import Task, View, discord_link
from receiver.simulator.works import Work

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONG_AGO = 600.0
"""Simulated seconds since an old task that code 21 hands out was submitted."""

_SEED_TIME = 2.0
"""Simulated seconds to find a seed; the real thing may take 60 (PROTOCOL.md §2)."""


class World:
    """Tasks by id, and the answers to every request about them. No HTTP in here."""

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, sender: CallbackSender) -> None:
        self.profile = profile
        self.clock = clock
        self._faults = faults
        self._sender = sender
        self._tasks: dict[str, Task] = {}
        self._jobs: dict[str, str] = {}
        self._uploads: dict[str, bytes] = {}
        self._asked = 0
        self._downloads = 0

    def add(self, task: Task) -> Task:
        """Know a task from now on, in place of an earlier one of the same id."""
        self._tasks[task.id] = task
        self._jobs[task.job] = task.id
        return task

    def new_id(self, chance: str, now: float) -> str:
        """An id nobody has yet: epoch milliseconds and three digits (PROTOCOL.md §3)."""
        digits = dice(chance, "id")
        while (found := f"{int(now * 1000)}{digits.randrange(1000):03d}") in self._tasks:
            now += 0.001
        return found

    def planned(self, work: Work, mode: str, chance: str) -> Course:
        """The course of a work, faults included."""
        return self._faults.course(course.plan(mode, dice(chance, "course"), work.pace), chance)

    def start(self, task: Task, since: float = 0.0) -> Task:
        """Know a task, and call back its course, or what is new of it ``since`` so many seconds."""
        task = self.add(replace(task, seen=self._faults.seen(task.course, task.chance)))
        self._call_back(task, task.hook, task.state, since)
        return task

    def _call_back(self, task: Task, hook: str | None, state: str | None, since: float = 0.0) -> None:
        if hook:
            calls = self._faults.calls(self.profile.caller.schedule(task.course), task.chance)
            self._sender.start(task, hook, state, [call for call in calls if call.step.after >= since])

    def start_double(self, task: Task) -> None:
        """If that fault is on: somebody else's task, whose callbacks go to this one's hook with this one's state."""
        if not self._faults.doubles:
            return
        chance = f"{task.chance}/double"
        work = works.imagined("somebody else's prompt", tasks.seed(chance))
        double = replace(
            task,
            id=self.new_id(chance, task.submitted),
            work=work,
            state="somebody-else",
            hook=None,
            chance=chance,
            course=course.plan("turbo", dice(chance, "course")),
            window=None,
        )
        double = self.add(replace(double, seen=double.course))
        self._call_back(double, task.hook, task.state)

    def existing(self, work: Work, origin: str, chance: str) -> Task:
        """A task that did this work long ago, invented if there is none."""
        for task in self._tasks.values():
            if task.work.prompt == work.prompt and task.work.action == work.action and self._succeeded(task):
                return task
        chance = f"{chance}/existing"
        then = self.clock.now() - _LONG_AGO
        done = course.plan("fast", dice(chance, "course"), work.pace)
        return self.add(
            Task(
                id=self.new_id(chance, then),
                work=work,
                bot_type="MID_JOURNEY",
                state=None,
                hook=None,
                mode="fast",
                filter_modes=(),
                origin=origin,
                description=self.profile.accepted,
                submitted=then,
                course=done,
                seen=done,
                chance=chance,
            )
        )

    def finished(self, task_id: object) -> Task | Answer:
        """The task to build on, or the refusal."""
        task = self._tasks.get(str(task_id))
        if task is None:
            return self.profile.unknown_parent
        return task if self._succeeded(task) else self.profile.unready_parent

    def _succeeded(self, task: Task) -> bool:
        return self.profile.step(task, self.clock.now()).status == "SUCCESS"

    def waiting(self, task_id: object) -> Task | Answer:
        """The task that waits for submit/modal, or the refusal."""
        task = self._tasks.get(str(task_id))
        if task is None:
            return self.profile.unknown_parent
        waits = task.step(self.clock.now()).status == "MODAL"
        return task if waits else answers.validation(NOT_WAITING)

    def offered(self, task: Task, custom_id: str) -> Button | None:
        """The button of this shape below a task; its hash must be fresh unless the profile is lenient."""
        generation = task.generation(self.clock.now())
        good = {"", *(task.button_hash(number) for number in (generation, generation - 1))}
        for button in task.work.offers:
            found = button.hash_in(custom_id)
            if found is not None and (self.profile.outdated_buttons or found in good):
                return button
        return None

    def linked(self, link: str) -> Shot | None:
        """The picture behind one of our own links: an upload, or a task's, of a grid the first."""
        if (content := self.upload_in_link(link)) is not None:
            return shots.Uploaded(content, 1.0)
        task = self.task_in_link(link) or self._tasks.get(link.partition("?")[0].rsplit("/", 1)[-1])
        if task is None or not task.work.shots:
            return None
        place = re.search(r"/0_([0-3])", link)
        return task.work.shots[int(place[1]) % len(task.work.shots) if place else 0]

    def stored(self, content: bytes, origin: str) -> str:
        """A link to a picture somebody sent."""
        name = str(uuid4())
        self._uploads[name] = content
        return discord_link(origin, f"/attachments/1/2/{name}.png", int(self.clock.now()))

    def fetch(self, task_id: str, origin: str) -> Answer:
        """One task as the profile shows it now."""
        if trouble := self._trouble():
            return trouble
        task = self._tasks.get(task_id) if not self._faults.hides("fetch") else None
        return Answer(200, self._shape(task, origin)) if task else self.profile.unknown_task

    def listed(self, ids: Iterable[str], origin: str) -> Answer:
        """Those of the tasks that exist, newest first whatever order was asked for (PROTOCOL.md §2)."""
        if trouble := self._trouble():
            return trouble
        wanted = set(ids) if not self._faults.hides("list") else set()
        found = [task for task in reversed(self._tasks.values()) if task.id in wanted]
        return Answer(200, [self._shape(task, origin) for task in found])

    def _trouble(self) -> Answer | None:
        self._asked += 1
        return self._faults.asked(self._asked - 1)

    def _shape(self, task: Task, origin: str) -> Mapping[str, Any]:
        return self._faults.shown(self.profile.shape(self.view(task, origin)))

    def image_seed(self, task_id: str) -> Answer:
        """Midjourney's seed, as text."""
        task = self.finished(task_id)
        if isinstance(task, Answer):
            return Answer(404 if task is self.profile.unknown_parent else 400, task.body)
        return replace(answers.accepted(str(task.seed), self.profile.accepted, {}), after=_SEED_TIME)

    def cancel(self, task_id: str) -> Answer:
        """Make a running task fail; an empty answer whatever comes of it (PROTOCOL.md §2)."""
        task, now = self._tasks.get(task_id), self.clock.now()
        if task is None:
            return self.profile.unknown_task
        if not task.step(now).terminal:
            elapsed = now - task.submitted
            self.start(replace(task, course=course.cancelled(task.course, elapsed), window=None), elapsed)
        return Answer(200, answers.NOTHING)

    def view(self, task: Task, origin: str) -> View:
        """What this provider knows of the task now."""
        now = self.clock.now()
        return self.profile.view(task, self.profile.step(task, now), origin, now)

    def live(self, task: Task) -> View:
        """What is true of the task now, whatever a relay has noticed of it."""
        now = self.clock.now()
        return View(task, task.step(now), task.origin, now)

    def task(self, task_id: str) -> Task | None:
        """The task of this id."""
        return self._tasks.get(task_id)

    def task_in_link(self, link: str) -> Task | None:
        """The task whose picture a link shows; each link names the job."""
        found = _UUID.search(link)
        return self._tasks.get(self._jobs.get(found[0], "")) if found else None

    def upload_in_link(self, link: str) -> bytes | None:
        """The picture somebody sent that a link shows."""
        found = _UUID.search(link)
        return self._uploads.get(found[0]) if found else None

    def download(self) -> bool:
        """Count a download; whether its link still works."""
        self._downloads += 1
        return not self._faults.gone(self._downloads - 1)
