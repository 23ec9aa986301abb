"""Accepts instances and events: rows of new instances, of their first history, and of inboxes.

Rows travel as one JSON parameter, read by ``json_each``: SQLite then works through all of them in a single step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from perdure.base.events import Status
from perdure.ports.history_store import NewInstance, Started

_json = msgspec.json.Encoder()

_INSERT_INSTANCES = """
INSERT INTO instance (key, id, app_id, workflow, status, owner, due, created_at, parent)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
FROM json_each(?)
"""
INSERT_HISTORY = """
INSERT INTO history (instance, seq, at, events)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?)
"""
INSERT_ATTRIBUTES = """
INSERT INTO attribute (instance, name, value)
SELECT value->>0, value->>1, value->>2 FROM json_each(?) WHERE true
ON CONFLICT (instance, name) DO UPDATE SET value = excluded.value
"""
_INSERT_INBOX = "INSERT INTO inbox (instance, event) SELECT value->>0, value->>1 FROM json_each(?)"
_WAKE = """
UPDATE instance SET due = min(coalesce(due, 0), 0)
WHERE key IN (SELECT value->>0 FROM json_each(?)) AND owner IS NULL
"""
_EXISTING = """
SELECT json_group_array(json_array(instance.id, instance.key, instance.workflow, instance.status, history.events))
FROM instance JOIN history ON history.instance = instance.key AND history.seq = 0
WHERE instance.id IN (SELECT value FROM json_each(?))
"""


def parameter(rows: Iterable[object]) -> tuple[str]:
    """Return rows as the one parameter of a statement that reads them with ``json_each``."""
    return (_json.encode(rows).decode(),)


def insert_instances(connection: sqlite3.Connection, news: Sequence[NewInstance]) -> list[Started]:
    """Accept instances, but for those whose id is taken; return how each fared."""
    known = existing_instances(connection, {new.instance_id for new in news})
    key: int = connection.execute("SELECT coalesce(max(key), 0) FROM instance").fetchone()[0]
    outcomes: list[Started] = []
    instances: list[object] = []
    rows: list[object] = []
    attributes: list[object] = []
    for new in news:
        found = known.get(new.instance_id)
        if found is not None:
            outcomes.append(Started(key=found[0], created=False, workflow=found[1], events=found[3]))
            continue
        key += 1
        instances.append((key, *_instance_columns(new)))
        rows.append((key, 0, new.at, new.events))
        attributes.extend(attribute_rows(key, new.attributes))
        known[new.instance_id] = (key, new.workflow, Status.RUNNING, new.events)
        outcomes.append(Started(key=key, created=True, workflow=new.workflow, events=new.events))
    for statement, parameters in (
        (_INSERT_INSTANCES, instances),
        (INSERT_HISTORY, rows),
        (INSERT_ATTRIBUTES, attributes),
    ):
        if parameters:
            connection.execute(statement, parameter(parameters))
    return outcomes


def _instance_columns(new: NewInstance) -> tuple[object, ...]:
    owner = None if new.lease is None else new.lease.token
    due = new.at if new.due is None else max(new.at, new.due)
    status = Status.RUNNING if due <= new.at else Status.PENDING
    return new.instance_id, new.app_id, new.workflow, status, owner, due, new.at, new.parent


def attribute_rows(key: int, attributes: Mapping[str, object]) -> list[object]:
    """Return the rows that custom attributes are kept in."""
    return [(key, name, _json.encode(value).decode()) for name, value in attributes.items()]


def existing_instances(
    connection: sqlite3.Connection, instance_ids: set[str]
) -> dict[str, tuple[int, str, Status, str]]:
    """Return key, workflow, status and first history row of those ids that exist."""
    text: str = connection.execute(_EXISTING, parameter(instance_ids)).fetchone()[0]
    found: dict[str, tuple[int, str, Status, str]] = {}
    for instance_id, key, workflow, status, events in msgspec.json.decode(text):
        found[instance_id] = (key, workflow, Status(status), events)
    return found


def send_events(connection: sqlite3.Connection, sends: Sequence[tuple[str, str]]) -> list[Status | None]:
    """Put events (instance id, event) into inboxes; return the status of each instance, None where there is none."""
    known = existing_instances(connection, {instance_id for instance_id, _ in sends})
    statuses: list[Status | None] = []
    rows: list[object] = []
    for instance_id, event in sends:
        found = known.get(instance_id)
        statuses.append(None if found is None else found[2])
        if found is not None and not found[2].finished:
            rows.append((found[0], event))
    fill_inboxes(connection, rows)
    return statuses


def fill_inboxes(connection: sqlite3.Connection, rows: Sequence[object]) -> None:
    """Add events (key, event) to inboxes, and make instances that nobody owns due."""
    if rows:
        connection.execute(_INSERT_INBOX, parameter(rows))
        connection.execute(_WAKE, parameter(rows))
