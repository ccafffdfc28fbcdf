"""`receiver help`: the handbook on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from handbooks import PAGES
from servers import COMMAND, environment, receiver
from waiting import PATIENCE

from receiver.cli import handbook
from receiver.errors import NotFound


def test_the_list_names_every_page(capsys: pytest.CaptureFixture[str]) -> None:
    """With its first sentence, in groups."""
    handbook.help()
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(PAGES) <= rows.keys()
    assert "Post results in a Slack channel" in rows["slack"]


def test_a_page_in_a_pipe_is_its_text(tmp_path: Path) -> None:
    """Markdown as it is written."""
    shown = receiver("help", "Words", folder=tmp_path, env={})
    assert (shown.code, shown.out) == (0, PAGES["words"])


def test_a_page_has_no_comments(capsys: pytest.CaptureFixture[str]) -> None:
    """The marks of generated tables are for the repository."""
    handbook.help("settings")
    assert "<!--" not in capsys.readouterr().out


def test_a_page_on_a_terminal_is_formatted(tmp_path: Path) -> None:
    """With drawn tables, and without Markdown's own signs."""
    ours, theirs = pty.openpty()
    env = environment(tmp_path, {"TERM": "xterm", "COLUMNS": "80"})
    with subprocess.Popen([COMMAND, "help", "words"], cwd=tmp_path, env=env, stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        data = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(65536):
                    data += chunk
            except OSError:  # the other end is closed
                pass
        assert process.wait(PATIENCE) == 0
    text = data.decode()
    assert "Look up the words" in text
    assert "─────" in text
    assert "|---|" not in text


@pytest.mark.parametrize(("word", "page"), [("replay", "operate"), ("n8n", "webhook"), ("nginx", "proxy")])
def test_a_word_of_a_heading_shows_its_section(capsys: pytest.CaptureFixture[str], word: str, page: str) -> None:
    """The section says which page it is from."""
    handbook.help(word)
    assert capsys.readouterr().out.startswith(f"*From the page {page}:*\n\n## ")


@pytest.mark.parametrize(("word", "advice"), [("slak", "Did you mean slack?"), ("xyzzy", "See: receiver help")])
def test_an_unknown_page_names_near_ones(word: str, advice: str) -> None:
    """A sentence."""
    with pytest.raises(NotFound) as caught:
        handbook.help(word)
    assert str(caught.value) == f"The handbook has no page and no heading {word!r}. {advice}"
