"""Purges instances, and the content that nobody refers to any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from perdure.components.history.references import conversation_target, holder_of, roots_among
from perdure.components.history.sqlite.parameters import parameter

_AT_ONCE = "SELECT value FROM json_each(?)"
_ENDED = """
SELECT key FROM instance
WHERE key IN (SELECT value FROM json_each(?)) AND finished_at IS NOT NULL AND owner IS NULL
"""
_WITH_DESCENDANTS = """
WITH RECURSIVE family (key, id) AS (
    SELECT key, id FROM instance WHERE key IN (SELECT value FROM json_each(?))
    UNION
    SELECT child.key, child.id FROM family
    JOIN instance AS child ON child.parent = family.id AND child.finished_at IS NOT NULL
)
SELECT key FROM family
"""
_ORPHANS = """
SELECT value FROM json_each(?)
WHERE NOT EXISTS (SELECT 1 FROM reference WHERE reference.target = value)
"""
_INSERT_REFERENCES = "INSERT OR IGNORE INTO reference (holder, target) SELECT value->>0, value->>1 FROM json_each(?)"


def note_references(connection: sqlite3.Connection, held: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Keep who (holder) refers to what (targets)."""
    rows = [(holder, target) for holder, targets in held for target in targets]
    if rows:
        connection.execute(_INSERT_REFERENCES, parameter(rows))


def share_references(connection: sqlite3.Connection, source: int, key: int) -> None:
    """Let an instance refer to all that another one refers to."""
    statement = "INSERT OR IGNORE INTO reference (holder, target) SELECT ?, target FROM reference WHERE holder = ?"
    connection.execute(statement, (holder_of(key), holder_of(source)))


def with_descendants(connection: sqlite3.Connection, keys: Collection[int]) -> list[int]:
    """Return the keys of instances, and of the child workflows below them that have ended."""
    return [row[0] for row in connection.execute(_WITH_DESCENDANTS, parameter(keys))]


def purge(connection: sqlite3.Connection, keys: Collection[int]) -> int:
    """Delete instances that have ended; return how many these were."""
    ended = [row[0] for row in connection.execute(_ENDED, parameter(keys))]
    if not ended:
        return 0
    chosen = parameter(ended)
    for table in ("history", "inbox", "attribute"):
        connection.execute(f"DELETE FROM {table} WHERE instance IN ({_AT_ONCE})", chosen)  # noqa: S608
    connection.execute(f"DELETE FROM instance WHERE key IN ({_AT_ONCE})", chosen)  # noqa: S608
    orphans = _let_go(connection, [holder_of(key) for key in ended])
    roots = roots_among(orphans)
    if roots:
        connection.execute(f"DELETE FROM link WHERE root IN ({_AT_ONCE})", parameter(roots))  # noqa: S608
        orphans += _let_go(connection, [conversation_target(root) for root in roots])
    _delete_blobs(connection, orphans)
    return len(ended)


def drop_unheld(connection: sqlite3.Connection, digests: Collection[str]) -> None:
    """Delete those of some contents that nobody refers to."""
    _delete_blobs(connection, [row[0] for row in connection.execute(_ORPHANS, parameter(digests))])


def _delete_blobs(connection: sqlite3.Connection, digests: Sequence[str]) -> None:
    if digests:
        connection.execute(f"DELETE FROM blob WHERE digest IN ({_AT_ONCE})", parameter(digests))  # noqa: S608


def _let_go(connection: sqlite3.Connection, holders: Sequence[str]) -> list[str]:
    """Delete the references of some holders; return the targets that nobody refers to any more."""
    chosen = parameter(holders)
    found = connection.execute(f"SELECT DISTINCT target FROM reference WHERE holder IN ({_AT_ONCE})", chosen)  # noqa: S608
    targets = [row[0] for row in found]
    connection.execute(f"DELETE FROM reference WHERE holder IN ({_AT_ONCE})", chosen)  # noqa: S608
    return [row[0] for row in connection.execute(_ORPHANS, parameter(targets))]
