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
from perdure.engine.engine_events import ANSWERED, ASKED, CANCELLED, ENGINE_EVENT, INTERRUPTED


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

    WAITING = "waiting"
    """A timer whose time has not come."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Unfinished when the run ended."""


OPEN = frozenset({Progress.RUNNING, Progress.RETRYING, Progress.ASKS, Progress.WAITING})
"""The states that something more will come of."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of an activity call.

    Attributes:
        task: its id within the run; questions and answers name it.
        number: 1 for the first one.
        started_at: when it was scheduled, in seconds since the epoch.
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

    @property
    def duration(self) -> float | None:
        """Seconds from the beginning to the end, waits between attempts included; None while it is not over."""
        return None if self.ended_at is None else max(0.0, self.ended_at - self.started_at)

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


def timeline(rows: Iterable[HistoryRow], resolved: Resolved = NOTHING) -> list[Entry]:
    """Return the entries of a history.

    Args:
        rows: the whole history.
        resolved: content of what the answers of humans refer to.
    """
    reader = _Reader(resolved)
    for row in rows:
        reader.at = row.at
        for event in row.events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(reader, event)
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


class _Reader:
    """Reads the events of a history into entries."""

    def __init__(self, resolved: Resolved) -> None:
        self.at = 0.0
        self.entries: list[Entry] = []
        self._resolved = resolved
        self._places: dict[int, int] = {}
        self._timers: dict[int, int] = {}

    def started(self, event: ExecutionStarted) -> None:
        self._add(Kind.START, event.name, Progress.COMPLETED, ended_at=self.at, input=event.input)

    def scheduled(self, event: TaskScheduled) -> None:
        attempt = Attempt(task=event.id, number=event.attempt, started_at=self.at)
        place = self._places.get(event.call_id)
        if place is None:
            place = self._add(Kind.ACTIVITY, event.name, Progress.RUNNING, input=event.input, attempts=(attempt,))
        else:
            attempts = (*self.entries[place].attempts, attempt)
            self._change(place, progress=Progress.RUNNING, attempts=attempts, due=None)
        self._places[event.id] = place

    def completed(self, event: TaskCompleted | SubOrchestrationInstanceCompleted) -> None:
        place = self._places.get(event.task_id)
        if place is not None:
            self._end_attempt(place, event.task_id, None)
            self._change(place, progress=Progress.COMPLETED, ended_at=self.at, output=event.result, failure=None)
            self._change(place, recorded=self.entries[place].recorded + 1)

    def failed(self, event: TaskFailed | SubOrchestrationInstanceFailed) -> None:
        place = self._places.get(event.task_id)
        if place is not None:
            self._end_attempt(place, event.task_id, event.failure)
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
        elif not event.name.startswith(ENGINE_EVENT):
            self._add(Kind.EVENT, event.name, Progress.COMPLETED, ended_at=self.at, input=event.input)

    def child_created(self, event: SubOrchestrationInstanceCreated) -> None:
        attempt = Attempt(task=event.id, number=event.attempt, started_at=self.at)
        place = None if event.retry_of is None else self._places.get(event.retry_of)
        if place is None:
            done = Progress.COMPLETED if event.detached else Progress.RUNNING
            ended = self.at if event.detached else None
            fields = {"input": event.input, "attempts": (attempt,), "instance": event.instance_id, "ended_at": ended}
            place = self._add(Kind.CHILD, event.name, done, **fields)
        else:
            attempts = (*self.entries[place].attempts, attempt)
            self._change(place, progress=Progress.RUNNING, attempts=attempts, due=None, instance=event.instance_id)
        self._places[event.id] = place

    def sent(self, event: EventSent) -> None:
        fields = {"ended_at": self.at, "input": event.input, "instance": event.instance_id}
        self._add(Kind.SENT, event.name, Progress.COMPLETED, **fields)

    def suspended(self, event: ExecutionSuspended) -> None:
        self._add(Kind.SUSPEND, event.reason or "suspended", Progress.COMPLETED, ended_at=self.at)

    def resumed(self, event: ExecutionResumed) -> None:
        self._add(Kind.RESUME, event.reason or "resumed", Progress.COMPLETED, ended_at=self.at)

    def _cancelled(self, task: int) -> None:
        place = self._places.get(task)
        if place is not None and self.entries[place].is_open:
            self._change(place, progress=Progress.CANCELLED, ended_at=self.at)

    def _interrupted(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            place = self._places.get(task)
            if place is not None:
                self._change_attempt(place, task, lambda one: {"interruptions": one.interruptions + 1})

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
        self._change_attempt(place, task, lambda _: {"ended_at": self.at, "failure": failure})

    def _change_attempt(self, place: int, task: int, fields: Callable[[Attempt], dict[str, Any]]) -> None:
        attempts = tuple(
            msgspec.structs.replace(attempt, **fields(attempt)) if attempt.task == task else attempt
            for attempt in self.entries[place].attempts
        )
        self._change(place, attempts=attempts)


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
