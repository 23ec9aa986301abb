"""Who is alive: a lock that the kernel lets go when its process dies, and a time limit for one that hangs."""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from perdure.components.history.sqlite.bell import Bell
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.tidings import Tidings
from perdure.ports.history_store import Lease

if sys.platform != "win32":
    import fcntl

_INSERT = "INSERT INTO worker (name, app_id, lock_file, lease_seconds, listener) VALUES (?, ?, ?, ?, ?)"
_RENEW = """
UPDATE worker SET renewals = renewals + 1, lease_seconds = ? WHERE token IN (SELECT value FROM json_each(?))
RETURNING token
"""
_END = "DELETE FROM worker WHERE token IN (SELECT value FROM json_each(?)) RETURNING app_id"
# Due at once, whatever it was due at: by a clock that went back meanwhile, that may be far away.
_FREE = """
UPDATE instance SET owner = NULL, due = 0, recoveries = recoveries + ? WHERE key IN (
    SELECT key FROM instance INDEXED BY instance_due
    WHERE owner IN (SELECT value FROM json_each(?)) AND due IS NOT NULL
)
"""
_END_WATCHES = "DELETE FROM watch WHERE listener IN (SELECT id FROM listener WHERE name = ?)"


class LeaseRow(msgspec.Struct, frozen=True, gc=False):
    """A worker as the store has it.

    Attributes:
        token: its fencing token.
        lock_file: name of its lock file, beside the database.
        lease_seconds: how long it may be silent.
        renewals: how often it has renewed its lease.
    """

    token: int
    lock_file: str | None
    lease_seconds: float
    renewals: int


class LeaseWatch:
    """Judges by looking again and again which workers have fallen silent; reads no clock.

    A worker is silent once its row has stayed the same for as long as its lease lasts, in the observer's own time.
    Between two looks no more than a quarter of a lease is counted: when the observer itself was stopped, or the whole
    machine was, then so were the others, and their silence means nothing.
    """

    def __init__(self) -> None:
        self._silence: dict[int, tuple[int, float]] = {}
        self._looked_at: float | None = None

    def silent(self, rows: Iterable[LeaseRow], now: float) -> list[LeaseRow]:
        """Return the silent ones of the workers that there are.

        Args:
            rows: all workers.
            now: seconds of a clock that never jumps, such as ``time.monotonic()``.
        """
        gap = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        before, self._silence = self._silence, {}
        found: list[LeaseRow] = []
        for row in rows:
            renewals, silence = before.get(row.token, (None, 0.0))
            silence = silence + min(gap, row.lease_seconds / 4) if renewals == row.renewals else 0.0
            self._silence[row.token] = (row.renewals, silence)
            if silence >= row.lease_seconds:
                found.append(row)
        return found


class WorkerLock:
    """A lock file beside the database, held for as long as its worker's process lives.

    Attributes:
        path: the file.
        taken_at: when, in seconds of ``time.monotonic()``.
    """

    def __init__(self, database: Path) -> None:
        """Create and lock a file of its own for one worker."""
        self.taken_at = time.monotonic()
        self.path = Path(f"{database}-worker-{secrets.token_hex(6)}")
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        # A platform without kernel locks relies on the time limit alone.
        if sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go of the lock and remove the file."""
        self.path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the lock and leave the file: whoever finds it knows at once that its worker is gone."""
        os.close(self._file)


def insert_lease(
    connection: sqlite3.Connection, worker: str, app_id: str, *, lock_file: str, lease_seconds: float, bell: Bell
) -> int:
    """Begin a lease and return its token."""
    parameters = (worker, app_id, lock_file, lease_seconds, enrol(connection, bell))
    return connection.execute(_INSERT, parameters).lastrowid or 0


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


def end_leases(connection: sqlite3.Connection, tokens: Collection[int], tidings: Tidings, *, recovered: bool) -> int:
    """Remove some workers and free their instances; return how many those were."""
    ended = connection.execute(_END, parameter(tokens)).fetchall()
    freed = connection.execute(_FREE, (int(recovered), *parameter(tokens))).rowcount
    if freed:
        tidings.left_to_others(app_id for (app_id,) in ended)
    return freed


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


def remove_lock(path: Path) -> None:
    """Remove the lock file that a dead worker left."""
    path.unlink(missing_ok=True)


def lease_rows(connection: sqlite3.Connection) -> list[LeaseRow]:
    """Return all workers that the store knows."""
    rows = connection.execute("SELECT token, lock_file, lease_seconds, renewals FROM worker")
    return [LeaseRow(*row) for row in rows]


def renew_leases(connection: sqlite3.Connection, tokens: Iterable[int], lease_seconds: float) -> list[int]:
    """Show that some workers live, and how long they may be silent from now on; return those that nobody has ended."""
    return [token for (token,) in connection.execute(_RENEW, (lease_seconds, *parameter(list(tokens))))]
