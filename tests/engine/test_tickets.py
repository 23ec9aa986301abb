from __future__ import annotations

from typing import Any

from tests.engine.driving import Driven, completed, failed, fired, raised, resumed, suspended

from perdure.base.codec import decode, encode
from perdure.base.events import Admission, EventRaised, ExecutionStarted, HistoryRow, RetryPolicy, decode_event
from perdure.base.limits import Limits
from perdure.engine.engine_events import GRANTED, NOT_STARTED, QUEUED
from perdure.engine.tickets import claim_of, given_back, granted_in, without_ticket
from perdure.ports.tickets import Queue, Ticket
from perdure.workflows.registry import Registry

LIMITS = Limits(concurrency=1)


def granted(*tasks: int, generation: int = 0) -> EventRaised:
    return raised(GRANTED, {"tasks": list(tasks), "generation": generation})


def limited(key: Any = None, priority: Any = 0) -> Registry:
    """A registry with a limited activity; the contexts of Driven have registries of their own, so pass functions."""
    registry = Registry()
    registry.add_activity(pay, limits=LIMITS, key=key, priority=priority)
    return registry


async def pay(amount):
    return amount


class Till(Driven):
    """A driven flow whose registry knows a limited activity."""

    def __init__(self, function: Any, *, key: Any = None, priority: Any = 0, rows: Any = ()) -> None:
        registry = limited(key, priority)
        self._definition = registry.workflows[registry.add_workflow(function, "flow")]
        self._function = function
        self.rows = list(rows) or [HistoryRow(0, 100.0, (ExecutionStarted(name="flow"),))]
        self.now = self.rows[-1].at
        self.execution = self.replayed()
        self.feed()


async def two_calls(ctx):
    calls = [ctx.call_activity(pay, input=number) for number in (1, 2)]
    return await ctx.when_all(calls)


def test_a_limited_attempt_waits_until_it_is_granted_and_replays_so():
    till = Till(two_calls)
    assert till.execution.queued == {0, 1}
    assert till.execution.only_waits
    assert till.execution.waits() == {"queued": [{"activity": "pay", "calls": 2}]}
    till.feed(granted(1))
    till.crash()
    assert till.execution.queued == {0}
    assert not till.execution.only_waits
    till.feed(granted(0))
    till.feed(completed(0, "a"), completed(1, "b"))
    assert till.result == ["a", "b"]


def test_the_grant_of_another_generation_is_of_no_concern():
    till = Till(two_calls)
    event = granted(0, generation=1)
    assert granted_in(till.execution, [event]) == []
    till.feed(event)
    assert till.execution.queued == {0, 1}
    assert [one.id for one in granted_in(till.execution, [granted(0), granted(7)])] == [0]


def test_how_a_call_waits_is_recorded_and_not_worked_out_again():
    asked: list[Any] = []

    def key_of(given):
        asked.append(given)
        return f"tenant {given}"

    till = Till(two_calls, key=key_of, priority=lambda given: given * 10)
    assert [action.admission for action in till.decisions.actions] == [
        Admission(key="tenant 1", priority=10),
        Admission(key="tenant 2", priority=20),
    ]
    till.crash()
    assert asked == [1, 2]
    assert [one.admission for one in till.execution.pending_activities()] == [
        Admission(key="tenant 1", priority=10),
        Admission(key="tenant 2", priority=20),
    ]


def test_a_call_recorded_without_limits_replays_under_code_that_has_them_and_the_other_way_round():
    free = Driven(two_calls)
    assert Till(two_calls, rows=free.rows).execution.queued == set()
    assert Driven(two_calls, rows=Till(two_calls).rows).execution.queued == {0, 1}


def test_the_next_attempt_of_a_call_waits_anew():
    async def flow(ctx):
        return await ctx.call_activity(pay, retry_policy=RetryPolicy(max_attempts=2), key="k")

    till = Till(flow)
    till.feed(granted(0))
    till.feed(failed(0))
    assert given_back(till.decisions, {0}) == (0,)
    till.feed(fired(1), after=10)
    assert till.decisions.actions[0].admission == Admission(key="k")
    assert till.execution.queued == {2}
    till.crash()
    assert till.execution.queued == {2}


def test_a_cancelled_attempt_waits_no_more_and_gives_its_place_back():
    async def flow(ctx):
        calls = [ctx.call_activity(pay), ctx.call_activity(pay)]
        await ctx.when_any([*calls, ctx.wait_for_external_event("enough")], cancel_losers=True)
        return await ctx.wait_for_external_event("end")

    till = Till(flow)
    till.feed(granted(0))
    till.feed(raised("enough"))
    assert till.execution.queued == set()
    assert sorted(given_back(till.decisions, {0, 1})) == [0, 1]


def test_a_grant_reaches_a_suspended_instance():
    till = Till(two_calls)
    till.feed(suspended("wait"))
    till.feed(granted(0))
    assert till.execution.queued == {1}
    till.feed(completed(0, 1))
    assert till.execution.only_waits
    till.feed(resumed())
    assert till.execution.only_waits


def test_attempts_that_lost_their_place_queue_anew_and_are_not_taken_for_never_begun():
    till = Till(two_calls)
    till.feed(raised(NOT_STARTED, [0]))
    assert [one.id for one in without_ticket(till.execution, {1: True})] == [0]
    till.feed(raised(QUEUED, [0, 9]))
    assert till.execution.not_started == set()
    assert till.execution.queued == {0, 1}


def test_a_ticket_says_where_how_and_what_its_grant_tells():
    till = Till(two_calls, key=lambda given: given)
    turn = claim_of(till.execution, till.decisions.actions[1], "app", LIMITS)
    queue = Queue("app", "activity", "pay")
    assert (turn.task, turn.ticket) == (1, Ticket(queue=queue, limits=LIMITS, key="2"))
    event = decode_event(turn.granted)
    assert isinstance(event, EventRaised)
    assert (event.name, decode(event.input, encode(None).resolved)) == (GRANTED, {"tasks": [1], "generation": 0})
