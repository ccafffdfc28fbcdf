"""The store on one SQLite file, for one machine."""

from receiver.journal.sqlite.store import SQLiteStore, open_store

__all__ = ["SQLiteStore", "open_store"]
