"""What the modules of this room execute, by name."""

from __future__ import annotations

from receiver.journal.statements import queries

SQL = queries("sqlite")
