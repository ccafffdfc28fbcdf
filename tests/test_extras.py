"""Optional extras: their absence is a sentence with the command that helps."""

from __future__ import annotations

import pytest

from receiver.errors import SettingsError, require


def test_what_is_missing_says_how_to_get_it() -> None:
    """The text can be pasted."""
    with pytest.raises(SettingsError) as caught:
        require("no_such_module_of_ours", extra="s3", why="A bucket")
    assert str(caught.value) == 'A bucket needs more than the core: pip install "imagine-receiver[s3]"'


def test_what_is_there_passes() -> None:
    """Without importing it."""
    require("json", extra="none", why="JSON")
