"""Tickets in SQLite: loads the part of each queue that matters, lets the pure line decide, and writes it back.

A fixed number of statements for a whole transaction, whatever the number of tickets; only "who is next" is asked for
each queue. Rows travel as one JSON parameter, as everywhere in this store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.base.limits import UNLIMITED, Limits, Spent
from perdure.base.line import Answer, Line, Place, Waiting
from perdure.components.history.arrivals import INSTANCE, Arrival, InLine, Outcome, ahead_of
from perdure.components.history.sqlite.parameters import parameter
from perdure.ports.tickets import Queue, Ticket

_WAITS, _GRANTED, _LATER = range(3)
_AT_ONCE = 256
_AT_LEAST = 3

_EXISTING_QUEUES = """
SELECT json_group_array(json_array(app_id, kind, name, number, limits)) FROM queue
WHERE (app_id, kind, name) IN (SELECT value->>0, value->>1, value->>2 FROM json_each(?))
"""
_INSERT_QUEUES = """
INSERT INTO queue (app_id, kind, name, limits)
SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?)
"""
_QUEUES = """
SELECT json_group_array(json_array(number, app_id, name, limits, running, waiting, virtual, spent)) FROM queue
WHERE number IN (SELECT value FROM json_each(?))
"""
_SAVE_QUEUE = "UPDATE queue SET running = ?, waiting = ?, virtual = ?, spent = ?, wake_at = ? WHERE number = ?"
_RETURNED = """
SELECT json_group_array(json_array(number, queue, key, state)) FROM (
    SELECT ticket.* FROM json_each(?) JOIN ticket ON instance = value
    UNION SELECT ticket.* FROM json_each(?) JOIN ticket ON instance = value AND task >= 0
    UNION SELECT ticket.* FROM json_each(?) JOIN ticket ON instance = value->>0 AND task = value->>1
)
"""
_DELETE_TICKETS = "DELETE FROM ticket WHERE number IN (SELECT value FROM json_each(?))"
_INSERT_TICKETS = """
INSERT INTO ticket (number, queue, key, priority, instance, task, state, event, at)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
FROM json_each(?)
"""
_GRANT_TICKETS = "UPDATE ticket SET state = 1 WHERE number IN (SELECT value FROM json_each(?))"
_PLACES = """
SELECT json_group_array(json_array(queue, place.key, running, waiting, finish, start, priority, ready))
FROM json_each(?) AS chosen JOIN queue_key AS place ON queue = chosen.value->>0 AND place.key = chosen.value->>1
"""
_NEXT_PLACES = """
SELECT json_group_array(json_array(queue, key, running, waiting, finish, start, priority, ready)) FROM (
    SELECT * FROM queue_key INDEXED BY queue_key_ready
    WHERE queue = ? AND ready AND key NOT IN (SELECT value FROM json_each(?))
    ORDER BY priority DESC, start, head LIMIT ?
)
"""
_FIRST_TICKETS = """
SELECT json_group_array(json_array(queue, ticket.key, number, priority, instance, task, event))
FROM json_each(?1) AS chosen CROSS JOIN ticket ON ticket.number IN (
    SELECT number FROM ticket AS waiting
    WHERE waiting.queue = chosen.value->>0 AND waiting.key = chosen.value->>1 AND waiting.state = 0
    ORDER BY waiting.priority DESC, waiting.number LIMIT ?2
)
"""
_SAVE_PLACES = """
INSERT INTO queue_key (queue, key, running, waiting, finish, start, priority, head, ready)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
FROM json_each(?) WHERE true
ON CONFLICT (queue, key) DO UPDATE SET
    running = excluded.running, waiting = excluded.waiting, finish = excluded.finish, start = excluded.start,
    priority = excluded.priority, head = excluded.head, ready = excluded.ready
"""
_DELETE_IDLE = """
DELETE FROM queue_key WHERE running = 0 AND waiting = 0 AND queue = ? AND finish <= ?
"""
_BEGIN_INSTANCES = "UPDATE instance SET due = ? WHERE key IN (SELECT value FROM json_each(?)) AND finished_at IS NULL"
_STAND_ANEW = """
UPDATE queue_key SET
    ready = waiting > 0 AND (:per_key IS NULL OR running < :per_key),
    start = CASE WHEN ready THEN start ELSE (
        SELECT min(max(tag, finish), tag + 1) FROM (
            SELECT coalesce((SELECT value FROM json_each(:tags) WHERE key = CAST(priority AS TEXT)), :floor) AS tag
        )
    ) END
WHERE queue = :queue
"""
_DUE_TICKETS = """
SELECT json_group_array(json_array(number, queue, key, priority, instance)) FROM ticket WHERE at <= ?
"""
_WAKING_QUEUES = "SELECT number FROM queue WHERE wake_at <= ? OR wake_at > ? + 2 * (limits->>'$.rate.per')"
_NEXT_GRANT = """
SELECT min(at) FROM (
    SELECT wake_at AS at FROM queue WHERE app_id = ?1
    UNION ALL
    SELECT at FROM ticket JOIN queue ON queue.number = ticket.queue AND app_id = ?1 WHERE at IS NOT NULL
)
"""
_ANY_GRANT = (
    "SELECT EXISTS (SELECT 1 FROM queue WHERE wake_at IS NOT NULL) OR EXISTS (SELECT 1 FROM ticket WHERE at <= ?)"
)
ADD_TO_INBOXES = "INSERT INTO inbox (instance, event) SELECT value->>0, value->>1 FROM json_each(?)"
_WAKE = """
UPDATE instance SET due = 0 WHERE key IN (SELECT value->>0 FROM json_each(?)) AND owner IS NULL AND finished_at IS NULL
"""


_IN_LINE = """
SELECT instance, queue.number, app_id, kind, name, limits, wake_at, task, ticket.key, priority, min(ticket.number)
FROM json_each(?) AS chosen
JOIN ticket ON instance = chosen.value AND state = 0
JOIN queue ON queue.number = ticket.queue
GROUP BY instance, queue.number
"""
_OWN_AHEAD = """
SELECT count(*) FROM ticket
WHERE queue = ?1 AND key = ?2 AND state = 0 AND (priority > ?3 OR (priority = ?3 AND number < ?4))
"""
_TICKETS = """
SELECT json_group_array(json_array(instance, task, state)) FROM json_each(?)
JOIN ticket ON instance = value AND task >= 0
"""


def anything_limited(connection: sqlite3.Connection) -> bool:
    """Whether there are queues at all."""
    return connection.execute("SELECT 1 FROM queue LIMIT 1").fetchone() is not None


def exchange_tickets(
    connection: sqlite3.Connection,
    now: float,
    *,
    arrivals: Sequence[Arrival] = (),
    ended: Collection[int] = (),
    renewed: Collection[int] = (),
    given_back: Collection[tuple[int, int]] = (),
    settle: Collection[int] = (),
) -> Outcome:
    """Give tickets back, grant what that lets in, and take new ones.

    Args:
        connection: inside a transaction.
        now: seconds since the epoch.
        arrivals: tickets to take.
        ended: instances that need none of their tickets any more.
        renewed: instances that need none of their attempts' tickets any more.
        given_back: attempts (instance, task) that need their ticket no more.
        settle: numbers of queues that may let somebody in for another reason.
    """
    desk = _Desk(connection, now)
    returned = desk.take_back(ended, renewed, given_back) if ended or renewed or given_back else []
    numbers = _queue_numbers(connection, arrivals)
    queues = {*settle, *(row[1] for row in returned), *(number for number in numbers if number is not None)}
    if not queues:
        return Outcome(answers=[None] * len(arrivals))
    keys = {
        *((row[1], row[2]) for row in returned),
        *((number, one.ticket.key) for number, one in zip(numbers, arrivals, strict=True) if number is not None),
    }
    desk.open(queues)
    desk.load(keys, len(returned))
    desk.note_returned(returned)
    desk.settle(keys)
    answers = desk.admit(arrivals, numbers)
    desk.save()
    return Outcome(
        answers=answers,
        backlogs={place: desk.backlog(numbers[place]) for place, said in enumerate(answers) if said == "refused"},
        woken=desk.woken,
        begun=desk.begun,
        next_grant=desk.next_grant(),
    )


def differs(connection: sqlite3.Connection, limits: Mapping[Queue, Limits]) -> bool:
    """Whether declaring these limits would change anything."""
    known = _known(connection, limits)
    return any(given != known[queue][1] if queue in known else given.any for queue, given in limits.items())


def declare(connection: sqlite3.Connection, limits: Mapping[Queue, Limits], now: float) -> Collection[tuple[str, str]]:
    """Let these limits hold from now on; return the app and the workflow of instances that begin with that."""
    known = _known(connection, limits)
    fresh = [_queue_row(queue, given) for queue, given in limits.items() if queue not in known and given.any]
    if fresh:
        connection.execute(_INSERT_QUEUES, parameter(fresh))
    changed = [(number, limits[queue]) for queue, (number, before) in known.items() if before != limits[queue]]
    for number, given in changed:
        connection.execute("UPDATE queue SET limits = ? WHERE number = ?", (_text(given), number))
        (virtual,) = connection.execute("SELECT virtual FROM queue WHERE number = ?", (number,)).fetchone()
        stand = {"per_key": given.per_key, "tags": virtual, "floor": _tags(virtual)["floor"], "queue": number}
        connection.execute(_STAND_ANEW, stand)
    told = exchange_tickets(connection, now, settle=[number for number, _ in changed])
    return told.begun


def grant_due(connection: sqlite3.Connection, now: float) -> Collection[tuple[str, str]]:
    """Let those stand in line whose time has come, and grant what waited for a time that has come.

    Returns:
        the app and the workflow of instances that begin with that.
    """
    if not connection.execute(_ANY_GRANT, (now,)).fetchone()[0]:
        return ()
    due = _decoded(connection.execute(_DUE_TICKETS, (now,)))
    # A time that is too far away was set by a clock that has been put back since.
    waking = [row[0] for row in connection.execute(_WAKING_QUEUES, (now, now))]
    if not due and not waking:
        return ()
    connection.execute(_DELETE_TICKETS, parameter([row[0] for row in due]))
    queues = {number: queue for queue, number in _all_queues(connection).items()}
    arrivals = [
        Arrival(Ticket(queue=queues[queue], key=key, priority=priority), instance)
        for _, queue, key, priority, instance in due
    ]
    outcome = exchange_tickets(connection, now, arrivals=arrivals, settle=waking)
    granted = [
        one.instance for one, answer in zip(arrivals, outcome.answers, strict=True) if answer in {"granted", None}
    ]
    if granted:
        connection.execute(_BEGIN_INSTANCES, (now, parameter(granted)[0]))
    later = {(queues[queue].app_id, queues[queue].name) for _, queue, *_ in due}
    return later.union(outcome.begun)


def next_grant(connection: sqlite3.Connection, app_id: str) -> float | None:
    """Return when something of an app is granted because its time has come."""
    at: float | None = connection.execute(_NEXT_GRANT, (app_id,)).fetchone()[0]
    return at


def tickets_of(connection: sqlite3.Connection, keys: Collection[int]) -> dict[int, dict[int, bool]]:
    """Return, for instances, whether the tickets of their attempts are granted."""
    found: dict[int, dict[int, bool]] = {}
    for key, task, state in _decoded(connection.execute(_TICKETS, parameter(keys))):
        found.setdefault(key, {})[task] = state == _GRANTED
    return found


def lines_of(connection: sqlite3.Connection, keys: Collection[int]) -> dict[int, list[InLine]]:
    """Return how the tickets of instances wait, of each the first one in each queue."""
    found: dict[int, list[InLine]] = {}
    for row in connection.execute(_IN_LINE, parameter(keys)).fetchall():
        instance, number, app_id, kind, name, limits, wake_at, task, key, priority, ticket = row
        own = connection.execute(_OWN_AHEAD, (number, key, priority, ticket)).fetchone()[0]
        others = connection.execute(
            "SELECT waiting, priority FROM queue_key WHERE queue = ? AND key <> ? AND waiting > 0", (number, key)
        )
        line = InLine(Queue(app_id, kind, name), _limits(limits), task, wake_at, ahead_of(own, priority, others))
        found.setdefault(instance, []).append(line)
    return found


def _all_queues(connection: sqlite3.Connection) -> dict[Queue, int]:
    rows = connection.execute("SELECT app_id, kind, name, number FROM queue")
    return {Queue(app_id, kind, name): number for app_id, kind, name, number in rows}


class _Desk:
    """The queues that a transaction concerns."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self.woken = False
        self.begun: set[tuple[str, str]] = set()
        self._connection = connection
        self._now = now
        self._lines: dict[int, Line] = {}
        self._names: dict[int, tuple[str, str]] = {}

    def take_back(
        self, ended: Collection[int], renewed: Collection[int], given_back: Collection[tuple[int, int]]
    ) -> list[Any]:
        """Delete tickets and return what they were: number, queue, key, state."""
        chosen = (*parameter(ended), *parameter(renewed), *parameter(given_back))
        returned = _decoded(self._connection.execute(_RETURNED, chosen))
        if returned:
            self._connection.execute(_DELETE_TICKETS, parameter([row[0] for row in returned]))
        return [row for row in returned if row[3] != _LATER]

    def open(self, queues: Collection[int]) -> None:
        for number, app_id, name, limits, running, waiting, virtual, spent in _decoded(
            self._connection.execute(_QUEUES, parameter(queues))
        ):
            self._names[number] = app_id, name
            self._lines[number] = Line(
                _limits(limits),
                running=running,
                waiting=waiting,
                **_tags(virtual),
                spent=msgspec.json.decode(spent, type=Spent),
            )

    def load(self, keys: Iterable[tuple[int, str]], tickets: int) -> None:
        """Load the places of some keys, and the first of their tickets, about as many as given in all."""
        self._seat(_decoded(self._connection.execute(_PLACES, parameter(keys))), tickets)

    def _seat(self, rows: Sequence[Any], tickets: int) -> None:
        places = {
            (queue, key): Place(
                key,
                running=running,
                waiting=waiting,
                finish=finish,
                start=start,
                priority=priority,
                ready=bool(ready),
            )
            for queue, key, running, waiting, finish, start, priority, ready in rows
        }
        waiting = {where: place for where, place in places.items() if place.waiting}
        # Each gets as many as it is likely to need: they take turns.
        self._fill(waiting, max(_AT_LEAST, tickets // max(1, len(waiting)) + 1))
        for (queue, _), place in places.items():
            self._lines[queue].seat(place)

    def _fill(self, places: Mapping[tuple[int, str], Place], window: int) -> None:
        if not places:
            return
        found: dict[tuple[int, str], list[Waiting]] = {}
        for queue, key, number, priority, *holder in _decoded(
            self._connection.execute(_FIRST_TICKETS, (*parameter(list(places)), window))
        ):
            found.setdefault((queue, key), []).append(Waiting(number, priority, holder))
        for where, tickets in found.items():
            places[where].load(tickets)

    def note_returned(self, returned: Sequence[Any]) -> None:
        for number, queue, key, state in returned:
            if state == _GRANTED:
                self._lines[queue].leave(key)
            else:
                self._lines[queue].withdraw(key, number)

    def settle(self, keys: Collection[tuple[int, str]]) -> None:
        """Grant whatever may be granted now; afterwards the places of these keys are loaded."""
        while self._settle_some():
            # What is loaded must not grow with what waits.
            self.save()
            self.open(list(self._lines))
            self.load(keys, _AT_ONCE)

    def _settle_some(self) -> bool:
        """Grant some tickets; return whether there may be more to grant."""
        granted: list[Waiting] = []
        more = False
        for number, line in self._lines.items():
            room = line.room(self._now)
            most = _AT_ONCE if room is None else min(room, _AT_ONCE)
            if most and line.waiting:
                self._load_next(number, line, most)
            let_in = line.settle(self._now, most)
            granted += let_in
            if let_in and let_in[0].holder[1] == INSTANCE:
                self.begun.add(self._names[number])
            more = more or line.is_short or (len(let_in) == most and line.waiting > 0 and line.room(self._now) != 0)
        self._grant(granted)
        self._refill()
        return more

    def _load_next(self, number: int, line: Line, most: int) -> None:
        chosen = (number, parameter(list(line.places))[0], most)
        rows = _decoded(self._connection.execute(_NEXT_PLACES, chosen))
        if rows:
            self._seat(rows, most)

    def _refill(self) -> None:
        """Load the next tickets of places that have given all that were loaded."""
        empty = {
            (number, place.key): place
            for number, line in self._lines.items()
            for place in line.places.values()
            if place.waiting and place.first() is None
        }
        self._fill(empty, 3 * _AT_LEAST)
        for (number, _), place in empty.items():
            line = self._lines[number]
            if place.first() is None:
                # Books that do not add up must keep nobody waiting.
                line.waiting, place.waiting = line.waiting - place.waiting, 0
            line.seat(place)

    def _grant(self, granted: Sequence[Waiting]) -> None:
        if not granted:
            return
        self.woken = True
        self._connection.execute(_GRANT_TICKETS, parameter([ticket.number for ticket in granted]))
        begins = [instance for instance, task, _ in (ticket.holder for ticket in granted) if task == INSTANCE]
        told = [(instance, event) for instance, task, event in (ticket.holder for ticket in granted) if task >= 0]
        if begins:
            self._connection.execute(_BEGIN_INSTANCES, (self._now, parameter(begins)[0]))
        if told:
            self._connection.execute(ADD_TO_INBOXES, parameter(told))
            self._connection.execute(_WAKE, parameter(told))

    def admit(self, arrivals: Sequence[Arrival], numbers: Sequence[int | None]) -> list[Answer | None]:
        """Take new tickets."""
        if not arrivals:
            return []
        last: int = self._connection.execute("SELECT coalesce(max(number), 0) FROM ticket").fetchone()[0]
        answers: list[Answer | None] = []
        rows: list[object] = []
        for one, queue in zip(arrivals, numbers, strict=True):
            if queue is None:
                answers.append(None)
                continue
            ticket = one.ticket
            last += 1
            answer: Answer = "waits"
            if one.begins_at is None:
                waiting = Waiting(last, ticket.priority)
                answer = self._lines[queue].arrive(ticket.key, waiting, self._now, may_refuse=one.may_be_refused)
            answers.append(answer)
            if answer != "refused":
                state = _LATER if one.begins_at is not None else _WAITS if answer == "waits" else _GRANTED
                place = (queue, ticket.key, ticket.priority, one.instance, one.task)
                rows.append((last, *place, state, one.granted, one.begins_at))
        if rows:
            self._connection.execute(_INSERT_TICKETS, parameter(rows))
        return answers

    def save(self) -> None:
        rows: list[object] = []
        for number, line in self._lines.items():
            for place in line.places.values():
                first = place.first()
                head = 0 if first is None else first.number
                stands = (place.finish, place.start, place.priority, head, int(place.ready))
                rows.append((number, place.key, place.running, place.waiting, *stands))
            virtual = msgspec.json.encode({"floor": line.floor, "forgotten": line.forgotten, **line.virtual})
            spent = msgspec.json.encode(line.spent)
            counts = (line.running, line.waiting, virtual.decode(), spent.decode())
            self._connection.execute(_SAVE_QUEUE, (*counts, line.wakes_at(self._now), number))
            if rows:
                self._connection.execute(_SAVE_PLACES, parameter(rows))
                rows.clear()
            self._connection.execute(_DELETE_IDLE, (number, line.forgotten))

    def next_grant(self) -> float | None:
        times = (line.wakes_at(self._now) for line in self._lines.values())
        return min((at for at in times if at is not None), default=None)

    def backlog(self, queue: int | None) -> int:
        """Return the backlog of a queue that refused somebody."""
        assert queue is not None
        return self._lines[queue].limits.backlog or 0


def _queue_numbers(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> list[int | None]:
    """Return the number of each arrival's queue; None where nothing is limited."""
    wanted = {one.ticket.queue: one.ticket.limits or UNLIMITED for one in arrivals}
    if not wanted:
        return []
    known = _known(connection, wanted)
    fresh = [queue for queue, limits in wanted.items() if queue not in known and limits.any]
    if fresh:
        connection.execute(_INSERT_QUEUES, parameter([_queue_row(queue, wanted[queue]) for queue in fresh]))
        known = _known(connection, wanted)
    return [_number(known.get(one.ticket.queue), one.ticket) for one in arrivals]


def _number(known: tuple[int, Limits] | None, ticket: Ticket) -> int | None:
    if known is None or (ticket.limits is None and not known[1].any):
        return None
    return known[0]


def _known(connection: sqlite3.Connection, wanted: Iterable[Queue]) -> dict[Queue, tuple[int, Limits]]:
    names = parameter([(queue.app_id, queue.kind, queue.name) for queue in wanted])
    rows = _decoded(connection.execute(_EXISTING_QUEUES, names))
    return {Queue(app_id, kind, name): (number, _limits(limits)) for app_id, kind, name, number, limits in rows}


def _queue_row(queue: Queue, limits: Limits) -> tuple[str, str, str, str]:
    return queue.app_id, queue.kind, queue.name, _text(limits)


def _tags(virtual: str) -> dict[str, Any]:
    """Return what a line is made of from the tags that are kept of it."""
    tags: dict[str, int] = msgspec.json.decode(virtual)
    known = {name: tags.pop(name, 0) for name in ("floor", "forgotten")}
    return {"virtual": {int(priority): tag for priority, tag in tags.items()}, **known}


def _text(limits: Limits) -> str:
    return msgspec.json.encode(limits).decode()


def _limits(text: str) -> Limits:
    return msgspec.json.decode(text, type=Limits)


def _decoded(cursor: sqlite3.Cursor) -> list[Any]:
    """Return the rows that a statement gathered into one JSON array."""
    rows: list[Any] = msgspec.json.decode(cursor.fetchone()[0])
    return rows
