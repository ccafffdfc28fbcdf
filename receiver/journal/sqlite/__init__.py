"""The store on one SQLite file, for one machine.

store         `SQLiteStore`, and the thread that writes: all operations that wait share a transaction
documents     documents in memory, the statements that write their differences, listings
files         connections, the schema, SQLite's errors as sentences
maintenance   check, back up, rewrite and copy the whole file
"""

from receiver.journal.sqlite.store import SQLiteStore, open_store

__all__ = ["SQLiteStore", "open_store"]
