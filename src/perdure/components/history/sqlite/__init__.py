"""The default history store: one SQLite file, WAL, ``synchronous=FULL``, one writer thread with group commit."""

from perdure.components.history.sqlite.store import SQLiteHistoryStore

__all__ = ["SQLiteHistoryStore"]
