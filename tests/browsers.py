"""A real browser for tests: Debian's Chromium, driven by Playwright. Where it is missing, root installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

MILLISECONDS = 60_000
"""Milliseconds after which a test gives up on what should appear."""


def chromium() -> str:
    """The path of Chromium. Raises RuntimeError where it cannot be had."""
    for again in (False, True):
        if found := shutil.which("chromium"):
            return found
        if again or os.geteuid() != 0:
            break
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(command, check=False, capture_output=True)
    raise RuntimeError("These tests need Chromium: sudo apt-get install chromium")


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--in-process-gpu"])
        yield opened
        opened.close()


@contextmanager
def tab(opened: Browser, **options: Any) -> Iterator[Page]:
    """A page with cookies of its own. Errors on its console, violations of the policy included, fail the test."""
    context = opened.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(MILLISECONDS)
    page, errors = context.new_page(), list[str]()
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []
    context.close()
