"""Optional extras: their absence is a sentence with the command that helps."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import pytest

from receiver.errors import SettingsError, require
from receiver.extras import install, requirement


def test_what_is_missing_says_how_to_get_it() -> None:
    """The text can be pasted, and names the page that helps."""
    with pytest.raises(SettingsError) as caught:
        require("no_such_module_of_ours", extra="s3", why="A bucket", page="s3")
    assert str(caught.value) == f"A bucket needs more than the core: {install('s3')}"
    assert caught.value.with_page.endswith(" (receiver help s3)")


def test_what_is_there_passes() -> None:
    """Without importing it."""
    require("json", extra="none", why="JSON")


def test_an_extra_is_installed_from_where_receiver_was(tmp_path: Path) -> None:
    """A clone or a wheel by its path, a repository by its URL, a package of an index by its name."""

    def named(**origin: object) -> str:
        return requirement("boats", "s3", json.dumps(origin))

    wheel = tmp_path / "a wheel.whl"
    wheel.touch()
    assert named(url=tmp_path.as_uri(), dir_info={}) == f"{tmp_path}[s3]"
    assert named(url=wheel.as_uri(), archive_info={}) == f"{wheel}[s3]"
    assert named(url=(tmp_path / "gone").as_uri(), dir_info={}) == ".[s3]"
    git = {"vcs": "git", "commit_id": "abc"}
    assert named(url="https://example.com/boats", vcs_info=git) == "boats[s3] @ git+https://example.com/boats@abc"
    assert named(url="https://example.com/b.whl", archive_info={}) == "boats[s3] @ https://example.com/b.whl"
    assert requirement("boats", "s3", None) == "boats[s3]"
    assert install("s3", "no-such-package-of-ours") == "pip install 'no-such-package-of-ours[s3]'"


def test_the_licence_is_in_the_package() -> None:
    """Its text, and its name in the metadata."""
    found = distribution("imagine-receiver")
    assert found.metadata["License-Expression"] == "MIT"
    assert found.metadata.get_all("License-File") == ["receiver/LICENSE"]
    assert "Permission is hereby granted" in (Path(__file__).parent.parent / "receiver/LICENSE").read_text()
