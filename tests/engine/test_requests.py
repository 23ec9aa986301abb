from __future__ import annotations

import pytest
from tests.engine.driving import Driven, child_completed, child_failed, completed, fired

from perdure.base.errors import ActivityFailedError, ChildWorkflowFailedError, UsageError
from perdure.base.events import EventSent, RetryPolicy, SubOrchestrationInstanceCreated, TaskScheduled
from perdure.engine.requests import usable_attributes


def _decided(driven: Driven, kind: type) -> list:
    return [event for row in driven.rows for event in row.events if isinstance(event, kind)]


def test_requests_are_numbered_in_the_order_of_asking():
    async def flow(ctx):
        ctx.call_activity("a")
        ctx.create_timer(1)
        ctx.call_child_workflow("c")
        ctx.send_event("x", "e")
        ctx.start_workflow("d")
        await ctx.wait_for_external_event("go")

    driven = Driven(flow)
    assert [event.id for event in driven.rows[1].events] == [0, 1, 2, 3, 4]
    assert _decided(driven, EventSent)[0].instance_id == "x"


def test_a_childs_id_is_made_of_its_callers_and_the_number_of_the_call():
    async def flow(ctx):
        started = ctx.start_workflow("c")
        await ctx.when_all([ctx.call_child_workflow("c"), ctx.call_child_workflow("c", instance_id="chosen")])
        return started

    driven = Driven(flow)
    created = _decided(driven, SubOrchestrationInstanceCreated)
    assert [event.instance_id for event in created] == ["one:0000", "one:0001", "chosen"]
    assert [event.detached for event in created] == [True, False, False]
    driven.feed(child_completed(1), child_completed(2))
    assert driven.result == "one:0000"


def test_each_attempt_of_a_child_is_another_instance():
    policy = RetryPolicy(max_attempts=3, initial_backoff=1.0)

    async def flow(ctx):
        given = {"retry_policy": policy, "input": 5}
        calls = [ctx.call_child_workflow("c", **given), ctx.call_child_workflow("c", instance_id="chosen", **given)]
        return await ctx.when_all(calls)

    driven = Driven(flow)
    driven.feed(child_failed(0), child_failed(1))
    driven.feed(fired(2), fired(3), after=1)
    again = _decided(driven, SubOrchestrationInstanceCreated)[2:]
    assert [(event.instance_id, event.attempt, event.retry_of) for event in again] == [
        ("one:0004", 2, 0),
        ("chosen-2", 2, 1),
    ]
    assert [bytes(driven.execution.input_of(event)) for event in again] == [b"5", b"5"]
    driven.crash()
    driven.feed(child_completed(4, "a"), child_completed(5, "b"))
    assert driven.result == ["a", "b"]


def test_a_child_that_is_not_worth_a_retry_fails_at_once():
    async def flow(ctx):
        try:
            await ctx.call_child_workflow("c", retry_policy=RetryPolicy(max_attempts=9))
        except ChildWorkflowFailedError as error:
            return [error.workflow, error.instance_id]

    driven = Driven(flow)
    driven.feed(child_failed(0, non_retryable=True))
    assert driven.result == ["c", "one:0000"]


def test_the_end_of_another_child_answers_no_call():
    async def flow(ctx):
        return await ctx.call_child_workflow("c", instance_id="mine")

    driven = Driven(flow)
    foreign = child_completed(0, "foreign")
    assert driven.feed(type(foreign)(task_id=0, result=foreign.result, instance_id="theirs")) == []
    driven.feed(type(foreign)(task_id=0, result=foreign.result, instance_id="mine"))
    assert driven.result == "foreign"


def test_a_group_that_collects_waits_for_all_and_keeps_the_order():
    async def flow(ctx):
        found = await ctx.when_all(
            [ctx.call_activity("a"), ctx.call_child_workflow("c"), ctx.call_activity("b")], return_exceptions=True
        )
        return [type(one).__name__ if isinstance(one, Exception) else one for one in found]

    driven = Driven(flow)
    driven.feed(completed(2, "b"), child_failed(1))
    assert driven.execution.completed is None
    driven.feed(completed(0, "a"))
    assert driven.result == ["a", ChildWorkflowFailedError.__name__, "b"]


def test_a_group_without_tasks_has_a_result_at_once():
    async def flow(ctx):
        return [await ctx.when_all([]), await ctx.when_all([], return_exceptions=True)]

    assert Driven(flow).result == [[], []]


def test_a_group_that_does_not_collect_fails_at_the_first_error_and_the_others_go_on():
    async def flow(ctx):
        tasks = [ctx.call_child_workflow("c"), ctx.call_activity("b")]
        try:
            await ctx.when_all(tasks)
        except (ActivityFailedError, ChildWorkflowFailedError):
            return await tasks[1]

    driven = Driven(flow)
    driven.feed(child_failed(0))
    assert [task.name for task in driven.execution.pending_activities()] == ["b"]
    driven.feed(completed(1, "later"))
    assert driven.result == "later"


def test_the_status_is_short():
    async def flow(ctx):
        ctx.set_custom_status("x" * 100_000)

    assert "the custom status is longer than a few kilobytes; keep it short" in Driven(flow).failure.message


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, b"x", "x" * 257, float("nan"), 1j])
def test_an_attribute_is_a_short_text_a_number_or_a_truth_value(value):
    with pytest.raises(UsageError, match="attribute 'a' is "):
        usable_attributes({"a": value})


@pytest.mark.parametrize("value", ["", "x" * 256, 0, -1.5, True, 2**70])
def test_usable_attributes_are_kept_as_they_are(value):
    assert usable_attributes({"a": value}) == {"a": value}


@pytest.mark.parametrize("name", ["", "x" * 65, 5])
def test_an_attributes_name_is_short_and_not_empty(name):
    with pytest.raises(UsageError, match="use 1 to 64 characters"):
        usable_attributes({name: 1})


@pytest.mark.parametrize("call", ["call_activity", "call_child_workflow"])
def test_a_policy_is_a_retry_policy(call):
    async def flow(ctx):
        await getattr(ctx, call)("x", retry_policy={"max_attempts": 3})

    driven = Driven(flow)
    assert "retry_policy is {'max_attempts': 3}; use a RetryPolicy, or None" in driven.failure.message
    assert not _decided(driven, TaskScheduled)
