"""The store on PostgreSQL (14 or newer): for many processes on many machines.

store         `PostgresStore`
documents     documents in tables: read them, write their difference in batches, list rows
connections   the pool, transactions whose answer may get lost, the driver's errors as sentences, NOTIFY
maintenance   migrations, check, rewrite and copy all tables
"""

from receiver.journal.postgres.store import PostgresStore, open_store

__all__ = ["PostgresStore", "open_store"]
