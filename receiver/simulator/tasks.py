"""A simulated task, and what can be seen of it at one moment."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from receiver.simulator import prompts
from receiver.simulator.chance import dice
from receiver.simulator.course import UNSEEN, Course, Step, step_at

RELAY_PERIOD = 15.0
"""Seconds between two polls of a relay (PROTOCOL.md §5, §9)."""

LINK_LIFE = 86_400
"""Seconds a Discord link lives (PROTOCOL.md §9)."""


@dataclass(frozen=True)
class Task:
    """Everything decided at the submit. Its status later is a pure function of the clock.

    Times are simulated seconds since 1970; ``chance`` seeds what only has to look right (ids, hashes).
    """

    id: str
    prompt: str
    bot_type: str
    state: str | None
    hook: str | None
    mode: str
    filter_modes: tuple[str, ...]
    origin: str
    description: str
    submitted: float
    course: Course
    chance: str

    def step(self, now: float) -> Step:
        """The true status."""
        return step_at(self.course, now - self.submitted)

    def polled_step(self, now: float) -> Step:
        """The status a relay saw at its last poll; `UNSEEN` before the first (PROTOCOL.md §5)."""
        since_first = now - self.submitted - self._first_poll
        if since_first < 0:
            return UNSEEN
        return step_at(self.course, self._first_poll + since_first // RELAY_PERIOD * RELAY_PERIOD)

    @cached_property
    def _first_poll(self) -> float:
        # A relay polls all its tasks at once, so a new one waits anything up to a whole period.
        return dice(self.chance, "poll").uniform(4.0, RELAY_PERIOD)

    @cached_property
    def seed(self) -> int:
        """Midjourney's seed, written into the picture."""
        return dice(self.chance, "seed").randrange(10**9, 2**32)

    @cached_property
    def job(self) -> str:
        """Midjourney's own id of the work, part of every picture link and button."""
        return str(UUID(int=dice(self.chance, "job").getrandbits(128), version=4))

    def snowflake(self, purpose: str) -> str:
        """A 19-digit Discord id, always the same for one purpose."""
        return str(dice(self.chance, purpose).randrange(12 * 10**17, 15 * 10**17))


@dataclass(frozen=True)
class View:
    """A task at one step, seen from one address; what the wire shapes are made from."""

    task: Task
    step: Step
    origin: str
    previews: bool = True

    def milliseconds(self, step: Step) -> int:
        """When the step was taken, as the wire writes it: epoch milliseconds (PROTOCOL.md §5)."""
        return round((self.task.submitted + step.after) * 1000)

    @property
    def submit_time(self) -> int:
        """Epoch ms of the submit."""
        return round(self.task.submitted * 1000)

    @property
    def start_time(self) -> int | None:
        """Epoch ms of SUBMITTED, once it has come."""
        started = next(step for step in self.task.course if step.status == "SUBMITTED")
        return self.milliseconds(started) if self.step.after >= started.after else None

    @property
    def finish_time(self) -> int | None:
        """Epoch ms of the end, once it has come."""
        return self.milliseconds(self.step) if self.step.terminal else None

    @property
    def succeeded(self) -> bool:
        """Whether the picture is there."""
        return self.step.status == "SUCCESS"

    @property
    def has_preview(self) -> bool:
        """Whether an unfinished picture can be seen."""
        return self.previews and self.step.status == "IN_PROGRESS" and self.step.percent > 0

    @property
    def picture(self) -> str | None:
        """The raw link, as Discord makes them (PROTOCOL.md §9): preview first, then the picture, or none."""
        if self.succeeded:
            return self._link(f"user_{prompts.slug(self.task.prompt)}_{self.task.job}.png")
        return self._link(f"{self.task.job}_grid_0.webp") if self.has_preview else None

    def _link(self, name: str) -> str:
        path = f"/attachments/{self.task.snowflake('channel')}/{self.task.snowflake('message')}/{name}"
        since = self.milliseconds(self.step) // 1000
        digest = hashlib.sha256(f"{path} {since}".encode()).hexdigest()
        return f"{self.origin}{path}?ex={since + LINK_LIFE:x}&is={since:x}&hm={digest}&"


def buttons(job: str) -> list[dict[str, object]]:
    """The nine buttons below a finished grid (PROTOCOL.md §5)."""

    def button(action: str, label: str, emoji: str = "", end: str = "") -> dict[str, object]:
        custom_id = f"MJ::JOB::{action}::{job}{end}"
        return {"customId": custom_id, "emoji": emoji, "label": label, "type": 2, "style": 2}

    upscales = [button(f"upsample::{index}", f"U{index}") for index in range(1, 5)]
    variations = [button(f"variation::{index}", f"V{index}") for index in range(1, 5)]
    return [*upscales, button("reroll::0", "", "🔄", "::SOLO"), *variations]
