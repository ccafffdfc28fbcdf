"""The work that every stack of `scripts/bench --peers` does, and where it does it."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ["PEERS_FOLDER"])
PORT = int(os.environ["PEERS_PORT"])
REDIS = f"redis://127.0.0.1:{os.environ.get('PEERS_REDIS', '')}/0"
POSTGRES = os.environ.get("PEERS_POSTGRES", "")


def effect(task_id: str) -> None:
    """Write a file named like the task, without an fsync."""
    (FOLDER / "effects" / task_id).write_text(task_id)
