"""Versions of workflows: pinned runs, successors, names that mean the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry


def _version(name: str) -> Callable[..., Any]:
    async def flow(ctx: WorkflowContext) -> Any:
        await ctx.wait_for_external_event("go")
        await ctx.call_activity(kit.echo, input=name)
        await ctx.wait_for_external_event("end")
        return name

    return flow


def _registry(*versions: str, **options: Any) -> Registry:
    """Return a registry of a workflow in these versions, the last one with options."""
    made = Registry()
    for version in versions:
        given = options if version == versions[-1] else {}
        made.add_workflow(_version(version or "none"), "flow", version=version, **given)
    return made


class Versions(kit.Suite):
    """Versions of workflows."""

    async def begun(self, place: kit.Place, registry: Registry, instance_id: str) -> None:
        """Start a run, and leave it in its middle."""
        async with place.runtime(registry) as runtime:
            await runtime.start("flow", instance_id=instance_id)
            await runtime.raise_event(instance_id, "go")
            await self.until(lambda: _rows(runtime, instance_id, 3))
            await self.waiting(runtime, instance_id)

    async def result(self, runtime: kit.CapableRuntime, instance_id: str) -> Any:
        """Let a run come to its end; return its result."""
        await runtime.raise_event(instance_id, "end")
        return await runtime.wait(instance_id, self.patience)

    @kit.scenario
    async def test_a_run_is_pinned_to_the_version_it_began_with(self, place: kit.Place) -> None:
        """Runs that are started by name begin with the newest one; a query by name finds both."""
        await self.begun(place, _registry("1"), "old")
        both = _registry("1", "2")
        await self.begun(place, both, "new")
        async with place.runtime(both) as runtime:
            assert await self.result(runtime, "old") == "1"
            assert await self.result(runtime, "new") == "2"
            assert await kit.ids(runtime, workflow="flow") == ["new", "old"]
            assert await kit.ids(runtime, workflow="flow@1") == ["old"]

    @kit.scenario
    async def test_a_run_whose_version_is_gone_waits_for_it_and_says_so(self, place: kit.Place) -> None:
        """Another version does not take it over unasked."""
        await self.begun(place, _registry("1"), "old")
        async with place.runtime(_registry("2")) as runtime:
            await runtime.raise_event("old", "hello")
            await runtime.wait(await runtime.start(kit.echoing, 1), self.patience)
            assert len(await runtime.history("old")) == 3
        async with place.runtime(_registry("1", "2")) as runtime:
            assert await self.result(runtime, "old") == "1"

    @kit.scenario
    async def test_a_version_that_follows_another_takes_its_runs_over(self, place: kit.Place) -> None:
        """They are kept under the new version from their next episode on."""
        await self.begun(place, _registry("1"), "old")
        async with place.runtime(_registry("2", follows=["1"])) as runtime:
            assert await self.result(runtime, "old") == "2"
            assert await kit.ids(runtime, workflow="flow@2") == ["old"]

    @kit.scenario
    async def test_runs_without_a_version_are_followed_under_the_empty_name(self, place: kit.Place) -> None:
        """So the first version can be introduced under runs in flight."""
        await self.begun(place, _registry(""), "old")
        async with place.runtime(_registry("1", follows=[""])) as runtime:
            assert await self.result(runtime, "old") == "1"

    @kit.scenario
    async def test_a_version_that_is_not_the_latest_is_begun_by_nobody_unasked(self, place: kit.Place) -> None:
        """A canary is there for the runs that began with it."""
        async with place.runtime(_registry("1", "2", latest=False)) as runtime:
            await runtime.start("flow", instance_id="one")
            await runtime.raise_event("one", "go")
            assert await self.result(runtime, "one") == "1"

    @kit.scenario
    async def test_a_run_that_continues_as_new_goes_on_with_the_newest_version(self, place: kit.Place) -> None:
        """Its history is empty then, whatever code began it, and code without a version is not newer."""

        async def first(ctx: WorkflowContext, value: int) -> None:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(value + 1)

        async def second(ctx: WorkflowContext, value: int) -> Any:
            return ["second", value, ctx.generation]

        async def unversioned(_: WorkflowContext, value: int) -> Any:
            return ["unversioned", value]

        both = kit.registry()
        both.add_workflow(unversioned, "flow")
        both.add_workflow(first, "flow", version="1")
        async with place.runtime(both) as runtime:
            await runtime.start("flow", 0, instance_id="one")
            await self.waiting(runtime, "one")
        both.add_workflow(second, "flow", version="2")
        async with place.runtime(both) as runtime:
            await runtime.raise_event("one", "go")
            assert await runtime.wait("one", self.patience) == ["second", 1, 1]
            assert await kit.ids(runtime, workflow="flow@2") == ["one"]

    @kit.scenario
    async def test_a_child_that_is_called_by_name_begins_with_the_newest_version(self, place: kit.Place) -> None:
        """And is pinned to it, as any run."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow("flow", instance_id="c")

        both = _registry("1", "2")
        both.add_workflow(parent)
        async with place.runtime(both) as runtime:
            await runtime.start(parent, instance_id="p")
            await self.waiting(runtime, "c")
            await runtime.raise_event("c", "go")
            assert await self.result(runtime, "c") == "2"
            assert await runtime.wait("p", self.patience) == "2"


async def _rows(runtime: kit.CapableRuntime, instance_id: str, count: int) -> bool:
    return len(await runtime.history(instance_id)) >= count
