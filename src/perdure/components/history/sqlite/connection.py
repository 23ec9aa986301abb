"""Opens the database file: settings, identity, migrations."""

from __future__ import annotations

import os
import sqlite3
from importlib import resources
from pathlib import Path

from perdure.base.errors import StoreCorruptError, StoreUnavailableError, StoreVersionError
from perdure.components.history.sqlite.errors import translation

APPLICATION_ID = 0x50657264
"""Marks a database file as Perdure's ("Perd"), as ``PRAGMA application_id`` shows it."""

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
    with translation(str(path)):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_timeout)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA cache_size = -16000")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
    return connection


def preallocate_log(path: Path) -> None:
    """Give the write-ahead log its full size before it is needed.

    Appending to a file makes each flush write the file's new size too, which nearly doubles its time. Zeros at the
    end of the log are no frames to SQLite: their checksum does not hold.
    """
    log = Path(f"{path}-wal")
    try:
        with log.open("r+b") as file:
            missing = _LOG_BYTES - file.seek(0, os.SEEK_END)
            if missing > 0:
                file.write(b"\0" * missing)
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        # No log to speak of (a read-only place, a full disk): SQLite itself says so when it matters.
        return


def migrations() -> list[str]:
    """Return the migration scripts in order; the n-th one brings a database to schema version n."""
    folder = resources.files(__package__) / "migrations"
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
            connection.execute("ROLLBACK")
            raise


def _identified_version(connection: sqlite3.Connection, store: str, newest: int) -> int:
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
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
