from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from tests.runtime.harness import PATIENCE, ManualClock, registry_of, until, waits_of

from perdure.base.errors import (
    ActivityFailedError,
    InstanceError,
    InstanceExistsError,
    InstanceNotFoundError,
    NotSerializableError,
    RunFailedError,
    UsageError,
)
from perdure.base.events import EventRaised, RetryPolicy, Status, TaskScheduled
from perdure.engine.activity import current_activity


async def echo(value: Any) -> Any:
    return value


async def echoing(ctx, value):
    return await ctx.call_activity(echo, input=value)


async def waiting(ctx, name):
    return await ctx.wait_for_external_event(name)


# -- starting


def test_starting_an_id_again_with_the_same_input_attaches_to_the_run_that_exists(opened):
    async def run() -> None:
        async with opened(registry_of(echoing)) as runtime:
            assert await runtime.start(echoing, {"a": 1}, instance_id="one") == "one"
            assert await runtime.start("echoing", {"a": 1}, instance_id="one") == "one"
            assert await runtime.wait("one", PATIENCE) == {"a": 1}
            await runtime.start(echoing, {"a": 1}, instance_id="one")
            assert await runtime.wait("one", PATIENCE) == {"a": 1}
            assert len(await runtime.store.instances()) == 1

    asyncio.run(run())


def test_starting_an_id_again_with_another_input_or_workflow_is_refused(opened):
    async def run() -> None:
        async with opened(registry_of(echoing, waiting)) as runtime:
            await runtime.start(echoing, 1, instance_id="one")
            with pytest.raises(InstanceExistsError, match="'echoing' with another input"):
                await runtime.start(echoing, 2, instance_id="one")
            with pytest.raises(InstanceExistsError, match="a run of workflow 'echoing', not of workflow 'waiting'"):
                await runtime.start(waiting, 1, instance_id="one")
            assert await runtime.wait("one", PATIENCE) == 1

    asyncio.run(run())


def test_an_instance_of_a_workflow_that_this_process_does_not_know_is_accepted_and_waits(opened):
    async def run() -> None:
        async with opened(registry_of()) as starter:
            await starter.start("echoing", 5, instance_id="one")
            async with opened(registry_of(echoing)) as worker:
                assert await worker.wait("one", PATIENCE) == 5

    asyncio.run(run())


def test_a_caller_that_stops_waiting_for_the_start_leaves_no_instance_behind_that_nobody_runs(opened):
    async def run() -> None:
        async with opened(registry_of(echoing)) as runtime:
            starting = asyncio.create_task(runtime.start(echoing, 1, instance_id="one"))
            await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            await until(lambda: runtime.find("one"))
            assert await runtime.wait("one", PATIENCE) == 1

    asyncio.run(run())


def test_an_input_that_is_not_data_is_refused_before_anything_is_stored(opened):
    async def run() -> None:
        async with opened(registry_of(echoing)) as runtime:
            with pytest.raises(NotSerializableError, match=r"the input of workflow 'echoing' holds a builtins\.object"):
                await runtime.start(echoing, object(), instance_id="one")
            assert await runtime.find("one") is None

    asyncio.run(run())


# -- waiting


def test_a_wait_that_runs_out_of_time_leaves_the_run_going(opened):
    async def run() -> None:
        async with opened(registry_of(waiting)) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            with pytest.raises(TimeoutError):
                await runtime.wait("one", 0.02)
            await runtime.raise_event("one", "go", 7)
            assert await runtime.wait("one", PATIENCE) == 7

    asyncio.run(run())


def test_waiting_for_a_run_that_another_runtime_finishes(opened):
    async def run() -> None:
        async with opened(registry_of(), worker=False) as looker:
            await looker.start("echoing", 5, instance_id="one")
            waiter = asyncio.create_task(looker.wait("one", PATIENCE))
            async with opened(registry_of(echoing)):
                assert await waiter == 5

    asyncio.run(run())


def test_unknown_instances_are_not_found(opened):
    async def run() -> None:
        async with opened(registry_of()) as runtime:
            assert await runtime.find("none") is None
            for asking in (
                runtime.wait("none", PATIENCE),
                runtime.history("none"),
                runtime.raise_event("none", "go"),
                runtime.terminate("none"),
                runtime.resume("none"),
            ):
                with pytest.raises(InstanceNotFoundError, match="no instance 'none'"):
                    await asking

    asyncio.run(run())


# -- events and termination


def test_events_are_buffered_in_order_until_somebody_waits(opened):
    async def two(ctx, _):
        await ctx.wait_for_external_event("go")
        return [await ctx.wait_for_external_event("item") for _ in range(3)]

    async def run() -> None:
        async with opened(registry_of(two)) as runtime:
            await runtime.start(two, instance_id="one")
            for number in range(3):
                await runtime.raise_event("one", "ITEM", number)
            await until(lambda: _recorded(runtime, "one", 3))
            await runtime.raise_event("one", "go")
            assert await runtime.wait("one", PATIENCE) == [0, 1, 2]

    asyncio.run(run())


async def _recorded(runtime, instance_id: str, events: int) -> bool:
    rows = await runtime.history(instance_id)
    return sum(isinstance(event, EventRaised) for row in rows for event in row.events) >= events


def test_a_finished_instance_takes_no_events(opened):
    async def run() -> None:
        async with opened(registry_of(echoing)) as runtime:
            await runtime.start(echoing, instance_id="one")
            await runtime.wait("one", PATIENCE)
            with pytest.raises(InstanceError, match="COMPLETED; it takes no events any more"):
                await runtime.raise_event("one", "go")
            await runtime.terminate("one")
            assert (await runtime.find("one")).status is Status.COMPLETED

    asyncio.run(run())


def test_the_engines_own_event_names_are_refused(opened):
    async def run() -> None:
        async with opened(registry_of(waiting)) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            with pytest.raises(UsageError, match="the engine's own"):
                await runtime.raise_event("one", "perdure.asked", {})

    asyncio.run(run())


def test_a_large_event_reaches_the_workflow_whole(opened):
    async def run() -> None:
        async with opened(registry_of(waiting)) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            await runtime.raise_event("one", "go", ["x" * 50_000] * 3)
            assert await runtime.wait("one", PATIENCE) == ["x" * 50_000] * 3

    asyncio.run(run())


def test_large_values_that_reach_a_suspended_run_are_whole_when_it_is_resumed(opened):
    gate = asyncio.Event()

    async def slow(_):
        await gate.wait()
        return "y" * 50_000

    async def flow(ctx, _):
        return await ctx.when_all([ctx.call_activity(slow), ctx.wait_for_external_event("go")])

    async def run() -> None:
        async with opened(registry_of(flow, activities=(slow,))) as runtime:
            await runtime.start(flow, instance_id="one")
            await runtime.suspend("one")
            await runtime.raise_event("one", "go", "x" * 50_000)
            gate.set()

            async def held() -> bool:
                return bool(await waits_of(runtime, "one"))

            await until(held)
            await runtime.resume("one")
            assert await runtime.wait("one", PATIENCE) == ["y" * 50_000, "x" * 50_000]

    asyncio.run(run())


def test_terminating_ends_a_waiting_run_with_its_reason(opened):
    async def run() -> None:
        async with opened(registry_of(waiting)) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            await runtime.terminate("one", "not wanted any more")
            with pytest.raises(RunFailedError, match="'one' terminated: Terminated: not wanted any more"):
                await runtime.wait("one", PATIENCE)
            assert (await runtime.find("one")).status is Status.TERMINATED

    asyncio.run(run())


def test_terminating_cancels_the_activities_that_run(opened):
    began, ended = threading.Event(), threading.Event()

    async def endless(_):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def flow(ctx, _):
        await ctx.call_activity(endless)

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(began.is_set)
            await runtime.terminate("one")
            with pytest.raises(RunFailedError):
                await runtime.wait("one", PATIENCE)
            await until(ended.is_set)

    asyncio.run(run())


# -- what activities see


def test_the_idempotency_key_is_the_same_on_every_retry_and_new_for_every_call(opened):
    seen: list[tuple[str, int]] = []

    async def flaky(_):
        call = current_activity()
        seen.append((call.idempotency_key, call.attempt))
        assert (call.instance_id, call.activity, call.interrupted) == ("one", "flaky", False)
        if call.attempt < 3:
            raise OSError("again")
        return call.idempotency_key

    async def flow(ctx, _):
        policy = RetryPolicy(max_attempts=3, initial_backoff=0.001)
        return [await ctx.call_activity(flaky, retry_policy=policy) for _ in range(2)]

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            keys = await runtime.wait(await runtime.start(flow, instance_id="one"), PATIENCE)
            assert len(set(keys)) == 2
            assert seen == [(key, attempt) for key in keys for attempt in (1, 2, 3)]

    asyncio.run(run())


def test_a_thread_activity_sees_its_own_call_and_the_pool_is_bounded(opened):
    lock, together, most = threading.Lock(), 0, 0

    def work(number):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        assert current_activity().activity == "work"
        threading.Event().wait(0.005)
        with lock:
            together -= 1
        return number

    async def flow(ctx, _):
        return await ctx.when_all([ctx.call_activity(work, input=number) for number in range(12)])

    async def run() -> None:
        async with opened(registry_of(flow), threads=3) as runtime:
            assert await runtime.wait(await runtime.start(flow), PATIENCE) == list(range(12))
        assert most == 3

    asyncio.run(run())


def test_current_activity_outside_an_activity_says_where_it_works():
    with pytest.raises(UsageError, match="inside an activity or a tool only"):
        current_activity()


# -- activities that go wrong


async def _failure(opened, *functions: Any) -> str:
    async with opened(registry_of(functions[0], activities=functions[1:])) as runtime:
        with pytest.raises(RunFailedError) as caught:
            await runtime.wait(await runtime.start(functions[0]), PATIENCE)
        return str(caught.value)


def test_calling_an_activity_that_nobody_registered_fails_with_a_remedy(opened):
    async def flow(ctx, _):
        await ctx.call_activity("nothing")

    text = asyncio.run(_failure(opened, flow))
    assert "no activity 'nothing' is registered in this process; decorate the function with @activity" in text


def test_a_result_that_is_not_data_fails_the_activity_and_is_not_retried(opened):
    runs: list[int] = []

    async def act(_):
        runs.append(1)
        return object()

    async def flow(ctx, _):
        await ctx.call_activity(act, retry_policy=RetryPolicy(max_attempts=5, initial_backoff=0.001))

    assert "the result of activity 'act' holds a builtins.object" in asyncio.run(_failure(opened, flow))
    assert runs == [1]


def test_an_activity_input_that_is_not_data_fails_the_run(opened):
    async def flow(ctx, _):
        await ctx.call_activity(echo, input=object())

    assert "the input of activity 'echo' holds a builtins.object" in asyncio.run(_failure(opened, flow))


def test_a_result_of_the_workflow_that_is_not_data_fails_the_run(opened):
    async def flow(ctx, _):
        return object()

    assert "the result of workflow 'flow' holds a builtins.object" in asyncio.run(_failure(opened, flow))


class MuteError(Exception):
    retry_after = "soon"
    non_retryable = "perhaps"

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("in_thread", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError("not by us"), "CancelledError: not by us"),
        (StopIteration(4), "StopIteration"),
        (MuteError(), "MuteError: <MuteError without text"),
        (ValueError("a lone \ud800 surrogate"), r"a lone \ud800 surrogate"),
        (type("Odd", (Exception,), {"retry_after": float("nan")})("x"), "Odd: x"),
    ],
    ids=["SystemExit", "CancelledError", "StopIteration", "no text", "surrogate", "odd retry_after"],
)
def test_whatever_an_activity_raises_is_recorded_as_its_failure(opened, error, text, in_thread):
    async def act(_):
        raise error

    def act_in_thread(_):
        raise error

    async def flow(ctx, _):
        await ctx.call_activity(act_in_thread if in_thread else act)

    assert text in asyncio.run(_failure(opened, flow))


def test_a_failure_with_an_odd_retry_after_is_retried_as_its_policy_says(opened):
    async def act(_):
        if current_activity().attempt == 1:
            raise MuteError
        return "well"

    async def flow(ctx, _):
        return await ctx.call_activity(act, retry_policy=RetryPolicy(max_attempts=2, initial_backoff=0.001))

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            assert await runtime.wait(await runtime.start(flow, instance_id="one"), PATIENCE) == "well"
            await runtime.history("one")

    asyncio.run(run())


def test_a_plain_function_that_returns_a_coroutine_is_awaited(opened):
    def act(value):
        return echo(value)

    async def flow(ctx, _):
        return await ctx.call_activity(act, input=4)

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            assert await runtime.wait(await runtime.start(flow), PATIENCE) == 4

    asyncio.run(run())


# -- workflows that go wrong


async def _asleep(ctx):
    await asyncio.sleep(1)


async def _asleep_for_nothing(ctx):
    await asyncio.sleep(0)


async def _foreign_future(ctx):
    await asyncio.get_running_loop().create_future()


async def _gathered(ctx):
    await asyncio.gather(asyncio.sleep(0))


def _yields_a_number(ctx):
    yield 7


@pytest.mark.parametrize("flow", [_asleep, _asleep_for_nothing, _foreign_future, _gathered, _yields_a_number])
def test_awaiting_what_is_not_durable_fails_and_says_what_to_await_instead(opened, flow):
    text = asyncio.run(_failure(opened, flow))
    assert "WorkflowAwaitError: a workflow awaited" in text
    assert "ctx.create_timer(seconds) for sleeping" in text
    assert "ctx.when_all([...]) for asyncio.gather" in text


@pytest.mark.parametrize("error", [SystemExit(2), asyncio.CancelledError(), GeneratorExit()], ids=repr)
def test_whatever_a_workflow_raises_is_its_failure(opened, error):
    async def flow(ctx, _):
        await ctx.call_activity(echo)
        raise error

    def plain(ctx, _):
        raise error

    assert type(error).__name__ in asyncio.run(_failure(opened, flow))
    assert type(error).__name__ in asyncio.run(_failure(opened, plain))


# -- the workflow's view


def test_is_replaying_is_false_where_code_runs_for_the_first_time(opened):
    seen: list[tuple[str, bool]] = []

    async def flow(ctx, _):
        seen.append(("begin", ctx.is_replaying))
        await ctx.call_activity(echo)
        seen.append(("middle", ctx.is_replaying))
        await ctx.wait_for_external_event("go")
        seen.append(("end", ctx.is_replaying))

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
        async with opened(registry_of(flow)) as runtime:
            await runtime.raise_event("one", "go")
            await runtime.wait("one", PATIENCE)

    asyncio.run(run())
    assert Counter(place for place, replaying in seen if not replaying) == {"begin": 1, "middle": 1, "end": 1}
    assert ("begin", True) in seen
    assert ("middle", True) in seen


def test_the_workflows_clock_shows_the_same_on_replay(opened):
    clock = ManualClock()
    seen: list[str] = []

    async def flow(ctx, _):
        seen.append(ctx.current_utc_datetime.isoformat())
        await ctx.call_activity(echo)
        seen.append(ctx.current_utc_datetime.isoformat())
        await ctx.wait_for_external_event("go")

    async def run() -> None:
        async with opened(registry_of(flow), clock=clock) as runtime:
            await runtime.start(flow, instance_id="one")
            clock.at += 0.333333
            await until(lambda: waits_of(runtime, "one"))
        first = seen[:]
        clock.at += 3600
        async with opened(registry_of(flow), clock=clock) as runtime:
            await runtime.raise_event("one", "go")
            await runtime.wait("one", PATIENCE)
        assert set(seen) == set(first)

    asyncio.run(run())


def test_a_timer_fires_when_the_clock_says_so(opened):
    clock = ManualClock()

    async def flow(ctx, _):
        await ctx.create_timer(3600)
        return "rested"

    async def run() -> None:
        async with opened(registry_of(flow), clock=clock) as runtime:
            await runtime.start(flow, instance_id="one")
            waits = await until(lambda: waits_of(runtime, "one"))
            assert waits == {"timer": clock.at + 3600}
            clock.at += 3601
            assert await runtime.wait("one", PATIENCE) == "rested"

    asyncio.run(run())


def test_waiting_instances_in_memory_are_bounded(opened, mode):
    async def run() -> None:
        async with opened(registry_of(waiting), warm=2) as runtime:
            names = [f"i{number}" for number in range(50)]
            for name in names:
                await runtime.start(waiting, "go", instance_id=name)
            for name in names:
                await until(lambda name=name: waits_of(runtime, name))
            assert len(runtime._worker._warm) <= (2 if mode == "warm" else 0)
            assert runtime._worker.held == {}
            for name in names:
                await runtime.raise_event(name, "go", name)
            assert await asyncio.gather(*(runtime.wait(name, PATIENCE) for name in names)) == names

    asyncio.run(run())


def test_an_error_of_an_activity_can_be_handled_as_data(opened):
    async def act(_):
        raise KeyError("missing")

    async def flow(ctx, _):
        try:
            await ctx.call_activity(act)
        except ActivityFailedError as error:
            return [error.activity, error.failure.error_type, "KeyError" in error.failure.stack]

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            assert await runtime.wait(await runtime.start(flow), PATIENCE) == ["act", "KeyError", True]

    asyncio.run(run())


def test_a_name_that_two_functions_share_is_told_with_both(opened):
    def make(number):
        async def act(_):
            return number

        return act

    async def flow(ctx, _):
        await ctx.call_activity(make(1))
        await ctx.call_activity(make(2))

    text = asyncio.run(_failure(opened, flow))
    assert "the activity name 'act' belongs to" in text


def test_the_history_names_what_was_scheduled(opened):
    async def run() -> None:
        async with opened(registry_of(echoing)) as runtime:
            await runtime.wait(await runtime.start(echoing, 1, instance_id="one"), PATIENCE)
            rows = await runtime.history("one")
            assert [row.seq for row in rows] == list(range(len(rows)))
            assert [e.name for row in rows for e in row.events if isinstance(e, TaskScheduled)] == ["echo"]

    asyncio.run(run())
