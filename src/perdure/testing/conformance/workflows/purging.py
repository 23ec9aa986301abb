"""Purging: instances that have ended, one by one, by age, and as their workflows declare."""

from __future__ import annotations

import datetime as dt
from typing import Any

from perdure.base.errors import InstanceError, InstanceNotFoundError, UsageError
from perdure.base.events import Status
from perdure.engine.code import Retention
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class Purging(kit.Suite):
    """Purging: instances that have ended."""

    @kit.scenario
    async def test_only_a_run_that_has_ended_is_purged(self, place: kit.Place) -> None:
        """Then it is unknown, and its id is free."""
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="one")
            await kit.is_refused(runtime.purge("none"), InstanceNotFoundError, "no instance 'none'")
            await kit.is_refused(runtime.purge("one"), InstanceError, "'one' is RUNNING", "terminate it before")
            await runtime.raise_event("one", "wake", 1)
            await runtime.wait("one", self.patience)
            assert await runtime.purge("one") == 1
            assert await runtime.find("one") is None
            await kit.is_refused(runtime.purge("one"), InstanceNotFoundError, "no instance 'one'")
            await runtime.start(kit.patient, instance_id="one")
            await runtime.raise_event("one", "wake", 2)
            assert await runtime.wait("one", self.patience) == 2

    @kit.scenario
    async def test_children_are_purged_with_their_caller_unless_told_otherwise(self, place: kit.Place) -> None:
        """All the way down."""

        async def nest(ctx: WorkflowContext, depth: int) -> int:
            return 0 if depth == 0 else 1 + int(await ctx.call_child_workflow("nest", input=depth - 1))

        async with place.runtime(kit.registry(nest)) as runtime:
            for name in ("all", "alone"):
                await runtime.wait(await runtime.start(nest, 3, instance_id=name), self.patience)
            assert await runtime.purge("all") == 4
            assert await runtime.purge("alone", recursive=False) == 1
            assert await kit.ids(runtime) == [f"alone{':0000' * depth}" for depth in (1, 2, 3)]

    @kit.scenario
    async def test_a_child_that_runs_outlives_the_purge_of_its_caller(self, place: kit.Place) -> None:
        """With all that its input refers to, and though nobody is left to be told of its end."""

        async def child(ctx: WorkflowContext, given: dict[str, Any]) -> Any:
            await ctx.wait_for_external_event("go")
            return [len(given["text"]), sum(len(one) for one in given["many"])]

        async def parent(ctx: WorkflowContext) -> None:
            given = {"text": "x" * 30_000, "many": [f"{n:3} " * 100 for n in range(100)]}
            ctx.call_child_workflow(child, input=given, instance_id="c")

        known = kit.registry(parent, child)
        async with place.runtime(known) as runtime:
            await runtime.wait(await runtime.start(parent, instance_id="p"), self.patience)
            await self.waiting(runtime, "c")
            assert await runtime.purge("p") == 1
        async with place.runtime(known) as runtime:
            await runtime.raise_event("c", "go")
            assert await runtime.wait("c", self.patience) == [30_000, 40_000]

    @kit.scenario
    async def test_old_runs_are_purged_by_age_status_and_workflow(self, place: kit.Place) -> None:
        """Only those of the runtime's own app."""

        async def fails(_: WorkflowContext) -> None:
            raise ValueError("no")

        known = kit.registry(kit.echoing, kit.patient, fails)
        async with place.runtime(known, app_id="other") as other:
            await other.wait(await other.start(kit.echoing, 1, instance_id="foreign"), self.patience)
        async with place.runtime(known) as runtime:
            for name in ("a", "b"):
                await runtime.wait(await runtime.start(kit.echoing, 1, instance_id=name), self.patience)
            await self.ended(runtime, await runtime.start(fails, instance_id="f"))
            await runtime.start(kit.patient, instance_id="runs")
            assert await runtime.purge_ended(older_than=dt.timedelta(hours=1)) == 0
            assert await runtime.purge_ended(older_than=0, workflow="patient") == 0
            await self.until(lambda: _purged(runtime, 1, status=(Status.FAILED,)))
            await self.until(lambda: _purged(runtime, 2, workflow="echoing"))
            assert await kit.ids(runtime) == ["foreign", "runs"]

    @kit.scenario
    async def test_unusable_ages_and_statuses_are_refused(self, place: kit.Place) -> None:
        """Field, value and remedy."""
        wrong: Any = "a week"
        running: Any = [Status.RUNNING]
        async with place.runtime(kit.registry()) as runtime:
            for age in (wrong, -1, float("nan")):
                work = runtime.purge_ended(older_than=age)
                await kit.is_refused(work, UsageError, f"older_than is {age!r}", "use seconds of at least 0")
            work = runtime.purge_ended(older_than=0, status=running)
            await kit.is_refused(work, UsageError, "RUNNING", "use some of: COMPLETED, FAILED, TERMINATED")

    @kit.scenario
    async def test_runs_are_kept_as_long_as_their_workflows_declare(self, place: kit.Place) -> None:
        """A worker purges the others by itself when it begins."""

        async def fleeting(_: WorkflowContext, value: int) -> int:
            return value

        known = kit.registry(kit.echoing)
        known.add_workflow(fleeting, retention=Retention(completed=0.0))
        async with place.runtime(known) as runtime:
            for workflow in (fleeting, kit.echoing):
                await runtime.wait(await runtime.start(workflow, 1, instance_id=workflow.__name__), self.patience)
        async with place.runtime(known) as runtime:
            await self.until(lambda: _gone(runtime, "fleeting"))
            assert await kit.ids(runtime) == ["echoing"]


async def _purged(runtime: kit.CapableRuntime, wanted: int, **conditions: Any) -> bool:
    # Again until the clock has gone on since their end.
    return await runtime.purge_ended(older_than=0, **conditions) == wanted


async def _gone(runtime: kit.CapableRuntime, instance_id: str) -> bool:
    return await runtime.find(instance_id) is None
