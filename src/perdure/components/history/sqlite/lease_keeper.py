"""Keeps the leases of one store's workers, and watches those of others."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from perdure.components.history.sqlite.bell import Bell
from perdure.components.history.sqlite.leases import (
    LeaseRow,
    LeaseWatch,
    WorkerLock,
    end_leases,
    insert_lease,
    is_abandoned,
    lease_rows,
    remove_lock,
    renew_leases,
    strike_off,
)
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.turns import turn


class Dead(msgspec.Struct, frozen=True, gc=False):
    """Who seems to be dead.

    Attributes:
        workers: whose process is gone or silent.
        bells: names of the bells that nobody hears.
    """

    workers: list[LeaseRow]
    bells: list[str]

    def __bool__(self) -> bool:
        """Whether it is anybody."""
        return bool(self.workers or self.bells)


class LeaseKeeper:
    """Renews and ends leases; reads steady clocks alone.

    Args:
        database: the database file.
        lease_seconds: how long a worker of this store may be silent.
        bell: this process's bell, and the way to those of the others.

    Attributes:
        locks: the locks of this store's workers, by token.
    """

    def __init__(self, database: Path, lease_seconds: float, bell: Bell) -> None:
        self.locks: dict[int, WorkerLock] = {}
        self._folder = database.parent
        self._prefix = f"{database.name}-worker-"
        self._lease_seconds = lease_seconds
        self._bell = bell
        self._shown_at: dict[int, float] = {}
        self._renewed_at = 0.0
        self._judges_from = 0.0
        self._watch = LeaseWatch()

    def insert(self, connection: sqlite3.Connection, worker: str, app_id: str, lock: WorkerLock) -> int:
        """Begin a lease and return its token."""
        seconds, bell = self._lease_seconds, self._bell
        return insert_lease(connection, worker, app_id, lock_file=lock.path.name, lease_seconds=seconds, bell=bell)

    def keep(self, token: int, lock: WorkerLock) -> None:
        """Keep a lease alive from now on, whose worker took the lock before it was inserted."""
        self.locks[token] = lock
        self._shown_at[token] = lock.taken_at

    def is_kept(self, token: int) -> bool:
        """Whether a lease was renewed so lately that nobody can have ended it; false for one that was released."""
        shown_at = self._shown_at.get(token)
        return shown_at is not None and time.monotonic() - shown_at < self._lease_seconds

    def release(self, token: int) -> None:
        """Keep a lease alive no longer."""
        self._shown_at.pop(token, None)
        lock = self.locks.pop(token, None)
        if lock is not None:
            lock.release()

    def let_go(self, end: Callable[[WorkerLock], None]) -> None:
        """Keep no lease alive any longer; the locks are ended in the given way."""
        for lock in self.locks.values():
            end(lock)
        self.locks.clear()
        self._shown_at.clear()

    @property
    def wants_renewal(self) -> bool:
        """Whether it is time to renew the leases of this store's workers."""
        return bool(self.locks) and time.monotonic() - self._renewed_at >= self._lease_seconds / 4

    def renew(self, connection: sqlite3.Connection, patience: float) -> None:
        """Show that this store's workers live, in a transaction of its own.

        Args:
            connection: one that is in no transaction.
            patience: seconds to wait for the write lock.

        Raises:
            sqlite3.Error: it could not be written.
        """
        with turn(connection, patience):
            began = time.monotonic()
            living = renew_leases(connection, self.locks, self._lease_seconds)
        self._shown_at.update(dict.fromkeys(living, began))
        now = time.monotonic()
        if self._is_late(now):
            self._judges_from = now + self._lease_seconds / 2
        self._renewed_at = now

    def _is_late(self, now: float) -> bool:
        return now - self._renewed_at > self._lease_seconds / 2

    def _may_judge(self, now: float) -> bool:
        """Whether the silence of others means anything.

        Who could not renew his own leases in time judges nobody by his silence until the others had their chance: what
        held him up, a store that was locked or a disk that was full, most likely held them up, too.
        """
        return not self.locks or (now >= self._judges_from and not self._is_late(now))

    def give_up(self, connection: sqlite3.Connection) -> None:
        """Write that the workers of this store, which nobody left, are no more."""
        renew_leases(connection, self.locks, 0.0)

    def watch_anew(self) -> None:
        """Forget how long others were silent."""
        self._watch = LeaseWatch()

    def dead(self, connection: sqlite3.Connection) -> Dead:
        """Return the workers of others whose process is gone or silent, and the bells that nobody hears."""
        mine = set(self.locks)
        rows = [row for row in lease_rows(connection) if row.token not in mine]
        now = time.monotonic()
        silent = self._watch.silent(rows, now)
        bells = [name for (name,) in connection.execute("SELECT name FROM listener")]
        return Dead(
            [row for row in rows if self._is_gone(row) or (row in silent and self._may_judge(now))],
            [name for name in bells if self._bell.is_abandoned(name)],
        )

    def end(
        self, connection: sqlite3.Connection, dead: Dead, tidings: Tidings, asked_at: float
    ) -> tuple[int, list[LeaseRow]]:
        """End the leases of dead workers that have not shown themselves since; return how many instances that freed.

        Args:
            connection: in a transaction.
            dead: what :meth:`dead` returned.
            tidings: told of what is nobody's now.
            asked_at: when this was asked for, in seconds of ``time.monotonic()``.
        """
        now = time.monotonic()
        # After a wait the silent are spared: the store was locked, and who writes first now is chance.
        judges = self._may_judge(now) and now - asked_at <= self._lease_seconds / 4
        ended = [row for row in lease_rows(connection) if row in dead.workers and (judges or self._is_gone(row))]
        for name in dead.bells:
            strike_off(connection, name)
        return end_leases(connection, [row.token for row in ended], tidings, recovered=True), ended

    def clear_away(self, ended: list[LeaseRow], dead: Dead) -> None:
        """Remove the files that the dead left."""
        for row in ended:
            lock = self._lock_of(row)
            if lock is not None:
                remove_lock(lock)
        for name in dead.bells:
            self._bell.remove(name)

    def _is_gone(self, row: LeaseRow) -> bool:
        lock = self._lock_of(row)
        return lock is not None and is_abandoned(lock)

    def _lock_of(self, row: LeaseRow) -> Path | None:
        # Names come out of the database, and lead to no other file, whatever is written there.
        name = row.lock_file or ""
        return self._folder / name if name.startswith(self._prefix) and os.sep not in name else None
