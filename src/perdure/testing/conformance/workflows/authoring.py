"""What workflow code may do by itself: groups, cancellation, status, patches, deterministic numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from perdure.base.errors import ActivityFailedError, TaskCancelledError
from perdure.base.events import RetryPolicy
from perdure.engine.activity import current_activity
from perdure.ports.runtime import Runtime
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class Authoring(kit.Suite):
    """What workflow code may do by itself."""

    @kit.scenario
    async def test_generators_and_coroutines_give_the_same_result(self, place: kit.Place) -> None:
        """One driver serves both ways of writing."""

        def yields(ctx: WorkflowContext, number: int) -> Any:
            first = yield ctx.call_activity(kit.echo, input=number)
            both = yield ctx.when_all([ctx.call_activity(kit.echo, input=first + n) for n in (1, 2)])
            return both

        async def awaits(ctx: WorkflowContext, number: int) -> Any:
            first = await ctx.call_activity(kit.echo, input=number)
            return await ctx.when_all([ctx.call_activity(kit.echo, input=first + n) for n in (1, 2)])

        async with place.runtime(kit.registry(yields, awaits)) as runtime:
            for workflow in (yields, awaits):
                assert await runtime.wait(await runtime.start(workflow, 5), self.patience) == [6, 7]

    @kit.scenario
    async def test_when_all_fails_with_the_first_error_unless_it_collects_them(self, place: kit.Place) -> None:
        """With return_exceptions every task is waited for, and an error stands in the place of its result."""

        def tasks(ctx: WorkflowContext) -> list[Any]:
            return [ctx.call_activity(kit.echo, input=1), ctx.call_activity(kit.refuse, input="closed")]

        async def collects(ctx: WorkflowContext) -> list[Any]:
            found = await ctx.when_all(tasks(ctx), return_exceptions=True)
            return [one.failure.message if isinstance(one, ActivityFailedError) else one for one in found]

        async def fails(ctx: WorkflowContext) -> Any:
            return await ctx.when_all(tasks(ctx))

        async with place.runtime(kit.registry(collects, fails)) as runtime:
            assert await runtime.wait(await runtime.start(collects), self.patience) == [1, "closed"]
            assert "closed" in await self.failure(runtime, await runtime.start(fails))

    @kit.scenario
    async def test_the_losers_of_a_race_are_cancelled_where_they_run(self, place: kit.Place) -> None:
        """An activity is cancelled, a child workflow terminated, a timer and an event are no longer waited for."""
        cancelled: list[str] = []

        async def slow(_: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("slow")
                raise

        async def race(ctx: WorkflowContext) -> Any:
            slowly = ctx.call_activity(slow)
            losers = [slowly, ctx.call_child_workflow(kit.patient), ctx.create_timer(60)]
            losers.append(ctx.wait_for_external_event("never", timeout=60))
            winner = ctx.wait_for_external_event("go")
            assert await ctx.when_any([*losers, winner], cancel_losers=True) is winner
            await ctx.call_activity(kit.echo, input=await winner)
            lost = await ctx.when_all(losers, return_exceptions=True)
            return [isinstance(error, TaskCancelledError) for error in lost]

        async with place.runtime(kit.registry(race, kit.patient)) as runtime:
            await runtime.start(race, instance_id="race")
            await self.until(lambda: _found(runtime, "race:0001"))
            await runtime.raise_event("race", "go", 1)
            assert await runtime.wait("race", self.patience) == [True] * 4
            assert (await self.ended(runtime, "race:0001")).status == "TERMINATED"
            assert cancelled == ["slow"]
            assert [row for row in await kit.events(runtime, "race") if type(row).__name__ == "TimerFired"] == []

    @kit.scenario
    async def test_what_is_cancelled_as_soon_as_it_is_called_never_begins(self, place: kit.Place) -> None:
        """And the run goes on from its history all the same."""
        began: list[int] = []

        async def act(_: Any) -> None:
            began.append(1)

        async def flow(ctx: WorkflowContext) -> Any:
            go = ctx.wait_for_external_event("go")
            await ctx.wait_for_external_event("begin")
            await ctx.when_any([go, ctx.call_activity(act), ctx.call_child_workflow(kit.patient)], cancel_losers=True)
            return await ctx.wait_for_external_event("end")

        known = kit.registry(flow, kit.patient, activities=[act])
        async with place.runtime(known) as runtime:
            await runtime.start(flow, instance_id="one")
            await runtime.raise_event("one", "go")
            await runtime.raise_event("one", "begin")
            await self.until(lambda: self.ended(runtime, "one:0001"))
            await self.waiting(runtime, "one")
        async with place.runtime(known) as runtime:
            await runtime.raise_event("one", "end", 3)
            assert await runtime.wait("one", self.patience) == 3
        assert began == []

    @kit.scenario
    async def test_cancelling_a_group_fails_the_group(self, place: kit.Place) -> None:
        """Whatever it is made of."""

        async def flow(ctx: WorkflowContext) -> list[str]:
            pairs = [[ctx.call_activity(kit.endless), ctx.create_timer(60)] for _ in range(2)]
            groups: list[Any] = [ctx.when_any(pairs[0]), ctx.when_all(pairs[1])]
            groups.append(ctx.wait_for_external_event("never", timeout=60))
            ctx.cancel(*groups)
            found = await ctx.when_all(groups, return_exceptions=True)
            return [type(error).__name__ for error in found]

        async with place.runtime(kit.registry(flow)) as runtime:
            assert await runtime.wait(await runtime.start(flow), self.patience) == ["TaskCancelledError"] * 3

    @kit.scenario
    async def test_what_a_run_shows_is_seen_as_soon_as_it_waits(self, place: kit.Place) -> None:
        """The custom status and the attributes that were set before the very first wait, and later ones."""

        async def flow(ctx: WorkflowContext) -> None:
            ctx.set_custom_status({"step": 1})
            ctx.set_attributes(tenant="acme", size=3)
            await ctx.wait_for_external_event("go")
            ctx.set_custom_status(None)
            ctx.set_attributes(size=4.5, urgent=True)
            await ctx.wait_for_external_event("end")

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one", attributes={"tenant": "nobody", "from": "start"})
            await self.waiting(runtime, "one")
            record = await runtime.find("one")
            assert record is not None
            assert record.custom_status == '{"step":1}'
            assert record.attributes == {"tenant": "acme", "size": 3, "from": "start"}
            await runtime.raise_event("one", "go")
            await self.until(lambda: _shows(runtime, "one", "null"))
            record = await runtime.find("one")
            assert record is not None
            assert record.attributes == {"tenant": "acme", "size": 4.5, "urgent": True, "from": "start"}
            await runtime.raise_event("one", "end")
            await runtime.wait("one", self.patience)
            await self.until(lambda: _shows(runtime, "one", "null"))

    @kit.scenario
    async def test_what_code_asks_for_while_it_is_unwound_is_nobodys(self, place: kit.Place) -> None:
        """A termination leaves no trace of clean-up code."""

        async def flow(ctx: WorkflowContext) -> None:
            try:
                await ctx.wait_for_external_event("never")
            finally:
                ctx.set_custom_status("unwound")
                ctx.set_attributes(unwound=True)
                await ctx.call_activity(kit.echo)

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await self.waiting(runtime, "one")
            await runtime.terminate("one")
            record = await self.ended(runtime, "one")
            assert (record.custom_status, record.attributes) == (None, {})
            assert not [one for one in await kit.events(runtime, "one") if type(one).__name__ == "TaskScheduled"]

    @kit.scenario
    async def test_a_patch_applies_to_runs_that_had_not_passed_its_place(self, place: kit.Place) -> None:
        """A run keeps the answer, in loops and after a restart."""

        async def old(ctx: WorkflowContext) -> Any:
            seen = []
            for _ in range(3):
                seen.append("old")
                await ctx.wait_for_external_event("go")
            return seen

        async def new(ctx: WorkflowContext) -> Any:
            seen = []
            for _ in range(3):
                seen.append("new" if ctx.is_patched("loop") else "old")
                await ctx.wait_for_external_event("go")
            return [*seen, ctx.is_patched("end"), ctx.is_patched("loop")]

        before, after = kit.registry(), kit.registry()
        before.add_workflow(old, "flow")
        after.add_workflow(new, "flow")
        async with place.runtime(before) as runtime:
            await runtime.start("flow", instance_id="begun")
            await runtime.raise_event("begun", "go")
            await self.until(lambda: _rows(runtime, "begun", 2))
        async with place.runtime(after) as runtime:
            await runtime.start("flow", instance_id="fresh")
            await runtime.raise_event("fresh", "go")
            await self.until(lambda: _rows(runtime, "fresh", 2))
        async with place.runtime(after) as runtime:
            for name in ("begun", "fresh"):
                await runtime.raise_event(name, "go")
                await runtime.raise_event(name, "go")
            assert await runtime.wait("begun", self.patience) == ["old", "old", "old", True, False]
            assert await runtime.wait("fresh", self.patience) == ["new", "new", "new", True, True]

    @kit.scenario
    async def test_identifiers_and_random_numbers_are_the_same_after_a_restart(self, place: kit.Place) -> None:
        """They differ from call to call, and from run to run."""
        seen: dict[str, list[list[Any]]] = {}

        async def flow(ctx: WorkflowContext) -> Any:
            made = [ctx.new_uuid(), ctx.uuid4(), ctx.random.random(), ctx.random.randint(0, 10**9)]
            seen.setdefault(ctx.instance_id, []).append(made)
            await ctx.wait_for_external_event("go")
            return made

        for _ in range(2):
            async with place.runtime(kit.registry(flow)) as runtime:
                for name in ("a", "b"):
                    await runtime.start(flow, instance_id=name)
                    await runtime.raise_event(name, "on")
                    await self.until(lambda name=name: _rows(runtime, name, 2))  # type: ignore[misc]
        async with place.runtime(kit.registry(flow)) as runtime:
            for name in ("a", "b"):
                await runtime.raise_event(name, "go")
                assert await runtime.wait(name, self.patience) == seen[name][0]
        assert all(made == runs[0] for runs in seen.values() for made in runs)
        assert len({str(one) for runs in seen.values() for one in runs[0]}) == 8

    @kit.scenario
    async def test_unusable_arguments_of_the_context_fail_the_run_and_say_what_to_use(self, place: kit.Place) -> None:
        """Field, value and remedy."""

        async def flow(ctx: WorkflowContext, case: str) -> None:
            wrong: Any = {"a": 1}
            calls: dict[str, Callable[[], Any]] = {
                "retry_policy": lambda: ctx.call_activity(kit.echo, retry_policy=wrong),
                "child's policy": lambda: ctx.call_child_workflow(kit.patient, retry_policy=wrong),
                "timeout": lambda: ctx.call_activity(kit.echo, timeout=-1),
                "event's timeout": lambda: ctx.wait_for_external_event("e", timeout=wrong),
                "fire_at": lambda: ctx.create_timer(wrong),
                "child's id": lambda: ctx.call_child_workflow(kit.patient, instance_id=""),
                "event": lambda: ctx.wait_for_external_event(wrong),
                "event sent": lambda: ctx.send_event("x", wrong),
                "cancel": lambda: ctx.cancel(wrong),
                "attribute": lambda: ctx.set_attributes(a=wrong),
                "status": lambda: ctx.set_custom_status("x" * 100_000),
                "group": lambda: ctx.when_all([wrong]),
            }
            await calls[case]()

        words = {
            "retry_policy": ("retry_policy is {'a': 1}", "use a RetryPolicy, or None"),
            "child's policy": ("retry_policy is {'a': 1}", "use a RetryPolicy, or None"),
            "timeout": ("'echo' is -1", "use a positive number, or None"),
            "event's timeout": ("timeout is {'a': 1}", "use seconds or a timedelta"),
            "fire_at": ("fire_at is {'a': 1}", "use seconds or a timedelta"),
            "child's id": ("instance_id is ''", "use 1 to 256 characters"),
            "event": ("the event's name is {'a': 1}", "use text"),
            "event sent": ("the event's name is {'a': 1}", "use text"),
            "cancel": ("not {'a': 1}", "pass the task"),
            "attribute": ("attribute 'a' is {'a': 1}", "use a text of at most 256 characters"),
            "status": ("the custom status is longer", "keep it short"),
            "group": ("not {'a': 1}", "Call the activities and pass"),
        }
        async with place.runtime(kit.registry(flow, kit.patient)) as runtime:
            for case, expected in words.items():
                failure = await self.failure(runtime, await runtime.start(flow, case))
                assert all(word in failure for word in expected), failure

    @kit.scenario
    async def test_a_retried_activity_has_one_idempotency_key_and_counts_its_attempts(self, place: kit.Place) -> None:
        """The policy is recorded with the call."""
        seen: list[tuple[str, int]] = []

        async def flaky(_: Any) -> str:
            call = current_activity()
            seen.append((call.idempotency_key, call.attempt))
            if call.attempt < 3:
                raise ConnectionError("busy")
            return "through"

        async def flow(ctx: WorkflowContext) -> Any:
            policy = RetryPolicy(max_attempts=3, initial_backoff=0.001)
            return await ctx.call_activity(flaky, retry_policy=policy)

        async with place.runtime(kit.registry(flow, activities=[flaky])) as runtime:
            await runtime.start(flow, instance_id="one")
            assert await runtime.wait("one", self.patience) == "through"
        assert [attempt for _, attempt in seen] == [1, 2, 3]
        assert len({key for key, _ in seen}) == 1


async def _found(runtime: Runtime, instance_id: str) -> bool:
    return await runtime.find(instance_id) is not None


async def _shows(runtime: Runtime, instance_id: str, status: str) -> bool:
    record = await runtime.find(instance_id)
    return record is not None and record.custom_status == status


async def _rows(runtime: Runtime, instance_id: str, count: int) -> bool:
    return len(await runtime.history(instance_id)) >= count
