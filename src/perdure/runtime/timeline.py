"""A history as people read it: one entry for each call, timer, event and question, in the order of their beginning.

Pure: rows in, entries out. Values stay encoded until somebody shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from perdure.base.codec import NOTHING, Resolved, decode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    Failure,
    HistoryRow,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.engine.engine_events import (
    ANSWERED,
    ASKED,
    CANCELLED,
    ENGINE_EVENT,
    FORKED,
    GRANTED,
    INTERRUPTED,
    NOT_STARTED,
    QUEUED,
    STARTED,
)


class Kind(StrEnum):
    """What an entry is about."""

    START = "start"
    ACTIVITY = "activity"
    CHILD = "child"
    SENT = "sent"
    TIMER = "timer"
    EVENT = "event"
    QUESTION = "question"
    ANSWER = "answer"
    SUSPEND = "suspend"
    RESUME = "resume"
    END = "end"


class Progress(StrEnum):
    """How far an entry has come."""

    RUNNING = "running"
    """Scheduled, and neither completed nor failed; whether somebody executes it now, the instance's owner says."""

    RETRYING = "retrying"
    """An attempt failed; the next one begins when its wait is over."""

    ASKS = "asks"
    """A crash cut it off, and a human is to say what became of it."""

    QUEUED = "queued"
    """An attempt that waits for its turn under a limit."""

    WAITING = "waiting"
    """A timer whose time has not come."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Unfinished when the run ended."""


OPEN = frozenset({Progress.RUNNING, Progress.RETRYING, Progress.ASKS, Progress.QUEUED, Progress.WAITING})
"""The states that something more will come of."""


class Origin(StrEnum):
    """Where the outcome of a call comes from."""

    OWN = "own"
    """It was recorded when the call had ended."""

    GIVEN = "given"
    """Whoever made this fork said so; the call was not made."""

    KEPT = "kept"
    """The run that this one was forked from had it, from a call that ended after the fork's place."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of an activity call.

    Attributes:
        task: its id within the run; questions and answers name it.
        number: 1 for the first one.
        started_at: when it could begin, as far as the history tells, in seconds since the epoch: when it was scheduled,
            or when its turn came, a fork made it again, or a worker took it up that another one had left.
        ended_at: when its outcome was recorded, or None.
        failure: why it failed, or None.
        interruptions: how often the history says that a crash cut it off and it was begun again.
    """

    task: int
    number: int
    started_at: float
    ended_at: float | None = None
    failure: Failure | None = None
    interruptions: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened in a run, or that still happens.

    Attributes:
        kind: what it is about.
        name: of the workflow, the activity or the event.
        progress: how far it has come.
        started_at: seconds since the epoch.
        ended_at: seconds since the epoch, or None.
        attempts: of an activity call, the first one first.
        recorded: of an activity call, how many results the history holds; more than one would be a fault.
        input: encoded; what was called, started, raised or answered with.
        output: encoded; what came out.
        failure: why it failed, or why the last attempt did.
        due: when a timer fires, or when the next attempt begins.
        task: of a question or an answer, the attempt's id.
        instance: of a child workflow or a sent event, the other instance's id.
        origin: of a call that has ended, where its outcome comes from.
        may_wait: whether its attempt takes its turn under a limit, and the history does not say that it came.
    """

    kind: Kind
    name: str
    progress: Progress
    started_at: float
    ended_at: float | None = None
    attempts: tuple[Attempt, ...] = ()
    recorded: int = 0
    input: msgspec.Raw | None = None
    output: msgspec.Raw | None = None
    failure: Failure | None = None
    due: float | None = None
    task: int | None = None
    instance: str | None = None
    origin: Origin = Origin.OWN
    may_wait: bool = False

    @property
    def duration(self) -> float | None:
        """Seconds from the beginning to the end, waits between attempts included; None while it is not over, and for a
        call whose outcome is not this run's own.
        """
        if self.ended_at is None or self.origin is not Origin.OWN:
            return None
        begun = self.attempts[0].started_at if self.attempts else self.started_at
        return max(0.0, self.ended_at - begun)

    @property
    def tries(self) -> int:
        """How often a call was begun, as far as the history tells."""
        return len(self.attempts) + self.interruptions

    @property
    def interruptions(self) -> int:
        """How often a crash cut the call off and it was begun again."""
        return sum(attempt.interruptions for attempt in self.attempts)

    @property
    def is_open(self) -> bool:
        """Whether something more will come of it."""
        return self.progress in OPEN


def timeline(rows: Iterable[HistoryRow], resolved: Resolved = NOTHING, instance_id: str = "") -> list[Entry]:
    """Return the entries of a history.

    Args:
        rows: the whole history.
        resolved: content of what the answers of humans refer to.
        instance_id: whose history it is; a fork's own child workflows are known by it.
    """
    reader = _Reader(resolved, instance_id)
    for row in rows:
        reader.begin(row.at)
        for event in row.events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(reader, event)
            reader.before = event
    return reader.entries


def values(rows: Iterable[HistoryRow]) -> list[msgspec.Raw]:
    """Return the encoded values that showing these rows needs."""
    found: list[msgspec.Raw] = []
    for row in rows:
        for event in row.events:
            match event:
                case (
                    ExecutionStarted()
                    | TaskScheduled()
                    | SubOrchestrationInstanceCreated()
                    | EventSent()
                    | EventRaised()
                ):
                    found.append(event.input)
                case TaskCompleted() | SubOrchestrationInstanceCompleted() | ExecutionCompleted():
                    found.append(event.result)
                case _:
                    continue
    return found


class _Fork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a fork makes again, instead of having its outcome.

    Attributes:
        again: the activity call.
        children: the child workflow.
    """

    again: frozenset[int]
    children: frozenset[int]


class _Reader:
    """Reads the events of a history into entries."""

    def __init__(self, resolved: Resolved, instance_id: str) -> None:
        self.at = 0.0
        self.before: AnyEvent | None = None
        self.entries: list[Entry] = []
        self._resolved = resolved
        self._instance_id = instance_id
        self._generation = 0
        self._places: dict[int, int] = {}
        self._timers: dict[int, int] = {}
        self._fork: _Fork | None = None

    def begin(self, at: float) -> None:
        self.at = at
        # What a fork has from others is recorded in one row.
        self._fork = None

    def started(self, event: ExecutionStarted) -> None:
        self._generation = event.generation
        self._add(Kind.START, event.name, Progress.COMPLETED, ended_at=self.at, input=event.input)

    def scheduled(self, event: TaskScheduled) -> None:
        attempt = Attempt(task=event.id, number=event.attempt, started_at=self.at)
        place = self._places.get(event.call_id)
        may_wait = event.admission is not None
        if place is None:
            fields = {"input": event.input, "attempts": (attempt,), "may_wait": may_wait}
            place = self._add(Kind.ACTIVITY, event.name, Progress.RUNNING, **fields)
        else:
            attempts = (*self.entries[place].attempts, attempt)
            fields = {"attempts": attempts, "due": None, "origin": Origin.OWN, "may_wait": may_wait}
            self._change(place, progress=Progress.RUNNING, **fields)
        self._places[event.id] = place

    def completed(self, event: TaskCompleted | SubOrchestrationInstanceCompleted) -> None:
        place = self._places.get(event.task_id)
        if place is not None:
            self._end_attempt(place, event.task_id, None)
            self._change(place, origin=self._origin_of(event.task_id))
            self._change(place, progress=Progress.COMPLETED, ended_at=self.at, output=event.result, failure=None)
            self._change(place, recorded=self.entries[place].recorded + 1)

    def failed(self, event: TaskFailed | SubOrchestrationInstanceFailed) -> None:
        place = self._places.get(event.task_id)
        if place is not None:
            self._end_attempt(place, event.task_id, event.failure)
            self._change(place, origin=self._origin_of(event.task_id))
            self._change(place, progress=Progress.FAILED, ended_at=self.at, failure=event.failure)

    def timer_created(self, event: TimerCreated) -> None:
        place = None if event.retry_of is None else self._places.get(event.retry_of)
        if place is not None:
            self._change(place, progress=Progress.RETRYING, ended_at=None, due=event.fire_at)
        else:
            self._timers[event.id] = self._add(Kind.TIMER, "timer", Progress.WAITING, due=event.fire_at)

    def timer_fired(self, event: TimerFired) -> None:
        place = self._timers.get(event.timer_id)
        if place is not None:
            self._change(place, progress=Progress.COMPLETED, ended_at=self.at)

    def raised(self, event: EventRaised) -> None:
        if event.name == ASKED:
            self._asked(decode(event.input, self._resolved))
        elif event.name == ANSWERED:
            self._answered(event, decode(event.input, self._resolved)["task"])
        elif event.name == CANCELLED:
            self._cancelled(decode(event.input, self._resolved))
        elif event.name == INTERRUPTED:
            self._interrupted(decode(event.input, self._resolved))
        elif event.name == FORKED:
            self._forked()
        elif event.name in {NOT_STARTED, STARTED}:
            self._could_begin(decode(event.input, self._resolved))
        elif event.name == GRANTED:
            self._granted(decode(event.input, self._resolved))
        elif event.name == QUEUED:
            self._queued(decode(event.input, self._resolved))
        elif not event.name.startswith(ENGINE_EVENT):
            self._add(Kind.EVENT, event.name, Progress.COMPLETED, ended_at=self.at, input=event.input)

    def child_created(self, event: SubOrchestrationInstanceCreated) -> None:
        attempt = Attempt(task=event.id, number=event.attempt, started_at=self.at)
        place = None if event.retry_of is None else self._places.get(event.retry_of)
        if place is None:
            done = Progress.COMPLETED if event.detached else Progress.RUNNING
            ended = self.at if event.detached else None
            fields: dict[str, Any] = {
                "input": event.input,
                "attempts": (attempt,),
                "instance": event.instance_id,
                "ended_at": ended,
            }
            place = self._add(Kind.CHILD, event.name, done, **fields)
        else:
            attempts = (*self.entries[place].attempts, attempt)
            fields = {"attempts": attempts, "due": None, "origin": Origin.OWN, "instance": event.instance_id}
            self._change(place, progress=Progress.RUNNING, **fields)
        self._places[event.id] = place

    def sent(self, event: EventSent) -> None:
        fields = {"ended_at": self.at, "input": event.input, "instance": event.instance_id}
        self._add(Kind.SENT, event.name, Progress.COMPLETED, **fields)

    def suspended(self, event: ExecutionSuspended) -> None:
        self._add(Kind.SUSPEND, event.reason or "suspended", Progress.COMPLETED, ended_at=self.at)

    def resumed(self, event: ExecutionResumed) -> None:
        self._add(Kind.RESUME, event.reason or "resumed", Progress.COMPLETED, ended_at=self.at)

    def _forked(self) -> None:
        noted = _input_of(self.before, NOT_STARTED)
        again: list[int] = [] if noted is None else decode(noted, self._resolved)
        children = [task for task, place in self._places.items() if self._is_own_child(task, self.entries[place])]
        self._could_begin(children)
        self._fork = _Fork(again=frozenset(again), children=frozenset(children))

    def _is_own_child(self, task: int, entry: Entry) -> bool:
        generation = f"{self._generation}:" if self._generation else ""
        return entry.is_open and entry.instance == f"{self._instance_id}:{generation}{task:04x}"

    def _origin_of(self, task: int) -> Origin:
        """Return where an outcome comes from that is recorded at this place."""
        fork = self._fork
        if fork is None or task in fork.children:
            return Origin.OWN
        is_first = _input_of(self.before, FORKED) is not None
        made_again = (fork.again or fork.children) - {task}
        return Origin.GIVEN if is_first and not made_again else Origin.KEPT

    def _could_begin(self, tasks: Iterable[int]) -> None:
        for task in tasks:
            place = self._places.get(task)
            if place is not None:
                self._change_attempt(place, task, started_at=self.at)

    def _granted(self, told: dict[str, Any]) -> None:
        if told["generation"] == self._generation:
            self._could_begin(told["tasks"])
            self._change_open(told["tasks"], progress=Progress.RUNNING, may_wait=False)

    def _queued(self, tasks: list[int]) -> None:
        self._change_open(tasks, progress=Progress.QUEUED, may_wait=True)

    def _change_open(self, tasks: Iterable[int], **fields: Any) -> None:
        for task in tasks:
            place = self._places.get(task)
            if place is not None and self.entries[place].is_open:
                self._change(place, **fields)

    def _cancelled(self, task: int) -> None:
        place = self._places.get(task)
        if place is not None and self.entries[place].is_open:
            self._change(place, progress=Progress.CANCELLED, ended_at=self.at)

    def _interrupted(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            place = self._places.get(task)
            if place is not None:
                attempt = next(one for one in self.entries[place].attempts if one.task == task)
                self._change_attempt(place, task, interruptions=attempt.interruptions + 1)

    def ended(self, event: ExecutionCompleted) -> None:
        for place, entry in enumerate(self.entries):
            if entry.is_open:
                self._change(place, progress=Progress.CANCELLED, ended_at=self.at)
        progress = Progress.COMPLETED if event.status is Status.COMPLETED else Progress.FAILED
        self._add(Kind.END, event.status, progress, ended_at=self.at, output=event.result, failure=event.failure)

    def _asked(self, task: int) -> None:
        place = self._places.get(task)
        name = "" if place is None else self.entries[place].name
        self._add(Kind.QUESTION, name, Progress.ASKS, task=task)
        if place is not None:
            self._change(place, progress=Progress.ASKS)

    def _answered(self, event: EventRaised, task: int) -> None:
        place = self._places.get(task)
        name = "" if place is None else self.entries[place].name
        for asked, entry in enumerate(self.entries):
            if entry.kind is Kind.QUESTION and entry.task == task and entry.is_open:
                self._change(asked, progress=Progress.COMPLETED, ended_at=self.at)
        if place is not None and self.entries[place].progress is Progress.ASKS:
            self._change(place, progress=Progress.RUNNING)
        self._add(Kind.ANSWER, name, Progress.COMPLETED, ended_at=self.at, input=event.input, task=task)

    def _add(self, kind: Kind, name: str, progress: Progress, **fields: Any) -> int:
        self.entries.append(Entry(kind=kind, name=name, progress=progress, started_at=self.at, **fields))
        return len(self.entries) - 1

    def _change(self, place: int, **fields: Any) -> None:
        self.entries[place] = msgspec.structs.replace(self.entries[place], **fields)

    def _end_attempt(self, place: int, task: int, failure: Failure | None) -> None:
        self._change_attempt(place, task, ended_at=self.at, failure=failure)

    def _change_attempt(self, place: int, task: int, **fields: Any) -> None:
        attempts = tuple(
            msgspec.structs.replace(attempt, **fields) if attempt.task == task else attempt
            for attempt in self.entries[place].attempts
        )
        self._change(place, attempts=attempts)


def _input_of(event: AnyEvent | None, name: str) -> msgspec.Raw | None:
    """Return what an external event of this name carries; None when it is no such event."""
    return event.input if isinstance(event, EventRaised) and event.name == name else None


_HANDLERS: dict[type[AnyEvent], Callable[[_Reader, Any], None]] = {
    ExecutionStarted: _Reader.started,
    TaskScheduled: _Reader.scheduled,
    TaskCompleted: _Reader.completed,
    TaskFailed: _Reader.failed,
    SubOrchestrationInstanceCreated: _Reader.child_created,
    SubOrchestrationInstanceCompleted: _Reader.completed,
    SubOrchestrationInstanceFailed: _Reader.failed,
    EventSent: _Reader.sent,
    ExecutionSuspended: _Reader.suspended,
    ExecutionResumed: _Reader.resumed,
    TimerCreated: _Reader.timer_created,
    TimerFired: _Reader.timer_fired,
    EventRaised: _Reader.raised,
    ExecutionCompleted: _Reader.ended,
}
