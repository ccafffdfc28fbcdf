"""Memory: what large files took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

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
