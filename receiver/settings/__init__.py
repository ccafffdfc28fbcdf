"""Every setting, declared once, and the source of its value.

`load` is the only place in Receiver that reads the environment. Everything else receives plain values.
Precedence, from strongest to weakest: command-line flag, `RECEIVER_*` variable, the names people already have
(`COMETAPI_KEY`, `DATABASE_URL`, `PORT`), `RECEIVER_CONFIG` (the whole TOML as text), `./receiver.toml`, the default.
An empty variable counts as not set.
"""

from receiver.settings.checks import check_platform, ensure_keys, prune_keys, require_provider_key, rotate_keys
from receiver.settings.load import load
from receiver.settings.model import CONCURRENCY, FEWER, MEDIA_HOSTS, Destination, Settings, show
from receiver.settings.options import declared

__all__ = [
    "CONCURRENCY",
    "FEWER",
    "MEDIA_HOSTS",
    "Destination",
    "Settings",
    "check_platform",
    "declared",
    "ensure_keys",
    "load",
    "prune_keys",
    "require_provider_key",
    "rotate_keys",
    "show",
]
