"""Instances that continue as new."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.base.events import ExecutionStarted, Status
from perdure.engine.activity import current_activity
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


async def _collects(ctx: WorkflowContext, read: list[Any] | None) -> Any:
    read = [*(read or []), await ctx.wait_for_external_event("item")]
    if len(read) < 5:
        ctx.continue_as_new(read)
    return read


class Generations(kit.Suite):
    """Instances that continue as new."""

    @kit.scenario
    async def test_each_generation_has_a_new_input_and_a_short_history(self, place: kit.Place) -> None:
        """The last one's result is the instance's."""

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            await ctx.call_activity(kit.echo, input=number)
            await ctx.create_timer(0)
            if number < 20:
                ctx.continue_as_new(number + 1)
            return [number, ctx.generation]

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            assert await runtime.wait("one", self.patience) == [20, 20]
            assert len(await runtime.history("one")) <= 5

    @kit.scenario
    async def test_a_run_may_continue_before_it_has_waited_for_anything(self, place: kit.Place) -> None:
        """Its first episode is the end of its first generation."""

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            if number < 3:
                ctx.continue_as_new(number + 1)
                return None
            return await ctx.call_activity(kit.echo, input=ctx.generation)

        async with place.runtime(kit.registry(flow)) as runtime:
            assert await runtime.wait(await runtime.start(flow, 0), self.patience) == 3

    @kit.scenario
    async def test_no_event_is_lost_between_generations(self, place: kit.Place) -> None:
        """Sent one by one, or all at once while nobody executes the run."""
        async with place.runtime(kit.registry(_collects), worker=False) as looker:
            await looker.start("_collects", instance_id="before")
            for number in range(5):
                await looker.raise_event("before", "item", number)
        async with place.runtime(kit.registry(_collects)) as runtime:
            await runtime.start(_collects, instance_id="meanwhile")
            await asyncio.gather(*(runtime.raise_event("meanwhile", "item", number) for number in range(5)))
            assert await runtime.wait("before", self.patience) == [0, 1, 2, 3, 4]
            assert sorted(await runtime.wait("meanwhile", self.patience)) == [0, 1, 2, 3, 4]

    @kit.scenario
    async def test_no_event_that_was_kept_back_is_lost_between_generations(self, place: kit.Place) -> None:
        """Those that came while the run was suspended are read in their order, whatever the generation."""
        async with place.runtime(kit.registry(_collects)) as runtime:
            await runtime.start(_collects, instance_id="one")
            await runtime.suspend("one")
            await self.stands(runtime, "one", Status.SUSPENDED)
            for number in range(5):
                await runtime.raise_event("one", "item", number)
            await runtime.resume("one")
            assert await runtime.wait("one", self.patience) == [0, 1, 2, 3, 4]

    @kit.scenario
    async def test_events_that_nobody_read_are_dropped_only_where_the_code_says_so(self, place: kit.Place) -> None:
        """``save_events=False`` begins with a clean slate."""

        async def flow(ctx: WorkflowContext, keep: bool | None) -> Any:
            if keep is None:
                early = ctx.wait_for_external_event("early")
                return early.done
            await ctx.wait_for_external_event("go")
            return ctx.continue_as_new(None, save_events=keep)

        async with place.runtime(kit.registry(flow)) as runtime:
            for keep in (True, False):
                name = f"keep {keep}"
                await runtime.start(flow, keep, instance_id=name)
                await runtime.raise_event(name, "early")
                await runtime.raise_event(name, "go")
                assert await runtime.wait(name, self.patience) is keep

    @kit.scenario
    async def test_calls_of_one_generation_are_not_those_of_another(self, place: kit.Place) -> None:
        """Other idempotency keys, other children, and no outcome that comes late."""
        keys: list[str] = []

        async def note(_: Any) -> None:
            keys.append(current_activity().idempotency_key)

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            await ctx.call_activity(note)
            child = ctx.call_child_workflow(kit.patient)
            if number == 0:
                await ctx.wait_for_external_event("go")
                ctx.continue_as_new(1)
                return None
            return await child

        async with place.runtime(kit.registry(flow, kit.patient, activities=[note])) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            await self.waiting(runtime, "one:0001")
            await runtime.raise_event("one", "go")
            await self.waiting(runtime, "one:1:0001")
            await runtime.raise_event("one:0001", "wake", "of the first generation")
            await runtime.wait("one:0001", self.patience)
            await runtime.raise_event("one:1:0001", "wake", "of the second")
            assert await runtime.wait("one", self.patience) == "of the second"
        assert len(set(keys)) == len(keys) == 2

    @kit.scenario
    async def test_an_id_that_a_child_has_is_taken_in_every_generation(self, place: kit.Place) -> None:
        """Chosen ids are for the code to make unique."""

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            found = await ctx.when_all([ctx.call_child_workflow(kit.echoing, input=number, instance_id="c")])
            ctx.continue_as_new(number + 1)
            return found

        async with place.runtime(kit.registry(flow, kit.echoing)) as runtime:
            assert "InstanceExistsError" in await self.failure(runtime, await runtime.start(flow, 0))

    @kit.scenario
    async def test_a_child_that_continues_as_new_answers_its_caller_at_its_end(self, place: kit.Place) -> None:
        """Once, with the last generation's result."""

        async def child(ctx: WorkflowContext, number: int) -> Any:
            await ctx.create_timer(0)
            if number < 3:
                ctx.continue_as_new(number + 1)
            return number

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow(child, input=0)

        async with place.runtime(kit.registry(parent, child)) as runtime:
            assert await runtime.wait(await runtime.start(parent), self.patience) == 3

    @kit.scenario
    async def test_a_generation_survives_a_restart(self, place: kit.Place) -> None:
        """It begins where it was, with what was carried over."""
        async with place.runtime(kit.registry(_collects)) as runtime:
            await runtime.start(_collects, instance_id="one")
            await runtime.raise_event("one", "item", 0)
            await runtime.raise_event("one", "item", 1)
            await self.until(lambda: _generation(runtime, "one", 2))
        async with place.runtime(kit.registry(_collects)) as runtime:
            for number in (2, 3, 4):
                await runtime.raise_event("one", "item", number)
            assert await runtime.wait("one", self.patience) == [0, 1, 2, 3, 4]

    @kit.scenario
    async def test_status_and_attributes_stay_from_generation_to_generation(self, place: kit.Place) -> None:
        """Until the code sets them anew."""

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            if number == 0:
                ctx.set_custom_status("first")
                ctx.set_attributes(kind="counter", generation=0)
                await ctx.wait_for_external_event("go")
                return ctx.continue_as_new(1)
            ctx.set_attributes(generation=ctx.generation)
            return await ctx.wait_for_external_event("never")

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            await runtime.raise_event("one", "go")
            await self.until(lambda: _has(runtime, "one", generation=1))
            record = await runtime.find("one")
            assert record is not None
            assert (record.custom_status, record.attributes["kind"]) == ('"first"', "counter")


async def _generation(runtime: kit.CapableRuntime, instance_id: str, wanted: int) -> bool:
    started = [one for one in await kit.events(runtime, instance_id) if isinstance(one, ExecutionStarted)]
    return started[0].generation == wanted


async def _has(runtime: kit.CapableRuntime, instance_id: str, **attributes: Any) -> bool:
    record = await runtime.find(instance_id)
    return record is not None and attributes.items() <= record.attributes.items()
