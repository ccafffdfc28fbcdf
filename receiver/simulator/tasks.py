"""A simulated task, and what can be seen of it at one moment."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from receiver.simulator import prompts
from receiver.simulator.chance import dice
from receiver.simulator.course import UNSEEN, Course, Step, step_at
from receiver.simulator.followups import Press
from receiver.simulator.works import Work

RELAY_PERIOD = 15.0
"""Seconds between two polls of a relay (PROTOCOL.md §5, §9)."""

BUTTON_LIFE = 15.0
"""Seconds until the buttons of a finished task carry other customIds. The ones before stay good as long again."""

LINK_LIFE = 86_400
"""Seconds a Discord link lives (PROTOCOL.md §9)."""


def seed(chance: str) -> int:
    """Midjourney's seed for a submit."""
    return dice(chance, "seed").randrange(10**9, 2**32)


@dataclass(frozen=True)
class Task:
    """Everything decided at the submit. Its status later is a pure function of the clock.

    Times are simulated seconds since 1970; ``chance`` seeds what only has to look right (ids, hashes).
    """

    id: str
    work: Work
    bot_type: str
    state: str | None
    hook: str | None
    mode: str
    filter_modes: tuple[str, ...]
    origin: str
    description: str
    submitted: float
    course: Course
    seen: Course
    """What fetch and list go by: the course, unless a fault says otherwise."""
    chance: str
    window: Press | None = None
    """What was pressed, while the task waits for submit/modal to say more."""

    def step(self, now: float) -> Step:
        """The true status."""
        return step_at(self.course, now - self.submitted)

    def seen_step(self, now: float) -> Step:
        """The status as fetch and list tell it."""
        return step_at(self.seen, now - self.submitted)

    def polled_step(self, now: float) -> Step:
        """The status a relay saw at its last poll; `UNSEEN` before the first (PROTOCOL.md §5)."""
        since_first = now - self.submitted - self._first_poll
        if since_first < 0:
            return UNSEEN
        return step_at(self.seen, self._first_poll + since_first // RELAY_PERIOD * RELAY_PERIOD)

    @cached_property
    def _first_poll(self) -> float:
        # A relay polls all its tasks at once, so a new one waits anything up to a whole period.
        return dice(self.chance, "poll").uniform(4.0, RELAY_PERIOD)

    @property
    def seed(self) -> int:
        """Midjourney's seed, written into the picture."""
        return seed(self.chance)

    @cached_property
    def job(self) -> str:
        """Midjourney's own id of the work, part of every picture link and button."""
        return str(UUID(int=dice(self.chance, "job").getrandbits(128), version=4))

    def snowflake(self, purpose: str) -> str:
        """A 19-digit Discord id, always the same for one purpose."""
        return str(dice(self.chance, purpose).randrange(12 * 10**17, 15 * 10**17))

    def button_hash(self, generation: int) -> str:
        """What the customIds of its buttons carry for `BUTTON_LIFE` seconds."""
        return str(UUID(int=dice(self.chance, "buttons", generation).getrandbits(128), version=4))

    def generation(self, now: float) -> int:
        """Which hash its buttons carry now, counted from its end."""
        # A hair more than none: the end itself must not fall before the end.
        return int((now - self.submitted - self.course[-1].after + 0.001) // BUTTON_LIFE)


@dataclass(frozen=True)
class View:
    """A task at one step, seen from one address at one moment; what the wire shapes are made from."""

    task: Task
    step: Step
    origin: str
    now: float
    previews: bool = True
    films_are_pictures: bool = True

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
        started = next((step for step in self.task.course if step.status == "SUBMITTED"), None)
        return self.milliseconds(started) if started and self.step.after >= started.after else None

    @property
    def finish_time(self) -> int | None:
        """Epoch ms of the end, once it has come."""
        return self.milliseconds(self.step) if self.step.terminal else None

    @property
    def succeeded(self) -> bool:
        """Whether the result is there."""
        return self.step.status == "SUCCESS"

    @property
    def prompt(self) -> str:
        """The prompt, or in the end the texts that take its place."""
        return self.task.work.told_prompt if self.succeeded else self.task.work.prompt

    @property
    def command(self) -> str:
        """The Discord command it came from."""
        work = self.task.work
        return f"{work.command} {work.prompt or f'{self.task.id}.png'}"

    @property
    def buttons(self) -> list[dict[str, object]]:
        """What can be pressed below the result, with customIds that are good for a while."""
        hash_ = self.task.button_hash(self.task.generation(self.now))
        return [
            {
                "customId": button.custom_id(hash_),
                "emoji": button.emoji,
                "label": button.label,
                "type": 2,
                "style": 2,
            }
            for button in (self.task.work.offers if self.succeeded else ())
        ]

    @property
    def has_preview(self) -> bool:
        """Whether an unfinished picture can be seen."""
        shown = self.previews and bool(self.task.work.shots) and not self.task.work.texts
        return shown and self.step.status == "IN_PROGRESS" and self.step.percent > 0

    @property
    def picture(self) -> str | None:
        """The raw link, as Discord makes them (PROTOCOL.md §9): preview first, then the picture, or none.

        Of a video the proxies give the first mp4 here.
        """
        if self.succeeded and self.videos and self.films_are_pictures:
            return self.videos[0]
        if self.succeeded and self.task.work.shots:
            name = prompts.slug(self.task.work.prompt)
            return self._link(f"user_{name}_{self.task.job}.png")
        return self._link(f"{self.task.job}_grid_0.webp") if self.has_preview else None

    @property
    def videos(self) -> list[str]:
        """A link to each video."""
        work = self.task.work
        count = work.film.count if work.film and self.succeeded else 0
        return [f"{self.origin}/cdn/video/{self.task.job}/{number}.mp4" for number in range(count)]

    def _link(self, name: str) -> str:
        path = f"/attachments/{self.task.snowflake('channel')}/{self.task.snowflake('message')}/{name}"
        return discord_link(self.origin, path, self.milliseconds(self.step) // 1000)


def discord_link(origin: str, path: str, since: int) -> str:
    """A link that says from when to when it is good (PROTOCOL.md §9)."""
    digest = hashlib.sha256(f"{path} {since}".encode()).hexdigest()
    return f"{origin}{path}?ex={since + LINK_LIFE:x}&is={since:x}&hm={digest}&"
