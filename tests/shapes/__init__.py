"""A corpus of workflow shapes: whatever holds for durable execution must hold for every one of them.

``ALL`` is a tuple of :class:`Shape`. Import it as ``tests.shapes`` with the repository's root on the path (a child
process sets ``PYTHONPATH``), or load this file by its path: it needs nothing but Perdure. Run a shape like this::

    runtime = EmbeddedRuntime(store, registry=REGISTRY)
    instance_id = await runtime.start(shape.workflow, shape.input(log), instance_id=shape.name)
    for name, data in shape.events:
        await runtime.raise_event(instance_id, name, data)
    shape.check(await runtime.wait(instance_id))        # or RunFailedError with shape.error in its text

* Every activity's first act is one line in the file ``log``: ``<instance_id> <idempotency_key> <name>``, in a single
  append. A line is a *run*; runs may repeat after a crash. :func:`effects` reads them.
* ``counts`` says how many completions of each activity a finished history records, whatever crashed on the way.
  :func:`completions` counts them. After a completion is recorded, its key must not appear in the log again.
* Events may be sent as soon as the start is acknowledged, without delays. Sending one of them twice changes nothing,
  so a driver that does not know whether its event was accepted sends it again.
* No shape depends on the order in which parallel activities finish.
* No shape takes longer than about a second on an idle machine.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure.base.errors import ActivityFailedError, TaskCancelledError
from perdure.base.events import HistoryRow, RetryPolicy, TaskCompleted, TaskScheduled
from perdure.base.limits import Limits
from perdure.engine.activity import current_activity
from perdure.workflows.registry import Registry

REGISTRY = Registry()
"""Every workflow and activity of the corpus; give it to the runtime."""


@dataclass(frozen=True)
class Shape:
    """One workflow with everything that is needed to run it and to judge the run.

    Attributes:
        name: unique in the corpus, and fit for an instance id.
        workflow: the function, registered in :data:`REGISTRY`.
        input_maker: makes the workflow's input from the path of the effects log.
        expected: the result as plain data; None for a run that fails.
        error: part of the RunFailedError's text; None for a run that completes.
        events: external events (name, data) to send, in this order.
        counts: completions that the finished history records, by activity.
        children: completions that the finished histories of the other instances record that the run starts, by the
            end of their id, which begins with the run's own.
    """

    name: str
    workflow: Callable[..., Any]
    input_maker: Callable[[str], Any]
    expected: Any = None
    error: str | None = None
    events: tuple[tuple[str, Any], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    children: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def expected_counts(self) -> dict[str, dict[str, int]]:
        """Return the completions that finished histories record, by instance and activity."""
        others = {self.name + end: dict(counts) for end, counts in self.children.items()}
        return {self.name: dict(self.counts), **others}

    def input(self, log: str | Path) -> Any:
        """Return the workflow's input for an effects log."""
        return self.input_maker(str(log))

    def check(self, result: Any) -> None:
        """Compare a result with the expected one; types count."""
        assert result == self.expected, f"{self.name}: {result!r:.200}"
        assert type(result) is type(self.expected)


def effects(log: str | Path) -> list[tuple[str, str, str]]:
    """Return the runs in a log: instance id, idempotency key, activity."""
    path = Path(log)
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [(parts[0], parts[1], parts[2]) for parts in (line.split(" ") for line in lines)]


def completions(rows: Iterable[HistoryRow]) -> Counter[str]:
    """Return how many completions a history records, by activity."""
    names: dict[int, str] = {}
    counted: Counter[str] = Counter()
    for event in (event for row in rows for event in row.events):
        if isinstance(event, TaskScheduled):
            names[event.id] = event.name
        elif isinstance(event, TaskCompleted):
            counted[names[event.task_id]] += 1
    return counted


def _note(log: str) -> None:
    call = current_activity()
    line = f"{call.instance_id} {call.idempotency_key} {call.activity}\n".encode()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def _activity(function: Callable[..., Any]) -> Callable[..., Any]:
    REGISTRY.add_activity(function)
    return function


def _workflow(function: Callable[..., Any]) -> Callable[..., Any]:
    REGISTRY.add_workflow(function)
    return function


# -- activities


@_activity
async def add(given: dict[str, Any]) -> int:
    _note(given["log"])
    return given["a"] + given["b"]


@_activity
def add_in_thread(given: dict[str, Any]) -> int:
    _note(given["log"])
    return given["a"] + given["b"]


@REGISTRY.activity(
    limits=Limits(concurrency=2, per_key=1), key=lambda given: given["a"] % 3, priority=lambda given: given["b"]
)
async def add_in_turn(given: dict[str, Any]) -> int:
    _note(given["log"])
    return given["a"] + given["b"]


@_activity
async def fail_before(given: dict[str, Any]) -> int:
    """Fail every attempt before the given one."""
    _note(given["log"])
    attempt = current_activity().attempt
    if attempt < given["attempt"]:
        raise ConnectionError(f"attempt {attempt} found the line busy")
    return attempt


@_activity
async def refuse(given: dict[str, Any]) -> None:
    _note(given["log"])
    raise PermissionError("the card was refused")


@_activity
async def undo(given: dict[str, Any]) -> str:
    _note(given["log"])
    return f"undone {given['what']}"


@_activity
async def dawdle(given: dict[str, Any]) -> None:
    _note(given["log"])
    await asyncio.sleep(given["seconds"])


@_activity
async def write_text(given: dict[str, Any]) -> str:
    _note(given["log"])
    return "lorem ipsum " * given["words"]


@_activity
async def append_text(given: dict[str, Any]) -> str:
    _note(given["log"])
    return given["text"] + given["more"]


@dataclass
class Order:
    number: int
    goods: tuple[str, ...]


class Receipt(BaseModel):
    order: int
    seal: bytes


@_activity
async def take_order(given: dict[str, Any]) -> Order:
    _note(given["log"])
    return Order(given["number"], ("tea", "cups"))


@_activity
async def seal_order(given: dict[str, Any]) -> Receipt:
    _note(given["log"])
    return Receipt(order=given["number"], seal=b"\x00\xff")


# -- workflows


def _sum(log: str, a: int, b: int) -> dict[str, Any]:
    return {"log": log, "a": a, "b": b}


@_workflow
async def sequential(ctx: Any, log: str) -> int:
    total = 0
    for number in (1, 2, 3):
        total = await ctx.call_activity(add, input=_sum(log, total, number))
    return total


@_workflow
async def fan_out(ctx: Any, log: str) -> list[int]:
    return await ctx.when_all([ctx.call_activity(add, input=_sum(log, number, number)) for number in range(20)])


@_workflow
def generator(ctx: Any, log: str) -> Any:
    first = yield ctx.call_activity(add, input=_sum(log, 1, 1))
    yield ctx.create_timer(0.01)
    both = yield ctx.when_all([ctx.call_activity("add", input=_sum(log, first, number)) for number in (1, 2)])
    return both


async def _halved(ctx: Any, log: str, first: int, last: int) -> int:
    if first == last:
        return await ctx.call_activity(add, input=_sum(log, first, 0))
    middle = (first + last) // 2
    left = await _halved(ctx, log, first, middle)
    return left + await _halved(ctx, log, middle + 1, last)


@_workflow
async def nested_helpers(ctx: Any, log: str) -> int:
    return await _halved(ctx, log, 1, 6)


@_workflow
async def race_of_activities(ctx: Any, log: str) -> list[int]:
    tasks = [ctx.call_activity(add, input=_sum(log, number, 0)) for number in (1, 2, 3)]
    winner = await ctx.when_any(tasks)
    assert winner in tasks
    return sorted(await ctx.when_all(tasks))


@_workflow
async def activity_against_timer(ctx: Any, log: str) -> str:
    quick = ctx.call_activity(add, input=_sum(log, 1, 1))
    alarm = ctx.create_timer(86_400)
    winner = await ctx.when_any([quick, alarm])
    return "in time" if winner is quick else "too late"


@_workflow
async def timer_against_event(ctx: Any, log: str) -> str:
    never = ctx.wait_for_external_event("never")
    alarm = ctx.create_timer(0.02)
    winner = await ctx.when_any([never, alarm])
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    return "in time" if winner is never else "too late"


@_workflow
async def retried(ctx: Any, log: str) -> int:
    policy = RetryPolicy(max_attempts=5, initial_backoff=0.01, multiplier=1.5)
    return await ctx.call_activity(fail_before, input={"log": log, "attempt": 3}, retry_policy=policy)


@_workflow
async def saga(ctx: Any, log: str) -> list[str]:
    undone: list[str] = []
    done: list[str] = []
    try:
        for what in ("flight", "hotel"):
            await ctx.call_activity(add, input=_sum(log, 0, 0))
            done.append(what)
        policy = RetryPolicy(max_attempts=2, initial_backoff=0.01)
        await ctx.call_activity(refuse, input={"log": log}, retry_policy=policy)
    except ActivityFailedError as error:
        undone.append(error.failure.error_type)
    finally:
        while done:
            undone.append(await ctx.call_activity(undo, input={"log": log, "what": done.pop()}))
    return undone


@_workflow
async def too_slow(ctx: Any, log: str) -> str:
    try:
        await ctx.call_activity(dawdle, input={"log": log, "seconds": 60}, timeout=0.03)
    except ActivityFailedError as error:
        return error.failure.error_type
    return "fast"


@_workflow
async def sleeps(ctx: Any, log: str) -> int:
    total = 0
    for _ in range(4):
        await ctx.create_timer(0.01)
        total = await ctx.call_activity(add, input=_sum(log, total, 1))
    return total


@_workflow
async def events_before_and_after(ctx: Any, log: str) -> list[Any]:
    """``early`` is sent before ``go`` and read after it; ``late`` is sent last."""
    go = await ctx.wait_for_external_event("go")
    early = await ctx.wait_for_external_event("EARLY")
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    late = await ctx.wait_for_external_event("late")
    return [go, early, late]


@_workflow
async def event_that_does_not_come(ctx: Any, log: str) -> str:
    try:
        await ctx.wait_for_external_event("approval", timeout=0.03)
    except TimeoutError as error:
        await ctx.call_activity(add, input=_sum(log, 1, 1))
        return str(error)
    return "approved"


@_workflow
async def event_that_comes_in_time(ctx: Any, log: str) -> Any:
    approval = await ctx.wait_for_external_event("approval", timeout=86_400)
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    return approval


_WORDS = 17_000


@_workflow
async def large_values(ctx: Any, log: str) -> str:
    text = await ctx.call_activity(write_text, input={"log": log, "words": _WORDS})
    for more in ("one", "two", "three"):
        text = await ctx.call_activity(append_text, input={"log": log, "text": text, "more": more})
    return text


@_workflow
async def long_loop(ctx: Any, log: str) -> int:
    total = 0
    for _ in range(100):
        total = await ctx.call_activity(add, input=_sum(log, total, 1))
    return total


@_workflow
async def failing(ctx: Any, log: str) -> None:
    total = await ctx.call_activity(add, input=_sum(log, 1, 1))
    raise ValueError(f"{total} is not a quorum")


@_workflow
async def failing_activity(ctx: Any, log: str) -> None:
    await ctx.call_activity(refuse, input={"log": log})


@_workflow
async def typed(ctx: Any, log: str) -> Receipt:
    order: Order = await ctx.call_activity(take_order, input={"log": log, "number": 7})
    assert isinstance(order, Order)
    receipt: Receipt = await ctx.call_activity(seal_order, input={"log": log, "number": order.number})
    assert isinstance(receipt, Receipt)
    return receipt


@_workflow
async def dataclass_result(ctx: Any, log: str) -> Order:
    return await ctx.call_activity(take_order, input={"log": log, "number": 8})


@_workflow
async def tuple_result(ctx: Any, log: str) -> tuple[Any, ...]:
    total = await ctx.call_activity(add, input=_sum(log, 1, 1))
    return (total, b"\x80", {"a": {1, 2}}, None)


@_workflow
async def threads_and_loop(ctx: Any, log: str) -> list[int]:
    calls = [ctx.call_activity((add, add_in_thread)[number % 2], input=_sum(log, number, 0)) for number in range(8)]
    both = await ctx.when_all(calls)
    last = await ctx.call_activity(add_in_thread, input=_sum(log, sum(both), 0))
    return [*both, last]


@_workflow
def plain(ctx: Any, log: str) -> str:
    """A workflow that waits for nothing."""
    return f"done by {ctx.instance_id}"


@_workflow
async def summed(ctx: Any, given: dict[str, Any]) -> int:
    """A child: sums in as many steps as there are numbers."""
    total = 0
    for number in given["numbers"]:
        total = await ctx.call_activity(add, input=_sum(given["log"], total, number))
    return total


@REGISTRY.workflow(limits=Limits(concurrency=1), key=lambda given: given["numbers"][0])
async def summed_in_turn(ctx: Any, given: dict[str, Any]) -> int:
    """A child of which one runs at a time, with limited activities."""
    total = 0
    for number in given["numbers"]:
        total = await ctx.call_activity(add_in_turn, input=_sum(given["log"], total, number))
    return total


@_workflow
async def activities_in_turn(ctx: Any, log: str) -> list[int]:
    """Waits for a turn beside a timer, an activity without limits and one that is cancelled."""
    calls = [ctx.call_activity(add_in_turn, input=_sum(log, number, number % 2)) for number in range(9)]
    loser = ctx.call_activity(add_in_turn, input=_sum(log, 100, -5), key="last")
    ctx.cancel(loser)
    await ctx.when_all([ctx.create_timer(0.01), ctx.call_activity(add, input=_sum(log, 1, 1))])
    return await ctx.when_all(calls)


@_workflow
async def children_in_turn(ctx: Any, log: str) -> list[int]:
    calls = [
        ctx.call_child_workflow(summed_in_turn, input={"log": log, "numbers": [number, 1]}, priority=number)
        for number in range(4)
    ]
    return await ctx.when_all(calls)


@_workflow
async def refused_child(ctx: Any, log: str) -> None:
    await ctx.call_activity(refuse, input={"log": log})


@_workflow
async def fails_at_first(ctx: Any, log: str) -> str:
    """A child that fails unless it is the second attempt, which its id says."""
    await ctx.call_activity(add, input=_sum(log, 0, 0))
    if not ctx.instance_id.endswith("-2"):
        raise ConnectionError("the line is busy")
    return "through"


@_workflow
async def patient(ctx: Any, _: Any) -> Any:
    return await ctx.wait_for_external_event("wake")


@_workflow
async def children(ctx: Any, log: str) -> list[int]:
    calls = [ctx.call_child_workflow(summed, input={"log": log, "numbers": [n, n, n]}) for n in (1, 2, 3)]
    return await ctx.when_all(calls)


@_workflow
async def grandchildren(ctx: Any, log: str) -> int:
    first = await ctx.call_child_workflow(children, input=log)
    return sum(first) + await ctx.call_activity(add, input=_sum(log, 1, 1))


@_workflow
async def children_that_fail(ctx: Any, log: str) -> list[str]:
    policy = RetryPolicy(max_attempts=2, initial_backoff=0.01)
    name = f"{ctx.instance_id}:chosen"
    again = ctx.call_child_workflow(fails_at_first, input=log, instance_id=name, retry_policy=policy)
    never = ctx.call_child_workflow("refused_child", input=log)
    taken = ctx.call_child_workflow(summed, input={"log": log, "numbers": []}, instance_id=ctx.instance_id)
    found = await ctx.when_all([again, never, taken], return_exceptions=True)
    return [one if isinstance(one, str) else one.failure.error_type for one in found]


@_workflow
async def talks_to_its_child(ctx: Any, log: str) -> Any:
    child = ctx.call_child_workflow(patient, instance_id=f"{ctx.instance_id}:patient")
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    ctx.send_event(f"{ctx.instance_id}:patient", "wake", {"by": "its parent"})
    return await child


@_workflow
async def cancels_the_losers(ctx: Any, log: str) -> str:
    quick = ctx.call_activity(add, input=_sum(log, 1, 1))
    slow = ctx.call_activity(dawdle, input={"log": log, "seconds": 60})
    child = ctx.call_child_workflow(patient, instance_id=f"{ctx.instance_id}:loser")
    alarm, event = ctx.create_timer(86_400), ctx.wait_for_external_event("never")
    winner = await ctx.when_any([quick, slow, child, alarm, event], cancel_losers=True)
    try:
        await slow
    except TaskCancelledError:
        return "cancelled" if winner is quick else "another one won"
    return "not cancelled"


@_workflow
async def three_generations(ctx: Any, given: Any) -> list[Any]:
    """Reads one letter a generation; those that came too early are carried over."""
    log, letters = (given, []) if isinstance(given, str) else given
    letters = [*letters, await ctx.wait_for_external_event(f"letter {ctx.generation}")]
    await ctx.call_activity(add, input=_sum(log, ctx.generation, 1))
    await ctx.call_child_workflow(summed, input={"log": log, "numbers": [1]})
    if ctx.generation < 2:
        ctx.continue_as_new([log, letters])
        return []
    return letters


@_workflow
async def patched(ctx: Any, log: str) -> list[Any]:
    before = ctx.is_patched("first")
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    both = [ctx.is_patched("first"), ctx.is_patched("second")]
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    same = ctx.new_uuid() != ctx.new_uuid(), 0 <= ctx.random.random() < 1
    ctx.set_custom_status({"progress": 1.0})
    ctx.set_attributes(tenant="acme", size=3)
    return [before, *both, *same]


@_workflow
async def starts_another(ctx: Any, log: str) -> str:
    given = {"log": log, "numbers": [1, 2]}
    started = ctx.start_workflow(summed, input=given, instance_id=f"{ctx.instance_id}:apart")
    await ctx.call_activity(add, input=_sum(log, 1, 1))
    return started.rpartition(":")[2]


def _itself(log: str) -> str:
    return log


ALL: tuple[Shape, ...] = (
    Shape("sequential", sequential, _itself, 6, counts={"add": 3}),
    Shape("fan-out", fan_out, _itself, [2 * number for number in range(20)], counts={"add": 20}),
    Shape("generator", generator, _itself, [3, 4], counts={"add": 3}),
    Shape("nested-helpers", nested_helpers, _itself, 21, counts={"add": 6}),
    Shape("race-of-activities", race_of_activities, _itself, [1, 2, 3], counts={"add": 3}),
    Shape("activity-against-timer", activity_against_timer, _itself, "in time", counts={"add": 1}),
    Shape("timer-against-event", timer_against_event, _itself, "too late", counts={"add": 1}),
    Shape("retried", retried, _itself, 3, counts={"fail_before": 1}),
    Shape("saga", saga, _itself, ["PermissionError", "undone hotel", "undone flight"], counts={"add": 2, "undo": 2}),
    Shape("too-slow", too_slow, _itself, "TimeoutError", counts={}),
    Shape("sleeps", sleeps, _itself, 4, counts={"add": 4}),
    Shape(
        "events-before-and-after",
        events_before_and_after,
        _itself,
        ["yes", [1], {"x": 2}],
        events=(("early", [1]), ("go", "yes"), ("late", {"x": 2})),
        counts={"add": 1},
    ),
    Shape(
        "event-that-does-not-come",
        event_that_does_not_come,
        _itself,
        "no event 'approval' within 0.03 s",
        counts={"add": 1},
    ),
    Shape(
        "event-that-comes-in-time",
        event_that_comes_in_time,
        _itself,
        {"by": "Ada"},
        events=(("Approval", {"by": "Ada"}),),
        counts={"add": 1},
    ),
    Shape(
        "large-values",
        large_values,
        _itself,
        "lorem ipsum " * _WORDS + "onetwothree",
        counts={"write_text": 1, "append_text": 3},
    ),
    Shape("long-loop", long_loop, _itself, 100, counts={"add": 100}),
    Shape("failing", failing, _itself, error="ValueError: 2 is not a quorum", counts={"add": 1}),
    Shape("failing-activity", failing_activity, _itself, error="PermissionError: the card was refused", counts={}),
    Shape("typed", typed, _itself, {"order": 7, "seal": b"\x00\xff"}, counts={"take_order": 1, "seal_order": 1}),
    Shape(
        "dataclass-result", dataclass_result, _itself, {"number": 8, "goods": ("tea", "cups")}, counts={"take_order": 1}
    ),
    Shape("tuple-result", tuple_result, _itself, (2, b"\x80", {"a": {1, 2}}, None), counts={"add": 1}),
    Shape(
        "threads-and-loop",
        threads_and_loop,
        _itself,
        [*range(8), 28],
        counts={"add": 4, "add_in_thread": 5},
    ),
    Shape(
        "children",
        children,
        _itself,
        [3, 6, 9],
        children={":0000": {"add": 3}, ":0001": {"add": 3}, ":0002": {"add": 3}},
    ),
    Shape(
        "grandchildren",
        grandchildren,
        _itself,
        20,
        counts={"add": 1},
        children={":0000": {}, ":0000:0000": {"add": 3}, ":0000:0001": {"add": 3}, ":0000:0002": {"add": 3}},
    ),
    Shape(
        "children-that-fail",
        children_that_fail,
        _itself,
        ["through", "ActivityFailedError", "InstanceExistsError"],
        children={":chosen": {"add": 1}, ":chosen-2": {"add": 1}, ":0001": {}},
    ),
    Shape(
        "talks-to-its-child",
        talks_to_its_child,
        _itself,
        {"by": "its parent"},
        counts={"add": 1},
        children={":patient": {}},
    ),
    Shape("cancels-the-losers", cancels_the_losers, _itself, "cancelled", counts={"add": 1}, children={":loser": {}}),
    Shape(
        "three-generations",
        three_generations,
        _itself,
        ["a", "b", "c"],
        events=(("letter 2", "c"), ("letter 1", "b"), ("letter 0", "a")),
        counts={"add": 1},
        children={":0001": {"add": 1}, ":1:0001": {"add": 1}, ":2:0001": {"add": 1}},
    ),
    Shape(
        "activities-in-turn",
        activities_in_turn,
        _itself,
        [number + number % 2 for number in range(9)],
        counts={"add_in_turn": 9, "add": 1},
    ),
    Shape(
        "children-in-turn",
        children_in_turn,
        _itself,
        [1, 2, 3, 4],
        children={f":{number:04x}": {"add_in_turn": 2} for number in range(4)},
    ),
    Shape("patched", patched, _itself, [True] * 5, counts={"add": 2}),
    Shape("starts-another", starts_another, _itself, "apart", counts={"add": 1}, children={":apart": {"add": 2}}),
    Shape("plain", plain, _itself, "done by plain", counts={}),
)
"""The whole corpus. An instance of ``plain`` must have the id ``plain``; the others do not look at theirs."""

BY_NAME: Mapping[str, Shape] = {shape.name: shape for shape in ALL}
