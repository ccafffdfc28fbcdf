"""Ports for servers that are started a moment later, as tests and experiments do."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_PORTS = range(10_000, 32_000)
"""Below those that systems hand out by themselves (Linux from 32768 on, macOS from 49152 on): nobody's connection, and
no server that takes any port, gets one of these meanwhile."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens now, all different: each is held until the last is found."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = random.SystemRandom().choice(_PORTS)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue  # taken
            found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
