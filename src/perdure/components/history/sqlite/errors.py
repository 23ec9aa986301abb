"""Translates the errors of SQLite, once, at the edge."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from perdure.base import errors

_BY_CODE: dict[int, tuple[type[errors.StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (
        errors.StoreLockedError,
        "the database is locked by another process; end it, or wait until it has finished writing",
    ),
    sqlite3.SQLITE_LOCKED: (errors.StoreLockedError, "a table is locked by another connection; try again"),
    sqlite3.SQLITE_FULL: (errors.StoreFullError, "the disk is full; free some space, nothing acknowledged is lost"),
    sqlite3.SQLITE_IOERR: (
        errors.StoreUnavailableError,
        (
            "the disk failed; look into the system's log and at the disk's health, and ask `perdure doctor`. Nothing "
            "acknowledged is lost; what was being written may have been kept or not"
        ),
    ),
    sqlite3.SQLITE_TOOBIG: (
        errors.StoreValueTooLargeError,
        (
            "a value is larger than SQLite takes (1,000,000,000 bytes unless it was built otherwise); store big "
            "content elsewhere and pass a reference to it"
        ),
    ),
    sqlite3.SQLITE_READONLY: (
        errors.StoreReadOnlyError,
        (
            "the database cannot be written; check the permissions of the file and its folder, or choose another with "
            "--store or PERDURE_HOME"
        ),
    ),
    sqlite3.SQLITE_PERM: (errors.StoreReadOnlyError, "access to the database is denied; check its permissions"),
    sqlite3.SQLITE_CANTOPEN: (
        errors.StoreUnavailableError,
        (
            "the database cannot be opened; check that its folder exists and is writable, or choose another with "
            "--store or PERDURE_HOME"
        ),
    ),
    sqlite3.SQLITE_CONSTRAINT: (
        errors.StaleLeaseError,
        "another worker has written this part of the history; the commit is refused",
    ),
    sqlite3.SQLITE_CORRUPT: (
        errors.StoreCorruptError,
        "the database is damaged; keep the file, and restore a backup or recover it with `sqlite3 FILE .recover`",
    ),
    sqlite3.SQLITE_NOTADB: (
        errors.StoreCorruptError,
        "the file is not a database; choose another with --store, or move this file away",
    ),
}

_NOT_ABOUT_A_VALUE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_NOMEM,
}


def refused(store: str, code: int) -> errors.StoreError:
    """Return the Perdure error for a result code of SQLite."""
    kind, message = _BY_CODE[code]
    return kind(store, message)


def concerns_all(error: Exception) -> bool:
    """Whether an error is about the file, the disk or the machine, not about what one submission holds."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_ABOUT_A_VALUE
    return isinstance(error, errors.StoreError)


def is_unknown(error: Exception) -> bool:
    """Whether a commit that failed with this error may have been kept all the same."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def translated(store: str, error: sqlite3.Error | OverflowError) -> errors.StoreError:
    """Return the Perdure error that an error of SQLite, or of what hands it values over 2 GB, stands for."""
    if isinstance(error, OverflowError):
        return refused(store, sqlite3.SQLITE_TOOBIG)
    extended = getattr(error, "sqlite_errorcode", 0)
    # The log's index cannot grow: that is no sick disk, but one without space.
    code = sqlite3.SQLITE_FULL if extended == sqlite3.SQLITE_IOERR_SHMSIZE else extended & 0xFF
    kind, message = _BY_CODE.get(code, (errors.StoreUnavailableError, f"SQLite failed: {error}"))
    if code == sqlite3.SQLITE_IOERR:
        message = f"{message} ({error.sqlite_errorname})"
    return kind(store, message)


@contextmanager
def translation(store: str) -> Generator[None]:
    """Raise Perdure's errors instead of SQLite's inside the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(store, error) from error
