"""PgBouncer in front of a PostgreSQL server: a transaction pooler, as many hosted databases have one. It comes from
Debian's packages; where it is not installed, it is unpacked into a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from ports import free_port
from waiting import PATIENCE

PACKAGES = ("pgbouncer", "libevent-2.1-7", "libc-ares2")
CACHE = Path(tempfile.gettempdir()) / "receiver-pgbouncer"
CONFIG = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 100
logfile = {folder}/log
pidfile = {folder}/pid
"""


def program() -> Path:
    """Where PgBouncer is. Raises RuntimeError where it cannot be had."""
    installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if installed:
        return Path(installed)
    unpacked = CACHE / "usr/sbin/pgbouncer"
    if not unpacked.exists():
        _unpack()
    return unpacked


def _unpack() -> None:
    """All at once, because other test processes may do the same."""
    with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as name:
        folder = Path(name)
        _download(folder)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "root")], check=True)
        (folder / "root").chmod(0o755)
        with suppress(OSError):  # somebody was quicker
            (folder / "root").rename(CACHE)


def _download(folder: Path) -> None:
    for again in (False, True):
        if again:
            subprocess.run(["apt-get", "update", "--quiet"], check=False, capture_output=True)
        got = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, check=False, capture_output=True, text=True
        )
        if got.returncode == 0:
            return
    raise RuntimeError(f"These tests need PgBouncer: sudo apt-get install pgbouncer ({got.stderr.strip()})")


@contextmanager
def pooler(url: str) -> Iterator[str]:
    """The URL of the same database through a pooler."""
    parts = urlsplit(url)
    own = free_port()
    folder = Path(tempfile.mkdtemp(prefix="receiver-pooler-"))
    folder.chmod(0o777)
    config = folder / "pgbouncer.ini"
    own_settings = {"own": own, "folder": folder}
    server = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password or "x"}
    config.write_text(CONFIG.format(**server, **own_settings))
    command = [program(), config]
    libraries = ":".join(str(path) for path in CACHE.glob("usr/lib/*"))
    # Like the server itself it refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        while process.poll() is None and not _listens(own):
            time.sleep(0.01)
        assert process.poll() is None, (folder / "said").read_text()
        yield parts._replace(netloc=f"postgres@127.0.0.1:{own}").geturl()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
