"""What an instance has open: calls, timers, waits for events, questions to a human. Pure state, asked and told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.base.codec import Resolved
from perdure.base.events import (
    AnyEvent,
    Called,
    EventRaised,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerFired,
)
from perdure.engine.engine_events import ANSWERED, ASKED, GRANTED, NOT_STARTED, QUEUED, STARTED
from perdure.engine.tasks import Task

Convert = Callable[[Any], Any]


class Call:
    """A call of an activity or a child workflow: the first attempt, which holds the input and the policy, and the
    current one.

    Attributes:
        backoff: the timer that the next attempt waits for, or None.
    """

    __slots__ = ("backoff", "convert", "current", "first", "first_at", "task")

    def __init__(self, first: Called, first_at: float, convert: Convert | None) -> None:
        self.first = first
        self.current = first
        self.first_at = first_at
        self.convert = convert
        self.backoff: int | None = None
        what = "activity" if type(first) is TaskScheduled else "child workflow"
        self.task: Task[Any] = Task(f"{what} {first.name!r}", self)

    def adopt(self, recorded: Called) -> None:
        """Let what is recorded stand in for what the code of today asked."""
        if self.current is self.first:
            self.first = recorded
        self.current = recorded


class Unread:
    """An external event that came before anybody waited for it.

    Attributes:
        number: how many came before it.
        event: as it was raised.
        value: its decoded data.
    """

    __slots__ = ("event", "number", "value")

    def __init__(self, number: int, event: EventRaised, value: Any) -> None:
        self.number, self.event, self.value = number, event, value


class OpenWork:
    """What keeps an instance from its end.

    Attributes:
        generation: how often the instance has continued as new.
        suspended: why it was suspended; None when it is not.
        asked: attempts cut off by a crash, about which a human was asked and has not answered.
        not_started: attempts that a stopping worker recorded as never begun, and that none has begun since.
        queued: attempts that wait for their turn, as far as the history knows.
    """

    __slots__ = (
        "_backoffs",
        "_calls",
        "_children",
        "_events_seen",
        "_held_back",
        "_timers",
        "_unread",
        "_waiters",
        "_waiting_on",
        "asked",
        "generation",
        "not_started",
        "queued",
        "suspended",
    )

    def __init__(self) -> None:
        self.generation = 0
        self.suspended: str | None = None
        self.asked: set[int] = set()
        self.not_started: set[int] = set()
        self.queued: set[int] = set()
        self._waiting_on: Task[Any] | None = None
        self._calls: dict[int, Call] = {}
        self._children: dict[int, Call] = {}
        self._timers: dict[int, tuple[float, Task[None]]] = {}
        self._backoffs: dict[int, tuple[float, Call]] = {}
        self._waiters: dict[str, deque[Task[Any]]] = {}
        self._unread: dict[str, deque[Unread]] = {}
        self._events_seen = 0
        self._held_back: deque[tuple[AnyEvent, Resolved]] | None = None

    def pending_activities(self) -> list[TaskScheduled]:
        """Return the attempts of activities that have neither completed nor failed."""
        settled = self._settled_unseen()
        current = [call.current for call in self._calls.values() if call.current.id not in settled]
        return [attempt for attempt in current if isinstance(attempt, TaskScheduled)]

    def is_pending(self, task_id: int) -> bool:
        """Whether an attempt of an activity still matters."""
        return task_id in self._calls

    @property
    def only_waits(self) -> bool:
        """Whether every open attempt of an activity, if there is one, waits for a human's answer or for its turn."""
        open_calls = len(self._calls) - len(self.queued)
        if self._held_back:
            open_calls -= len(self._settled_unseen())
        return open_calls == len(self.asked)

    def _settled_unseen(self) -> frozenset[int]:
        """Return the attempts whose outcome is recorded, and kept from the code while the instance is suspended."""
        events = (event for event, _ in self._held_back or ())
        return frozenset(event.task_id for event in events if isinstance(event, TaskCompleted | TaskFailed))

    def input_of(self, scheduled: Called) -> msgspec.Raw:
        """Return the input of an attempt; a retry's is that of the first attempt."""
        calls = self._calls if type(scheduled) is TaskScheduled else self._children
        call = calls.get(scheduled.id)
        return scheduled.input if call is None else call.first.input

    def due_timers(self, now: float) -> list[TimerFired]:
        """Return the firings that are due, the earliest first; a suspended instance has none."""
        if (not self._timers and not self._backoffs) or self.suspended is not None:
            return []
        due = sorted((at, timer_id) for timer_id, at in self._open_timers() if at <= now)
        return [TimerFired(timer_id=timer_id) for _, timer_id in due]

    def next_timer(self) -> float | None:
        """Return when the next timer fires, or None."""
        if (not self._timers and not self._backoffs) or self.suspended is not None:
            return None
        return min(at for _, at in self._open_timers())

    def waits(self) -> dict[str, Any]:
        """Return what the instance waits for, as data for people."""
        found: dict[str, Any] = {}
        if self.suspended is not None:
            found["suspended"] = self.suspended
        if self.asked:
            names = {call.current.id: call.first.name for call in self._calls.values()}
            found["asks"] = [{"task": task, "activity": names.get(task, "")} for task in sorted(self.asked)]
        events = [name for name, waiters in self._waiters.items() if waiters]
        if events:
            found["events"] = events
        if self._children:
            found["children"] = [_child_of(call) for call in self._children.values()]
        if self.queued:
            found["queued"] = self._queued_calls()
        if self._backoffs:
            found["retries"] = [_retry_of(call, at) for at, call in self._backoffs.values()]
        if self._timers:
            found["timer"] = min(at for at, _ in self._timers.values())
        if not found and self._waiting_on is not None:
            found["stuck"] = self._waiting_on.waits_for()
        return found

    def _queued_calls(self) -> list[dict[str, Any]]:
        names = Counter(call.first.name for call in self._calls.values() if call.current.id in self.queued)
        return [{"activity": name, "calls": count} for name, count in names.items()]

    def unread_events(self) -> tuple[EventRaised, ...]:
        """Return the external events that nobody has read, in the order in which they came."""
        unread = sorted((one for queue in self._unread.values() for one in queue), key=lambda one: one.number)
        held_back = (event for event, _ in self._held_back or () if isinstance(event, EventRaised))
        return (*(one.event for one in unread), *held_back)

    def _open_timers(self) -> list[tuple[int, float]]:
        timers = [(timer_id, at) for timer_id, (at, _) in self._timers.items()]
        return timers + [(timer_id, at) for timer_id, (at, _) in self._backoffs.items()]

    def _expects(self, event: AnyEvent) -> bool:
        """Whether an event still concerns this instance; late and repeated ones do not."""
        match event:
            case TaskCompleted() | TaskFailed():
                return event.task_id in self._calls
            case TimerFired(timer_id=timer_id):
                return timer_id in self._timers or timer_id in self._backoffs
            case SubOrchestrationInstanceCompleted() | SubOrchestrationInstanceFailed():
                call = self._children.get(event.task_id)
                return call is not None and event.generation == self.generation and _is_of(event.instance_id, call)
            case _:
                return True

    def _note_engine_event(self, name: str, value: Any) -> None:
        if name == ASKED and value in self._calls:
            self.asked.add(value)
        elif name == ANSWERED:
            self.asked.discard(value["task"])
        elif name == NOT_STARTED:
            self.not_started.update(value)
        elif name == STARTED:
            self.not_started.difference_update(value)
        elif name == GRANTED and value["generation"] == self.generation:
            self.queued.difference_update(value["tasks"])
        elif name == QUEUED:
            self.not_started.difference_update(value)
            self.queued.update(task for task in value if task in self._calls)

    def _drop_call(self, call: Call) -> bool:
        """Forget a call; return whether it was open."""
        if call.backoff is not None:
            return self._backoffs.pop(call.backoff, None) is not None
        self.asked.discard(call.current.id)
        self.queued.discard(call.current.id)
        calls = self._calls if isinstance(call.current, TaskScheduled) else self._children
        return calls.pop(call.current.id, None) is not None

    def _drop_everything(self) -> None:
        for table in (self._calls, self._children, self._timers, self._backoffs, self._waiters, self._unread):
            table.clear()
        self.asked.clear()
        self.queued.clear()
        self._held_back = None


def _is_of(child: str, call: Call) -> bool:
    """Whether a child workflow's end answers a call, and not one of an earlier run with the caller's id."""
    assert isinstance(call.current, SubOrchestrationInstanceCreated)
    return child in {"", call.current.instance_id}


def _child_of(call: Call) -> dict[str, Any]:
    child = call.current
    assert isinstance(child, SubOrchestrationInstanceCreated)
    app = {} if child.app_id is None else {"app": child.app_id}
    return {"workflow": child.name, "instance": child.instance_id, **app}


def _retry_of(call: Call, at: float) -> dict[str, Any]:
    kind = "activity" if isinstance(call.first, TaskScheduled) else "workflow"
    attempts = {} if call.first.retry is None else {"of": call.first.retry.max_attempts}
    return {kind: call.first.name, "attempt": call.current.attempt + 1, **attempts, "at": at}
