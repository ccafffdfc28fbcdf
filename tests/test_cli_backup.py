"""`backup` and `restore`: a whole installation in one folder, and from there into an empty one. Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from engine import PNG
from servers import receiver, serving_receiver
from test_cli_listings import Library, fill

from receiver.media import MediaStore

KEY = {"COMETAPI_KEY": "sk-0123456789", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9"}
TOML = '[destinations.album]\nurl = "file:./album"\n'


@pytest.fixture
async def library(tmp_path: Path) -> Library:
    """With a key, one archived picture and a file of settings."""
    folder = tmp_path / "old"
    folder.mkdir()
    library = await fill(folder)
    (folder / "receiver.toml").write_text(TOML)
    (folder / ".receiver/keys").write_text("a-key-of-thirty-two-bytes-or-more-1\n")
    kept = await MediaStore(folder / ".receiver/media").put_bytes(PNG, url="")
    with closing(sqlite3.connect(folder / ".receiver/journal.db", isolation_level=None)) as db:
        db.execute("INSERT INTO files VALUES (?, ?)", (library.succeeded, kept.digest))
    return library


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_backup_beside_a_server_is_restored_elsewhere(library: Library, tmp_path: Path) -> None:
    """The server answers all the while. Nobody else may read the copy. What is restored lists the same and starts."""
    env = KEY | {"RECEIVER_PUBLIC_URL": "https://receiver.example.com"}
    with serving_receiver(library.folder, env) as (_, url):
        backup = asyncio.create_task(asyncio.to_thread(receiver, "backup", "../copy", folder=library.folder, env=env))
        async with httpx.AsyncClient(base_url=url) as client:
            while not backup.done():
                assert (await client.get("/readyz")).status_code == 200  # it writes to the journal
        done = await backup
    copy, new = tmp_path / "copy", tmp_path / "new"
    assert (done.code, done.err) == (0, "")
    assert done.out == f"../copy: journal.db, keys, receiver.toml, 1 archived files ({len(PNG):,} bytes), checked.\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(copy)} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "old"]
    new.mkdir()
    restored = receiver("restore", "../copy", folder=new, env={})
    assert restored.code == 0, restored.err
    assert restored.out.startswith("Restored ../copy of ")
    assert restored.out.endswith(": 3 submissions, 1 archived files, receiver.toml, keys.\n")
    assert "the same address as before, RECEIVER_PUBLIC_URL=https://receiver.example.com" in restored.err
    assert receiver("tasks", "list", "--json", folder=new, env={}).out == library.run("tasks", "list", "--json").out
    assert (new / "receiver.toml").read_text() == TOML
    assert (new / ".receiver/keys").read_text() == (library.folder / ".receiver/keys").read_text()
    assert PNG in [path.read_bytes() for path in files(new / ".receiver/media")]
    assert "missing" not in receiver("journal", "check", folder=new, env={}).out
    with serving_receiver(new, KEY) as (_, url):
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/readyz")).status_code == 200


async def test_an_empty_file_of_settings_is_copied_too(library: Library, tmp_path: Path) -> None:
    (library.folder / "receiver.toml").write_text("")
    done = receiver("backup", "../copy", folder=library.folder, env=KEY)
    assert done.code == 0, done.err
    assert (tmp_path / "copy" / "receiver.toml").read_bytes() == b""


async def test_nothing_is_replaced(library: Library, tmp_path: Path) -> None:
    """Neither a folder by a backup, nor a journal or other keys by a restore. The sentence says what to do."""
    assert library.run("backup", "../copy", "--without-media").code == 0
    for arguments, words in {
        ("backup", "../copy"): "a backup replaces nothing",
        ("backup", "../nowhere/copy"): "Make it first",
        ("restore", "../copy"): "journal.db is there already, and nothing is replaced. Stop Receiver",
        ("restore", "../old"): "../old is no complete backup",
    }.items():
        refused = library.run(*arguments)
        assert refused.code == 1
        assert words in refused.err
    other = tmp_path / "other"
    (other / ".receiver").mkdir(parents=True)
    (other / ".receiver/keys").write_text("another-key-of-thirty-two-bytes-or-more\n")
    refused = receiver("restore", "../copy", folder=other, env={})
    assert refused.code == 1
    assert "has other keys than the backup" in refused.err
    assert [path.name for path in files(other)] == ["keys"]


@pytest.mark.parametrize("name", ["keys", "journal.db", "media"])
async def test_a_damaged_backup_restores_nothing(library: Library, tmp_path: Path, name: str) -> None:
    """The error names the damaged file."""
    assert library.run("backup", "../copy").code == 0
    for path in [tmp_path / "copy" / name] if name != "media" else files(tmp_path / "copy/media"):
        os.truncate(path, 20) if name != "media" else path.unlink()
    new = tmp_path / "new"
    new.mkdir()
    refused = receiver("restore", "../copy", folder=new, env={})
    assert refused.code == 1
    assert f"is damaged or not complete: {name}" in refused.err
    assert list(new.iterdir()) == []


async def test_a_picture_that_is_gone_is_told(library: Library, tmp_path: Path) -> None:
    """The backup is made without it, and both commands say so."""
    for path in files(library.folder / ".receiver/media"):
        path.unlink()
    made = library.run("backup", "../copy")
    assert (made.code, "1 archived files are missing in the media store" in made.err) == (0, True)
    new = tmp_path / "new"
    new.mkdir()
    restored = receiver("restore", "../copy", "--json", folder=new, env={})
    assert len(json.loads(restored.out)["manifest"]["missing"]) == 1
    assert "were missing when the backup was made" in restored.err
