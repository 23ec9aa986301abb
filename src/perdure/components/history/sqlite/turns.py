"""Waiting for one's turn to write: SQLite lets one process write at a time.

SQLite's own waiting sleeps longer and longer, up to a tenth of a second, so that processes which write all the time
starve those which waited longest. Here the steps stay short.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path

_FIRST_STEP, _LONGEST_STEP = 0.0001, 0.001
_WRITE_LOCK_BYTE = 120
"""Where SQLite locks the ``-shm`` file for writing; part of its file format."""


def begin(connection: sqlite3.Connection, patience: float) -> None:
    """Begin a write transaction.

    Args:
        connection: one without a busy timeout of its own.
        patience: seconds to wait for another process's write lock.

    Raises:
        sqlite3.OperationalError: the lock was not free in time (SQLITE_BUSY), or another failure.
    """
    give_up_at = time.monotonic() + patience
    step = _FIRST_STEP
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
        # Not in step with the others who wait.
        time.sleep(step * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        step = min(1.5 * step, _LONGEST_STEP)


@contextlib.contextmanager
def turn(connection: sqlite3.Connection, patience: float) -> Generator[None]:
    """Make the block one write transaction; see :func:`begin` for the rest."""
    begin(connection, patience)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def holder(database: Path) -> str | None:
    """Say who holds the write lock and what can be done about it; None where the system does not tell."""
    pid = holder_pid(database)
    if pid is None:
        return None
    state = _state(pid)
    if state in {"T", "t"}:
        return f"process {pid} holds the write lock and is stopped; let it go on (kill -CONT {pid}) or end it"
    return f"process {pid} holds the write lock; end it, or wait until it has finished writing"


def holder_pid(database: Path) -> int | None:
    """Return the process that holds the write lock; None where nobody does, or the system does not tell."""
    # The kernel's list, because opening and closing the file here would drop this process's own locks on it.
    with contextlib.suppress(OSError, ValueError):
        inode = Path(f"{database}-shm").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, mode, pid, file, first, last, *_ = line.split()
            covers = int(first) <= _WRITE_LOCK_BYTE and (last == "EOF" or int(last) >= _WRITE_LOCK_BYTE)
            if (kind, mode) == ("POSIX", "WRITE") and int(file.rpartition(":")[2]) == inode and covers:
                return int(pid)
    return None


def _state(pid: int) -> str | None:
    with contextlib.suppress(OSError, IndexError):
        # The name, in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None
