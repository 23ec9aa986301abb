from __future__ import annotations

import asyncio

from tests.runtime.harness import PATIENCE, call_of, crash, registry_of, until, waits_of

from perdure.base.faults import arm
from perdure.engine.activity import current_activity
from perdure.workflows.registry import Registry


class Gated:
    """Activities that end when their gate opens, and what each run of them saw."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.runs: list[str] = []

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def work(self, name: str) -> str:
        self.runs.append(current_activity().idempotency_key)
        await self.gate(name).wait()
        return name


def test_an_outcome_that_comes_while_a_generation_ends_answers_no_call_of_the_next_one(opened):
    gated = Gated()

    async def flow(ctx, number):
        first, second = (ctx.call_activity("work", input=f"{number}{name}") for name in "ab")
        await first
        if number == 0:
            ctx.continue_as_new(1)
            return None
        return [await first, await second]

    async def run() -> None:
        async with opened(registry_of(flow, activities=(gated.work,))) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            await until(lambda: len(gated.runs) == 2)
            # The second outcome comes when the end of the generation is on its way to the store.
            arm("episode.before_commit", action=gated.gate("0b").set)
            gated.gate("0a").set()
            await until(lambda: len(gated.runs) == 4)
            gated.gate("1a").set()
            gated.gate("1b").set()
            assert await runtime.wait("one", PATIENCE) == ["1a", "1b"]
        assert [call_of(key) for key in gated.runs] == ["one/0", "one/1", "one/1/0", "one/1/1"]

    asyncio.run(run())


def test_an_activity_that_will_not_be_cancelled_answers_no_call_of_the_next_generation(opened):
    let_go = asyncio.Event()
    began: list[int] = []

    async def stubborn(number):
        began.append(number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            let_go.set()
        return f"of generation {number}"

    async def flow(ctx, number):
        task = ctx.call_activity("stubborn", input=number)
        if number == 0:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(1)
            return None
        return await ctx.when_any([task, ctx.wait_for_external_event("end")]) is task

    async def run() -> None:
        async with opened(registry_of(flow, activities=(stubborn,))) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            await until(lambda: began == [0])
            await runtime.raise_event("one", "go")
            await let_go.wait()
            await until(lambda: began == [0, 1])
            await runtime.raise_event("one", "end")
            assert await runtime.wait("one", PATIENCE) is False

    asyncio.run(run())


def test_an_attempt_that_a_human_let_run_again_does_not_begin_once_it_is_cancelled(opened):
    runs: list[str] = []

    async def pay(_):
        runs.append(current_activity().idempotency_key)
        await asyncio.Event().wait()

    async def flow(ctx, _):
        paid, stop = ctx.call_activity("pay"), ctx.wait_for_external_event("stop")
        await ctx.when_any([paid, stop], cancel_losers=True)
        return await ctx.call_activity("finish")

    async def finish(_):
        return "finished"

    registry = registry_of(flow, activities=(finish,))
    registry.add_activity(pay, on_crash="ask")

    async def run() -> None:
        first = opened(registry)
        await first.open()
        await first.start(flow, instance_id="one")
        await until(lambda: runs)
        await crash(first)
        async with opened(registry) as second:
            await until(lambda: waits_of(second, "one"))
        async with opened(registry, worker=False) as looker:
            await looker.raise_event("one", "stop")
            await looker.answer("one", 0, "retry")
        async with opened(registry) as third:
            assert await third.wait("one", PATIENCE) == "finished"
        assert [call_of(key) for key in runs] == ["one/0"]

    asyncio.run(run())


def test_what_comes_in_one_episode_with_the_end_of_a_generation_reaches_the_next_one(opened):
    async def flow(ctx, number):
        ctx.create_timer(3600)
        await ctx.wait_for_external_event("go")
        ctx.continue_as_new(number + 1)

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            await runtime.start("flow", 0, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
        async with opened(registry_of(flow), worker=False) as looker:
            await looker.raise_event("one", "go")
            await looker.suspend("one", "a break")
            await looker.raise_event("one", "go")
            async with opened(registry_of(flow)) as runtime:
                await until(lambda: _suspended(runtime, "one"))
                waits = await until(lambda: waits_of(runtime, "one"))
                assert (waits["suspended"], waits["events"]) == ("a break", ["go"])
                assert (await runtime.history("one"))[0].events[-1].generation == 1
                await runtime.resume("one")
                await until(lambda: _generation(runtime, "one", 2))

    asyncio.run(run())


async def _suspended(runtime, instance_id: str) -> bool:
    return (await runtime.find(instance_id)).status == "SUSPENDED"


async def _generation(runtime, instance_id: str, wanted: int) -> bool:
    return (await runtime.history(instance_id))[0].events[-1].generation == wanted


def test_a_late_end_of_a_cancelled_child_does_not_keep_its_caller_awake(opened):
    async def child(ctx):
        await ctx.wait_for_external_event("never")

    async def flow(ctx):
        ctx.cancel(ctx.call_child_workflow("child"))
        return await ctx.wait_for_external_event("end")

    async def run() -> None:
        async with opened(registry_of(flow, child)) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: _ended(runtime, "one:0000"))
            record = await runtime.find("one")
            await until(lambda: _idle(runtime, "one"))
            assert await runtime.store.waiting(record.key) == []
            await runtime.raise_event("one", "end", 1)
            assert await runtime.wait("one", PATIENCE) == 1

    asyncio.run(run())


async def _ended(runtime, instance_id: str) -> bool:
    record = await runtime.find(instance_id)
    return record is not None and record.status.finished


async def _idle(runtime, instance_id: str) -> bool:
    record = await runtime.find(instance_id)
    return record.owner is None and record.due is None


def test_a_run_shows_what_it_set_before_it_first_waits(opened):
    async def flow(ctx):
        ctx.set_custom_status("waiting for you")
        ctx.set_attributes(tenant="acme")
        await ctx.wait_for_external_event("go")

    async def run() -> None:
        async with opened(registry_of(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            record = await runtime.find("one")
            assert (record.custom_status, record.attributes) == ('"waiting for you"', {"tenant": "acme"})

    asyncio.run(run())


def test_a_run_goes_on_with_the_newest_version_once_it_continues_as_new(opened):
    async def first(ctx, _):
        await ctx.wait_for_external_event("go")
        ctx.continue_as_new(1)

    async def second(ctx, number):
        return f"second version, generation {ctx.generation}"

    async def unversioned(ctx, number):
        return "no version"

    registry = Registry()
    registry.add_workflow(unversioned, "flow")
    registry.add_workflow(first, "flow", version="1")

    async def run() -> None:
        async with opened(registry) as runtime:
            await runtime.start("flow", 0, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            registry.add_workflow(second, "flow", version="2")
            await runtime.raise_event("one", "go")
            assert await runtime.wait("one", PATIENCE) == "second version, generation 1"
            assert (await runtime.find("one")).workflow == "flow@2"

    asyncio.run(run())
