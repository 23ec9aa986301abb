"""Accepts instances and events: rows of new instances, of their first history, and of inboxes.

Rows travel as one JSON parameter, read by ``json_each``: SQLite then works through all of them in a single step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from perdure.base.errors import BacklogFullError
from perdure.base.events import Status, ends_instance
from perdure.components.history.arrivals import arrival_of
from perdure.components.history.references import holder_of, targets_in
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.purging import note_references, purge, with_descendants
from perdure.components.history.sqlite.queues import anything_limited, exchange_tickets
from perdure.ports.history_store import NewInstance, Started, begins_at

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
WHERE key IN (SELECT value FROM json_each(?)) AND owner IS NULL
"""
_EXISTING = """
SELECT json_group_array(json_array(
    instance.id, instance.key, instance.app_id, instance.workflow, instance.status, history.events
))
FROM instance JOIN history ON history.instance = instance.key AND history.seq = 0
WHERE instance.id IN (SELECT value FROM json_each(?))
"""


class Existing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a start or an event needs to know of the instance that has its id."""

    instance_id: str
    key: int
    app_id: str
    workflow: str
    status: Status
    events: str


def insert_instances(
    connection: sqlite3.Connection,
    news: Sequence[NewInstance],
    *,
    never_refused: Collection[str] = (),
    unlimited: Collection[str] = (),
) -> list[Started | BacklogFullError]:
    """Accept instances, but for those whose id is taken or that a full backlog refuses; return how each fared.

    Args:
        connection: inside a transaction.
        news: the instances.
        never_refused: ids of those that wait however many do so.
        unlimited: ids of those that need no turn, because they do not begin.
    """
    known = existing_instances(connection, {new.instance_id for new in news})
    replaced = [known.pop(new.instance_id).key for new in news if new.replaces and _has_ended(known, new)]
    if replaced:
        purge(connection, with_descendants(connection, replaced))
    last: int = connection.execute("SELECT value FROM counter").fetchone()[0]
    fresh = dict.fromkeys(new.instance_id for new in news if new.instance_id not in known)
    keys = {name: last + place for place, name in enumerate(fresh, 1)}
    limited = [new for new in news if new.instance_id in keys and new.instance_id not in unlimited]
    waits = _admissions(connection, limited, keys, never_refused)
    outcomes: list[Started | BacklogFullError] = []
    instances: list[object] = []
    rows: list[object] = []
    attributes: list[object] = []
    held: list[tuple[str, set[str]]] = []
    for new in news:
        found = known.get(new.instance_id)
        if found is not None:
            outcomes.append(_started(found, created=False))
            continue
        waiting = waits.get(new.instance_id, False)
        if isinstance(waiting, BacklogFullError):
            outcomes.append(waiting)
            continue
        key = keys[new.instance_id]
        held.append((holder_of(key), targets_in(new.events, new.blobs)))
        instances.append((key, *_instance_columns(new, waiting)))
        rows.append((key, 0, begins_at(new), new.events))
        attributes.extend(attribute_rows(key, new.attributes))
        accepted = Existing(new.instance_id, key, new.app_id, new.workflow, Status.RUNNING, new.events)
        known[new.instance_id] = accepted
        outcomes.append(_started(accepted, created=True, waits=waiting))
    for statement, parameters in (
        (_INSERT_INSTANCES, instances),
        (INSERT_HISTORY, rows),
        (INSERT_ATTRIBUTES, attributes),
    ):
        if parameters:
            connection.execute(statement, parameter(parameters))
    if instances:
        connection.execute("UPDATE counter SET value = ?", (last + len(keys),))
    note_references(connection, held)
    return outcomes


def _started(one: Existing, *, created: bool, waits: bool = False) -> Started:
    return Started(
        key=one.key,
        created=created,
        app_id=one.app_id,
        workflow=one.workflow,
        events=one.events,
        status=one.status,
        waits=waits,
    )


def _has_ended(known: Mapping[str, Existing], new: NewInstance) -> bool:
    found = known.get(new.instance_id)
    return found is not None and found.status.finished and found.app_id == new.app_id


def _admissions(
    connection: sqlite3.Connection,
    news: Sequence[NewInstance],
    keys: Mapping[str, int],
    never_refused: Collection[str],
) -> dict[str, bool | BacklogFullError]:
    """Take the tickets of new instances; return which of them wait or are refused, nothing where nothing is limited."""
    if not any(new.ticket is not None for new in news) and not anything_limited(connection):
        return {}
    arrivals = {
        new.instance_id: arrival_of(new, keys[new.instance_id], may_be_refused=new.instance_id not in never_refused)
        for new in news
    }
    now = max((new.at for new in news), default=0.0)
    outcome = exchange_tickets(connection, now, arrivals=list(arrivals.values()))
    found: dict[str, bool | BacklogFullError] = {}
    for place, (name, arrival) in enumerate(arrivals.items()):
        answer = outcome.answers[place]
        if answer == "refused":
            found[name] = BacklogFullError(name, arrival.ticket.queue.name, outcome.backlogs[place])
        else:
            found[name] = answer == "waits"
    return found


def _instance_columns(new: NewInstance, waits: bool) -> tuple[object, ...]:
    if waits:
        return new.instance_id, new.app_id, new.workflow, Status.PENDING, None, None, new.at, new.parent
    owner = None if new.lease is None else new.lease.token
    due = begins_at(new)
    status = Status.RUNNING if due <= new.at else Status.PENDING
    return new.instance_id, new.app_id, new.workflow, status, owner, due, new.at, new.parent


def attribute_rows(key: int, attributes: Mapping[str, object]) -> list[object]:
    """Return the rows that custom attributes are kept in."""
    return [(key, name, _json.encode(value).decode()) for name, value in attributes.items()]


def existing_instances(connection: sqlite3.Connection, instance_ids: set[str]) -> dict[str, Existing]:
    """Return those of the instances that exist, by id."""
    text: str = connection.execute(_EXISTING, parameter(instance_ids)).fetchone()[0]
    return {one.instance_id: one for one in msgspec.json.decode(text, type=list[Existing])}


def send_events(connection: sqlite3.Connection, sends: Sequence[tuple[str, str, Iterable[str]]]) -> list[Status | None]:
    """Put events into inboxes; return the status of each instance, None where there is none.

    Args:
        connection: inside a transaction.
        sends: instance id, event, and digests of the content that came with the event.
    """
    known = existing_instances(connection, {instance_id for instance_id, _, _ in sends})
    statuses: list[Status | None] = []
    rows: list[tuple[int, str]] = []
    asleep: set[int] = set()
    held: list[tuple[str, set[str]]] = []
    for instance_id, event, blobs in sends:
        found = known.get(instance_id)
        statuses.append(None if found is None else found.status)
        if found is not None and not found.status.finished:
            rows.append((found.key, event))
            if found.status is Status.PENDING:
                asleep.add(found.key)
            held.append((holder_of(found.key), targets_in(event, blobs)))
    fill_inboxes(connection, rows, asleep)
    note_references(connection, held)
    return statuses


def fill_inboxes(connection: sqlite3.Connection, rows: Sequence[tuple[int, str]], asleep: Collection[int] = ()) -> None:
    """Add events (key, event) to inboxes, and make instances that nobody owns due.

    Those that are ``asleep`` have not begun: only their end does not wait for their time.
    """
    if rows:
        connection.execute(_INSERT_INBOX, parameter(rows))
        woken = [key for key, event in rows if key not in asleep or ends_instance(event)]
        connection.execute(_WAKE, parameter(woken))
