"""The number of files that a reader passes when following one callback, or one dispatch, through the code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from postgres import new_database

SCRIPT = Path(__file__).parent.parent / "scripts" / "path_files.py"
CALLBACK = {"sqlite": 15, "postgres": 17}
DISPATCH = 16


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_few_files_are_passed(database: str) -> None:
    """One progress callback passes at most 15 files (17 on PostgreSQL) up to its 200. One of them is `telemetry.py`,
    because a body is redacted before it is kept. One dispatch passes at most 16 from the claim to the record (on
    SQLite)."""
    url = database if database == "sqlite" else await new_database("path")
    command = [sys.executable, SCRIPT, "--json", "--database", url]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
    passed = json.loads(done.stdout)
    assert len(passed["callback"]) <= CALLBACK[database], passed["callback"]
    assert database != "sqlite" or len(passed["dispatch"]) <= DISPATCH, passed["dispatch"]
