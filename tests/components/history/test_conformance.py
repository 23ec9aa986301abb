from __future__ import annotations

from pathlib import Path

from perdure.components.history.memory import MemoryHistoryStore
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import HistoryStore
from perdure.testing.conformance.history import HistoryStoreConformance, ReclaimingConformance


class TestSQLiteHistoryStore(HistoryStoreConformance, ReclaimingConformance):
    def make_store(self, folder: Path) -> HistoryStore:
        return SQLiteHistoryStore(folder / "perdure.db")

    def reopen(self, store: HistoryStore) -> HistoryStore:
        return SQLiteHistoryStore(store.name)


class TestMemoryHistoryStore(HistoryStoreConformance):
    def make_store(self, folder: Path) -> HistoryStore:
        return MemoryHistoryStore()
