"""The journal on one SQLite file, for one machine."""

from receiver.journal.sqlite.journal import SQLiteJournal, open_journal

__all__ = ["SQLiteJournal", "open_journal"]
