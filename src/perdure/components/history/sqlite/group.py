"""One transaction for many submissions: a statement per table, whatever their number.

Rows travel as one JSON parameter, read by ``json_each``: SQLite then works through all of them in a single step,
outside the interpreter's lock. A step per row would hand the lock back and forth with the event loop for every row.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.base.codec import Link
from perdure.base.errors import BacklogFullError, StaleLeaseError
from perdure.base.faults import crash_point
from perdure.components.history.arrivals import Arrival
from perdure.components.history.references import holder_of, targets_in, targets_of_links
from perdure.components.history.sqlite.accepting import INSERT_HISTORY, insert_instances, send_events
from perdure.components.history.sqlite.changing import apply_changes
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.purging import drop_unheld, note_references
from perdure.components.history.sqlite.queues import anything_limited, exchange_tickets
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.turns import turn
from perdure.ports.history_store import NO_BLOBS, Episode, Lease, NewInstance, Park, Results

_BLOBS_PER_STATEMENT = 32

_INSERT_ONE_ROW = "INSERT INTO history (instance, seq, at, events) VALUES (?, ?, ?, ?)"
_INSERT_LINKS = """
INSERT OR IGNORE INTO link (root, depth, digest, parent, message)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?)
"""
_DELETE_CONSUMED = "DELETE FROM inbox WHERE pos IN (SELECT value FROM json_each(?))"
_DELETE_INBOX = "DELETE FROM inbox WHERE instance IN (SELECT value FROM json_each(?))"
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
    """Any other change, made by a function inside the transaction, after its content and links are stored."""

    change: Callable[[sqlite3.Connection], Any]
    blobs: Mapping[str, bytes] = NO_BLOBS
    links: Sequence[Link] = ()


Submission = NewInstance | Append | Send | Run


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
        sqlite3.Error: nothing was committed; when the disk failed in the last flush, that shows only later.
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
        if len(appends) < len(group) or any(append.episode.changes is not None for _, append in appends):
            tidings.begin(connection)
        _starts(connection, store, live, starts, outcomes)
        _appends(connection, store, live, appends, outcomes, tidings=tidings)
        _sends(connection, sends, outcomes)
        for index, run in runs:
            if run.links:
                connection.execute(_INSERT_LINKS, parameter(_link_rows(run.links)))
            outcomes[index] = run.change(connection)
        refused = [new for index, new in starts if isinstance(outcomes[index], BacklogFullError)]
        if refused:
            drop_unheld(connection, {address for new in refused for address in new.blobs})
        tidings.address(connection)
        crash_point("store.in_transaction")
    return [outcomes[index] for index in range(len(group))]


def _stale(store: str, lease: Lease) -> StaleLeaseError:
    return StaleLeaseError(store, f"the lease of worker {lease.worker!r} (token {lease.token}) was taken over")


def _starts(
    connection: sqlite3.Connection,
    store: str,
    live: set[int],
    starts: list[tuple[int, NewInstance]],
    outcomes: dict[int, Outcome],
) -> None:
    if not starts:
        return
    accepted: list[tuple[int, NewInstance]] = []
    for index, new in starts:
        if new.lease is not None and new.lease.token not in live:
            outcomes[index] = _stale(store, new.lease)
        else:
            accepted.append((index, new))
    started = insert_instances(connection, [new for _, new in accepted])
    outcomes.update((index, outcome) for (index, _), outcome in zip(accepted, started, strict=True))


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
    parking: list[tuple[int, Episode, Park]] = []
    changing: list[tuple[int, Episode]] = []
    held: list[tuple[str, set[str]]] = []
    for index, append in appends:
        episode = append.episode
        if append.lease.token not in live:
            outcomes[index] = _stale(store, append.lease)
            continue
        outcomes[index] = None
        if episode.changes is not None:
            changing.append((index, episode))
        rows.append((episode.key, episode.seq, episode.at, episode.events))
        if episode.blobs or '{"$' in episode.events:
            held.append((holder_of(episode.key), targets_in(episode.events, episode.blobs)))
        links.extend(episode.links)
        consumed.extend(episode.consumed)
        if episode.park is not None:
            parking.append((index, episode, episode.park))
    if len(rows) == 1:
        connection.execute(_INSERT_ONE_ROW, rows.pop())
    finished = [episode.key for _, episode, park in parking if park.status.finished]
    tidings.finished(finished)
    if changing:
        # Before instances are parked: what this puts into their inboxes makes them due.
        started = apply_changes(connection, [episode for _, episode in changing])
        outcomes.update((index, told and Results(told)) for (index, _), told in zip(changing, started, strict=True))
    if changing or finished:
        _exchange_tickets(connection, changing, parking, outcomes, tidings)
    parked = [_park_row(episode, park) for index, episode, park in parking if not _stays(park, outcomes[index])]
    steps = (
        (INSERT_HISTORY, rows),
        (_INSERT_LINKS, _link_rows(links)),
        (_DELETE_CONSUMED, consumed),
        (_DELETE_INBOX, finished),
        (_PARK, parked),
    )
    for statement, parameters in steps:
        if parameters:
            connection.execute(statement, parameter(parameters))
    if held or links:
        note_references(connection, [*held, *targets_of_links(links).items()])


def _park_row(episode: Episode, park: Park) -> tuple[object, ...]:
    return episode.key, park.status, park.due, park.waits, episode.at if park.status.finished else None


def _stays(park: Park, outcome: Outcome) -> bool:
    return park.unless_granted and outcome is not None and bool(outcome.granted)


def _exchange_tickets(
    connection: sqlite3.Connection,
    changing: Sequence[tuple[int, Episode]],
    parking: Sequence[tuple[int, Episode, Park]],
    outcomes: dict[int, Outcome],
    tidings: Tidings,
) -> None:
    """Take and give back the tickets of episodes, and add to their outcomes what became of it."""
    ending = [(index, episode) for index, episode, park in parking if park.status.finished]
    changes = [(index, episode, episode.changes) for index, episode in changing if episode.changes is not None]
    renewed = [episode.key for _, episode, change in changes if change.renews]
    tickets = [(index, episode, ticket) for index, episode, change in changes for ticket in change.tickets]
    given_back = [(episode.key, task) for _, episode, change in changes for task in change.gives_back]
    if not tickets and not given_back and not ((ending or renewed) and anything_limited(connection)):
        return
    tidings.begin(connection)
    told = exchange_tickets(
        connection,
        max(episode.at for _, episode in (*ending, *changing)),
        arrivals=[Arrival(one.ticket, episode.key, one.task, one.granted) for _, episode, one in tickets],
        ended=[episode.key for _, episode in ending],
        renewed=renewed,
        given_back=given_back,
    )
    tidings.begun(told.begun)
    granted: dict[int, list[int]] = {}
    for (index, _, ticket), answer in zip(tickets, told.answers, strict=True):
        if answer != "waits":
            granted.setdefault(index, []).append(ticket.task)
    concerned = set(granted)
    if told.woken or told.next_grant is not None:
        concerned |= {index for index, _ in (*ending, *changing)}
    for index in concerned:
        before = outcomes[index]
        outcomes[index] = Results(
            () if before is None else before.started,
            tuple(granted.get(index, ())),
            told.woken,
            told.next_grant,
        )


def _link_rows(links: Iterable[Link]) -> list[object]:
    return [(link.root, link.depth, link.digest, link.parent, link.message) for link in links]


def _sends(connection: sqlite3.Connection, sends: list[tuple[int, Send]], outcomes: dict[int, Outcome]) -> None:
    if sends:
        statuses = send_events(connection, [(send.instance_id, send.event, send.blobs) for _, send in sends])
        outcomes.update((index, status) for (index, _), status in zip(sends, statuses, strict=True))


def _compressed(group: list[Submission]) -> list[tuple[str, int, int, bytes]]:
    # Outside the transaction: compressing must not lengthen the time that the write lock is held.
    contents: dict[str, bytes] = {}
    for item in group:
        if type(item) is Append:
            contents.update(item.episode.blobs)
        elif not isinstance(item, Append):
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
