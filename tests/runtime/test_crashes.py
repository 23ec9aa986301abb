from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.runtime.harness import PATIENCE, Child, call_of, crash, end_lease, registry_of, until, waits_of
from tests.shapes import ALL, BY_NAME, REGISTRY, effects

from perdure.base.codec import decode
from perdure.base.errors import RunFailedError, UsageError
from perdure.base.events import RetryPolicy, TaskCompleted
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.activity import current_activity
from perdure.engine.engine_events import INTERRUPTED
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


class Payment:
    """A flow of one activity that hangs in its first run, and what each run of it saw."""

    def __init__(self, on_crash: Any = "retry", *, hangs: int = 1, policy: RetryPolicy | None = None) -> None:
        self.runs: list[tuple[str, int, bool]] = []
        self.began = asyncio.Event()
        self._hangs, self._policy = hangs, policy
        self.registry = registry_of(self.flow)
        self.registry.add_activity(self.pay, "pay", on_crash=on_crash)

    async def flow(self, ctx, amount):
        return await ctx.call_activity("pay", input=amount, retry_policy=self._policy)

    async def pay(self, amount):
        call = current_activity()
        self.runs.append((call.idempotency_key, call.attempt, call.interrupted))
        if len(self.runs) <= self._hangs:
            self.began.set()
            await asyncio.Event().wait()
        return f"paid {amount}"

    @property
    def key(self) -> str:
        """The idempotency key that it was first called under."""
        key = self.runs[0][0]
        assert call_of(key) == "one/0" != key
        return key

    async def cut_off(self, opened) -> None:
        """Start the flow, and crash in the middle of its activity."""
        runtime = opened(self.registry)
        await runtime.open()
        await runtime.start("flow", {"amount": 5}, instance_id="one")
        await self.began.wait()
        await crash(runtime)


def test_an_interrupted_activity_is_run_again_under_the_same_key_and_told_so(opened):
    async def run() -> None:
        payment = Payment("retry")
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            assert await runtime.wait("one", PATIENCE) == "paid {'amount': 5}"
            assert (await runtime.find("one")).recoveries == 1
            events = [event for row in await runtime.history("one") for event in row.events]
            notes = [decode(event.input) for event in events if getattr(event, "name", "") == INTERRUPTED]
            assert notes == [[0]]
        assert payment.runs == [(payment.key, 1, False), (payment.key, 1, True)]

    asyncio.run(run())


def test_the_first_activity_of_a_run_that_another_process_accepted_begins_once(opened):
    async def run() -> None:
        payment = Payment(hangs=0)
        async with opened(payment.registry, worker=False) as client:
            await client.start("flow", {"amount": 5}, instance_id="one")
            async with opened(payment.registry):
                assert await client.wait("one", PATIENCE) == "paid {'amount': 5}"
        assert payment.runs == [(payment.key, 1, False)]

    asyncio.run(run())


def test_an_activity_that_asks_waits_for_a_human_and_says_so(opened):
    async def run() -> None:
        payment = Payment("ask")
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            waits = await until(lambda: waits_of(runtime, "one"))
            assert waits == {"asks": [{"task": 0, "activity": "pay"}]}
        async with opened(payment.registry) as runtime:
            assert await waits_of(runtime, "one") == waits
            await runtime.answer("one", 0, "retry")
            assert await runtime.wait("one", PATIENCE) == "paid {'amount': 5}"
        assert payment.runs == [(payment.key, 1, False), (payment.key, 1, False)]

    asyncio.run(run())


def test_a_human_can_say_that_an_interrupted_activity_was_completed(opened):
    async def run() -> None:
        payment = Payment("ask")
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            await until(lambda: waits_of(runtime, "one"))
            await runtime.answer("one", 0, "completed", ["x" * 20_000])
            assert await runtime.wait("one", PATIENCE) == ["x" * 20_000]
        assert len(payment.runs) == 1

    asyncio.run(run())


def test_a_human_can_say_that_an_interrupted_activity_failed(opened):
    async def run() -> None:
        payment = Payment("ask", policy=RetryPolicy(max_attempts=5))
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            await until(lambda: waits_of(runtime, "one"))
            await runtime.answer("one", 0, "failed", "the bank says no")
            with pytest.raises(RunFailedError, match="Interrupted: the bank says no"):
                await runtime.wait("one", PATIENCE)
        assert len(payment.runs) == 1

    asyncio.run(run())


def test_of_several_answers_the_first_counts(opened):
    async def run() -> None:
        payment = Payment("ask")
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            await until(lambda: waits_of(runtime, "one"))
        async with opened(payment.registry, worker=False) as runtime:
            await runtime.answer("one", 77, "completed", "of another task")
            for _ in range(3):
                await runtime.answer("one", 0, "retry")
            await runtime.answer("one", 0, "completed", "too late")
        async with opened(payment.registry) as runtime:
            assert await runtime.wait("one", PATIENCE) == "paid {'amount': 5}"
        assert len(payment.runs) == 2

    asyncio.run(run())


def test_an_answer_that_makes_no_sense_is_refused(opened):
    async def run() -> None:
        async with opened(Registry()) as runtime:
            with pytest.raises(UsageError, match="use 'retry', 'completed' or 'failed'"):
                await runtime.answer("one", 0, "maybe")
            with pytest.raises(UsageError, match="use the number that the run's waits show"):
                await runtime.answer("one", {"task": 0}, "retry")

    asyncio.run(run())


def _completed(question):
    return question.completed(f"found {question.arguments} under {question.idempotency_key}")


async def _retry(question):
    return question.retry()


def _ask(question):
    return question.ask()


def _broken(question):
    raise OSError("the bank is out of reach")


def _nonsense(question):
    return "yes"


@pytest.mark.parametrize(
    ("reconcile", "result", "runs"),
    [(_completed, "found {'amount': 5} under KEY", 1), (_retry, "paid {'amount': 5}", 2)],
)
def test_a_reconcile_function_decides_what_became_of_an_interrupted_activity(opened, reconcile, result, runs):
    async def run() -> None:
        payment = Payment(reconcile)
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            assert await runtime.wait("one", PATIENCE) == result.replace("KEY", payment.key)
        assert len(payment.runs) == runs

    asyncio.run(run())


@pytest.mark.parametrize("reconcile", [_ask, _broken, _nonsense])
def test_a_human_is_asked_where_a_reconcile_function_cannot_tell(opened, reconcile):
    async def run() -> None:
        payment = Payment(reconcile, policy=RetryPolicy(max_attempts=5, initial_backoff=0.001))
        await payment.cut_off(opened)
        async with opened(payment.registry) as runtime:
            assert await until(lambda: waits_of(runtime, "one")) == {"asks": [{"task": 0, "activity": "pay"}]}
        assert len(payment.runs) == 1

    asyncio.run(run())


def test_a_killed_process_leaves_a_run_that_another_one_finishes(tmp_path):
    script = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

async def pay(amount):
    print("began", flush=True)
    await asyncio.Event().wait()

async def flow(ctx, amount):
    return await ctx.call_activity("pay", input=amount)

async def main():
    registry = Registry()
    registry.add_workflow(flow)
    registry.add_activity(pay, on_crash="ask")
    async with EmbeddedRuntime(SQLiteHistoryStore(sys.argv[2]), registry=registry) as runtime:
        await runtime.wait(await runtime.start(flow, 5, instance_id="one"))

asyncio.run(main())
"""
    path = tmp_path / "history.db"
    with Child(script, tmp_path, path) as child:
        assert child.line() == "began"
        child.kill()

    async def run() -> None:
        payment = Payment("ask", hangs=0)
        async with EmbeddedRuntime(SQLiteHistoryStore(path), registry=payment.registry) as runtime:
            await until(lambda: waits_of(runtime, "one"))
            await runtime.answer("one", 0, "retry")
            assert await runtime.wait("one", PATIENCE) == "paid 5"

    asyncio.run(run())


# -- graceful stops


def test_what_a_stopping_worker_did_not_begin_is_not_taken_for_interrupted_until_it_is(opened):
    gate, began, runs = asyncio.Event(), asyncio.Event(), []

    async def first(_):
        began.set()
        await gate.wait()

    async def second(_):
        runs.append(current_activity().interrupted)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "done"

    async def flow(ctx, _):
        await ctx.call_activity("first")
        return await ctx.call_activity("second")

    registry = registry_of(flow, activities=(first,))
    registry.add_activity(second, on_crash="ask")

    async def run() -> None:
        runtime = opened(registry)
        await runtime.open()
        await runtime.start(flow, instance_id="one")
        await began.wait()
        worker = runtime._worker
        closing = asyncio.create_task(runtime.close())
        await until(lambda: worker._stopping)
        gate.set()
        await closing
        assert runs == []
        runtime = opened(registry)
        await runtime.open()
        await until(lambda: runs == [False])
        await crash(runtime)
        async with opened(registry) as runtime:
            assert (await until(lambda: waits_of(runtime, "one")))["asks"][0]["activity"] == "second"
            await runtime.answer("one", 1, "retry")
            assert await runtime.wait("one", PATIENCE) == "done"
        assert runs == [False, False]

    asyncio.run(run())


def test_what_a_stop_cuts_off_after_the_drain_time_is_interrupted(opened):
    async def run() -> None:
        payment = Payment("ask")
        async with opened(payment.registry, drain=0.0) as runtime:
            await runtime.start("flow", 5, instance_id="one")
            await payment.began.wait()
        async with opened(payment.registry) as runtime:
            assert (await until(lambda: waits_of(runtime, "one")))["asks"] == [{"task": 0, "activity": "pay"}]

    asyncio.run(run())


# -- leases


def test_a_worker_whose_lease_was_lost_is_fenced_and_the_work_goes_on_elsewhere(opened, place):
    gates = {"first": asyncio.Event(), "second": asyncio.Event()}
    runs: list[str] = []

    def registry(who: str) -> Registry:
        async def act(value):
            runs.append(who)
            await gates[who].wait()
            return who

        async def flow(ctx, value):
            return await ctx.call_activity("act", input=value)

        return registry_of(flow, activities=(act,))

    async def run() -> None:
        # Polling so rarely, it learns of the lost lease from the refused commit only.
        async with opened(registry("first"), poll=60.0) as first:
            await first.start("flow", 1, instance_id="one")
            await until(lambda: runs == ["first"])
            await end_lease(place, first)
            async with opened(registry("second")) as second:
                await until(lambda: runs == ["first", "second"])
                gates["first"].set()
                await until(lambda: first._worker.held == {})
                gates["second"].set()
                assert await second.wait("one", PATIENCE) == "second"
                rows = await second.history("one")
                assert sum(isinstance(event, TaskCompleted) for row in rows for event in row.events) == 1
            assert await first.wait(await first.start("flow", 2, instance_id="two"), PATIENCE) == "first"

    asyncio.run(run())


def test_a_start_under_a_lost_lease_is_accepted_all_the_same(opened, place):
    async def flow(ctx, value):
        return value

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            await end_lease(place, runtime)
            assert await runtime.wait(await runtime.start(flow, 3), PATIENCE) == 3
            assert await runtime.wait(await runtime.start(flow, 4), PATIENCE) == 4

    asyncio.run(run())


@pytest.mark.parametrize("name", ["long-loop", "fan-out", "threads-and-loop", "sleeps"])
def test_nothing_runs_twice_after_its_record_when_leases_are_lost_all_the_time(opened, place, tmp_path, name):
    shape, log = BY_NAME[name], tmp_path / "effects"

    async def run() -> None:
        async with opened(REGISTRY) as first, opened(REGISTRY) as second:
            await first.start(shape.workflow, shape.input(log), instance_id="one")
            for number in range(4):
                seen = len(effects(log))
                await until(lambda seen=seen: len(effects(log)) > seen or first._worker.held == {})
                await end_lease(place, (first, second)[number % 2])
            shape.check(await first.wait("one", PATIENCE))
            rows = await first.history("one")
            done = [e.task_id for row in rows for e in row.events if isinstance(e, TaskCompleted)]
            assert len(done) == len(set(done)) == sum(shape.counts.values())

    asyncio.run(run())


# -- changed code


async def _act(_):
    return 1


def _versions() -> tuple[Registry, Registry]:
    async def old(ctx, _):
        await ctx.call_activity("collect")
        return await ctx.wait_for_external_event("go")

    async def new(ctx, _):
        await ctx.call_activity("gather")
        return await ctx.wait_for_external_event("go")

    registries = Registry(), Registry()
    for registry, function in zip(registries, (old, new), strict=True):
        registry.add_workflow(function, "flow")
        registry.add_activity(_act, "collect")
        registry.add_activity(_act, "gather")
    return registries


async def _stalled(opened, old: Registry, new: Registry) -> dict[str, Any]:
    async with opened(old) as runtime:
        await runtime.start("flow", instance_id="one")
        await until(lambda: waits_of(runtime, "one"))
    async with opened(new) as runtime:
        await runtime.raise_event("one", "go", 9)

        async def stalled() -> str | None:
            return (await waits_of(runtime, "one")).get("stalled")

        return await until(stalled)


def test_changed_code_stalls_the_run_visibly_and_restored_code_goes_on_with_it(opened):
    async def run() -> None:
        old, new = _versions()
        text = await _stalled(opened, old, new)
        assert "recorded:  call_activity 'collect' as #0" in text
        assert "requested: call_activity 'gather' as #0" in text
        async with opened(new) as runtime:
            await runtime.resume("one")
            await until(lambda: runtime.find("one"))
        async with opened(old) as runtime:
            await runtime.resume("one")
            assert await runtime.wait("one", PATIENCE) == 9

    asyncio.run(run())


def test_a_stalled_run_can_be_terminated(opened):
    async def run() -> None:
        old, new = _versions()
        await _stalled(opened, old, new)
        async with opened(new) as runtime:
            await runtime.terminate("one", "given up")
            with pytest.raises(RunFailedError, match="given up"):
                await runtime.wait("one", PATIENCE)

    asyncio.run(run())


# -- all shapes


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_every_shape_survives_crashes_one_after_another(shape, opened, tmp_path):
    log = tmp_path / "effects"

    async def run() -> None:
        for begin in (True, False, False):
            runtime = opened(REGISTRY)
            await runtime.open()
            if begin:
                await runtime.start(shape.workflow, shape.input(log), instance_id=shape.name)
                for name, data in shape.events:
                    await runtime.raise_event(shape.name, name, data)
            seen = len(effects(log))
            for _ in range(40):
                if len(effects(log)) > seen:
                    break
                await asyncio.sleep(0)
            await crash(runtime)
        async with opened(REGISTRY) as runtime:
            if shape.error is None:
                shape.check(await runtime.wait(shape.name, PATIENCE))
            else:
                with pytest.raises(RunFailedError, match=shape.error):
                    await runtime.wait(shape.name, PATIENCE)

    asyncio.run(run())
