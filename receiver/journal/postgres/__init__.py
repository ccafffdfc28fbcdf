"""The journal on PostgreSQL (14 or newer): for many processes on many machines."""

from receiver.journal.postgres.journal import PostgresJournal, open_postgres

__all__ = ["PostgresJournal", "open_postgres"]
