"""Who is alive: a lock that the kernel lets go when its process dies, and a time limit for one that hangs."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


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
