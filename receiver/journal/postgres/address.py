"""The address of a database as libpq takes it, made into one for a driver that knows less."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

from receiver.errors import JournalError

LEFT_OUT = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "sslcompression",
        "sslsni",
    }
)
"""Parameters of libpq's own side of a connection. The driver tells the server what it does not know, and the server
refuses it. So be it with those that ask for a check the driver cannot make (require_auth, requirepeer, sslcrldir …):
rather no start than one without it. `channel_binding` is the exception, because hosters write it into their URLs."""

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def understood(url: str) -> tuple[str, float | None]:
    """The address for the driver, and how many seconds a new connection may take by it; None: it does not say.

    Raises:
        JournalError: it names a file that is not there.
        ValueError: it is none.
    """
    base, _, query = url.partition("?")
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in FILES:
        if name in given and not Path(given[name]).is_file():
            raise JournalError(
                f"RECEIVER_DATABASE names a file with {name} that is not there: {given[name]}. Name one that is."
            )
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in LEFT_OUT]
    seconds = int(given.get("connect_timeout", 0))
    return f"{base}?{'&'.join(kept)}" if any(kept) else base, seconds if seconds > 0 else None
