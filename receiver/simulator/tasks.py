"""A simulated task, and its view at one moment."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

from receiver.simulator import prompts
from receiver.simulator.timeline import UNSEEN, Step, Timeline, dice, step_at
from receiver.simulator.works import Press, Work

if TYPE_CHECKING:
    from receiver.simulator.profiles import Profile

RELAY_PERIOD = 15.0
"""Seconds between two polls of a relay (PROTOCOL.md §5, §9)."""

BUTTON_LIFE = 15.0
"""Seconds until the buttons of a finished task have other customIds. The previous ones stay good as long again."""

LINK_LIFE = 86_400
"""Seconds until a Discord link expires (PROTOCOL.md §9)."""


def midjourney_seed(chance: str) -> int:
    """Return Midjourney's seed for a submit."""
    return dice(chance, "seed").randrange(10**9, 2**32)


@dataclass(frozen=True)
class Task:
    """Everything decided at the submit. Its later status is a pure function of the clock.

    Times are simulated seconds since 1970. ``chance`` seeds ids and hashes. ``fetched`` is the timeline that fetch and
    list show, None for the true one. ``window`` is the button pressed while the task waits for submit/modal.
    """

    id: str
    work: Work
    origin: str
    submitted: float
    timeline: Timeline
    chance: str
    bot_type: str = "MID_JOURNEY"
    state: str | None = None
    hook: str | None = None
    mode: str = "fast"
    filter_modes: tuple[str, ...] = ()
    window: Press | None = None
    fetched: Timeline | None = None

    def step(self, now: float) -> Step:
        """Return the true status."""
        return step_at(self.timeline, now - self.submitted)

    def fetched_step(self, now: float) -> Step:
        """Return the status in fetch and list."""
        return step_at(self.fetched or self.timeline, now - self.submitted)

    def polled_step(self, now: float) -> Step:
        """Return the status at a relay's last poll, `UNSEEN` before the first (PROTOCOL.md §5)."""
        # A relay polls all its tasks at once, so a new one waits anything up to a whole period.
        first = dice(self.chance, "poll").uniform(4.0, RELAY_PERIOD)
        since_first = now - self.submitted - first
        if since_first < 0:
            return UNSEEN
        return step_at(self.fetched or self.timeline, first + since_first // RELAY_PERIOD * RELAY_PERIOD)

    @property
    def seed(self) -> int:
        """Midjourney's seed, written into the picture."""
        return midjourney_seed(self.chance)

    @cached_property
    def job(self) -> str:
        """Midjourney's own id of the work, part of every picture link and button."""
        return str(UUID(int=dice(self.chance, "job").getrandbits(128), version=4))

    def snowflake(self, purpose: str) -> str:
        """Return a 19-digit Discord id, always the same for one purpose."""
        return str(dice(self.chance, purpose).randrange(12 * 10**17, 15 * 10**17))

    def button_hash(self, generation: int) -> str:
        """Return the hash in the customIds of its buttons for `BUTTON_LIFE` seconds."""
        return str(UUID(int=dice(self.chance, "buttons", generation).getrandbits(128), version=4))

    def generation(self, now: float) -> int:
        """Return the number of the present button hash, counted from the task's end."""
        # A millisecond more, so that rounding cannot put the end before the end.
        return int((now - self.submitted - self.timeline[-1].after + 0.001) // BUTTON_LIFE)


@dataclass(frozen=True)
class View:
    """A task at one step, seen from one address at one moment. Task objects are made from it."""

    task: Task
    step: Step
    origin: str
    now: float
    profile: "Profile"

    def milliseconds(self, step: Step) -> int:
        """Return the time of a step as on the wire, in epoch milliseconds (PROTOCOL.md §5)."""
        return round((self.task.submitted + step.after) * 1000)

    @property
    def submit_time(self) -> int:
        return round(self.task.submitted * 1000)

    @property
    def start_time(self) -> int | None:
        """Epoch ms of SUBMITTED, if reached."""
        started = next((step for step in self.task.timeline if step.status == "SUBMITTED"), None)
        return self.milliseconds(started) if started and self.step.after >= started.after else None

    @property
    def finish_time(self) -> int | None:
        """Epoch ms of the end, if reached."""
        return self.milliseconds(self.step) if self.step.terminal else None

    @property
    def succeeded(self) -> bool:
        return self.step.status == "SUCCESS"

    @property
    def found(self) -> str:
        """The texts of a finished describe or shorten, as the bot's message shows them, "" for anything else."""
        return self.task.work.message if self.succeeded else ""

    @property
    def final_prompt(self) -> str:
        """The prompt, or in the end the texts of describe and shorten (PROTOCOL.md §13.1, §13.2)."""
        return self.found or self.task.work.prompt

    @property
    def prompt_en(self) -> str:
        """The prompt, or in the end the texts of describe. A shorten leaves the prompt there (PROTOCOL.md §13.2)."""
        return self.final_prompt if self.task.work.action == "DESCRIBE" else self.task.work.prompt

    @property
    def command(self) -> str:
        """The command, or in the end the texts of shorten."""
        work = self.task.work
        if self.found and work.action == "SHORTEN":
            return self.found
        return f"{work.command} {work.prompt or f'{self.task.id}.png'}"

    @property
    def buttons(self) -> list[dict[str, object]]:
        """The buttons below the result, with the present customIds."""
        hash_ = self.task.button_hash(self.task.generation(self.now))
        offers = self.task.work.offers if self.succeeded else ()
        ids = [one.shape.replace("{hash}", hash_) for one in offers]
        return [
            {"customId": id_, "emoji": one.emoji, "label": one.label, "type": 2, "style": 2}
            for id_, one in zip(ids, offers, strict=True)
        ]

    @property
    def has_preview(self) -> bool:
        """True if an unfinished picture is visible."""
        shown = self.profile.previews and bool(self.task.work.pictures) and not self.task.work.texts
        return shown and self.step.status == "IN_PROGRESS" and self.step.percent > 0

    @property
    def picture(self) -> str | None:
        """The raw Discord link (PROTOCOL.md §9) of the preview or picture. Of a video, the first mp4 at the proxies."""
        if self.succeeded and self.videos and self.profile.films_are_pictures:
            return self.videos[0]
        if self.succeeded and self.task.work.pictures:
            name = f"user_{prompts.slug(self.task.work.prompt)}_{self.task.job}.png"
        elif self.has_preview:
            name = f"{self.task.job}_grid_0.webp"
        else:
            return None
        path = f"/attachments/{self.task.snowflake('channel')}/{self.task.snowflake('message')}/{name}"
        return discord_link(self.origin, path, self.milliseconds(self.step) // 1000)

    @property
    def videos(self) -> list[str]:
        work = self.task.work
        count = work.film.count if work.film and self.succeeded else 0
        return [f"{self.origin}/cdn/video/{self.task.job}/{number}.mp4" for number in range(count)]


def discord_link(origin: str, path: str, since: int) -> str:
    """Return a link with the times from and until which it is good (PROTOCOL.md §9)."""
    digest = hashlib.sha256(f"{path} {since}".encode()).hexdigest()
    return f"{origin}{path}?ex={since + LINK_LIFE:x}&is={since:x}&hm={digest}&"
