from __future__ import annotations

import pytest
from tests.engine.driving import Driven, child_completed, child_failed, completed, failed, fired, raised

from perdure.base.errors import TaskCancelledError
from perdure.base.events import EventRaised, EventSent, RetryPolicy, SubOrchestrationInstanceCreated, TaskScheduled
from perdure.engine.engine_events import CANCELLED, TERMINATE


async def _what(task):
    try:
        return await task
    except TaskCancelledError as error:
        return str(error)


async def loses(ctx):
    tasks = [ctx.call_activity("quick"), ctx.call_activity("slow"), ctx.create_timer(9)]
    winner = await ctx.when_any(tasks, cancel_losers=True)
    await ctx.wait_for_external_event("go")
    return [tasks.index(winner), await _what(tasks[1]), await _what(tasks[2])]


def test_the_losers_of_a_race_are_cancelled_and_noted_down():
    driven = Driven(loses)
    row = driven.feed(completed(0, "won"))
    assert [event.name for event in row if isinstance(event, EventRaised)] == [CANCELLED]
    assert driven.execution.pending_activities() == []
    assert driven.execution.next_timer() is None
    driven.crash()
    assert driven.execution.pending_activities() == []
    driven.feed(raised("go"))
    assert driven.result == [
        0,
        "activity 'slow' was cancelled by the workflow; await it before it is cancelled, or not at all",
        "timer was cancelled by the workflow; await it before it is cancelled, or not at all",
    ]


def test_the_late_outcome_of_a_cancelled_call_is_of_no_concern():
    driven = Driven(loses)
    driven.feed(completed(0), completed(1, "late"))
    assert driven.feed(completed(1, "late"), failed(1), fired(2), after=20) == []
    driven.feed(raised("go"))
    assert "was cancelled" in driven.result[1]


def test_what_is_cancelled_in_the_step_that_called_it_replays():
    async def flow(ctx):
        go = ctx.wait_for_external_event("go")
        await ctx.wait_for_external_event("begin")
        tasks = [go, ctx.call_activity("a"), ctx.call_child_workflow("b"), ctx.create_timer(5)]
        await ctx.when_any(tasks, cancel_losers=True)
        return await ctx.wait_for_external_event("end")

    driven = Driven(flow)
    driven.feed(raised("go"), raised("begin"))
    driven.crash()
    assert driven.execution.pending_activities() == []
    assert driven.execution.waits() == {"events": ["end"]}
    driven.feed(raised("end", 3))
    assert driven.result == 3


def test_what_is_cancelled_in_the_very_first_step_is_not_begun():
    async def flow(ctx):
        ctx.cancel(ctx.call_activity("a"))
        return await ctx.wait_for_external_event("end")

    decisions = Driven(flow).decisions
    assert [action.id for action in decisions.actions] == list(decisions.cancelled) == [0]


def test_cancelling_a_child_workflow_sends_it_its_end():
    async def flow(ctx):
        child = ctx.call_child_workflow("b", instance_id="chosen")
        await ctx.wait_for_external_event("go")
        ctx.cancel(child)
        return await _what(child)

    driven = Driven(flow)
    row = driven.feed(raised("go"))
    assert [(event.instance_id, event.name) for event in row if isinstance(event, EventSent)] == [("chosen", TERMINATE)]
    assert driven.result.startswith("child workflow 'b' was cancelled")


def test_a_call_that_waits_for_its_next_attempt_is_cancelled_without_a_word_to_its_child():
    async def flow(ctx):
        policy = RetryPolicy(max_attempts=3, initial_backoff=5.0)
        tasks = [ctx.call_activity("a", retry_policy=policy), ctx.call_child_workflow("b", retry_policy=policy)]
        await ctx.wait_for_external_event("go")
        ctx.cancel(*tasks)
        return [await _what(task) for task in tasks]

    driven = Driven(flow)
    driven.feed(failed(0))
    driven.feed(child_failed(1))
    assert driven.execution.next_timer() is not None
    row = driven.feed(raised("go"))
    assert not [event for event in row if isinstance(event, EventSent | TaskScheduled)]
    assert driven.execution.next_timer() is None
    assert all("was cancelled" in each for each in driven.result)


def test_a_task_that_has_finished_stays_as_it_is():
    async def flow(ctx):
        task = ctx.call_activity("a")
        await task
        ctx.cancel(task)
        return await task

    driven = Driven(flow)
    driven.feed(completed(0, 5))
    assert driven.result == 5


@pytest.mark.parametrize("made", ["when_all", "when_any", "timed event"])
def test_cancelling_a_task_made_of_others_cancels_all_of_them_and_fails_it(made):
    async def flow(ctx):
        if made == "timed event":
            task = ctx.wait_for_external_event("never", timeout=5)
        else:
            task = getattr(ctx, made)([ctx.call_activity("a"), ctx.create_timer(5)])
        ctx.cancel(task)
        return await _what(task)

    driven = Driven(flow)
    assert "was cancelled by the workflow" in driven.result
    assert driven.execution.next_timer() is None
    assert driven.execution.completed is not None


def test_an_event_that_is_no_longer_waited_for_goes_to_the_next_who_waits():
    async def flow(ctx):
        first, second = ctx.wait_for_external_event("e"), ctx.wait_for_external_event("e")
        ctx.cancel(first)
        return await second

    driven = Driven(flow)
    driven.feed(raised("e", 1))
    assert driven.result == 1


def test_a_child_may_be_called_again_after_it_was_cancelled():
    async def flow(ctx):
        ctx.cancel(ctx.call_child_workflow("b"))
        return await ctx.call_child_workflow("b")

    driven = Driven(flow)
    called = [event for event in driven.rows[1].events if isinstance(event, SubOrchestrationInstanceCreated)]
    assert [event.instance_id for event in called] == ["one:0000", "one:0002"]
    driven.feed(child_completed(0, "late"), child_completed(2, "second"))
    assert driven.result == "second"
