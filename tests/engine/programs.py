"""Random workflow programs: a small language, an interpreter that is a workflow, and a world that answers it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from perdure.base.codec import decode, encode
from perdure.base.errors import ActivityFailedError, ChildWorkflowFailedError, TaskCancelledError
from perdure.base.events import (
    Action,
    AnyEvent,
    Called,
    EventRaised,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    Failure,
    HistoryRow,
    RetryPolicy,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    decode_events,
    encode_events,
)
from perdure.engine.engine_events import NOTES
from perdure.engine.outward import next_generation
from perdure.engine.replay import Execution
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

_ChildEnd = SubOrchestrationInstanceCompleted | SubOrchestrationInstanceFailed

# -- the language


@dataclass(frozen=True)
class Call:
    """Call an activity whose result is its number; ``fails`` attempts fail before one does not."""

    number: int
    fails: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Child:
    """Call a child workflow whose result is its number; ``fails`` attempts fail before one does not."""

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
class Collect(Par):
    """Wait for all, and let an error stand in the place of a result."""


@dataclass(frozen=True)
class Race(First):
    """Wait for the first, and cancel the others."""


@dataclass(frozen=True)
class Show:
    """Set the custom status and an attribute."""

    number: int


@dataclass(frozen=True)
class Mint:
    """Make an identifier and a random number."""


@dataclass(frozen=True)
class Patched:
    """Go the new way of a patch."""

    name: str
    new: Node


@dataclass(frozen=True)
class Again:
    """Continue as new, so many times in all."""

    times: int


@dataclass(frozen=True)
class IfEven:
    """Call an activity, then go one of two ways by its result."""

    call: Call
    yes: Node
    no: Node


Leaf = Call | Child | Sleep | Receive | TimedReceive
Statement = Show | Mint | Again
Node = Leaf | Seq | Par | First | IfEven | Patched | Statement

EVENTS = ("red", "blue")
_numbers = st.integers(0, 9)
_calls = st.builds(Call, _numbers)
_flaky_calls = st.builds(Call, _numbers, st.integers(0, 3), st.integers(1, 3))
_children = st.builds(Child, _numbers, st.integers(0, 3), st.integers(1, 3))
_statements = st.one_of(st.builds(Show, _numbers), st.builds(Mint), st.builds(Again, st.integers(1, 2)))
_patches = st.sampled_from(["one", "two"])
_sleeps = st.builds(Sleep, st.sampled_from([0.0, 1.0, 5.0]))
_receives = st.builds(Receive, st.sampled_from(EVENTS))
_timed = st.builds(TimedReceive, st.sampled_from(EVENTS), st.sampled_from([1.0, 3.0]))


def _programs(leaves: st.SearchStrategy[Any], *, races: bool) -> st.SearchStrategy[Node]:
    groups = [st.builds(kind, st.lists(leaves, min_size=1, max_size=4).map(tuple)) for kind in (Par, Collect)]
    if races:
        groups += [st.builds(kind, st.lists(leaves, min_size=1, max_size=3).map(tuple)) for kind in (First, Race)]

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.builds(Seq, st.lists(inner | _statements, min_size=1, max_size=4).map(tuple)),
            st.builds(IfEven, _calls, inner, inner),
            st.builds(Patched, _patches, inner),
        )

    return st.recursive(st.one_of(leaves, *groups), larger, max_leaves=8)


programs = _programs(_calls | _flaky_calls | _children | _sleeps | _receives | _timed, races=True)
"""Everything that the language has."""

order_free_programs = _programs(_calls | _flaky_calls | _children | _sleeps, races=False)
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
        return _begun(context, self._program)  # type: ignore[return-value]


class _RenewedError(Exception):
    """The program has asked to continue as new."""


async def _begun(ctx: WorkflowContext, program: Node) -> Any:
    try:
        return await _run(ctx, program)
    except _RenewedError:
        return None


def _task(ctx: WorkflowContext, leaf: Leaf) -> Any:
    match leaf:
        case Call(number, fails, attempts):
            policy = RetryPolicy(max_attempts=attempts, initial_backoff=1.0) if attempts > 1 else None
            given = {"number": number, "fails": fails}
            return ctx.call_activity(f"act{number}", input=given, retry_policy=policy)
        case Child(number, fails, attempts):
            policy = RetryPolicy(max_attempts=attempts, initial_backoff=1.0) if attempts > 1 else None
            given = {"number": number, "fails": fails}
            return ctx.call_child_workflow(f"flow{number}", input=given, retry_policy=policy)
        case Sleep(seconds):
            return ctx.create_timer(seconds)
        case Receive(name):
            return ctx.wait_for_external_event(name)
        case TimedReceive(name, timeout):
            return ctx.wait_for_external_event(name, timeout=timeout)


async def _outcome(task: Any) -> Any:
    try:
        return await task
    except (ActivityFailedError, ChildWorkflowFailedError, TaskCancelledError, TimeoutError) as error:
        return _name(error)


def _name(error: Exception) -> str:
    # Of a group that fails at once, which kind of call failed first depends on the order.
    return "ActivityFailedError" if isinstance(error, ChildWorkflowFailedError) else type(error).__name__


async def _run(ctx: WorkflowContext, node: Node) -> Any:
    match node:
        case Seq(parts):
            return [await _run(ctx, part) for part in parts]
        case Collect(parts):
            found = await ctx.when_all([_task(ctx, part) for part in parts], return_exceptions=True)
            return [_name(one) if isinstance(one, Exception) else one for one in found]
        case Par(parts):
            return await _outcome(ctx.when_all([_task(ctx, part) for part in parts]))
        case First(parts):
            tasks = [_task(ctx, part) for part in parts]
            winner = await ctx.when_any(tasks, cancel_losers=isinstance(node, Race))
            found = [tasks.index(winner), await _outcome(winner), ctx.current_utc_datetime]
            return [*found, *[await _outcome(task) for task in tasks]] if isinstance(node, Race) else found
        case IfEven(call, yes, no):
            result = await _outcome(_task(ctx, call))
            return [result, await _run(ctx, yes if result % 2 == 0 else no)]
        case Patched(name, new):
            return [ctx.is_patched(name), await _run(ctx, new)]
        case Show() | Mint() | Again():
            return _stated(ctx, node)
        case _:
            return await _outcome(_task(ctx, node))


def _stated(ctx: WorkflowContext, statement: Statement) -> Any:
    match statement:
        case Show(number):
            ctx.set_custom_status(number)
            ctx.set_attributes(number=number)
            return None
        case Mint():
            return [ctx.new_uuid(), ctx.random.random()]
        case Again(times):
            if ctx.generation < times:
                ctx.continue_as_new(None)
                raise _RenewedError
            return ctx.generation


# -- the world


@dataclass
class World:
    """Answers a program in an order that choices decide, and keeps the history that a store would keep.

    Attributes:
        suspensions: how often it may suspend the program.
        shown: what people see: the custom status, and the attribute.
    """

    program: Node
    execution: Execution = field(init=False)
    rows: list[HistoryRow] = field(init=False)
    now: float = 1000.0
    suspensions: int = 0
    shown: tuple[str | None, Any] = (None, None)

    def __post_init__(self) -> None:
        self.execution = Execution(ProgramWorkflow(self.program), "run-1")
        self.rows = [HistoryRow(0, self.now, (ExecutionStarted(name="program"),))]
        self.execution.replay(self.rows, encode(None).resolved)
        self.commit([])

    def commit(self, incoming: Iterable[AnyEvent]) -> None:
        given = list(incoming)
        decisions = self.execution.advance(self.now, given)
        number = (decisions.attributes or {}).get("number", self.shown[1])
        self.shown = (decisions.custom_status or self.shown[0], number)
        if self.execution.continued is not None:
            self._renew([event for event in given[decisions.taken :] if isinstance(event, EventRaised)])
        elif not decisions.empty:
            events = decode_events(encode_events(decisions.events))
            self.rows.append(HistoryRow(self.rows[-1].seq + 1, self.now, events))

    def _renew(self, left: list[EventRaised]) -> None:
        events = decode_events(encode_events(next_generation(self.execution, self.execution.workflow)))
        self.rows = [HistoryRow(self.rows[-1].seq + 1, self.now, events)]
        self.execution = replayed(self.program, self.rows)
        self.commit(left)

    def possible(self) -> list[AnyEvent | None]:
        """Return what may happen next; None stands for time going on to the next timer."""
        if self.execution.completed is not None:
            return []
        settled = {event.task_id for event in self.execution._held_back or () if isinstance(event, _ChildEnd)}
        children = [call.current for call in self.execution._children.values() if call.current.id not in settled]
        calls: list[Called] = [*self.execution.pending_activities(), *children]
        found: list[AnyEvent | None] = [self.answer(call) for call in calls]
        if self.execution.suspended is not None:
            return [*found, ExecutionResumed(), *self._events()]
        if self.suspensions:
            found.append(ExecutionSuspended(reason="a break"))
        if self.execution.next_timer() is not None:
            found.append(None)
        if "events" in self.execution.waits() or not found:
            found.extend(self._events())
        return found

    def _events(self) -> list[EventRaised]:
        return [EventRaised(name=name, input=encode(name).raw) for name in EVENTS]

    def answer(self, call: Called) -> AnyEvent:
        given = decode(self.execution.input_of(call))
        failure, result = Failure(error_type="OSError", message="again"), encode(given["number"]).raw
        if isinstance(call, TaskScheduled):
            if call.attempt <= given["fails"]:
                return TaskFailed(task_id=call.id, failure=failure)
            return TaskCompleted(task_id=call.id, result=result)
        generation = self.execution.generation
        if call.attempt <= given["fails"]:
            return SubOrchestrationInstanceFailed(task_id=call.id, failure=failure, generation=generation)
        return SubOrchestrationInstanceCompleted(task_id=call.id, result=result, generation=generation)

    def step(self, choice: int, together: int = 1) -> bool:
        """Let one thing happen, or some of them in one episode; return whether the program goes on."""
        possible = self.possible()
        if not possible:
            return False
        first = choice % len(possible)
        chosen = [possible[(first + offset) % len(possible)] for offset in range(min(together, len(possible)))]
        self.suspensions -= any(isinstance(event, ExecutionSuspended) for event in chosen)
        if None in chosen:
            self.now = max(self.now, self.execution.next_timer() or self.now)
            chosen.remove(None)
            chosen.extend(self.execution.due_timers(self.now))
        self.commit(event for event in chosen if event is not None)
        return self.execution.completed is None

    def run(self, choices: Sequence[int], *, end: bool = True, limit: int = 1000) -> World:
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
    seen = execution.custom_status, execution.generation, execution.suspended
    return pending, inputs, execution.waits(), execution.next_timer(), completed, seen


def incoming(row: HistoryRow) -> list[AnyEvent]:
    """Return what reached an instance in a row, without what its code decided."""
    return [event for event in row.events if not isinstance(event, Action) and not _is_note(event)]


def _is_note(event: AnyEvent) -> bool:
    return isinstance(event, EventRaised) and event.name in NOTES
