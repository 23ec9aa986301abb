from __future__ import annotations

from tests.engine.driving import (
    Driven,
    child_completed,
    completed,
    failed,
    fired,
    raised,
    resumed,
    suspended,
    terminated,
)

from perdure.base.events import RetryPolicy, Status, TaskScheduled
from perdure.engine.engine_events import ASKED


async def steps(ctx):
    first = await ctx.call_activity("a")
    return [first, await ctx.call_activity("b")]


def test_the_outcome_of_an_activity_is_kept_back_until_the_run_is_resumed():
    driven = Driven(steps)
    assert driven.feed(suspended("a break"), completed(0, 1)) == [suspended("a break"), completed(0, 1)]
    assert driven.execution.waits() == {"suspended": "a break"}
    row = driven.feed(resumed())
    assert [event.name for event in row if isinstance(event, TaskScheduled)] == ["b"]
    driven.feed(completed(1, 2))
    assert driven.result == [1, 2]


def test_an_activity_whose_outcome_was_kept_back_is_not_run_again_after_a_crash():
    driven = Driven(steps)
    driven.feed(suspended())
    driven.feed(completed(0, 1))
    driven.crash()
    assert driven.execution.pending_activities() == []
    assert driven.execution.only_waits
    driven.feed(resumed())
    driven.crash()
    assert [task.name for task in driven.execution.pending_activities()] == ["b"]


def test_a_failure_that_was_kept_back_is_tried_again_after_the_run_is_resumed():
    async def flow(ctx):
        return await ctx.call_activity("a", retry_policy=RetryPolicy(max_attempts=2, initial_backoff=3.0))

    driven = Driven(flow)
    driven.feed(suspended(), failed(0))
    driven.crash()
    assert driven.execution.pending_activities() == []
    assert driven.execution.next_timer() is None
    driven.feed(resumed(), after=50)
    assert driven.execution.next_timer() == 153.0
    driven.feed(fired(1), after=3)
    driven.feed(completed(2, "second"))
    assert driven.result == "second"


def test_a_second_outcome_that_comes_while_suspended_counts_for_nothing():
    driven = Driven(steps)
    driven.feed(suspended(), completed(0, 1), completed(0, 2))
    driven.crash()
    driven.feed(resumed())
    driven.feed(completed(1, 3))
    assert driven.result == [1, 3]


def test_a_suspended_run_has_no_timers_and_their_time_comes_when_it_is_resumed():
    async def flow(ctx):
        await ctx.create_timer(5)
        return "woken"

    driven = Driven(flow)
    driven.feed(suspended())
    assert driven.execution.next_timer() is None
    assert driven.execution.due_timers(1000.0) == []
    driven.feed(resumed(), after=60)
    assert driven.execution.due_timers(driven.now) == [fired(0)]
    driven.feed(fired(0))
    assert driven.result == "woken"


def test_events_that_come_while_suspended_are_read_in_their_order_afterwards():
    async def flow(ctx):
        return [await ctx.wait_for_external_event("e") for _ in range(3)]

    driven = Driven(flow)
    driven.feed(raised("e", 1), suspended(), raised("e", 2))
    driven.feed(raised("e", 3))
    driven.crash()
    assert driven.execution.completed is None
    driven.feed(resumed())
    assert driven.result == [1, 2, 3]


def test_a_childs_end_is_kept_back_as_well():
    async def flow(ctx):
        return await ctx.call_child_workflow("b")

    driven = Driven(flow)
    driven.feed(suspended(), child_completed(0, "ended"))
    driven.crash()
    assert driven.execution.completed is None
    driven.feed(resumed())
    assert driven.result == "ended"


def test_a_suspended_run_is_terminated_at_once():
    driven = Driven(steps)
    driven.feed(suspended(), completed(0, 1))
    driven.feed(terminated("enough"))
    assert driven.execution.completed.status is Status.TERMINATED
    assert driven.replayed().completed.status is Status.TERMINATED


def test_a_human_may_be_asked_while_the_run_is_suspended():
    driven = Driven(steps)
    driven.feed(suspended("a break"), raised(ASKED, 0))
    assert driven.execution.waits() == {"suspended": "a break", "asks": [{"task": 0, "activity": "a"}]}


def test_suspending_twice_shows_the_later_reason_and_one_resume_is_enough():
    driven = Driven(steps)
    driven.feed(suspended("first"), suspended("second"))
    assert driven.execution.waits()["suspended"] == "second"
    driven.feed(completed(0, 1), resumed())
    assert [task.name for task in driven.execution.pending_activities()] == ["b"]


def test_resuming_a_run_that_is_not_suspended_changes_nothing():
    driven = Driven(steps)
    driven.feed(resumed())
    driven.crash()
    assert [task.name for task in driven.execution.pending_activities()] == ["a"]


def test_what_was_kept_back_and_comes_after_the_end_of_a_generation_is_carried_over():
    async def flow(ctx, read):
        read = [*(read or []), await ctx.wait_for_external_event("e")]
        if len(read) < 3:
            ctx.continue_as_new(read)
        return read

    driven = Driven(flow)
    driven.feed(suspended(), raised("e", 1), raised("e", 2), raised("e", 3))
    driven.feed(resumed())
    second = driven.renewed()
    third = second.renewed()
    assert third.result == [1, 2, 3]
