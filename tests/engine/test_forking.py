from __future__ import annotations

import pytest
from tests.engine.driving import Driven, child_completed, completed, failed, fired, raised, terminated

from perdure.base.codec import encode
from perdure.base.errors import InstanceError, UsageError
from perdure.base.events import (
    EventRaised,
    ExecutionStarted,
    HistoryRow,
    Parent,
    RetryPolicy,
    TaskCompleted,
    TaskScheduled,
)
from perdure.engine.engine_events import NOT_STARTED
from perdure.engine.forking import answered, cut, goes_its_own_way, recalled, taken_over
from perdure.engine.replay import Execution


async def steps(ctx):
    return [await ctx.call_activity(name) for name in ("a", "b", "c")]


async def together(ctx):
    return await ctx.when_all([ctx.call_activity(name) for name in ("a", "b")])


def _ran(flow, *events) -> Driven:
    driven = Driven(flow)
    for event in events:
        driven.feed(event, after=1.0)
    return driven


def _types(rows) -> list[list[str]]:
    return [[type(event).__name__ for event in row.events] for row in rows]


def test_a_cut_keeps_what_was_recorded_before_the_outcome_and_nothing_after():
    driven = _ran(steps, completed(0, 1), completed(1, 2), completed(2, 3))
    made = cut("one", driven.rows, 1)
    assert _types(made.rows) == [["ExecutionStarted"], ["TaskScheduled"], ["TaskCompleted", "TaskScheduled"]]
    assert (made.call.name, made.settled, made.generation) == ("b", [], 0)


def test_a_cut_within_a_row_keeps_its_beginning():
    driven = Driven(together)
    driven.feed(completed(1, "b"), completed(0, "a"))
    made = cut("one", driven.rows, 0)
    assert _types(made.rows)[-1] == ["TaskCompleted"]
    assert made.settled == []
    made = cut("one", driven.rows, 1)
    assert _types(made.rows) == [["ExecutionStarted"], ["TaskScheduled", "TaskScheduled"]]
    assert made.settled == [completed(0, "a")]


def test_outcomes_of_other_calls_that_came_later_are_kept_apart():
    driven = _ran(together, completed(1, "b"), completed(0, "a"))
    made = cut("one", driven.rows, 1)
    assert made.settled == [completed(0, "a")]


def test_other_calls_without_an_outcome_make_a_cut_impossible():
    driven = _ran(together, completed(0, "a"))
    with pytest.raises(InstanceError, match=r"'b' \(#1\); wait for them to finish"):
        cut("one", driven.rows, 0)
    driven.feed(terminated())
    with pytest.raises(InstanceError, match=r"'b' \(#1\); fork at a call before these"):
        cut("one", driven.rows, 0)


def test_a_call_that_has_no_outcome_yet_is_cut_at_the_end_of_what_there_is():
    driven = _ran(steps, completed(0, 1))
    assert cut("one", driven.rows, 1).rows == driven.rows


def test_a_call_that_an_end_from_outside_cut_off_is_cut_before_that_end():
    driven = _ran(steps, completed(0, 1))
    before = list(driven.rows)
    driven.feed(terminated())
    assert cut("one", driven.rows, 1).rows == before


def test_a_call_whose_outcome_did_not_matter_cannot_be_cut():
    async def flow(ctx):
        tasks = [ctx.call_activity("a"), ctx.call_activity("b"), ctx.call_child_workflow("c")]
        await ctx.when_any(tasks, cancel_losers=True)
        return await ctx.call_activity("d")

    async def leaves(ctx):
        ctx.call_activity("a")

    driven = _ran(flow, completed(0), completed(4))
    for number in (1, 2):
        with pytest.raises(UsageError, match=f"went on without the outcome of call #{number}"):
            cut("one", driven.rows, number)
    assert cut("one", driven.rows, 4).call.name == "d"
    with pytest.raises(UsageError, match="went on without the outcome of call #0 'a'; fork at another call"):
        cut("one", Driven(leaves).rows, 0)


def test_a_retried_call_is_cut_at_the_outcome_of_its_first_attempt():
    async def flow(ctx):
        return await ctx.call_activity("a", input=7, retry_policy=RetryPolicy(max_attempts=3))

    driven = _ran(flow, failed(0), fired(1), completed(2, "second"))
    made = cut("one", driven.rows, 0)
    assert _types(made.rows) == [["ExecutionStarted"], ["TaskScheduled"]]
    with pytest.raises(UsageError, match="no call #2; its calls are: #0 a"):
        cut("one", driven.rows, 2)


def test_the_second_attempt_of_another_call_is_a_call_without_an_outcome():
    async def flow(ctx):
        again = ctx.call_activity("a", retry_policy=RetryPolicy(max_attempts=2, initial_backoff=1.0))
        return [await ctx.call_activity("b"), await again]

    driven = _ran(flow, failed(0), fired(2), completed(1))
    with pytest.raises(InstanceError, match=r"'a' \(#3\)"):
        cut("one", driven.rows, 1)
    driven.feed(completed(3, "through"))
    assert cut("one", driven.rows, 1).settled == [completed(3, "through")]


def test_an_unknown_call_is_refused_with_those_that_there_are():
    driven = _ran(steps, completed(0))
    with pytest.raises(UsageError, match="instance 'one' has no call #9; its calls are: #0 a, #1 b"):
        cut("one", driven.rows, 9)
    with pytest.raises(UsageError, match="its calls are: none"):
        cut("one", driven.rows[:1], 0)


def test_a_detached_start_is_no_call_to_cut_at():
    async def flow(ctx):
        ctx.start_workflow("apart")
        await ctx.call_activity("a")

    driven = _ran(flow, completed(1))
    with pytest.raises(UsageError, match="no call #0"):
        cut("one", driven.rows, 0)
    assert cut("one", driven.rows, 1).settled == []


def test_a_cut_goes_on_as_an_instance_of_its_own():
    driven = _ran(steps, completed(0, 1), completed(1, 2), completed(2, 3))
    made = cut("one", driven.rows, 1)
    fork = Driven(steps, rows=made.rows)
    fork.feed(answered(made, encode("edited").raw))
    fork.feed(completed(2, 4))
    assert fork.result == [1, "edited", 4]


def test_a_call_that_is_made_again_has_not_been_started():
    driven = _ran(steps, completed(0, 1), completed(1, 2))
    made = cut("one", driven.rows, 1)
    rows = recalled(made, 500.0, given=encode("other").raw, child=None)
    assert (rows[-1].seq, rows[-1].at) == (rows[-2].seq + 1, 500.0)
    note = rows[-1].events[0]
    assert isinstance(note, EventRaised)
    assert (note.name, bytes(note.input)) == (NOT_STARTED, b"[1]")
    fork = Driven(steps, rows=rows)
    (pending,) = fork.execution.pending_activities()
    assert bytes(fork.execution.input_of(pending)) == b'"other"'
    assert fork.execution.not_started == {1}


def test_a_child_that_is_called_again_is_another_instance():
    async def flow(ctx):
        return await ctx.call_child_workflow("c")

    driven = _ran(flow, child_completed(0, 5))
    made = cut("one", driven.rows, 0)
    rows = recalled(made, 500.0, given=None, child="fork:0000")
    assert len(rows) == len(made.rows)
    fork = Driven(flow, rows=rows)
    assert fork.execution.waits()["children"] == [{"workflow": "c", "instance": "fork:0000"}]


def test_a_history_can_be_given_another_caller():
    rows = [HistoryRow(0, 1.0, (ExecutionStarted(name="x", parent=Parent(instance_id="p", task_id=1)),))]
    caller = Parent(instance_id="q", task_id=2, generation=1)
    assert taken_over(rows, "x", caller, "")[0].events[0].parent == caller
    assert taken_over(rows, "x", None, "")[0].events[0].parent is None


def test_a_fork_replays_with_its_sources_identifiers_and_goes_on_with_its_own():
    made: list[list[object]] = []

    async def flow(ctx):
        found = [ctx.new_uuid(), ctx.random.random()]
        other = ctx.start_workflow("apart")
        ctx.send_event(other, "hello")
        ctx.cancel(ctx.call_child_workflow("lost"))
        name = "even" if int(found[1] * 1000) % 2 == 0 else "odd"
        await ctx.call_activity(name)
        found += [ctx.new_uuid(), ctx.random.random()]
        made.append(found)
        return found

    driven = Driven(flow)
    driven.feed(completed(4))
    cut_off = cut("one", driven.rows, 4)
    for source, fork in (("one", "two"), ("two", "three")):
        rows = taken_over(cut_off.rows, source, None, f"run of {fork}")
        execution = Execution(driven.execution.workflow, fork)
        execution.replay(rows, encode(None).resolved)
        row = execution.advance(200.0, [goes_its_own_way(fork, f"run of {fork}"), completed(4)]).events
        assert execution.completed is not None
        cut_off = cut(fork, [*rows, HistoryRow(rows[-1].seq + 1, 200.0, tuple(row))], 4)
    assert made[0][:2] == made[1][:2] == made[2][:2]
    assert len({str(one) for found in made for one in found[2:]}) == 6


def test_a_cut_of_a_later_generation_knows_which_one():
    async def flow(ctx, number):
        if number == 0:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(1)
            return None
        return await ctx.call_activity("a")

    driven = Driven(flow, 0)
    driven.feed(raised("go"))
    second = driven.renewed()
    second.feed(completed(0, 5))
    made = cut("one", second.rows, 0)
    assert made.generation == 1
    assert isinstance(made.call, TaskScheduled)
    assert answered(made, encode(6).raw) == TaskCompleted(task_id=0, result=encode(6).raw)
