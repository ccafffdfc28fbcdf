"""How two views of one task become one (PROTOCOL.md §6)."""

from __future__ import annotations

import msgspec

from receiver.tasks.task import RANKS, Task


def merge(old: Task | None, new: Task) -> Task:
    """The later of two views of one task.

    Monotone by (rank, progress): a duplicate, a late callback or a relay that lags changes nothing. A SUCCESS beats a
    FAILURE or CANCEL of the same rank, because those may be false (PROTOCOL.md §8). An equal view may still fill in
    what was unset (buttons and links come late).
    """
    if old is None:
        return new
    if new.status not in RANKS:
        return old
    if new.rank > old.rank and not (old.terminal and new.terminal):
        return _fill(new, old)
    if new.status == "SUCCESS" and old.status in ("FAILURE", "CANCEL"):
        return _fill(new, msgspec.structs.replace(old, fail_reason=""))
    if new.status == old.status and new.rank >= old.rank:
        return _fill(new, old)
    return old


_LASTING: tuple[str, ...] = (
    "action", "prompt", "prompt_en", "final_prompt", "description", "state", "submit_ms", "start_ms", "finish_ms",
    "image_url", "image_urls", "video_url", "video_urls", "fail_reason", "buttons", "seed",
)  # fmt: skip


def _fill(new: Task, old: Task) -> Task:
    """`new` with what it leaves unset taken from `old`; but a preview is no result: an end keeps its own links only."""
    kept = {name: getattr(old, name) for name in _LASTING if not getattr(new, name) and getattr(old, name)}
    if new.terminal and new.status != old.status:
        for name in ("image_url", "image_urls", "video_url", "video_urls"):
            kept.pop(name, None)
    return msgspec.structs.replace(new, **kept) if kept else new
