"""Child workflows: called, started apart, refused, tried again, cancelled, talked to."""

from __future__ import annotations

from typing import Any

from perdure.base.errors import ChildWorkflowFailedError
from perdure.base.events import RetryPolicy, SubOrchestrationInstanceFailed
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class Children(kit.Suite):
    """Child workflows."""

    @kit.scenario
    async def test_children_run_beside_each_other_and_their_results_come_in_order(self, place: kit.Place) -> None:
        """Each is an instance of its own, with an id made of its caller's, and names its caller."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.when_all([ctx.call_child_workflow(kit.echoing, input=n) for n in range(5)])

        async with place.runtime(kit.registry(parent, kit.echoing)) as runtime:
            await runtime.start(parent, instance_id="p")
            assert await runtime.wait("p", self.patience) == [0, 1, 2, 3, 4]
            assert await kit.ids(runtime, parent="p") == [f"p:{n:04x}" for n in range(5)]

    @kit.scenario
    async def test_children_call_children_of_their_own(self, place: kit.Place) -> None:
        """However deep, and after a restart in the middle."""

        async def nest(ctx: WorkflowContext, depth: int) -> int:
            if depth == 0:
                return int(await ctx.wait_for_external_event("bottom"))
            return 1 + int(await ctx.call_child_workflow("nest", input=depth - 1))

        deepest = "p" + ":0000" * 4
        async with place.runtime(kit.registry(nest)) as runtime:
            await runtime.start(nest, 4, instance_id="p")
            await self.waiting(runtime, deepest)
        async with place.runtime(kit.registry(nest)) as runtime:
            await runtime.raise_event(deepest, "bottom", 10)
            assert await runtime.wait("p", self.patience) == 14

    @kit.scenario
    async def test_a_childs_failure_reaches_its_caller_as_an_error(self, place: kit.Place) -> None:
        """It says which child, which instance, and why."""

        async def child(_: WorkflowContext) -> None:
            raise ValueError("no quorum")

        async def parent(ctx: WorkflowContext) -> list[str]:
            try:
                await ctx.call_child_workflow(child, instance_id="chosen")
            except ChildWorkflowFailedError as error:
                return [error.workflow, error.instance_id, error.failure.error_type, error.failure.message]
            return []

        async with place.runtime(kit.registry(parent, child)) as runtime:
            found = await runtime.wait(await runtime.start(parent), self.patience)
            assert found == ["child", "chosen", "ValueError", "no quorum"]

    @kit.scenario
    async def test_a_child_that_fails_is_tried_again_as_another_instance(self, place: kit.Place) -> None:
        """Under an id of its own, for a chosen id as well."""

        async def child(ctx: WorkflowContext, _: int) -> str:
            if not ctx.instance_id.endswith(("-3", ":0009")):
                raise ConnectionError("busy")
            return ctx.instance_id

        async def parent(ctx: WorkflowContext) -> Any:
            policy = RetryPolicy(max_attempts=3, initial_backoff=0.001)
            first = await ctx.call_child_workflow(child, input=1, instance_id="chosen", retry_policy=policy)
            return [first, await ctx.call_child_workflow(child, input=1, retry_policy=policy)]

        async with place.runtime(kit.registry(parent, child)) as runtime:
            await runtime.start(parent, instance_id="p")
            assert await runtime.wait("p", self.patience) == ["chosen-3", "p:0009"]
            chosen = ["chosen", "chosen-2", "chosen-3"]
            assert await kit.ids(runtime, parent="p") == [*chosen, "p:0005", "p:0007", "p:0009"]

    @kit.scenario
    async def test_a_child_is_refused_when_its_id_is_taken(self, place: kit.Place) -> None:
        """At once and for good; the instance that has the id goes on as it was."""

        async def parent(ctx: WorkflowContext) -> list[str]:
            found = []
            policy = RetryPolicy(max_attempts=9, initial_backoff=0.001)
            for name in ("taken", ctx.instance_id):
                try:
                    await ctx.call_child_workflow(kit.patient, instance_id=name, retry_policy=policy)
                except ChildWorkflowFailedError as error:
                    found.append(f"{error.failure.error_type}: {error.failure.message}")
            return found

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="taken")
            await runtime.start(parent, instance_id="p")
            found = await runtime.wait("p", self.patience)
            assert [one.startswith("InstanceExistsError: the instance id") for one in found] == [True, True]
            assert all("choose another one" in one for one in found)
            assert await self.waiting(runtime, "taken") == {"events": ["wake"]}
            assert await kit.ids(runtime, parent="p") == []

    @kit.scenario
    async def test_a_workflow_that_is_started_apart_goes_its_own_way(self, place: kit.Place) -> None:
        """It has no caller, outlives the one that started it, and its failure concerns nobody."""

        async def starter(ctx: WorkflowContext) -> list[str]:
            return [
                ctx.start_workflow(kit.patient),
                ctx.start_workflow(kit.patient, instance_id="chosen"),
                ctx.start_workflow(kit.patient, instance_id="chosen"),
            ]

        async with place.runtime(kit.registry(starter, kit.patient)) as runtime:
            await runtime.start(starter, instance_id="s")
            assert await runtime.wait("s", self.patience) == ["s:0000", "chosen", "chosen"]
            assert await kit.ids(runtime, parent="s") == []
            await runtime.terminate("s:0000")
            await runtime.raise_event("chosen", "wake", 7)
            assert await runtime.wait("chosen", self.patience) == 7

    @kit.scenario
    async def test_a_child_of_another_app_is_executed_where_its_code_is(self, place: kit.Place) -> None:
        """It belongs to that app, whatever the caller's own has under that name; its result comes back all the same."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow("elsewhere", input=4, app_id="other")

        async def elsewhere(ctx: WorkflowContext, value: int) -> Any:
            return await ctx.call_activity(kit.echo, input=value + 1)

        async def here(_: WorkflowContext, value: int) -> int:
            return -value

        known = kit.registry(parent)
        known.add_workflow(here, "elsewhere")
        async with place.runtime(known) as runtime:
            await runtime.start(parent, instance_id="p")
            waits = await self.waiting(runtime, "p")
            assert waits == {"children": [{"workflow": "elsewhere", "instance": "p:0000", "app": "other"}]}
            async with place.runtime(kit.registry(elsewhere), app_id="other"):
                assert await runtime.wait("p", self.patience) == 5
            assert await kit.ids(runtime, app_id="other") == ["p:0000"]

    @kit.scenario
    async def test_a_caller_and_its_child_send_each_other_events(self, place: kit.Place) -> None:
        """An event for nobody, or for one that has ended, is dropped without an error."""

        async def child(ctx: WorkflowContext, caller: str) -> Any:
            asked = await ctx.wait_for_external_event("question")
            ctx.send_event(caller, "answer", asked + 1)
            return "ended"

        async def parent(ctx: WorkflowContext) -> Any:
            called = ctx.call_child_workflow(child, input=ctx.instance_id, instance_id="c")
            ctx.send_event("c", "question", 41)
            answer = await ctx.wait_for_external_event("answer")
            result = await called
            ctx.send_event("c", "too late")
            ctx.send_event("nobody", "hello")
            return [answer, result]

        async with place.runtime(kit.registry(parent, child)) as runtime:
            assert await runtime.wait(await runtime.start(parent), self.patience) == [42, "ended"]

    @kit.scenario
    async def test_the_late_end_of_a_cancelled_child_is_of_no_concern(self, place: kit.Place) -> None:
        """Its caller waits on, and is not kept awake by it."""

        async def parent(ctx: WorkflowContext) -> Any:
            ctx.cancel(ctx.call_child_workflow(kit.patient, instance_id="c"))
            return await ctx.wait_for_external_event("end")

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            await runtime.start(parent, instance_id="p")
            await self.ended(runtime, "c")
            assert "cancelled by p" in await self.failure(runtime, "c")
            assert await self.waiting(runtime, "p") == {"events": ["end"]}
            await runtime.raise_event("p", "end", 5)
            assert await runtime.wait("p", self.patience) == 5
            assert not [one for one in await kit.events(runtime, "p") if type(one) is SubOrchestrationInstanceFailed]

    @kit.scenario
    async def test_large_values_go_to_a_child_and_back(self, place: kit.Place) -> None:
        """Whatever is nested in them."""

        async def child(_: WorkflowContext, given: dict[str, Any]) -> Any:
            return {**given, "more": "y" * 50_000}

        async def parent(ctx: WorkflowContext) -> Any:
            given = {"text": "x" * 50_000, "many": [f"{n} " * 400 for n in range(40)]}
            found = await ctx.call_child_workflow(child, input=given)
            return [found["text"] == given["text"], found["many"] == given["many"], len(found["more"])]

        async with place.runtime(kit.registry(parent, child)) as runtime:
            assert await runtime.wait(await runtime.start(parent), self.patience) == [True, True, 50_000]

    @kit.scenario
    async def test_a_child_whose_code_is_unknown_waits_for_a_worker_that_has_it(self, place: kit.Place) -> None:
        """Its caller says what it waits for."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow("later", input=2)

        async def later(_: WorkflowContext, value: int) -> int:
            return value * 2

        async with place.runtime(kit.registry(parent)) as runtime:
            await runtime.start(parent, instance_id="p")
            assert (await self.waiting(runtime, "p"))["children"] == [{"workflow": "later", "instance": "p:0000"}]
        async with place.runtime(kit.registry(parent, later)) as runtime:
            assert await runtime.wait("p", self.patience) == 4
