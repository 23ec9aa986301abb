"""Cuts a history at a call, so that another instance can go on from there. Pure.

What was decided before the cut is kept, and so are the outcomes of what was called before it, wherever they stand: the
new instance repeats none of these effects. The outcome of the call itself, and all that followed from it, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from perdure.base.codec import decode, encode
from perdure.base.errors import InstanceError, UsageError
from perdure.base.events import (
    AnyEvent,
    Called,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    HistoryRow,
    Parent,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
)
from perdure.engine.engine_events import CANCELLED, FORKED, NOT_STARTED, TERMINATE
from perdure.engine.requests import seed_of

_Outcome = TaskCompleted | TaskFailed | SubOrchestrationInstanceCompleted | SubOrchestrationInstanceFailed


class Cut(msgspec.Struct, frozen=True, gc=False):
    """A history up to the outcome of one call.

    Attributes:
        call: the call, in its first attempt.
        rows: all that was recorded before its outcome.
        settled: outcomes of the other calls in these rows that were recorded later.
        generation: how often the instance had continued as new.
    """

    call: Called
    rows: list[HistoryRow]
    settled: list[AnyEvent]
    generation: int


def cut(instance_id: str, rows: Sequence[HistoryRow], at: int) -> Cut:
    """Return a history as it was before the outcome of a call.

    Args:
        instance_id: whose history it is, for errors.
        rows: the whole history.
        at: id of the call's first attempt.

    Raises:
        UsageError: there is no such call, or its outcome was of no concern any more.
        InstanceError: another call of these rows has no outcome.
    """
    call = _call_in(instance_id, rows, at)
    kept, left = _divided(rows, at)
    outcomes = {event.task_id: event for row in left for event in row.events if isinstance(event, _Outcome)}
    open_calls = _open_calls(kept)
    if open_calls.pop(at, None) is None or _has_ended(kept):
        raise UsageError(
            f"instance {instance_id!r} went on without the outcome of call #{at} {call.name!r}; fork at another call"
        )
    unsettled = [one for number, one in open_calls.items() if number not in outcomes]
    if unsettled:
        named = ", ".join(f"{one.name!r} (#{one.id})" for one in unsettled)
        remedy = "fork at a call before these" if _has_ended(rows) else "wait for them to finish"
        raise InstanceError(
            instance_id, f"instance {instance_id!r} has earlier calls without an outcome: {named}; {remedy}"
        )
    settled: list[AnyEvent] = [event for number, event in outcomes.items() if number in open_calls]
    started = (event for row in rows for event in row.events if isinstance(event, ExecutionStarted))
    return Cut(call, kept, settled, next(started).generation)


def _call_in(instance_id: str, rows: Iterable[HistoryRow], at: int) -> Called:
    calls = [event for row in rows for event in row.events if isinstance(event, Called)]
    for call in calls:
        if call.id == at and call.retry_of is None and not getattr(call, "detached", False):
            return call
    known = ", ".join(f"#{call.id} {call.name}" for call in calls[:20] if call.retry_of is None)
    raise UsageError(f"instance {instance_id!r} has no call #{at}; its calls are: {known or 'none'}")


def _has_ended(rows: Iterable[HistoryRow]) -> bool:
    return any(isinstance(event, ExecutionCompleted) for row in rows for event in row.events)


def _divided(rows: Sequence[HistoryRow], at: int) -> tuple[list[HistoryRow], list[HistoryRow]]:
    """Return what was recorded before the outcome of a call, or before an end from outside that cut it off, and the
    rest.
    """
    for place, row in enumerate(rows):
        for position, event in enumerate(row.events):
            if isinstance(event, ExecutionTerminated) or (isinstance(event, _Outcome) and event.task_id == at):
                before = msgspec.structs.replace(row, events=row.events[:position])
                after = msgspec.structs.replace(row, events=row.events[position + 1 :])
                kept = [*rows[:place], before] if position else list(rows[:place])
                return kept, [after, *rows[place + 1 :]]
    return list(rows), []


def _open_calls(rows: Iterable[HistoryRow]) -> dict[int, Called]:
    found: dict[int, Called] = {}
    for event in (event for row in rows for event in row.events):
        if isinstance(event, Called) and not getattr(event, "detached", False):
            found[event.id] = event
        elif isinstance(event, _Outcome):
            found.pop(event.task_id, None)
        else:
            for number in [number for number, call in found.items() if _cancels(event, call)]:
                del found[number]
    return found


def _cancels(event: AnyEvent, call: Called) -> bool:
    match event, call:
        case EventRaised(name=name, input=first), TaskScheduled():
            return name == CANCELLED and decode(first) == call.call_id
        case EventSent(name=name, instance_id=child), SubOrchestrationInstanceCreated():
            return name == TERMINATE and child == call.instance_id
        case _:
            return False


def taken_over(rows: Sequence[HistoryRow], source: str, parent: Parent | None, execution_id: str) -> list[HistoryRow]:
    """Return a history as that of another instance.

    Args:
        rows: the history.
        source: the id of the instance that made it, which its code has seen in identifiers and random numbers.
        parent: who called the other one, or None.
        execution_id: the other one's.
    """

    def change(event: AnyEvent) -> AnyEvent:
        if not isinstance(event, ExecutionStarted):
            return event
        seed = event.seed or seed_of(source, event.execution_id)
        return msgspec.structs.replace(event, parent=parent, execution_id=execution_id, seed=seed)

    return [_changed(row, change) for row in rows]


def goes_its_own_way(instance_id: str, execution_id: str) -> AnyEvent:
    """Return the first event of a fork's own: from there on its identifiers are not those of its source."""
    return EventRaised(name=FORKED, input=encode(seed_of(instance_id, execution_id)).raw)


def recalled(made: Cut, at: float, *, given: msgspec.Raw | None, child: str | None) -> list[HistoryRow]:
    """Return the rows of a cut with its call still to be made.

    Args:
        made: the cut.
        at: when that happens.
        given: another input of the call, or None for the recorded one.
        child: the id of the child workflow that answers it, when it is one.
    """
    call = made.call
    replaced = call if given is None else msgspec.structs.replace(call, input=given)
    if isinstance(replaced, SubOrchestrationInstanceCreated) and child is not None:
        replaced = msgspec.structs.replace(replaced, instance_id=child)
    rows = [_changed(row, lambda event: replaced if event == call else event) for row in made.rows]
    if isinstance(call, TaskScheduled):
        # So that it begins as one that no crash has cut off.
        event = EventRaised(name=NOT_STARTED, input=encode([call.id]).raw)
        rows.append(HistoryRow(rows[-1].seq + 1, at, (event,)))
    return rows


def answered(made: Cut, result: msgspec.Raw) -> AnyEvent:
    """Return the outcome that stands in for the recorded one of a cut's call."""
    if isinstance(made.call, TaskScheduled):
        return TaskCompleted(task_id=made.call.id, result=result)
    return SubOrchestrationInstanceCompleted(task_id=made.call.id, result=result, generation=made.generation)


def _changed(row: HistoryRow, change: Callable[[AnyEvent], AnyEvent]) -> HistoryRow:
    return msgspec.structs.replace(row, events=tuple(change(event) for event in row.events))
