"""`receiver slack manifest`."""

from __future__ import annotations

import json
from pathlib import Path

from servers import receiver

from receiver.handlers.slack.api import SCOPES


def test_the_manifest_is_json_and_its_use_is_told(tmp_path: Path) -> None:
    """Standard output is what one pastes, standard error says where, and what each scope is for."""
    done = receiver("slack", "manifest", "--name", "Boats", folder=tmp_path, env={})
    found = json.loads(done.out)
    assert done.code == 0
    assert found["display_information"]["name"] == "Boats"
    assert found["oauth_config"]["scopes"]["bot"] == sorted(SCOPES)
    assert "https://api.slack.com/apps" in done.err
    assert all(scope in done.err for scope in SCOPES)
