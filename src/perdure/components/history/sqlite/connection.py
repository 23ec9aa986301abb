"""Opens the database file: settings, identity, migrations."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from importlib import resources
from pathlib import Path

from perdure.base.errors import StoreCorruptError, StoreUnavailableError, StoreVersionError
from perdure.components.history.sqlite.errors import refused, translation
from perdure.components.history.sqlite.turns import begin

APPLICATION_ID = 0x50657264
"""Marks a database file as Perdure's ("Perd"), as ``PRAGMA application_id`` shows it."""

_PIECE = 1 << 20
_CHECKPOINT_PAGES = 1000
_LOG_BYTES = (_CHECKPOINT_PAGES + 200) * 4120

MINIMUM_SQLITE = (3, 38, 0)


def connect(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """Return a connection with the settings that durability rests on.

    Args:
        path: the database file; created when missing.
        busy_timeout: seconds to wait for another process's write lock.

    Raises:
        StoreError: the subclass that says what is wrong with the file.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreUnavailableError(
            str(path), f"SQLite {sqlite3.sqlite_version} is too old; Python must be built with 3.38 or newer"
        )
    _check_access(path)
    with translation(str(path)):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_timeout)
        try:
            # Before anything is changed: another program's file stays as it is.
            _identified_version(connection, str(path), len(migrations()))
            _switch_to_wal(connection, busy_timeout)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA cache_size = -16000")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
    return connection


def _check_access(path: Path) -> None:
    # SQLite opens what it cannot write for reading, and would complain only at the first commit.
    folder = path.parent
    if not folder.is_dir():
        raise StoreUnavailableError(
            str(path), f"the folder {folder} does not exist; create it, or choose another with --store or PERDURE_HOME"
        )
    if path.exists() and not os.access(path, os.W_OK):
        raise refused(str(path), sqlite3.SQLITE_READONLY)
    if not os.access(folder, os.W_OK):
        raise refused(str(path), sqlite3.SQLITE_READONLY)


def _switch_to_wal(connection: sqlite3.Connection, patience: float) -> None:
    # SQLite does not wait for a lock while it changes the journal mode; another process may be at the same change.
    give_up_at = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
        time.sleep(0.01)


def preallocate_log(connection: sqlite3.Connection, path: Path) -> None:
    """Give the write-ahead log its full size before it is needed.

    Appending to a file makes each flush write the file's new size too, which nearly doubles its time. Zeros at the
    end of the log are no frames to SQLite: their checksum does not hold.
    """
    log = log_of(path)
    try:
        if log.stat().st_size >= _LOG_BYTES:
            return
        # Under the write lock: another process must not append where the zeros go.
        connection.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error):
        # Slower, but as good: whatever keeps others from writing says so when it matters.
        return
    try:
        with log.open("r+b") as file:
            missing = _LOG_BYTES - file.seek(0, os.SEEK_END)
            file.write(b"\0" * max(0, missing))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # A full disk, most likely: SQLite itself says so when it matters.
        return
    finally:
        connection.execute("ROLLBACK")


def log_of(path: Path) -> Path:
    """Return the write-ahead log of a database file."""
    return Path(f"{path}-wal")


def rewrite_log(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    """Write the log that an earlier process left once more, as it is, and flush it.

    When a flush fails, the system keeps what was written readable and counts it as flushed, though the disk may never
    get it. Whoever opens the log later reads those frames and adds his own behind them; a power cut then leaves a hole,
    and everything behind a hole is lost. Bytes that are written again are flushed again.

    Args:
        connection: the one that writes.
        path: the database file.
        patience: seconds to wait for another process's write lock.

    Raises:
        sqlite3.Error: the write lock cannot be had.
        StoreError: the disk fails.
    """
    # Under the write lock: nobody else adds to the log, and readers see the same bytes.
    begin(connection, patience)
    try:
        with log_of(path).open("r+b", buffering=0) as file:
            at = 0
            while piece := file.read(_PIECE):
                file.seek(at)
                at += file.write(piece)
                file.seek(at)
            os.fsync(file.fileno())
    except OSError as error:
        code = sqlite3.SQLITE_FULL if error.errno == errno.ENOSPC else sqlite3.SQLITE_IOERR
        raise refused(str(path), code) from error
    finally:
        connection.execute("ROLLBACK")


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at a path from any other one, None when there is no file."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_dev, facts.st_ino


def migrations() -> list[str]:
    """Return the migration scripts in order; the n-th one brings a database to schema version n."""
    folder = resources.files("perdure.components.history.sqlite") / "migrations"
    return [entry.read_text() for entry in sorted(folder.iterdir(), key=lambda e: e.name) if entry.name.endswith("sql")]


def migrate(connection: sqlite3.Connection, store: str) -> None:
    """Bring the database to the newest schema.

    Raises:
        StoreCorruptError: the file is another program's database.
        StoreVersionError: a newer Perdure wrote it.
    """
    scripts = migrations()
    with translation(store):
        if _identified_version(connection, store, len(scripts)) == len(scripts):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again under the write lock: another process may have migrated meanwhile.
            version = _identified_version(connection, store, len(scripts))
            for script in scripts[version:]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(scripts)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _identified_version(connection: sqlite3.Connection, store: str, newest: int) -> int:
    # A savepoint, so that all is read as of one moment while another process migrates.
    connection.execute("SAVEPOINT identity")
    try:
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE identity")
    if application != APPLICATION_ID and (tables or application):
        raise StoreCorruptError(store, "this is another program's SQLite database; choose another file with --store")
    if version > newest:
        raise StoreVersionError(
            store,
            f"its schema is version {version}, this Perdure knows {newest}: pip install --upgrade perdure, "
            "or choose another file with --store",
        )
    return version


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements


def would_migrate(path: Path) -> bool:
    """Whether opening a database file brings it to a newer schema; the file is only read.

    Raises:
        StoreError: it is no store, or a newer Perdure wrote it.
    """
    with contextlib.closing(_reading(path)) as connection, translation(str(path)):
        newest = len(migrations())
        return _identified_version(connection, str(path), newest) < newest


def copy_to(path: Path, copy: Path) -> None:
    """Copy a database as it is at this moment, whoever else uses it; the file is only read.

    Raises:
        StoreError: it cannot be read, or the copy not be written.
    """
    with (
        contextlib.closing(_reading(path)) as source,
        translation(str(copy)),
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _reading(path: Path) -> sqlite3.Connection:
    with translation(str(path)):
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
