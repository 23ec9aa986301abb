from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.engine.programs import (
    Call,
    First,
    IfEven,
    Node,
    Par,
    Seq,
    Sleep,
    World,
    incoming,
    order_free_programs,
    programs,
    replayed,
    state,
)

from perdure.base.codec import decode
from perdure.base.errors import NonDeterminismError
from perdure.base.events import Failure, TaskCompleted, TaskFailed, TaskScheduled, TimerFired, encode_events

choices = st.lists(st.integers(0, 1000), max_size=12)
properties = settings(max_examples=150, deadline=None)


@properties
@given(programs, choices)
def test_replaying_a_history_gives_the_state_that_made_it(program, chosen):
    world = World(program, suspensions=2).run(chosen, end=False)
    assert state(replayed(program, world.rows)) == state(world.execution)


@properties
@given(programs, choices)
def test_replay_of_any_prefix_is_a_fixed_point(program, chosen):
    world = World(program, suspensions=2).run(chosen)
    for length in range(1, len(world.rows)):
        row = world.rows[length]
        execution = replayed(program, world.rows[:length])
        assert state(replayed(program, world.rows[:length])) == state(execution)
        decisions = execution.advance(row.at, incoming(row))
        assert encode_events(decisions.events) == encode_events(row.events)


@properties
@given(programs, choices, st.integers(0, 30))
def test_a_run_that_is_put_away_anywhere_ends_as_one_that_is_not(program, chosen, length):
    world = World(program, suspensions=2).run(chosen)
    kept = world.rows[: 1 + length]
    resumed = World(program)
    resumed.rows, resumed.now = list(kept), kept[-1].at
    resumed.execution = replayed(program, kept)
    for row in world.rows[len(kept) :]:
        resumed.now = row.at
        resumed.commit(incoming(row))
    assert [encode_events(row.events) for row in resumed.rows] == [encode_events(row.events) for row in world.rows]


@properties
@given(order_free_programs, choices, choices)
def test_any_interleaving_of_completions_gives_the_same_result(program, some, others):
    first, second = World(program, suspensions=2).run(some), World(program).run(others)
    assert first.execution.completed is not None
    assert second.execution.completed is not None
    assert decode(first.execution.completed.result) == decode(second.execution.completed.result)
    assert first.shown == second.shown


@properties
@given(programs, choices)
def test_every_program_ends_whatever_the_order(program, chosen):
    world = World(program, suspensions=3).run(chosen)
    assert world.execution.completed is not None
    assert world.execution.completed.failure is None


@properties
@given(programs, choices)
def test_late_and_repeated_events_change_nothing(program, chosen):
    world = World(program).run(chosen, end=False)
    assume(world.execution.completed is None)
    known = {task.id for task in world.execution.pending_activities()}
    events = [event for row in world.rows for event in row.events]
    late = [event for event in events if isinstance(event, TaskCompleted | TaskFailed | TimerFired)]
    late += [TaskCompleted(task_id=id_) for id_ in range(900, 903)]
    late += [TaskFailed(task_id=999, failure=Failure(error_type="E", message="")), TimerFired(timer_id=999)]
    assert not known & {event.task_id for event in late if isinstance(event, TaskCompleted | TaskFailed)}
    before = state(world.execution)
    assert world.execution.advance(world.now, late).events == []
    assert state(world.execution) == before


# -- changed code


def _calls(node: Node) -> list[Call]:
    match node:
        case Call():
            return [node]
        case Seq(parts) | Par(parts) | First(parts):
            return [call for part in parts for call in _calls(part)]
        case IfEven(call, yes, no):
            return [call, *_calls(yes), *_calls(no)]
        case _:
            return []


def _changed(node: Any, target: Node, replacement: Node) -> Any:
    """Return the program with one node, found by identity, replaced."""
    if node is target:
        return replacement
    match node:
        case Seq(parts) | Par(parts) | First(parts):
            return type(node)(tuple(_changed(part, target, replacement) for part in parts))
        case IfEven(call, yes, no):
            return IfEven(*(_changed(part, target, replacement) for part in (call, yes, no)))
        case _:
            return node


def _recorded_names(world: World) -> list[str]:
    return [event.name for row in world.rows for event in row.events if isinstance(event, TaskScheduled)]


def _refused(program: Node, world: World) -> NonDeterminismError:
    with pytest.raises(NonDeterminismError) as caught:
        replayed(program, world.rows)
    text = str(caught.value)
    assert caught.value.recorded in text
    assert caught.value.requested in text
    assert "recorded:" in text
    assert "requested:" in text
    return caught.value


_renumbered = st.integers(10, 19)


def _unique(program: Node) -> Any:
    """Return the program with a number of its own for every call, so that a name says which call it is."""
    numbers = iter(range(100, 1000, 2))

    def renumber(node: Any) -> Any:
        match node:
            case Call():
                return dataclasses.replace(node, number=next(numbers))
            case Seq(parts) | Par(parts) | First(parts):
                return type(node)(tuple(renumber(part) for part in parts))
            case IfEven(call, yes, no):
                return IfEven(renumber(call), renumber(yes), renumber(no))
            case _:
                return node

    return renumber(program)


def _begun_with_a_call(program: Node) -> Any:
    return _unique(Seq((Call(0), program)))


@properties
@given(programs.map(_unique), choices, st.data())
def test_renaming_a_call_is_refused_if_it_is_recorded_and_accepted_if_not(program, chosen, data):
    world = World(program).run(chosen, end=False)
    assume(_calls(program))
    call = data.draw(st.sampled_from(_calls(program)))
    renamed = _changed(program, call, dataclasses.replace(call, number=call.number + 1))
    if f"act{call.number}" in _recorded_names(world):
        error = _refused(renamed, world)
        assert f"'act{call.number}'" in error.recorded
        assert f"'act{call.number + 1}'" in error.requested
    else:
        assert state(replayed(renamed, world.rows)) == state(world.execution)


@properties
@given(programs.map(_begun_with_a_call), choices, st.data())
def test_a_call_put_before_a_recorded_one_is_refused(program, chosen, data):
    world = World(program).run(chosen, end=False)
    recorded = [call for call in _calls(program) if f"act{call.number}" in _recorded_names(world)]
    assume(recorded)
    call = data.draw(st.sampled_from(recorded))
    intruder = Call(1)
    assume(any(call is part for part in _sequential_calls(program)))
    error = _refused(_changed(program, call, Seq((intruder, call))), world)
    assert "'act1'" in error.requested


def _sequential_calls(node: Node) -> list[Call]:
    """Return the calls that stand by themselves, not in a group: only there does a sequence fit in."""
    match node:
        case Call():
            return [node]
        case Seq(parts):
            return [call for part in parts for call in _sequential_calls(part)]
        case IfEven(_, yes, no):
            return [*_sequential_calls(yes), *_sequential_calls(no)]
        case _:
            return []


@properties
@given(programs.map(_begun_with_a_call), choices, st.data())
def test_a_recorded_call_that_was_removed_is_refused(program, chosen, data):
    world = World(program).run(chosen, end=False)
    names = _recorded_names(world)
    recorded = [call for call in _sequential_calls(program) if f"act{call.number}" in names]
    assume(recorded)
    call = data.draw(st.sampled_from(recorded))
    error = _refused(_changed(program, call, Seq(())), world)
    assert f"'act{call.number}'" in error.recorded


@properties
@given(st.lists(st.integers(0, 9), min_size=2, max_size=6, unique=True), st.data())
def test_calls_in_another_order_are_refused(numbers, data):
    program = Seq(tuple(Call(number) for number in numbers))
    steps = data.draw(st.integers(0, len(numbers)))
    world = World(program).run([0] * steps, end=False)
    shuffled = data.draw(st.permutations(numbers))
    changed = Seq(tuple(Call(number) for number in shuffled))
    recorded = len(_recorded_names(world))
    if shuffled[:recorded] == numbers[:recorded]:
        assert state(replayed(changed, world.rows)) == state(world.execution)
    else:
        _refused(changed, world)


@properties
@given(programs, choices)
def test_a_sleep_in_place_of_the_first_recorded_call_is_refused(program, chosen):
    world = World(Seq((Call(3), program))).run([0, *chosen], end=False)
    error = _refused(Seq((Sleep(1.0), program)), world)
    assert error.recorded == "call_activity 'act3' as #0"
    assert error.requested == "create_timer as #0"
