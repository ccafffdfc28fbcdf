"""Texts that once took quadratic time: each takes a hundredth of a second of the processor at its greatest length."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from receiver.handlers.discord import escape
from receiver.handlers.result_files import slug
from receiver.tasks import MAX_TEXT, Task
from receiver.web.api.responses import _SHELL

HOSTILE = ["a", " ", "\n", "1", "[", "[a](", "://", "1. ", "**", "--a ", "See: "]


def texts(text: str) -> object:
    return Task(id="1", action="SHORTEN", final_prompt=text, description=text).texts


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("read", [slug, escape, texts, lambda text: _SHELL.sub("", text)])
def test_the_longest_word_of_the_provider_is_read_in_linear_time(read: Callable[[str], object], piece: str) -> None:
    """A prompt without spaces once stopped the process for 12 s."""
    text = (piece * MAX_TEXT)[:MAX_TEXT]
    taken = []
    for _ in range(3):
        begun = time.thread_time()
        read(text)
        taken.append(time.thread_time() - begun)
    assert min(taken) < 0.05
