"""On which kind of file system a journal lies. SQLite's write-ahead log needs shared memory and locks that work, which
network file systems do not have (https://sqlite.org/wal.html §2.1; https://sqlite.org/howtocorrupt.html §2.1)."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from receiver.errors import JournalError

MOUNTS = Path("/proc/self/mounts")
"""What is mounted where, on Linux. Elsewhere it is not there, and nothing is known."""

_NETWORK = (
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("orangefs", "pvfs2", "smb2", "smb3", "smbfs"),
)
_LOCAL_FUSE = ("fuse.bindfs", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g")
"""Every other `fuse.…` is taken for a bucket or another machine: sshfs, s3fs, gcsfuse, rclone, blobfuse, juicefs …"""
_OCTAL = re.compile(r"\\([0-7]{3})")


def check_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Raises JournalError if `path` lies, or would lie, on a network file system."""
    kind = kind_of(path, mounts)
    if kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        raise JournalError(
            f"The journal {path} would lie on a network file system ({kind}), where SQLite cannot promise to keep what "
            "it wrote: a callback answered 200 could be lost. Name a local disk with RECEIVER_DATABASE; pictures may "
            "stay where they are. If only this machine uses the file and you accept the risk, set "
            "RECEIVER_DISK=network."
        )


def kind_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that `path` lies on, as `mount` calls it; "" where that cannot be known."""
    path = path.resolve()
    found, longest = "", -1
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, place, kind, *_ = [*line.split(" "), "", "", ""]
            folder = _OCTAL.sub(lambda match: chr(int(match[1], 8)), place)
            if path.is_relative_to(folder or "/nowhere") and len(folder) >= longest:  # the last of two covers the first
                found, longest = kind, len(folder)
    return found
