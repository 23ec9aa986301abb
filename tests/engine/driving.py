"""Drives a workflow function without any store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.base.codec import decode, encode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    Failure,
    HistoryRow,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerFired,
    decode_events,
    encode_events,
)
from perdure.engine.outward import next_generation
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


def terminated(reason: str = "", *, recurse: bool = True) -> ExecutionTerminated:
    return ExecutionTerminated(reason=reason, recurse=recurse)


def suspended(reason: str = "") -> ExecutionSuspended:
    return ExecutionSuspended(reason=reason)


def resumed() -> ExecutionResumed:
    return ExecutionResumed()


def child_completed(task: int, result: Any = None, generation: int = 0) -> SubOrchestrationInstanceCompleted:
    return SubOrchestrationInstanceCompleted(task_id=task, result=encode(result).raw, generation=generation)


def child_failed(task: int, generation: int = 0, **fields: Any) -> SubOrchestrationInstanceFailed:
    failure = Failure(error_type="OSError", message="no", **fields)
    return SubOrchestrationInstanceFailed(task_id=task, failure=failure, generation=generation)


class Driven:
    """An execution with the history that it makes."""

    def __init__(
        self, function: Callable[..., Any], argument: Any = None, *, rows: Sequence[HistoryRow] = (), **started: Any
    ) -> None:
        registry = Registry()
        self._function = function
        self._definition = registry.workflows[registry.add_workflow(function, "flow")]
        first = ExecutionStarted(name="flow", input=encode(argument).raw, **started)
        self.rows = list(rows) or [HistoryRow(0, 100.0, (first,))]
        self.now = self.rows[-1].at
        self.execution = self.replayed()
        self.feed()

    def renewed(self) -> Driven:
        """Return the next generation, from the row that the store keeps of it."""
        events = decode_events(encode_events(self.next_generation()))
        return Driven(self._function, rows=[HistoryRow(self.rows[-1].seq + 1, self.now, events)])

    def next_generation(self) -> list[AnyEvent]:
        """Return the first row of the next generation."""
        return next_generation(self.execution, self._definition)

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
        self.decisions = self.execution.advance(self.now, events)
        made = self.decisions.events
        if not self.decisions.empty:
            self.rows.append(HistoryRow(self.rows[-1].seq + 1, self.now, decode_events(encode_events(made))))
        return made

    def crash(self) -> None:
        """Go on from the history alone."""
        self.execution = self.replayed()

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
