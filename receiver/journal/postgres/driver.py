"""asyncpg, which is an extra: the one place that imports it."""

from __future__ import annotations

try:
    import asyncpg  # type: ignore[import-untyped]
except ImportError as exc:  # pragma: no cover - the tests have it
    raise ImportError("A journal on PostgreSQL needs asyncpg: pip install 'imagine-receiver[postgres]'") from exc

Connection = asyncpg.Connection

__all__ = ["Connection", "asyncpg"]
