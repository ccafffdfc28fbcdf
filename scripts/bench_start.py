#!/usr/bin/env python3
"""Start-up of commands: seconds of the whole process, best of 7, in an environment with Receiver and its dependencies
alone. `submit` is measured to the arrival of its request.

usage: scripts/bench_start.py [--command RECEIVER] [--json FILE] [--folder FOLDER]    Part of `scripts/bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = 7
GOALS = {"--version": 0.12, "--help": 0.12, "tasks list": 0.3, "submit": 0.35}
"""Seconds by command."""


def start_figures(command: Path, folder: Path) -> dict[str, float]:
    """Return the best time of each command, run in turn in a folder with an empty journal."""
    with socket.create_server(("127.0.0.1", 0)) as provider:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "COMETAPI_KEY": "benchmark",
            "RECEIVER_PROVIDER_URL": f"http://127.0.0.1:{provider.getsockname()[1]}",
        }
        subprocess.run([command, "migrate"], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[float]] = {name: [] for name in GOALS}
        for _ in range(TIMES):
            for name, times in found.items():
                words = ["submit", "a paper boat"] if name == "submit" else name.split()
                begun = time.perf_counter()
                process = subprocess.Popen(
                    [command, *words], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                if name == "submit":
                    provider.accept()[0].close()
                    times.append(time.perf_counter() - begun)
                    process.kill()
                process.wait()
                if name != "submit":
                    times.append(time.perf_counter() - begun)
        return {name: min(times) for name, times in found.items()}


def new_environment(folder: Path) -> Path:
    """Install Receiver alone and return its command."""
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", ROOT], check=True)
    return folder / "venv/bin/receiver"


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description="How long commands take to start.")
    parser.add_argument("--command", type=Path, help="the `receiver` to measure (default: one in a new environment)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--folder", type=Path, help="for the journal (default: the usual temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as name:
        figures = start_figures(options.command or new_environment(Path(name)), Path(name))
    print(f"\n{'START-UP':22}{'seconds':>9}  goal")
    for words, seconds in figures.items():
        print(f"{f'receiver {words}':22}{seconds:9.3f}  ≤ {GOALS[words]:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
