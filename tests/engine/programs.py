"""Random workflow programs: a small language, an interpreter that is a workflow, and a world that answers it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from perdure.base.codec import decode, encode
from perdure.base.errors import ActivityFailedError
from perdure.base.events import (
    Action,
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    Failure,
    HistoryRow,
    RetryPolicy,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    decode_events,
    encode_events,
)
from perdure.engine.replay import Execution
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

# -- the language


@dataclass(frozen=True)
class Call:
    """Call an activity whose result is its number; ``fails`` attempts fail before one does not."""

    number: int
    fails: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Receive:
    name: str


@dataclass(frozen=True)
class TimedReceive:
    name: str
    timeout: float


@dataclass(frozen=True)
class Seq:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Par:
    parts: tuple[Leaf, ...]


@dataclass(frozen=True)
class First:
    parts: tuple[Leaf, ...]


@dataclass(frozen=True)
class IfEven:
    """Call an activity, then go one of two ways by its result."""

    call: Call
    yes: Node
    no: Node


Leaf = Call | Sleep | Receive | TimedReceive
Node = Leaf | Seq | Par | First | IfEven

EVENTS = ("red", "blue")
_numbers = st.integers(0, 9)
_calls = st.builds(Call, _numbers)
_flaky_calls = st.builds(Call, _numbers, st.integers(0, 3), st.integers(1, 3))
_sleeps = st.builds(Sleep, st.sampled_from([0.0, 1.0, 5.0]))
_receives = st.builds(Receive, st.sampled_from(EVENTS))
_timed = st.builds(TimedReceive, st.sampled_from(EVENTS), st.sampled_from([1.0, 3.0]))


def _programs(leaves: st.SearchStrategy[Any], *, races: bool) -> st.SearchStrategy[Node]:
    groups = [st.builds(Par, st.lists(leaves, min_size=1, max_size=4).map(tuple))]
    if races:
        groups.append(st.builds(First, st.lists(leaves, min_size=1, max_size=3).map(tuple)))

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.builds(Seq, st.lists(inner, min_size=1, max_size=4).map(tuple)) | st.builds(
            IfEven, _calls, inner, inner
        )

    return st.recursive(st.one_of(leaves, *groups), larger, max_leaves=8)


programs = _programs(_calls | _flaky_calls | _sleeps | _receives | _timed, races=True)
"""Everything that the language has."""

order_free_programs = _programs(_calls | _flaky_calls | _sleeps, races=False)
"""Programs whose result does not depend on what finishes first."""


# -- the interpreter


class ProgramWorkflow:
    """A program as a workflow."""

    def __init__(self, program: Node, name: str = "program") -> None:
        self.name, self.keys, self.retention, self.newest = name, (name,), None, self
        self.rules = None
        self._program = program

    def begin(self, execution: Execution, argument: Any) -> Generator[Any, Any, Any]:
        context = WorkflowContext(execution, Registry())
        return _run(context, self._program)  # type: ignore[return-value]


def _task(ctx: WorkflowContext, leaf: Leaf) -> Any:
    match leaf:
        case Call(number, fails, attempts):
            policy = RetryPolicy(max_attempts=attempts, initial_backoff=1.0) if attempts > 1 else None
            given = {"number": number, "fails": fails}
            return ctx.call_activity(f"act{number}", input=given, retry_policy=policy)
        case Sleep(seconds):
            return ctx.create_timer(seconds)
        case Receive(name):
            return ctx.wait_for_external_event(name)
        case TimedReceive(name, timeout):
            return ctx.wait_for_external_event(name, timeout=timeout)


async def _outcome(task: Any) -> Any:
    try:
        return await task
    except (ActivityFailedError, TimeoutError) as error:
        return type(error).__name__


async def _run(ctx: WorkflowContext, node: Node) -> Any:
    match node:
        case Seq(parts):
            return [await _run(ctx, part) for part in parts]
        case Par(parts):
            return await _outcome(ctx.when_all([_task(ctx, part) for part in parts]))
        case First(parts):
            tasks = [_task(ctx, part) for part in parts]
            winner = await ctx.when_any(tasks)
            return [tasks.index(winner), await _outcome(winner), ctx.current_utc_datetime]
        case IfEven(call, yes, no):
            result = await _outcome(_task(ctx, call))
            return [result, await _run(ctx, yes if result % 2 == 0 else no)]
        case _:
            return await _outcome(_task(ctx, node))


# -- the world


@dataclass
class World:
    """Answers a program in an order that choices decide, and keeps the history that a store would keep."""

    program: Node
    execution: Execution = field(init=False)
    rows: list[HistoryRow] = field(init=False)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.execution = Execution(ProgramWorkflow(self.program), "run-1")
        self.rows = [HistoryRow(0, self.now, (ExecutionStarted(name="program"),))]
        self.execution.replay(self.rows, encode(None).resolved)
        self.commit([])

    def commit(self, incoming: Iterable[AnyEvent]) -> None:
        decisions = self.execution.advance(self.now, incoming)
        if decisions.events:
            events = decode_events(encode_events(decisions.events))
            self.rows.append(HistoryRow(len(self.rows), self.now, events))

    def possible(self) -> list[AnyEvent | None]:
        """Return what may happen next; None stands for time going on to the next timer."""
        if self.execution.completed is not None:
            return []
        found: list[AnyEvent | None] = [self.answer(task) for task in self.execution.pending_activities()]
        if self.execution.next_timer() is not None:
            found.append(None)
        if "events" in self.execution.waits() or not found:
            found.extend(EventRaised(name=name, input=encode(name).raw) for name in EVENTS)
        return found

    def answer(self, task: TaskScheduled) -> AnyEvent:
        given = decode(self.execution.input_of(task))
        if task.attempt <= given["fails"]:
            return TaskFailed(task_id=task.id, failure=Failure(error_type="OSError", message="again"))
        return TaskCompleted(task_id=task.id, result=encode(given["number"]).raw)

    def step(self, choice: int, together: int = 1) -> bool:
        """Let one thing happen, or some of them in one episode; return whether the program goes on."""
        possible = self.possible()
        if not possible:
            return False
        first = choice % len(possible)
        chosen = [possible[(first + offset) % len(possible)] for offset in range(min(together, len(possible)))]
        if None in chosen:
            self.now = max(self.now, self.execution.next_timer() or self.now)
            chosen.remove(None)
            chosen.extend(self.execution.due_timers(self.now))
        self.commit(event for event in chosen if event is not None)
        return self.execution.completed is None

    def run(self, choices: Sequence[int], *, end: bool = True, limit: int = 400) -> World:
        """Go on by choices; then, unless told otherwise, by turns until the program ends."""
        more = range(limit) if end else ()
        for choice in itertools.chain(choices, more):
            if not self.step(choice, 1 + choice % 3):
                break
        return self


def replayed(program: Node, rows: Sequence[HistoryRow]) -> Execution:
    """Return an execution brought to the end of some rows."""
    execution = Execution(ProgramWorkflow(program), "run-1")
    execution.replay(rows, encode(None).resolved)
    return execution


def state(execution: Execution) -> Any:
    """Return all that can be seen of an execution."""
    pending = [(task.id, task.name, task.attempt, task.retry_of) for task in execution.pending_activities()]
    inputs = [bytes(execution.input_of(task)) for task in execution.pending_activities()]
    completed = encode_events([execution.completed]) if execution.completed is not None else None
    return pending, inputs, execution.waits(), execution.next_timer(), completed


def incoming(row: HistoryRow) -> list[AnyEvent]:
    """Return what reached an instance in a row, without what its code decided."""
    return [event for event in row.events if not isinstance(event, Action)]
