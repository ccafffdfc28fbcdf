"""Every setting, declared once, and where its value came from.

`load` is the only place in Receiver that reads the environment; everything else receives plain values.
What wins, from strongest to weakest: command-line flag, `RECEIVER_*` variable, the names people already have
(`COMETAPI_KEY`, `DATABASE_URL`, `PORT`), `RECEIVER_CONFIG` (the whole TOML as text), `./receiver.toml`, the default.
An empty variable counts as not set.
"""

from receiver.settings.keys import ensure_keys, require_provider_key
from receiver.settings.listing import SettingDoc, describe, show
from receiver.settings.load import load
from receiver.settings.model import Destination, Settings
from receiver.settings.platform import check_platform

__all__ = [
    "Destination",
    "SettingDoc",
    "Settings",
    "check_platform",
    "describe",
    "ensure_keys",
    "load",
    "require_provider_key",
    "show",
]
