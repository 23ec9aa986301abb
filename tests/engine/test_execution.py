from __future__ import annotations

import contextlib

import pytest
from tests.engine.driving import Driven, completed, failed, fired, raised, terminated

from perdure.base.errors import ActivityFailedError, Evicted, NonDeterminismError
from perdure.base.events import ExecutionCompleted, RetryPolicy, Status, TaskScheduled, TimerCreated
from perdure.engine.engine_events import ANSWERED, ASKED, NOT_STARTED, STARTED


async def two_steps(ctx):
    first = await ctx.call_activity("a")
    return [first, await ctx.call_activity("b")]


# -- putting away


def test_a_function_that_is_put_away_is_unwound_and_decides_nothing():
    left: list[str] = []

    async def flow(ctx):
        try:
            await ctx.call_activity("a")
        finally:
            left.append("cleaning")
            await ctx.call_activity("clean")
            left.append("cleaned")

    driven = Driven(flow)
    driven.execution.close()
    assert left == ["cleaning"]
    assert [event.name for row in driven.rows for event in row.events if isinstance(event, TaskScheduled)] == ["a"]
    driven.execution.close()


def test_except_exception_lets_the_unwinding_pass():
    seen: list[str] = []

    async def flow(ctx):
        try:
            await ctx.call_activity("a")
        except Exception:
            seen.append("caught")
        except Evicted:
            seen.append("evicted")
            raise

    Driven(flow).execution.close()
    assert seen == ["evicted"]


@pytest.mark.parametrize("waits", ["call_activity", "wait_for_external_event", "create_timer"])
def test_a_loop_that_catches_everything_does_not_spin_when_it_is_put_away(waits):
    rounds: list[int] = []

    async def flow(ctx):
        while len(rounds) < 1000:
            rounds.append(1)
            try:
                await getattr(ctx, waits)(1.0 if waits == "create_timer" else "a")
                return
            except BaseException:
                if len(rounds) > 2:
                    raise

    Driven(flow).execution.close()
    assert len(rounds) < 5


def test_a_generator_that_swallows_the_unwinding_is_left_alone():
    def flow(ctx):
        try:
            yield ctx.call_activity("a")
        except Evicted:
            yield ctx.call_activity("b")

    driven = Driven(flow)
    driven.execution.close()
    assert driven.execution.completed is None


def test_a_function_that_returns_or_raises_while_it_is_unwound_ends_nothing():
    async def returns(ctx):
        try:
            await ctx.call_activity("a")
        except BaseException:
            return

    async def raises(ctx):
        try:
            await ctx.call_activity("a")
        finally:
            raise ValueError("in the clean-up")

    for flow in (returns, raises):
        driven = Driven(flow)
        driven.execution.close()
        assert driven.execution.completed is None
        assert driven.execution.evicted


# -- ending


def test_termination_ends_at_once_and_replays():
    driven = Driven(two_steps)
    row = driven.feed(terminated("enough"), completed(0, 1))
    assert [type(event).__name__ for event in row] == ["ExecutionTerminated", "ExecutionCompleted"]
    assert driven.execution.pending_activities() == []
    assert driven.replayed().completed.status is Status.TERMINATED
    assert driven.failure.message == "enough"


def test_calls_that_nobody_awaits_are_recorded_before_the_end():
    async def flow(ctx):
        ctx.call_activity("a")
        return "done"

    driven = Driven(flow)
    assert [type(event) for event in driven.rows[1].events] == [TaskScheduled, ExecutionCompleted]
    assert driven.result == "done"
    assert driven.replayed().completed is not None


def test_an_interrupt_of_the_keyboard_passes_through():
    async def flow(ctx):
        raise KeyboardInterrupt

    def plain(ctx):
        raise KeyboardInterrupt

    for function in (flow, plain):
        with pytest.raises(KeyboardInterrupt):
            Driven(function)


# -- changed code


def _different(driven: Driven, function) -> NonDeterminismError:
    with pytest.raises(NonDeterminismError) as caught:
        driven.replayed(function)
    return caught.value


def test_code_that_asks_for_nothing_where_something_is_recorded_is_refused():
    async def only_waits(ctx):
        await ctx.wait_for_external_event("go")

    error = _different(Driven(two_steps), only_waits)
    assert error.recorded == "call_activity 'a' as #0"
    assert error.requested == "nothing (the code asked for nothing here)"


def test_code_that_asks_for_more_at_the_end_of_its_history_is_refused():
    async def three(ctx):
        return await ctx.when_all([ctx.call_activity("a"), ctx.call_activity("b")])

    error = _different(Driven(two_steps), three)
    assert error.recorded == "nothing (the code asked for nothing here)"
    assert error.requested == "call_activity 'b' as #1"


def test_code_that_asks_for_more_before_what_happened_next_is_refused():
    driven = Driven(two_steps)
    driven.feed(completed(0))

    async def more(ctx):
        await ctx.when_all([ctx.call_activity("a"), ctx.call_activity("x")])

    error = _different(driven, more)
    assert (error.recorded, error.requested) == ("TaskCompleted", "call_activity 'x' as #1")


def test_code_that_ends_where_the_recorded_run_went_on_is_refused():
    driven = Driven(two_steps)
    driven.feed(completed(0))

    async def one_step(ctx):
        return await ctx.call_activity("a")

    error = _different(driven, one_step)
    assert (error.recorded, error.requested) == ("call_activity 'b' as #1", "end of the workflow: COMPLETED")


def test_a_recorded_timer_that_the_code_no_longer_waits_for_when_it_fires_is_refused():
    async def flow(ctx):
        await ctx.create_timer(5)
        return await ctx.wait_for_external_event("b")

    async def changed(ctx):
        await ctx.wait_for_external_event("a", timeout=5)
        await ctx.wait_for_external_event("b")

    driven = Driven(flow)
    driven.feed(raised("a"))
    driven.feed(fired(0), after=5)
    error = _different(driven, changed)
    assert (error.recorded, error.requested) == ("TimerFired", "nothing (the code asked for nothing here)")


def test_a_refused_replay_unwinds_the_function():
    left: list[str] = []

    async def changed(ctx):
        try:
            await ctx.call_activity("z")
        finally:
            left.append("left")

    _different(Driven(two_steps), changed)
    assert left == ["left"]


def test_a_changed_input_policy_or_time_does_not_disturb_a_run_in_flight():
    def version(amount, policy, seconds):
        async def flow(ctx):
            await ctx.create_timer(seconds)
            return await ctx.call_activity("a", input=amount, retry_policy=policy)

        return flow

    driven = Driven(version(1, RetryPolicy(max_attempts=3, initial_backoff=2.0), 5))
    changed = driven.replayed(version(2, None, 50))
    assert changed.next_timer() == 105.0
    driven.feed(fired(0), after=5)
    driven.execution = driven.replayed(version(2, None, 50))
    assert bytes(driven.execution.input_of(driven.execution.pending_activities()[0])) == b"1"
    driven.feed(failed(1), after=1)
    driven.execution = driven.replayed(version(2, RetryPolicy(max_attempts=3, initial_backoff=70.0), 50))
    assert driven.execution.next_timer() == 108.0
    driven.feed(fired(2), after=2)
    pending = driven.execution.pending_activities()[0]
    assert (pending.attempt, pending.retry_of, bytes(driven.execution.input_of(pending))) == (2, 1, b"1")


# -- retries


def test_a_retry_waits_then_runs_under_the_same_call_and_gives_up_in_the_end():
    async def flow(ctx):
        try:
            await ctx.call_activity("a", retry_policy=RetryPolicy(max_attempts=2, initial_backoff=4.0), timeout=9)
        except ActivityFailedError as error:
            return [error.activity, error.failure.message]

    driven = Driven(flow)
    assert driven.feed(failed(0), after=1)[1] == TimerCreated(id=1, fire_at=105.0, retry_of=0)
    assert driven.execution.waits() == {"retries": [{"activity": "a", "attempt": 2, "of": 2, "at": 105.0}]}
    assert driven.execution.due_timers(104.9) == []
    again = driven.feed(*driven.execution.due_timers(105.0), after=4)[1]
    assert (again.id, again.attempt, again.retry_of, again.call_id, again.timeout) == (2, 2, 0, 0, 9)
    driven.feed(failed(2))
    assert driven.result == ["a", "no"]


def test_a_failure_that_is_not_worth_a_retry_is_final():
    async def flow(ctx):
        await ctx.call_activity("a", retry_policy=RetryPolicy(max_attempts=9))

    driven = Driven(flow)
    driven.feed(failed(0, non_retryable=True))
    assert driven.failure.error_type == "ActivityFailedError"


def test_a_result_that_does_not_fit_is_an_error_where_it_is_awaited():
    async def flow(ctx):
        try:
            await ctx._execution.call_activity("a", None, convert=int)
        except ValueError:
            return "did not fit"

    driven = Driven(flow)
    driven.feed(completed(0, "seven"))
    assert driven.result == "did not fit"


# -- events and timers


def test_a_timed_wait_that_is_over_takes_no_event_and_leaves_no_timer():
    async def flow(ctx):
        with contextlib.suppress(TimeoutError):
            await ctx.wait_for_external_event("go", timeout=5)
        return [await ctx.wait_for_external_event("go", timeout=5), await ctx.wait_for_external_event("GO")]

    driven = Driven(flow)
    assert driven.execution.waits() == {"events": ["go"], "timer": 105.0}
    driven.feed(fired(0), after=5)
    driven.feed(raised("Go", 1), raised("go", 2))
    assert driven.result == [1, 2]
    assert driven.execution.next_timer() is None


def test_an_event_that_came_before_needs_no_timer():
    async def flow(ctx):
        await ctx.wait_for_external_event("first")
        return await ctx.wait_for_external_event("second", timeout=5)

    driven = Driven(flow)
    driven.feed(raised("second", 2), raised("first", 1))
    assert driven.result == 2


def test_timers_fire_the_earliest_first():
    async def flow(ctx):
        late, early = ctx.create_timer(9), ctx.create_timer(3)
        winner = await ctx.when_any([late, early])
        return winner is early

    driven = Driven(flow)
    assert driven.execution.next_timer() == 103.0
    due = driven.execution.due_timers(200.0)
    assert due == [fired(1), fired(0)]
    driven.feed(*due)
    assert driven.result is True


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_timer_without_an_end_is_refused(seconds):
    async def flow(ctx):
        await ctx.create_timer(seconds)

    assert "to wait for ever, wait for an external event" in Driven(flow).failure.message


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_of_an_activity_is_a_positive_number(timeout):
    async def flow(ctx):
        await ctx.call_activity("a", timeout=timeout)

    assert "use a positive number, or None" in Driven(flow).failure.message


def test_the_engines_own_event_names_cannot_be_waited_for():
    async def flow(ctx):
        await ctx.wait_for_external_event("perdure.asked")

    assert "the engine's own" in Driven(flow).failure.message


# -- what the engine notes down


def test_what_the_engine_notes_down_is_no_event_of_the_workflow():
    driven = Driven(two_steps)
    driven.feed(raised(ASKED, 0))
    assert driven.execution.asked == {0}
    assert driven.execution.waits() == {"asks": [{"task": 0, "activity": "a"}]}
    driven.feed(raised(ANSWERED, {"task": 0, "decision": "retry"}))
    assert driven.execution.asked == set()
    driven.feed(raised(NOT_STARTED, [0]))
    assert driven.replayed().not_started == {0}
    driven.feed(raised(STARTED, [0]))
    assert driven.replayed().not_started == set()
    driven.feed(raised(ASKED, 0), completed(0, 1))
    assert driven.execution.asked == set()


def test_an_instance_that_nothing_can_wake_says_what_it_is_stuck_on():
    async def flow(ctx):
        await ctx.when_all([ctx.call_activity("a"), ctx.call_activity("b")])

    driven = Driven(flow)
    driven.feed(completed(1))
    assert driven.execution.waits() == {"stuck": ["activity 'a'"]}


def test_awaiting_one_task_twice_gives_its_result_twice():
    async def flow(ctx):
        task = ctx.call_activity("a")
        return [await task, await task, task.result()]

    driven = Driven(flow)
    driven.feed(completed(0, 5))
    assert driven.result == [5, 5, 5]


def test_large_values_of_a_step_are_beside_its_decisions_and_then_forgotten():
    async def flow(ctx):
        await ctx.call_activity("a", input="x" * 5000)
        await ctx.call_activity("b", input="small")

    driven = Driven(flow)
    del driven.rows[1:]
    execution = driven.replayed()
    first = execution.advance(100.0, [])
    assert list(first.blobs.values()) == [b"x" * 5000]
    assert first.resolved.blobs == first.blobs
    second = execution.advance(101.0, [completed(0)])
    assert second.blobs == {}
