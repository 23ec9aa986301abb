"""Which instances a query means, as SQL."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from perdure.base.events import Status
from perdure.components.history.arrivals import with_places
from perdure.components.history.sqlite.queues import lines_of
from perdure.ports.history_store import InstanceQuery, InstanceRecord

_RECORD = """
SELECT instance.key, id, instance.app_id, workflow, status, created_at, finished_at, worker.name, due, waits,
    recoveries, parent, custom_status,
    (SELECT json_group_object(attribute.name, json(value)) FROM attribute WHERE attribute.instance = instance.key)
FROM instance LEFT JOIN worker ON worker.token = instance.owner
"""
_RECORDS_BY_ID = f"{_RECORD} WHERE instance.id IN (SELECT value FROM json_each(?))"  # noqa: S608 - no foreign text
_SHOWN_IN_LINE = 200
_COLUMNS = tuple(field.name for field in msgspec.structs.fields(InstanceRecord))
_HAS_ATTRIBUTE = "instance.key IN (SELECT instance FROM attribute WHERE name = ? AND value = ?)"


def in_line(connection: sqlite3.Connection, found: list[InstanceRecord]) -> list[InstanceRecord]:
    """Return instances with their places in line, as they are now, in what they wait for."""
    if len(found) > _SHOWN_IN_LINE:
        # Nobody reads so many; each place costs a look at the line.
        return found
    lines = lines_of(connection, [one.key for one in found if one.owner is None and not one.status.finished])
    return [
        msgspec.structs.replace(one, waits=with_places(one.waits, lines[one.key])) if one.key in lines else one
        for one in found
    ]


def records_by_id(connection: sqlite3.Connection, instance_ids: list[str]) -> dict[str, InstanceRecord]:
    """Return those of the instances that exist, by id."""
    parameter = msgspec.json.encode(instance_ids).decode()
    rows = connection.execute(_RECORDS_BY_ID, (parameter,))
    return {row[1]: _record(row) for row in rows}


_VERSIONS = """
WITH RECURSIVE found (workflow) AS (
    SELECT :name
    UNION ALL
    SELECT (
        SELECT min(workflow) FROM instance
        WHERE workflow >= :name || '@' AND workflow < :name || 'A' AND workflow > found.workflow
    ) FROM found WHERE found.workflow IS NOT NULL
)
SELECT workflow FROM found WHERE workflow IS NOT NULL
"""
"""The keys of a workflow's instances, one seek each: a version follows the name behind an @, and A comes after that."""


def records(connection: sqlite3.Connection, query: InstanceQuery) -> list[InstanceRecord]:
    """Return the instances that a query means, the newest first."""
    workflows: list[str | None] = [None]
    statuses: tuple[Status | None, ...] = query.status or (None,)
    if query.workflow is not None:
        workflows = [row[0] for row in connection.execute(_VERSIONS, {"name": query.workflow})]
        statuses = query.status or tuple(Status)
    # One walk down an index for each, in the order of the answer: together they would have to be sorted.
    found = [
        record
        for workflow in workflows
        for status in statuses
        for record in _newest(connection, query, workflow, status)
    ]
    return sorted(found, key=lambda record: -record.key)[: query.limit]


def _newest(
    connection: sqlite3.Connection, query: InstanceQuery, workflow: str | None, status: Status | None
) -> list[InstanceRecord]:
    plain = {
        "workflow = ?": workflow,
        "status = ?": status,
        "instance.app_id = ?": query.app_id,
        "parent = ?": query.parent,
        "created_at >= ?": query.created_from,
        "created_at < ?": query.created_until,
        "finished_at < ?": query.finished_until,
        "instance.key < ?": query.before,
    }
    conditions: list[tuple[str, tuple[object, ...]]] = [
        (text, (value,)) for text, value in plain.items() if value is not None
    ]
    conditions += [
        (_HAS_ATTRIBUTE, (name, msgspec.json.encode(value).decode())) for name, value in query.attributes.items()
    ]
    where = " WHERE " + " AND ".join(text for text, _ in conditions) if conditions else ""
    values = [value for _, values in conditions for value in values]
    statement = f"{_RECORD}{where} ORDER BY instance.key DESC LIMIT ?"
    return in_line(connection, [_record(row) for row in connection.execute(statement, (*values, query.limit))])


_EXPIRED = """
SELECT key FROM instance INDEXED BY instance_finished
WHERE finished_at < :until AND app_id = :app_id AND status IN (SELECT value FROM json_each(:status))
    AND (:workflow IS NULL OR workflow = :workflow OR (workflow >= :workflow || '@' AND workflow < :workflow || 'A'))
ORDER BY finished_at LIMIT :limit
"""


def expired_keys(connection: sqlite3.Connection, parameters: dict[str, object]) -> list[int]:
    """Return the keys of instances that ended before a time, the longest ago first."""
    return [row[0] for row in connection.execute(_EXPIRED, parameters)]


def _record(row: tuple[Any, ...]) -> InstanceRecord:
    known = dict(zip(_COLUMNS, row, strict=True))
    known["status"] = Status(known["status"])
    known["attributes"] = msgspec.json.decode(known["attributes"])
    return InstanceRecord(**known)
