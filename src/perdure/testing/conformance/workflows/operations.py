"""What somebody outside does to a run: events, suspending, resuming, terminating."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.base.errors import InstanceError, InstanceNotFoundError, UsageError
from perdure.base.events import Status
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


async def _two_steps(ctx: WorkflowContext, _: Any) -> Any:
    first = await ctx.call_activity("gated", input="first")
    return [first, await ctx.call_activity("gated", input="second")]


class _Gate:
    """An activity that ends when it is let through, and what has begun of it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.began: list[str] = []

    async def gated(self, name: str) -> str:
        self.began.append(name)
        await self.open.wait()
        return name

    async def has_begun(self, *names: str) -> bool:
        return self.began == list(names)


class Operations(kit.Suite):
    """What somebody outside does to a run."""

    @kit.scenario
    async def test_what_reaches_a_suspended_run_takes_effect_when_it_is_resumed(self, place: kit.Place) -> None:
        """Events, in their order; meanwhile the run says that it is suspended, and why."""

        async def flow(ctx: WorkflowContext) -> Any:
            return [await ctx.wait_for_external_event("item") for _ in range(3)]

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await runtime.suspend("one", "a break")
            await self.stands(runtime, "one", Status.SUSPENDED)
            for number in range(3):
                await runtime.raise_event("one", "item", number)
            assert (await self.waiting(runtime, "one"))["suspended"] == "a break"
            await runtime.resume("one")
            assert await runtime.wait("one", self.patience) == [0, 1, 2]

    @kit.scenario
    async def test_an_activity_of_a_suspended_run_finishes_and_is_not_run_again(self, place: kit.Place) -> None:
        """Its outcome is recorded, kept back, and there after a restart."""
        gate = _Gate()
        known = kit.registry(_two_steps, activities=[gate.gated])
        async with place.runtime(known) as runtime:
            await runtime.start(_two_steps, instance_id="one")
            await self.until(lambda: gate.has_begun("first"))
            await runtime.suspend("one")
            await self.stands(runtime, "one", Status.SUSPENDED)
            gate.open.set()
            await self.waiting(runtime, "one", "suspended")
        async with place.runtime(known) as runtime:
            await runtime.raise_event("one", "hello")
            await self.waiting(runtime, "one", "suspended")
            assert gate.began == ["first"]
            await runtime.resume("one")
            assert await runtime.wait("one", self.patience) == ["first", "second"]
        assert gate.began == ["first", "second"]

    @kit.scenario
    async def test_the_timers_of_a_suspended_run_stand_still(self, place: kit.Place) -> None:
        """Those whose time has come fire once it is resumed."""

        async def flow(ctx: WorkflowContext) -> str:
            await ctx.create_timer(0.01)
            return "woken"

        async with place.runtime(kit.registry(flow), worker=False) as looker:
            await looker.start("flow", instance_id="one")
            await looker.suspend("one")
            async with place.runtime(kit.registry(flow)) as runtime:
                await self.stands(runtime, "one", Status.SUSPENDED)
                record = await self.stands(runtime, "one", Status.SUSPENDED)
                assert record.due is None
                await runtime.resume("one")
                assert await runtime.wait("one", self.patience) == "woken"

    @kit.scenario
    async def test_a_childs_end_is_kept_back_from_its_suspended_caller(self, place: kit.Place) -> None:
        """The child goes on by itself."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow(kit.patient, instance_id="c")

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            await runtime.start(parent, instance_id="p")
            await self.waiting(runtime, "p")
            await runtime.suspend("p")
            await self.stands(runtime, "p", Status.SUSPENDED)
            await runtime.raise_event("c", "wake", 3)
            await runtime.wait("c", self.patience)
            await self.waiting(runtime, "p", "suspended")
            await runtime.resume("p")
            assert await runtime.wait("p", self.patience) == 3

    @kit.scenario
    async def test_a_suspended_run_is_terminated_at_once(self, place: kit.Place) -> None:
        """With its children."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow(kit.patient, instance_id="c")

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            await runtime.start(parent, instance_id="p")
            await self.waiting(runtime, "c")
            await runtime.suspend("p")
            await self.stands(runtime, "p", Status.SUSPENDED)
            await runtime.terminate("p", "enough")
            assert "enough" in await self.failure(runtime, "p")
            assert (await self.ended(runtime, "c")).status is Status.TERMINATED

    @kit.scenario
    async def test_suspending_twice_needs_one_resume_and_resuming_twice_does_no_harm(self, place: kit.Place) -> None:
        """Neither is an error."""
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="one")
            await runtime.suspend("one", "first")
            await runtime.suspend("one", "second")
            await self.stands(runtime, "one", Status.SUSPENDED)
            await runtime.resume("one")
            await runtime.resume("one")
            await self.stands(runtime, "one", Status.RUNNING)
            await runtime.raise_event("one", "wake", 1)
            assert await runtime.wait("one", self.patience) == 1

    @kit.scenario
    async def test_a_termination_reaches_all_descendants(self, place: kit.Place) -> None:
        """Unless it is told not to; those who go on are nobody's then."""

        async def nest(ctx: WorkflowContext, depth: int) -> Any:
            if depth == 0:
                return await ctx.wait_for_external_event("wake")
            return await ctx.call_child_workflow("nest", input=depth - 1)

        async with place.runtime(kit.registry(nest)) as runtime:
            for name in ("all", "alone"):
                await runtime.start(nest, 3, instance_id=name)
                await self.waiting(runtime, f"{name}:0000:0000:0000")
            await runtime.terminate("all", "over")
            await runtime.terminate("alone", "over", recursive=False)
            for name in ("all", "all:0000", "all:0000:0000", "all:0000:0000:0000", "alone"):
                assert (await self.ended(runtime, name)).status is Status.TERMINATED
            await runtime.raise_event("alone:0000:0000:0000", "wake", 8)
            assert await runtime.wait("alone:0000", self.patience) == 8

    @kit.scenario
    async def test_a_termination_cancels_what_runs_and_needs_no_code(self, place: kit.Place) -> None:
        """A run whose workflow fails to replay can be ended; one that has ended stays as it is."""
        gate = _Gate()

        async def changed(ctx: WorkflowContext, _: Any) -> Any:
            return await ctx.create_timer(1)

        async with place.runtime(kit.registry(_two_steps, activities=[gate.gated])) as runtime:
            for name in ("running", "stalled"):
                await runtime.start(_two_steps, instance_id=name)
            await self.until(lambda: gate.has_begun("first", "first"))
            await runtime.terminate("running", "enough")
            assert (await self.ended(runtime, "running")).status is Status.TERMINATED
            await runtime.terminate("running", "again")
            assert "enough" in await self.failure(runtime, "running")
            await runtime.suspend("stalled")
            await self.stands(runtime, "stalled", Status.SUSPENDED)
            gate.open.set()
            await self.waiting(runtime, "stalled", "suspended")
        other = kit.registry()
        other.add_workflow(changed, "_two_steps")
        async with place.runtime(other) as runtime:
            await runtime.resume("stalled")
            await self.waiting(runtime, "stalled", "stalled")
            await runtime.terminate("stalled", "beyond repair")
            assert "beyond repair" in await self.failure(runtime, "stalled")

    @kit.scenario
    async def test_a_stalled_run_can_be_suspended_and_goes_on_with_its_code(self, place: kit.Place) -> None:
        """What came while it was stalled takes effect in its order once its code is back."""

        async def flow(ctx: WorkflowContext) -> Any:
            first = await ctx.wait_for_external_event("item")
            await ctx.call_activity(kit.echo)
            return [first, await ctx.wait_for_external_event("item")]

        async def changed(ctx: WorkflowContext) -> Any:
            await ctx.wait_for_external_event("item")
            return await ctx.create_timer(60)

        other = kit.registry()
        other.add_workflow(changed, "flow")
        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await runtime.raise_event("one", "item", 1)
            await self.until(lambda: _rows(runtime, "one", 3))
        async with place.runtime(other) as runtime:
            await runtime.suspend("one", "a break")
            await self.waiting(runtime, "one", "stalled")
            await runtime.raise_event("one", "item", 2)
            await self.waiting(runtime, "one", "stalled")
        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.suspend("one", "still")
            assert (await self.waiting(runtime, "one", "suspended"))["suspended"] == "still"
            await runtime.resume("one")
            assert await runtime.wait("one", self.patience) == [1, 2]

    @kit.scenario
    async def test_operations_on_unknown_and_finished_runs_say_so(self, place: kit.Place) -> None:
        """Nothing is accepted that would be forgotten."""
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="done")
            await runtime.raise_event("done", "wake")
            await runtime.wait("done", self.patience)
            for work in (runtime.raise_event("none", "e"), runtime.suspend("none"), runtime.resume("none")):
                await kit.is_refused(work, InstanceNotFoundError, "no instance 'none'")
            await kit.is_refused(runtime.terminate("none"), InstanceNotFoundError, "no instance 'none'")
            for work, so in (
                (runtime.raise_event("done", "e"), "takes no events any more"),
                (runtime.suspend("done"), "cannot be suspended any more"),
                (runtime.resume("done"), "cannot be resumed any more"),
            ):
                await kit.is_refused(work, InstanceError, "'done' is COMPLETED", so)

    @kit.scenario
    async def test_unusable_arguments_are_refused_before_anything_is_stored(self, place: kit.Place) -> None:
        """Field, value and remedy; the run goes on unharmed."""
        wrong: Any = 5
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="one")
            for work in (
                runtime.suspend("one", wrong),
                runtime.resume("one", wrong),
                runtime.terminate("one", wrong),
            ):
                await kit.is_refused(work, UsageError, "reason is 5", "use text")
            await kit.is_refused(runtime.raise_event("one", wrong), UsageError, "name is 5", "use text")
            await kit.is_refused(runtime.raise_event("one", "perdure.x"), UsageError, "choose another one")
            await runtime.raise_event("one", "wake", 2)
            assert await runtime.wait("one", self.patience) == 2


async def _rows(runtime: kit.CapableRuntime, instance_id: str, count: int) -> bool:
    return len(await runtime.history(instance_id)) >= count
