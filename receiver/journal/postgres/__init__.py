"""The journal on PostgreSQL (14 or newer): for many processes on many machines."""

from receiver.journal.postgres.store import PostgresStore, open_store

__all__ = ["PostgresStore", "open_store"]
