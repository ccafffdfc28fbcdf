"""Everything the simulated provider knows: its tasks, and how it answers for them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from receiver.simulator import answers, course, prompts, requests
from receiver.simulator.answers import Answer
from receiver.simulator.callbacks import CallbackSender
from receiver.simulator.chance import dice
from receiver.simulator.clock import Clock
from receiver.simulator.faults import Faults
from receiver.simulator.profiles import Profile
from receiver.simulator.requests import Imagine
from receiver.simulator.tasks import Task, View

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came in: the address links start with, and the speed its path names."""

    address: str
    speed: str | None = None


class World:
    """Tasks by id, and the answers to every request about them. No HTTP in here."""

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, sender: CallbackSender, seed: int) -> None:
        self.profile = profile
        self.submits: list[dict[str, Any]] = []
        self._faults = faults
        self._clock = clock
        self._sender = sender
        self._seed = seed
        self._tasks: dict[str, Task] = {}
        self._by_job: dict[str, Task] = {}

    def imagine(self, content: bytes, origin: Origin, *, authorized: bool) -> Answer:
        """Answer one submit, and note it whatever the answer; an unreadable body is noted as an empty one."""
        body = requests.json_object(content)
        self.submits.append(body or {})
        if not authorized:
            return answers.unauthorized()
        fields = None if body is None else requests.imagine(body, coerces=self.profile.coerces)
        if fields is None:
            return self.profile.unreadable()
        if refusal := self._refusal(fields):
            return refusal
        submission = PendingImagine(self, fields, origin, len(self.submits))
        answer = self._faults.answer(submission) or self._accepted(submission)
        return self.profile.reworded(answer)

    def _refusal(self, fields: Imagine) -> Answer | None:
        if not (fields.prompt or "").strip():
            return self.profile.no_prompt
        texts = {"state": fields.state, "notifyHook": fields.notify_hook}
        for name, limit in self.profile.limits.items():
            if len(texts[name] or "") > limit:
                return answers.validation(f"{name} is longer than {limit} characters")
        return None

    def _accepted(self, submission: "PendingImagine") -> Answer:
        return answers.accepted(submission.accept(), self.profile.accepted, self.profile.properties)

    def make_task(self, fields: Imagine, origin: Origin, number: int) -> Task:
        """Plan a task from now to its end and start its callbacks."""
        prompt = fields.prompt or ""
        chance = f"{self._seed}/{number}"
        mode = prompts.speed(origin.speed, fields.modes, prompt)
        now = self._clock.now()
        task = Task(
            id=self._new_id(now, chance),
            prompt=prompt,
            bot_type=fields.bot_type or "MID_JOURNEY",
            state=fields.state,
            hook=fields.notify_hook,
            mode=mode,
            filter_modes=fields.modes,
            origin=origin.address,
            description=self.profile.accepted,
            submitted=now,
            course=self._faults.course(course.plan(mode, dice(chance, "course")), chance),
            chance=chance,
        )
        self._tasks[task.id] = self._by_job[task.job] = task
        self._call_back(task)
        return task

    def _new_id(self, now: float, chance: str) -> str:
        digits = dice(chance, "id")
        while (found := f"{int(now * 1000)}{digits.randrange(1000):03d}") in self._tasks:
            now += 0.001
        return found

    def _call_back(self, task: Task) -> None:
        if task.hook:
            calls = self.profile.caller.schedule(task.course)
            self._sender.start(task, task.hook, self._faults.calls(calls, task.chance))

    def fetch(self, task_id: str, origin: Origin) -> Answer:
        """One task as the profile shows it now."""
        task = self._tasks.get(task_id)
        return Answer(200, self._shape(task, origin)) if task else self.profile.unknown_task

    def listed(self, ids: Iterable[str], origin: Origin) -> Answer:
        """Those of the tasks that exist, newest first whatever order was asked for (PROTOCOL.md §2)."""
        wanted = set(ids)
        found = [task for task in reversed(self._tasks.values()) if task.id in wanted]
        return Answer(200, [self._shape(task, origin) for task in found])

    def _shape(self, task: Task, origin: Origin) -> Mapping[str, Any]:
        return self.profile.shape(self.view(task, origin))

    def view(self, task: Task, origin: Origin) -> View:
        """What this provider knows of the task now."""
        return self.profile.view(task, self.profile.step(task, self._clock.now()), origin.address)

    def live(self, task: Task) -> View:
        """What is true of the task now, whatever a relay has noticed of it."""
        return View(task, task.step(self._clock.now()), task.origin)

    def task(self, task_id: str) -> Task | None:
        """The task of this id."""
        return self._tasks.get(task_id)

    def task_in_link(self, link: str) -> Task | None:
        """The task whose picture a link shows; each link names the job."""
        found = _UUID.search(link)
        return self._by_job.get(found[0]) if found else None


@dataclass(frozen=True, slots=True)
class PendingImagine:
    """A readable submit that faults may still turn away."""

    world: World
    fields: Imagine
    origin: Origin
    number: int

    @property
    def prompt(self) -> str:
        """As sent."""
        return self.fields.prompt or ""

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the profile's answers carry."""
        return self.world.profile.properties

    def accept(self) -> str:
        """Make the task and return its id."""
        return self.world.make_task(self.fields, self.origin, self.number).id
