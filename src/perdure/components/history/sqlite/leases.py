"""Who is alive: a lock that the kernel lets go when its process dies, and a time limit for one that hangs."""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from perdure.components.history.sqlite.bell import Bell
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.turns import turn
from perdure.ports.history_store import Lease

if sys.platform != "win32":
    import fcntl

_INSERT = "INSERT INTO worker (name, app_id, lock_file, expires_at, listener) VALUES (?, ?, ?, ?, ?)"
_SET_EXPIRY = "UPDATE worker SET expires_at = ? WHERE token IN (SELECT value FROM json_each(?))"
_STILL_SILENT = "SELECT token FROM worker WHERE expires_at < ? AND token IN (SELECT value FROM json_each(?))"
_END = "DELETE FROM worker WHERE token IN (SELECT value FROM json_each(?)) RETURNING app_id, lock_file"
_FREE = """
UPDATE instance SET owner = NULL, recoveries = recoveries + ? WHERE key IN (
    SELECT key FROM instance INDEXED BY instance_due
    WHERE owner IN (SELECT value FROM json_each(?)) AND due IS NOT NULL
)
"""
_END_WATCHES = "DELETE FROM watch WHERE listener IN (SELECT id FROM listener WHERE name = ?)"


class WorkerLock:
    """A lock file beside the database, held for as long as its worker's process lives."""

    def __init__(self, database: Path) -> None:
        """Create and lock a file of its own for one worker."""
        self.path = Path(f"{database}-worker-{secrets.token_hex(6)}")
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        # A platform without kernel locks relies on the time limit alone.
        if sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go of the lock and remove the file."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)


class Dead(msgspec.Struct, frozen=True):
    """Who seems to be dead.

    Attributes:
        gone: tokens of workers whose process is gone.
        silent: tokens of workers that have not renewed their leases in time.
        bells: names of the bells that nobody hears.
    """

    gone: list[int]
    silent: list[int]
    bells: list[str]

    def __bool__(self) -> bool:
        """Whether it is anybody."""
        return bool(self.gone or self.silent or self.bells)


class Freed(msgspec.Struct, frozen=True):
    """What ended leases left.

    Attributes:
        instances: how many are nobody's now.
        lock_files: names of what the workers held.
    """

    instances: int
    lock_files: list[str]


class Leases:
    """The leases of this process's workers, and its judgement of the others.

    Args:
        database: the file beside which the lock files are.
        seconds: how long a lease lasts after it was renewed.
        bell: this process's bell, and the way to those of the others.

    Attributes:
        locks: what this process's workers hold, by token.
    """

    def __init__(self, database: Path, seconds: float, bell: Bell) -> None:
        self._database = database
        self._seconds = seconds
        self._bell = bell
        self._renewed_at = 0.0
        self._judges_at = 0.0
        self.locks: dict[int, WorkerLock] = {}

    # -- one's own

    def insert(self, connection: sqlite3.Connection, worker: str, app_id: str, lock: WorkerLock) -> int:
        """Begin a lease and return its token."""
        expires = time.time() + self._seconds
        parameters = (worker, app_id, lock.path.name, expires, enrol(connection, self._bell))
        return connection.execute(_INSERT, parameters).lastrowid or 0

    def hold(self, token: int, lock: WorkerLock) -> None:
        """Keep a lease that has begun alive."""
        if not self.locks:
            self._renewed_at = time.time()
        self.locks[token] = lock

    def release(self, token: int) -> None:
        """Keep a lease alive no longer."""
        lock = self.locks.pop(token, None)
        if lock is not None:
            lock.release()

    def is_time_to_renew(self) -> bool:
        """Whether there are leases whose first quarter is over."""
        return bool(self.locks) and abs(time.time() - self._renewed_at) >= self._seconds / 4

    def renew(self, connection: sqlite3.Connection, patience: float) -> None:
        """Prolong the leases, in a transaction of its own; ``patience`` is for the write lock, in seconds."""
        with turn(connection, patience):
            self.set_expiry(connection, time.time() + self._seconds)
        now = time.time()
        if self._is_late(now):
            self._judges_at = now + self._seconds / 2
        self._renewed_at = now

    def set_expiry(self, connection: sqlite3.Connection, expires: float) -> None:
        """Let the leases end at a time, in seconds since the epoch."""
        connection.execute(_SET_EXPIRY, (expires, *parameter(list(self.locks))))

    def _is_late(self, now: float) -> bool:
        return abs(now - self._renewed_at) > self._seconds * 0.75

    # -- the others

    def dead(self, connection: sqlite3.Connection) -> Dead:
        """Return who seems to be dead.

        A process that could not renew its own leases in time judges nobody by his silence for a while: what held it up
        (a database that was locked, a machine that slept) most likely held up the others, too.
        """
        now = time.time()
        judges = not self.locks or not (self._is_late(now) or now < self._judges_at)
        gone: list[int] = []
        silent: list[int] = []
        for token, lock_file, expires_at in connection.execute("SELECT token, lock_file, expires_at FROM worker"):
            if token in self.locks:
                continue
            if self._is_lock(lock_file) and is_abandoned(self._database.parent / lock_file):
                gone.append(token)
            elif judges and expires_at < now:
                silent.append(token)
        bells = [name for (name,) in connection.execute("SELECT name FROM listener")]
        return Dead(gone, silent, [name for name in bells if self._bell.is_abandoned(name)])

    def bury(self, connection: sqlite3.Connection, dead: Dead, tidings: Tidings) -> Freed:
        """End the leases of the dead, but for those that were renewed meanwhile."""
        still_silent = connection.execute(_STILL_SILENT, (time.time(), *parameter(dead.silent)))
        for name in dead.bells:
            strike_off(connection, name)
        return end_leases(connection, [*dead.gone, *(row[0] for row in still_silent)], tidings, recovered=True)

    def clear_away(self, dead: Dead, freed: Freed) -> None:
        """Remove the files that the dead left."""
        for lock_file in filter(self._is_lock, freed.lock_files):
            (self._database.parent / lock_file).unlink(missing_ok=True)
        for name in dead.bells:
            self._bell.remove(name)

    def _is_lock(self, name: str | None) -> bool:
        # Names come out of the database, and lead to no other file, whatever is written there.
        return name is not None and name.startswith(f"{self._database.name}-worker-") and os.sep not in name


def enrol(connection: sqlite3.Connection, bell: Bell) -> int | None:
    """Return this process's number among those that listen, None when it does not."""
    if bell.name is None:
        return None
    connection.execute("INSERT OR IGNORE INTO listener (name) VALUES (?)", (bell.name,))
    number: int = connection.execute("SELECT id FROM listener WHERE name = ?", (bell.name,)).fetchone()[0]
    return number


def strike_off(connection: sqlite3.Connection, bell_name: str) -> None:
    """Forget a listener and what it watches."""
    connection.execute(_END_WATCHES, (bell_name,))
    connection.execute("DELETE FROM listener WHERE name = ?", (bell_name,))


def is_live(connection: sqlite3.Connection, lease: Lease) -> bool:
    """Whether nobody has ended a lease."""
    return connection.execute("SELECT 1 FROM worker WHERE token = ?", (lease.token,)).fetchone() is not None


def end_leases(connection: sqlite3.Connection, tokens: Collection[int], tidings: Tidings, *, recovered: bool) -> Freed:
    """End leases; each instance that they owned is free, and has one recovery more if it is one."""
    ended = connection.execute(_END, parameter(tokens)).fetchall()
    instances = connection.execute(_FREE, (int(recovered), *parameter(tokens))).rowcount
    if instances:
        tidings.left_to_others(app_id for app_id, _ in ended)
    return Freed(instances, [lock_file for _, lock_file in ended])


def is_abandoned(path: Path) -> bool:
    """Whether the process that held this lock file is gone."""
    if sys.platform == "win32":  # pragma: no cover
        return False
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # Without the file nobody can tell: the time limit decides.
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
