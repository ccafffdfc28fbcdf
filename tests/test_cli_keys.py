"""`keys`: signing keys are rotated without losing a callback that is under way. Real processes."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from servers import receiver

from receiver.clock import Clock
from receiver.errors import TokenError
from receiver.events import new_id
from receiver.settings import Settings, ensure_keys
from receiver.tokens import Tokens

OLD = "a-key-of-thirty-two-bytes-or-more-1"


def tokens(folder: Path) -> Tokens:
    """As a process has them that starts now."""
    return Tokens(ensure_keys(Settings(data=folder / ".receiver")), max_age=72 * 3600, clock=Clock())


def test_old_keys_verify_until_they_are_pruned(tmp_path: Path) -> None:
    """A rotation shows no key and says until when the old one is needed. Before that it cannot be removed."""
    path = tmp_path / ".receiver" / "keys"
    path.parent.mkdir()
    path.write_text(f"{OLD}\n")
    id = new_id(0)
    under_way = tokens(tmp_path).url_token(id)
    rotated = receiver("keys", "rotate", folder=tmp_path, env={})
    assert rotated.code == 0, rotated.err
    old, new = path.read_text().split()
    assert old == OLD
    assert len(new) == 64
    assert new not in rotated.out + rotated.err
    assert "Restart every process" in rotated.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["keys"]
    assert tokens(tmp_path).read_url_token(under_way) == id
    signed_now = tokens(tmp_path).url_token(id)
    early = receiver("keys", "prune", folder=tmp_path, env={})
    assert early.code == 1
    assert "may still need the older keys" in early.err
    assert path.read_text().split() == [old, new]
    os.utime(path, (time.time() - 73 * 3600,) * 2)
    pruned = receiver("keys", "prune", folder=tmp_path, env={})
    assert (pruned.code, path.read_text()) == (0, f"{new}\n")
    assert tokens(tmp_path).read_url_token(signed_now) == id
    with pytest.raises(TokenError):
        tokens(tmp_path).read_url_token(under_way)


def test_keys_of_a_setting_are_printed_on_request_only(tmp_path: Path) -> None:
    """The error says what to set. `--print` gives that for a pipe, and changes nothing."""
    env = {"RECEIVER_KEYS": OLD}
    refused = receiver("keys", "rotate", folder=tmp_path, env=env)
    assert refused.code == 1
    assert "The keys come from RECEIVER_KEYS" in refused.err
    assert OLD not in refused.out + refused.err
    printed = receiver("keys", "rotate", "--print", folder=tmp_path, env=env)
    old, new = printed.out.split()
    assert (printed.code, old, len(new)) == (0, OLD, 64)
    assert new not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_rotate_before_the_first_start(tmp_path: Path) -> None:
    """No file is made."""
    for command in ("rotate", "prune"):
        refused = receiver("keys", command, folder=tmp_path, env={})
        assert refused.code == 1
        assert "There is no key in .receiver/keys yet" in refused.err
    assert list(tmp_path.iterdir()) == []
