"""Memory of a process that handles large files: what is freed goes back to the system."""

from __future__ import annotations

import ctypes

LARGE = 1024 * 1024
"""Bytes from which on a block is the system's again as soon as it is freed."""
_M_MMAP_THRESHOLD = -3  # malloc.h


def return_large_blocks() -> bool:
    """Have the C library ask the system for each large block, and give it back. Returns whether it understood.

    glibc begins so, but raises its threshold to the largest block it sees freed, up to 32 MiB (mallopt(3)); from then
    on each thread keeps what its largest moment took, and pictures pass through a handful of threads. A threshold that
    is set stays. Other C libraries know no such call.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE))
    except (AttributeError, OSError):
        return False
