"""Fixtures for tests of every room: each store a journal can stand on, and a journal on it."""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import certifi
import postgres
import pytest
from buckets import Buckets, shared_server
from hypothesis import HealthCheck, settings
from journals import STORES, SQLiteStore, Store
from postgres import PostgresStore

from receiver.journal import Journal

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile(
    "any machine",
    max_examples=int(os.environ.get("RECEIVER_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")

# One root instead of all: each webhook destination and many clients read them, which takes 30 ms.
ROOT = Path(tempfile.gettempdir()) / f"receiver-test-root-{os.getpid()}.pem"
ROOT.write_text(
    Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
)
atexit.register(ROOT.unlink, missing_ok=True)
os.environ["SSL_CERT_FILE"] = str(ROOT)

# People see times in the zone of their machine. Tests compare them in one.
os.environ["TZ"] = "UTC"
time.tzset()

# In the background of a script Ctrl-C is ignored, and whatever the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take minutes, so that the others fill the time beside them."""
    items.sort(key=lambda item: item.get_closest_marker("newcomer") is None)


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """Servers that tests have started and share live as long as the test process."""
    yield
    postgres.stop()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store; the test runs on each kind."""
    async with STORES[request.param](tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
async def tables(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SQLiteStore | PostgresStore]:
    """An empty store that speaks SQL; a bucket's own tests say what can be wrong with that."""
    async with STORES[request.param](tmp_path) as made:
        yield made  # type: ignore[misc]


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    """A journal on an empty store."""
    opened = await store.open()
    yield opened
    await opened.aclose()


@pytest.fixture(scope="session")
def s3_server() -> Buckets:
    """The one real S3 server for all tests of a process. A test that kills it starts it again."""
    return shared_server()
