"""Where a journal may lie: the kinds of file systems, as Linux lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.disk import check_local_disk
from receiver.errors import JournalError
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
server:/export /srv/share nfs4 rw,vers=4.2 0 0
//nas/pictures /srv/my\\040pictures cifs rw 0 0
bucket /srv/bucket fuse.gcsfuse rw 0 0
user@host: /srv/ssh fuse.sshfs rw 0 0
pool /srv/pool fuse.mergerfs rw 0 0
/dev/sdb1 /srv/stick fuseblk rw 0 0
/dev/vdb /srv/share/local xfs rw 0 0
first:/ /srv/twice nfs rw 0 0
/dev/vdc /srv/twice btrfs rw 0 0
broken
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mounts"
    file.write_text(MOUNTS)
    return file


@pytest.mark.parametrize(
    ("path", "kind", "taken"),
    [
        ("/srv/journal.db", "ext4", True),
        ("/run/journal.db", "tmpfs", True),
        ("/srv/share/journal.db", "nfs4", False),
        ("/srv/share/not/there/yet/journal.db", "nfs4", False),
        ("/srv/shared/journal.db", "ext4", True),
        ("/srv/my pictures/journal.db", "cifs", False),
        ("/srv/bucket/journal.db", "fuse.gcsfuse", False),
        ("/srv/ssh/journal.db", "fuse.sshfs", False),
        ("/srv/pool/journal.db", "fuse.mergerfs", True),
        ("/srv/stick/journal.db", "fuseblk", True),
        ("/srv/share/local/journal.db", "xfs", True),
        ("/srv/twice/journal.db", "btrfs", True),
        ("/srv/share/local/../journal.db", "nfs4", False),
    ],
)
def test_kinds(mounts: Path, path: str, kind: str, taken: bool) -> None:
    """Local disks are taken, network file systems are refused by a sentence that names kind and setting."""
    if taken:
        check_local_disk(Path(path), mounts)
        return
    with pytest.raises(JournalError, match="RECEIVER_DISK=network") as caught:
        check_local_disk(Path(path), mounts)
    assert f"({kind})" in str(caught.value)


def test_a_link_is_followed(tmp_path: Path) -> None:
    """It is where the file lies that counts."""
    (tmp_path / "link").symlink_to("/srv/share")
    (tmp_path / "mounts").write_text(MOUNTS)
    with pytest.raises(JournalError, match=r"\(nfs4\)"):
        check_local_disk(tmp_path / "link/journal.db", tmp_path / "mounts")


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    """Where nothing is known, nothing is refused."""
    check_local_disk(tmp_path / "journal.db", tmp_path / "missing")


async def test_this_disk_is_taken(tmp_path: Path) -> None:
    """The real list is read at each start."""
    journal = Journal(await open_store(tmp_path / "journal.db"))
    await journal.aclose()
