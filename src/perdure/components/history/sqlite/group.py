"""One transaction for many submissions: a statement per table, whatever their number.

Rows travel as one JSON parameter, read by ``json_each``: SQLite then works through all of them in a single step,
outside the interpreter's lock. A step per row would hand the lock back and forth with the event loop for every row.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from perdure.base.codec import Link
from perdure.base.errors import StaleLeaseError
from perdure.base.events import Status
from perdure.base.faults import crash_point
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.turns import turn
from perdure.ports.history_store import Episode, Lease, NewInstance, Started

_json = msgspec.json.Encoder()
_BLOBS_PER_STATEMENT = 32

_INSERT_INSTANCES = """
INSERT INTO instance (key, id, app_id, workflow, status, owner, due, created_at)
SELECT value->>0, value->>1, value->>2, value->>3, 'RUNNING', value->>4, value->>5, value->>5 FROM json_each(?)
"""
_INSERT_HISTORY = """
INSERT INTO history (instance, seq, at, events)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?)
"""
_INSERT_ONE_ROW = "INSERT INTO history (instance, seq, at, events) VALUES (?, ?, ?, ?)"
_INSERT_LINKS = """
INSERT OR IGNORE INTO link (root, depth, digest, parent, message)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?)
"""
_INSERT_INBOX = "INSERT INTO inbox (instance, event) SELECT value->>0, value->>1 FROM json_each(?)"
_DELETE_CONSUMED = "DELETE FROM inbox WHERE pos IN (SELECT value FROM json_each(?))"
_DELETE_INBOX = "DELETE FROM inbox WHERE instance IN (SELECT value FROM json_each(?))"
_WAKE = """
UPDATE instance SET due = min(coalesce(due, 0), 0)
WHERE key IN (SELECT value->>0 FROM json_each(?)) AND owner IS NULL
"""
_PARK = """
UPDATE instance SET
    owner = NULL, status = parked.status, waits = parked.waits, finished_at = parked.finished_at,
    due = CASE
        WHEN parked.finished_at IS NOT NULL THEN NULL
        WHEN EXISTS (SELECT 1 FROM inbox WHERE inbox.instance = parked.key) THEN 0
        ELSE parked.due
    END
FROM (
    SELECT value->>0 AS key, value->>1 AS status, value->>2 AS due, value->>3 AS waits, value->>4 AS finished_at
    FROM json_each(?)
) AS parked
WHERE instance.key = parked.key
"""
_EXISTING = """
SELECT json_group_array(json_array(
    instance.id, instance.key, instance.app_id, instance.workflow, instance.status, history.events
))
FROM instance JOIN history ON history.instance = instance.key AND history.seq = 0
WHERE instance.id IN (SELECT value FROM json_each(?))
"""

Outcome = Any
Deliver = Callable[[Outcome | Exception], None]


class Append(msgspec.Struct, frozen=True, gc=False):
    """An episode under a lease."""

    lease: Lease
    episode: Episode


class Send(msgspec.Struct, frozen=True, gc=False):
    """A signal for an instance."""

    instance_id: str
    event: str
    blobs: Mapping[str, bytes]


class Run(msgspec.Struct, frozen=True, gc=False):
    """Any other change, made by a function inside the transaction."""

    change: Callable[[sqlite3.Connection], Any]


Submission = NewInstance | Append | Send | Run


class Existing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a start or a signal needs to know of the instance that has its id."""

    instance_id: str
    key: int
    app_id: str
    workflow: str
    status: Status
    events: str


def commit_group(
    connection: sqlite3.Connection, store: str, group: list[Submission], tidings: Tidings, *, patience: float
) -> list[Outcome]:
    """Commit all submissions in one transaction and return their outcomes in the same order.

    A submission that is refused (a stale lease) has its exception as outcome and no effect; any other failure rolls
    the whole transaction back.

    Args:
        connection: writes.
        store: name of the store, for errors.
        group: what to commit.
        tidings: gathers what that brings to other processes.
        patience: seconds to wait for another process's write lock.

    Raises:
        sqlite3.Error: nothing was committed.
    """
    outcomes: dict[int, Outcome] = {}
    blobs = _compressed(group)
    starts: list[tuple[int, NewInstance]] = []
    appends: list[tuple[int, Append]] = []
    sends: list[tuple[int, Send]] = []
    runs: list[tuple[int, Run]] = []
    lists: dict[type, list[Any]] = {NewInstance: starts, Append: appends, Send: sends, Run: runs}
    for index, item in enumerate(group):
        lists[type(item)].append((index, item))
    with turn(connection, patience):
        live = {row[0] for row in connection.execute("SELECT token FROM worker")}
        _insert_blobs(connection, blobs)
        _starts(connection, store, live, starts, outcomes, tidings=tidings)
        _appends(connection, store, live, appends, outcomes, tidings=tidings)
        _sends(connection, sends, outcomes, tidings)
        for index, run in runs:
            outcomes[index] = run.change(connection)
        tidings.address(connection)
        crash_point("store.in_transaction")
    return [outcomes[index] for index in range(len(group))]


def _parameter(rows: Iterable[object]) -> tuple[str]:
    return (_json.encode(rows).decode(),)


def _stale(store: str, lease: Lease) -> StaleLeaseError:
    return StaleLeaseError(store, f"the lease of worker {lease.worker!r} (token {lease.token}) was taken over")


def _starts(
    connection: sqlite3.Connection,
    store: str,
    live: set[int],
    starts: list[tuple[int, NewInstance]],
    outcomes: dict[int, Outcome],
    *,
    tidings: Tidings,
) -> None:
    if not starts:
        return
    known = existing_instances(connection, {new.instance_id for _, new in starts})
    key: int = connection.execute("SELECT coalesce(max(key), 0) FROM instance").fetchone()[0]
    instances: list[object] = []
    rows: list[object] = []
    for index, new in starts:
        if new.lease is not None and new.lease.token not in live:
            outcomes[index] = _stale(store, new.lease)
            continue
        found = known.get(new.instance_id)
        if found is None:
            key += 1
            owner = None if new.lease is None else new.lease.token
            instances.append((key, new.instance_id, new.app_id, new.workflow, owner, new.at))
            rows.append((key, 0, new.at, new.events))
            found = Existing(new.instance_id, key, new.app_id, new.workflow, Status.RUNNING, new.events)
            known[new.instance_id] = found
            created = True
            if owner is None:
                tidings.left_to_others([new.app_id])
        else:
            created = False
        outcomes[index] = Started(
            key=found.key, created=created, app_id=found.app_id, workflow=found.workflow, events=found.events
        )
    if instances:
        connection.execute(_INSERT_INSTANCES, _parameter(instances))
        connection.execute(_INSERT_HISTORY, _parameter(rows))


def existing_instances(connection: sqlite3.Connection, instance_ids: set[str]) -> dict[str, Existing]:
    """Return those of the instances that exist, by id."""
    text: str = connection.execute(_EXISTING, _parameter(instance_ids)).fetchone()[0]
    return {one.instance_id: one for one in msgspec.json.decode(text, type=list[Existing])}


def _appends(
    connection: sqlite3.Connection,
    store: str,
    live: set[int],
    appends: list[tuple[int, Append]],
    outcomes: dict[int, Outcome],
    *,
    tidings: Tidings,
) -> None:
    rows: list[tuple[int, int, float, str]] = []
    links: list[Link] = []
    consumed: list[int] = []
    parked: list[object] = []
    finished: list[int] = []
    for index, append in appends:
        episode = append.episode
        if append.lease.token not in live:
            outcomes[index] = _stale(store, append.lease)
            continue
        outcomes[index] = None
        rows.append((episode.key, episode.seq, episode.at, episode.events))
        links.extend(episode.links)
        consumed.extend(episode.consumed)
        if episode.park is not None:
            park = episode.park
            ended = park.status.finished
            parked.append((episode.key, park.status, park.due, park.waits, episode.at if ended else None))
            if ended:
                finished.append(episode.key)
    tidings.finished(finished)
    if len(rows) == 1:
        connection.execute(_INSERT_ONE_ROW, rows.pop())
    steps = (
        (_INSERT_HISTORY, rows),
        (_INSERT_LINKS, [(n.root, n.depth, n.digest, n.parent, n.message) for n in links]),
        (_DELETE_CONSUMED, consumed),
        (_DELETE_INBOX, finished),
        (_PARK, parked),
    )
    for statement, parameters in steps:
        if parameters:
            connection.execute(statement, _parameter(parameters))


def _sends(
    connection: sqlite3.Connection, sends: list[tuple[int, Send]], outcomes: dict[int, Outcome], tidings: Tidings
) -> None:
    if not sends:
        return
    known = existing_instances(connection, {send.instance_id for _, send in sends})
    rows: list[tuple[int, str]] = []
    for index, send in sends:
        found = known.get(send.instance_id)
        outcomes[index] = None if found is None else found.status
        if found is not None and not found.status.finished:
            rows.append((found.key, send.event))
    if rows:
        connection.execute(_INSERT_INBOX, _parameter(rows))
        connection.execute(_WAKE, _parameter(rows))
        tidings.signalled(key for key, _ in rows)


def _compressed(group: list[Submission]) -> list[tuple[str, int, int, bytes]]:
    # Outside the transaction: compressing must not lengthen the time that the write lock is held.
    contents: dict[str, bytes] = {}
    for item in group:
        if type(item) is Append:
            contents.update(item.episode.blobs)
        elif type(item) is NewInstance or type(item) is Send:
            contents.update(item.blobs)
    return [_stored(address, content) for address, content in contents.items()]


def _stored(address: str, content: bytes) -> tuple[str, int, int, bytes]:
    smaller = zlib.compress(content, 1)
    if len(smaller) < len(content):
        return address, 1, len(content), smaller
    return address, 0, len(content), content


def _insert_blobs(connection: sqlite3.Connection, rows: list[tuple[str, int, int, bytes]]) -> None:
    for begin in range(0, len(rows), _BLOBS_PER_STATEMENT):
        part = rows[begin : begin + _BLOBS_PER_STATEMENT]
        places = ",".join(["(?,?,?,?)"] * len(part))
        statement = f"INSERT OR IGNORE INTO blob (digest, encoding, size, content) VALUES {places}"  # noqa: S608
        connection.execute(statement, [column for row in part for column in row])


def blob_contents(rows: Iterable[tuple[str, int, bytes]]) -> Mapping[str, bytes]:
    """Return content by digest from stored rows (digest, encoding, content)."""
    return {address: zlib.decompress(content) if encoding else content for address, encoding, content in rows}
