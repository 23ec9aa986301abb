"""What is due of an app, and who gets it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

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


def claim(
    connection: sqlite3.Connection, lease: Lease, workflows: Collection[str], now: float, limit: int
) -> list[Claimed]:
    """Give a lease what is due, the longest due first."""
    names = [name for name, due in _heads(connection, lease, workflows) if due <= now]
    found = [row for name in names for row in connection.execute(_DUE, (lease.app_id, name, now, limit))]
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


def next_due(connection: sqlite3.Connection, lease: Lease, workflows: Collection[str]) -> float | None:
    """Return the earliest time at which a lease could claim something, or None."""
    times = [due for _, due in _heads(connection, lease, workflows)]
    grant = next_grant(connection, lease.app_id)
    return min(times if grant is None else [*times, grant], default=None)


def owned_signals(connection: sqlite3.Connection, lease: Lease) -> list[Signal]:
    """Return the signals of a lease's instances, the oldest first."""
    return sorted(_signals(connection, _OWNED_SIGNALS, lease.token), key=lambda signal: signal.position)


def _heads(connection: sqlite3.Connection, lease: Lease, workflows: Collection[str]) -> list[tuple[str, float]]:
    """Return the earliest due time of each workflow that has one."""
    rows = connection.execute(_HEADS, (lease.app_id, _text(workflows)))
    return [(name, due) for name, due in rows if due is not None]


def _signals(connection: sqlite3.Connection, statement: str, parameter: object) -> list[Signal]:
    return [Signal(*row) for row in msgspec.json.decode(connection.execute(statement, (parameter,)).fetchone()[0])]


def _text(values: Collection[object]) -> str:
    return msgspec.json.encode(list(values)).decode()
