"""Keeps the leases of one store's workers, and watches those of others."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from perdure.components.history.sqlite.leases import (
    LeaseRow,
    LeaseWatch,
    WorkerLock,
    end_leases,
    is_abandoned,
    lease_rows,
    renew_leases,
)


class LeaseKeeper:
    """Renews and ends leases; reads steady clocks alone.

    Args:
        database: the database file.
        lease_seconds: how long a worker of this store may be silent.

    Attributes:
        locks: the locks of this store's workers, by token.
    """

    def __init__(self, database: Path, lease_seconds: float) -> None:
        self.locks: dict[int, WorkerLock] = {}
        self._folder = database.parent
        self._lease_seconds = lease_seconds
        self._renew_at = 0.0
        self._watch = LeaseWatch()

    @property
    def wants_renewal(self) -> bool:
        """Whether it is time to renew the leases of this store's workers."""
        return bool(self.locks) and time.monotonic() >= self._renew_at

    def renew(self, connection: sqlite3.Connection) -> None:
        """Show that this store's workers live.

        Raises:
            sqlite3.Error: it could not be written.
        """
        now = time.monotonic()
        renew_leases(connection, self.locks, self._lease_seconds)
        self._renew_at = now + self._lease_seconds / 4

    def give_up(self, connection: sqlite3.Connection) -> None:
        """Write that the workers of this store, which nobody left, are no more."""
        renew_leases(connection, self.locks, 0.0)

    def watch_anew(self) -> None:
        """Forget how long others were silent."""
        self._watch = LeaseWatch()

    def dead(self, connection: sqlite3.Connection) -> list[LeaseRow]:
        """Return the workers of others whose process is gone or silent."""
        mine = set(self.locks)
        rows = [row for row in lease_rows(connection) if row.token not in mine]
        silent = self._watch.silent(rows, time.monotonic())
        return [row for row in rows if row in silent or self._is_gone(row)]

    def end(self, connection: sqlite3.Connection, dead: list[LeaseRow], asked_at: float) -> tuple[int, list[LeaseRow]]:
        """End the leases of dead workers that have not shown themselves since; return how many instances that freed.

        Args:
            connection: in a transaction.
            dead: what :meth:`dead` returned.
            asked_at: when this was asked for, in seconds of ``time.monotonic()``.
        """
        # After a wait the silent are spared: the store was locked, so that nobody could renew, and who writes first
        # is chance.
        waited = time.monotonic() - asked_at > self._lease_seconds / 4
        ended = [row for row in lease_rows(connection) if row in dead and (not waited or self._is_gone(row))]
        return end_leases(connection, [row.token for row in ended], recovered=True), ended

    def _is_gone(self, row: LeaseRow) -> bool:
        return is_abandoned(self._folder / row.lock_file)
