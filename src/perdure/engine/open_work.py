"""What an instance has open: calls, timers, waits for events, questions to a human. Pure state, asked and told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.base.events import AnyEvent, TaskCompleted, TaskFailed, TaskScheduled, TimerFired
from perdure.engine.engine_events import ANSWERED, ASKED, NOT_STARTED, STARTED
from perdure.engine.tasks import Task

Convert = Callable[[Any], Any]


class Call:
    """An activity call: the first attempt, which holds the input and the policy, and the current one."""

    __slots__ = ("convert", "current", "first", "first_at", "task")

    def __init__(self, first: TaskScheduled, first_at: float, convert: Convert | None) -> None:
        self.first = first
        self.current = first
        self.first_at = first_at
        self.convert = convert
        self.task: Task[Any] = Task(f"activity {first.name!r}")

    def adopt(self, recorded: TaskScheduled) -> None:
        """Let what is recorded stand in for what the code of today asked."""
        if self.current is self.first:
            self.first = recorded
        self.current = recorded


class OpenWork:
    """What keeps an instance from its end.

    Attributes:
        asked: attempts cut off by a crash, about which a human was asked and has not answered.
        not_started: attempts that a stopping worker recorded as never begun, and that none has begun since.
    """

    __slots__ = ("_backoffs", "_calls", "_timers", "_unread", "_waiters", "_waiting_on", "asked", "not_started")

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self.not_started: set[int] = set()
        self._waiting_on: Task[Any] | None = None
        self._calls: dict[int, Call] = {}
        self._timers: dict[int, tuple[float, Task[None]]] = {}
        self._backoffs: dict[int, tuple[float, Call]] = {}
        self._waiters: dict[str, deque[Task[Any]]] = {}
        self._unread: dict[str, deque[Any]] = {}

    def pending_activities(self) -> list[TaskScheduled]:
        """Return the attempts that have neither completed nor failed."""
        return [call.current for call in self._calls.values()]

    @property
    def only_asks(self) -> bool:
        """Whether every open attempt, if there is one, waits for a human's answer."""
        return len(self._calls) == len(self.asked)

    def input_of(self, scheduled: TaskScheduled) -> msgspec.Raw:
        """Return the input of an attempt; a retry's is that of the first attempt."""
        call = self._calls.get(scheduled.id)
        return scheduled.input if call is None else call.first.input

    def due_timers(self, now: float) -> list[TimerFired]:
        """Return the firings that are due, the earliest first."""
        if not self._timers and not self._backoffs:
            return []
        due = sorted((at, timer_id) for timer_id, at in self._open_timers() if at <= now)
        return [TimerFired(timer_id=timer_id) for _, timer_id in due]

    def next_timer(self) -> float | None:
        """Return when the next timer fires, or None."""
        if not self._timers and not self._backoffs:
            return None
        return min(at for _, at in self._open_timers())

    def waits(self) -> dict[str, Any]:
        """Return what the instance waits for, as data for people."""
        found: dict[str, Any] = {}
        if self.asked:
            names = {call.current.id: call.first.name for call in self._calls.values()}
            found["asks"] = [{"task": task, "activity": names.get(task, "")} for task in sorted(self.asked)]
        events = [name for name, waiters in self._waiters.items() if waiters]
        if events:
            found["events"] = events
        if self._backoffs:
            found["retries"] = [
                {"activity": call.first.name, "attempt": call.current.attempt + 1, "at": at}
                for at, call in self._backoffs.values()
            ]
        if self._timers:
            found["timer"] = min(at for at, _ in self._timers.values())
        if not found and self._waiting_on is not None:
            found["stuck"] = self._waiting_on.waits_for()
        return found

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
