"""What is due of an app, and who gets it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from perdure.components.history.sqlite.queues import next_grant, tickets_of
from perdure.ports.history_store import NO_TICKETS, Claimed, Lease, Signal

_HEADS = """
SELECT value, (
    SELECT min(due) FROM instance INDEXED BY instance_due
    WHERE owner IS NULL AND app_id = ? AND workflow = value AND due IS NOT NULL
) FROM json_each(?)
"""
_DUE = """
SELECT due, key FROM instance INDEXED BY instance_due
WHERE owner IS NULL AND app_id = ? AND workflow = ? AND due <= ? ORDER BY due, key LIMIT ?
"""
# CROSS JOIN: the family first, for it is small beside all that is due some day.
_FAMILY = """
WITH RECURSIVE family(id) AS (
    VALUES (?) UNION SELECT instance.id FROM family JOIN instance ON instance.parent = family.id
)
SELECT due, key FROM family CROSS JOIN instance ON instance.id = family.id
WHERE owner IS NULL AND due IS NOT NULL AND app_id = ? AND workflow IN (SELECT value FROM json_each(?))
ORDER BY due, key
"""
_OWN = """
UPDATE instance SET owner = ?, status = CASE status WHEN 'PENDING' THEN 'RUNNING' ELSE status END
WHERE key IN (SELECT value FROM json_each(?))
"""
_CLAIMED = """
SELECT json_group_array(json_array(
    key, id, workflow, (SELECT max(seq) + 1 FROM history WHERE history.instance = taken.key)
)) FROM (SELECT * FROM instance WHERE key IN (SELECT value FROM json_each(?)) ORDER BY due, key) AS taken
"""
_SIGNALS = """
SELECT json_group_array(json_array(pos, instance, event))
FROM (SELECT * FROM inbox WHERE instance IN (SELECT value FROM json_each(?)) ORDER BY pos)
"""
_OWNED_SIGNALS = """
SELECT json_group_array(json_array(pos, inbox.instance, event))
FROM (SELECT * FROM inbox ORDER BY pos) AS inbox
JOIN instance ON instance.key = inbox.instance AND instance.owner = ?
"""


class Wanted(NamedTuple):
    """What a worker can execute.

    Attributes:
        workflows: the keys of its workflows.
        family: the instance id above all that it takes, or None.
    """

    workflows: Collection[str]
    family: str | None


def claim(connection: sqlite3.Connection, lease: Lease, wanted: Wanted, now: float, limit: int) -> list[Claimed]:
    """Give a lease what is due, the longest due first."""
    if wanted.family is None:
        names = [name for name, due in _heads(connection, lease, wanted.workflows) if due <= now]
        found = [row for name in names for row in connection.execute(_DUE, (lease.app_id, name, now, limit))]
    else:
        found = [row for row in _family(connection, lease, wanted.workflows, wanted.family) if row[0] <= now]
    keys = [key for _, key in sorted(found)[:limit]]
    if not keys:
        return []
    connection.execute(_OWN, (lease.token, _text(keys)))
    signals: dict[int, list[Signal]] = {}
    for signal in _signals(connection, _SIGNALS, _text(keys)):
        signals.setdefault(signal.key, []).append(signal)
    tickets = tickets_of(connection, keys)
    return [
        Claimed(
            key=key,
            instance_id=name,
            workflow=workflow,
            next_seq=seq,
            signals=tuple(signals.get(key, ())),
            tickets=tickets.get(key, NO_TICKETS),
        )
        for key, name, workflow, seq in msgspec.json.decode(connection.execute(_CLAIMED, (_text(keys),)).fetchone()[0])
    ]


def next_due(connection: sqlite3.Connection, lease: Lease, wanted: Wanted) -> float | None:
    """Return the earliest time at which a lease could claim something, or None."""
    if wanted.family is None:
        times = [due for _, due in _heads(connection, lease, wanted.workflows)]
    else:
        times = [due for due, _ in _family(connection, lease, wanted.workflows, wanted.family)]
    grant = next_grant(connection, lease.app_id)
    return min(times if grant is None else [*times, grant], default=None)


def owned_signals(connection: sqlite3.Connection, lease: Lease) -> list[Signal]:
    """Return the signals of a lease's instances, the oldest first."""
    return sorted(_signals(connection, _OWNED_SIGNALS, lease.token), key=lambda signal: signal.position)


def _heads(connection: sqlite3.Connection, lease: Lease, workflows: Collection[str]) -> list[tuple[str, float]]:
    """Return the earliest due time of each workflow that has one."""
    rows = connection.execute(_HEADS, (lease.app_id, _text(workflows)))
    return [(name, due) for name, due in rows if due is not None]


def _family(
    connection: sqlite3.Connection, lease: Lease, workflows: Collection[str], root: str
) -> list[tuple[float, int]]:
    """Return when an instance and those below it are due, and their keys, the earliest first."""
    return connection.execute(_FAMILY, (root, lease.app_id, _text(workflows))).fetchall()


def _signals(connection: sqlite3.Connection, statement: str, parameter: object) -> list[Signal]:
    return [Signal(*row) for row in msgspec.json.decode(connection.execute(statement, (parameter,)).fetchone()[0])]


def _text(values: Collection[object]) -> str:
    return msgspec.json.encode(list(values)).decode()
