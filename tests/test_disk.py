"""Files that outlive a power cut, and drafts that two writers never share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.disk import make_folder, own_draft


def test_a_draft_is_renamed_or_gone(tmp_path: Path) -> None:
    """Renamed in the block it stays under its new name; otherwise nothing is left."""
    draft, path = tmp_path / ".draft", tmp_path / "whole"
    with own_draft(draft) as file:
        file.write(b"all of it")
        file.flush()
        os.replace(draft, path)
    with contextlib.suppress(ZeroDivisionError), own_draft(draft) as file:
        file.write(b"half")
        _ = 1 / 0
    assert os.listdir(tmp_path) == ["whole"]
    assert path.read_bytes() == b"all of it"


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    """While one writes, another is refused and spoils nothing; afterwards it may."""
    draft = tmp_path / ".draft"
    with own_draft(draft) as file:
        file.write(b"mine")
        with pytest.raises(BlockingIOError), own_draft(draft):
            pass
        file.flush()
        assert draft.read_bytes() == b"mine"
    with own_draft(draft) as file:
        assert os.fstat(file.fileno()).st_size == 0


def test_the_draft_of_a_renamed_file_is_another_one(tmp_path: Path) -> None:
    """Who starts after the rename does not touch what was renamed, although its writer still holds it open."""
    draft, path = tmp_path / ".draft", tmp_path / "whole"
    with own_draft(draft) as first:
        first.write(b"first")
        first.flush()
        os.replace(draft, path)
        with own_draft(draft) as second:
            second.write(b"second")
    assert path.read_bytes() == b"first"
    assert not draft.exists()


def test_leftovers_and_links_are_cleared(tmp_path: Path) -> None:
    """What a killed process left is removed, and so is a link: what it points to keeps its content."""
    draft, other = tmp_path / ".draft", tmp_path / "other"
    other.write_bytes(b"somebody else's")
    for left in (lambda: draft.write_bytes(b"left"), lambda: draft.symlink_to(other), lambda: draft.hardlink_to(other)):
        left()
        with own_draft(draft) as file:
            file.write(b"mine")
        assert not draft.is_symlink()
        assert not draft.exists()
    assert other.read_bytes() == b"somebody else's"


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    """Also when they are there already."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


PROGRAM = """
import sys, threading
from receiver.disk import return_large_blocks

SIZE = 12_000_000
meeting, lasting = threading.Barrier(6), []

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

def work():
    for _ in range(4):
        meeting.wait()
        large = bytearray(SIZE)
        large[::4096] = b"x" * len(large[::4096])  # touched, as by a picture
        lasting.append(bytearray(3000))  # allocated after it, and kept
        del large
    meeting.wait()
    meeting.wait()  # a thread that has ended gives all of its memory to others

if sys.argv[1] == "returned":
    assert return_large_blocks()
before = resident()
threads = [threading.Thread(target=work) for _ in range(meeting.parties - 1)]
for thread in threads:
    thread.start()
for _ in range(5):
    meeting.wait()
print(resident() - before)
meeting.wait()
"""


def kept(mode: str) -> int:
    """Bytes that stay resident after five threads had 12 MB each, four times."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, timeout=60)
    return int(run.stdout)


def test_large_blocks_go_back() -> None:
    """All of them; and without the call each thread keeps its own, or this test proves nothing."""
    assert kept("returned") < 10_000_000
    assert kept("as it comes") > 30_000_000
