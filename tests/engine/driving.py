"""Drives a workflow function without any store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.base.codec import decode, encode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    ExecutionTerminated,
    Failure,
    HistoryRow,
    TaskCompleted,
    TaskFailed,
    TimerFired,
    decode_events,
    encode_events,
)
from perdure.engine.replay import Execution
from perdure.workflows.registry import Registry


def completed(task: int, result: Any = None) -> TaskCompleted:
    return TaskCompleted(task_id=task, result=encode(result).raw)


def failed(task: int, **fields: Any) -> TaskFailed:
    return TaskFailed(task_id=task, failure=Failure(error_type="OSError", message="no", **fields))


def fired(timer: int) -> TimerFired:
    return TimerFired(timer_id=timer)


def raised(name: str, data: Any = None) -> EventRaised:
    return EventRaised(name=name, input=encode(data).raw)


def terminated(reason: str = "") -> ExecutionTerminated:
    return ExecutionTerminated(reason=reason)


class Driven:
    """An execution with the history that it makes."""

    def __init__(self, function: Callable[..., Any], argument: Any = None) -> None:
        registry = Registry()
        self._definition = registry.workflows[registry.add_workflow(function, "flow")]
        self.now = 100.0
        self.rows = [HistoryRow(0, self.now, (ExecutionStarted(name="flow", input=encode(argument).raw),))]
        self.execution = self.replayed()
        self.feed()

    def replayed(self, function: Callable[..., Any] | None = None) -> Execution:
        """Return another execution at the same place; of changed code, if it is given."""
        definition = self._definition
        if function is not None:
            registry = Registry()
            definition = registry.workflows[registry.add_workflow(function, "flow")]
        execution = Execution(definition, "one")
        execution.replay(self.rows, encode(None).resolved)
        return execution

    def feed(self, *events: AnyEvent, after: float = 0.0) -> list[AnyEvent]:
        """Apply events and return the row they make."""
        self.now += after
        made = self.execution.advance(self.now, events).events
        if made:
            self.rows.append(HistoryRow(len(self.rows), self.now, decode_events(encode_events(made))))
        return made

    @property
    def result(self) -> Any:
        end = self.execution.completed
        assert end is not None
        assert end.failure is None, end.failure
        return decode(end.result)

    @property
    def failure(self) -> Failure:
        end = self.execution.completed
        assert end is not None
        assert end.failure is not None
        return end.failure
