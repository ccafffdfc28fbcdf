"""How submits are received: read, checked, ordered, answered, and noted whatever the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from receiver.simulator import answers, course, prompts, requests, tasks
from receiver.simulator.answers import Answer
from receiver.simulator.buttons import Button
from receiver.simulator.faults import Faults
from receiver.simulator.followups import Press
from receiver.simulator.profiles import Profile
from receiver.simulator.shots import Shot
from receiver.simulator.submits import ENDPOINTS, Continued, Kept, Made, Order
from receiver.simulator.tasks import Task
from receiver.simulator.works import Work
from receiver.simulator.world import World


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came in: the address links start with, and the speed its path names."""

    address: str
    speed: str | None = None


class Reception:
    """Takes every submit.

    Args:
        world: Where tasks come to be.
        faults: What may happen to answers.
        seed: Of the whole run.
    """

    def __init__(self, world: World, faults: Faults, seed: int) -> None:
        self.submits: list[dict[str, Any]] = []
        self.endpoints: list[str] = []
        self._world = world
        self._profile = world.profile
        self._faults = faults
        self._seed = seed

    def submit(self, name: str, content: bytes, origin: Origin, *, authorized: bool) -> Answer:
        """Answer one submit, and note it whatever the answer; an unreadable body is noted as an empty one."""
        body = requests.json_object(content)
        self.submits.append(body or {})
        self.endpoints.append(name)
        if not authorized:
            return answers.unauthorized()
        endpoint = ENDPOINTS[name]
        fields = None if body is None else requests.fields(body, endpoint.fields, coerces=self._profile.coerces)
        if fields is None:
            return self._profile.unreadable()
        desk = Desk(self._world, fields, origin, len(self.submits), self._seed)
        order = self._too_long(fields) or endpoint.order(desk, fields)
        return order if isinstance(order, Answer) else self._answer(PendingSubmit(desk, order))

    def _too_long(self, fields: requests.Submit) -> Answer | None:
        texts = {"state": fields.state, "notifyHook": fields.notify_hook}
        for name, limit in self._profile.limits.items():
            if len(texts[name] or "") > limit:
                return answers.validation(f"{name} is longer than {limit} characters")
        return None

    def _answer(self, submission: "PendingSubmit") -> Answer:
        answer = self._faults.answer(submission) or submission.accepted()
        return self._faults.answered(self._profile.reworded(answer, submission.action))


@dataclass(frozen=True, slots=True)
class Desk:
    """One readable submit: what its endpoint may ask the world, and where the task comes from."""

    world: World
    fields: requests.Submit
    origin: Origin
    number: int
    run: int
    """The seed of the whole run."""

    @property
    def profile(self) -> Profile:
        """Whose checks to make."""
        return self.world.profile

    @property
    def chance(self) -> str:
        """The name of its dice."""
        return f"{self.run}/{self.number}"

    @property
    def seed(self) -> int:
        """Midjourney's seed."""
        return tasks.seed(self.chance)

    def finished(self, task_id: object) -> Task | Answer:
        """The task to build on, or the refusal."""
        return self.world.finished(task_id)

    def waiting(self, task_id: object) -> Task | Answer:
        """The task that waits for submit/modal, or the refusal."""
        return self.world.waiting(task_id)

    def offered(self, task: Task, custom_id: str) -> Button | None:
        """The button below a task that this customId stands for, if it is still good."""
        return self.world.offered(task, custom_id)

    def linked(self, link: str) -> Shot | None:
        """The picture behind a link of our own."""
        return self.world.linked(link)

    def stored(self, content: bytes) -> str:
        """A link to a picture somebody sent."""
        return self.world.stored(content, self.origin.address)

    def make_task(self, work: Work, window: Press | None, place: int = 0) -> Task:
        """Plan a task from now to its end and start its callbacks; ``place`` counts several of one submit."""
        chance, now = f"{self.chance}/{place}" if place else self.chance, self.world.clock.now()
        mode = prompts.speed(self.origin.speed, self.fields.modes, work.prompt)
        patience = self.profile.window_patience
        steps = course.parked(patience) if window else self.world.planned(work, mode, chance)
        task = self.world.start(
            Task(
                id=self.world.new_id(chance, now),
                work=work,
                bot_type=self.fields.bot_type or "MID_JOURNEY",
                state=self._state(place),
                hook=self.fields.notify_hook,
                mode=mode,
                filter_modes=self.fields.modes,
                origin=self.origin.address,
                description=self.profile.accepted,
                submitted=now,
                course=steps,
                seen=steps,
                chance=chance,
                window=window,
            )
        )
        self.world.start_double(task)
        return task

    def _state(self, place: int) -> str | None:
        """As sent; the C# proxy numbers those of "imagine all"."""
        numbered = place and self.profile.numbers_states
        return f"{self.fields.state or ''}::{place}" if numbered else self.fields.state

    def continue_task(self, task: Task, work: Work) -> Task:
        """Let a task go on that waited in MODAL: the same id and state; its time starts now."""
        elapsed = self.world.clock.now() - task.submitted
        steps = course.continued(self.world.planned(work, task.mode, task.chance), elapsed)
        hook = task.hook or self.fields.notify_hook
        return self.world.start(replace(task, work=work, window=None, course=steps, seen=steps, hook=hook))


@dataclass(frozen=True, slots=True)
class PendingSubmit:
    """A submit in order, which faults may still turn away."""

    desk: Desk
    order: Order

    @property
    def number(self) -> int:
        """1 for the first submit."""
        return self.desk.number

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the profile's answers carry."""
        return self.desk.profile.properties

    @property
    def work(self) -> Work | None:
        """The work of the task, or of the first of several."""
        if isinstance(self.order, Made):
            return self.order.works[0]
        return self.order.work if isinstance(self.order, Continued) else None

    @property
    def prompt(self) -> str:
        """Of the work to be done."""
        return self.work.prompt if self.work else ""

    @property
    def action(self) -> str:
        """What the relay calls it."""
        return (self.work.relay_action or self.work.action) if self.work else ""

    def accept(self) -> object:
        """Make what is to be made and return the result."""
        if isinstance(self.order, Kept):
            return self.order.result
        if isinstance(self.order, Continued):
            return self.desk.continue_task(self.order.task, self.order.work).id
        several = len(self.order.works) > 1
        made = [
            self.desk.make_task(work, self.order.window, number if several else 0)
            for number, work in enumerate(self.order.works, 1)
        ]
        return ",".join(task.id for task in made)

    def accepted(self) -> Answer:
        """All is well: code 1, or 21 where a window opened."""
        result, profile = self.accept(), self.desk.profile
        if isinstance(self.order, Made) and self.order.window:
            return answers.window_opened(result, self.order.window.prompt, profile.properties)
        return answers.accepted(result, profile.accepted, profile.properties)

    def existing(self) -> Answer | None:
        """Code 21 with a task that did the same before; None where a new window opens or nothing is made."""
        if not isinstance(self.order, Made) or self.order.window or len(self.order.works) > 1:
            return None
        task = self.desk.world.existing(self.order.works[0], self.desk.origin.address, self.desk.chance)
        picture = self.desk.world.live(task).picture or ""
        return answers.existed(task.id, picture, self.properties)
