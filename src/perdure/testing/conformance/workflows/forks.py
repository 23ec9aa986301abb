"""Forks: another instance goes on from a call of a history."""

from __future__ import annotations

from typing import Any

from perdure.base.errors import InstanceError, InstanceExistsError, InstanceNotFoundError, UsageError
from perdure.base.events import Status, TaskScheduled
from perdure.engine.activity import current_activity
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class _Counted:
    """An activity that doubles, and what it was called with."""

    def __init__(self) -> None:
        self.given: list[int] = []

    async def double(self, number: int) -> int:
        self.given.append(number)
        return number * 2


async def _steps(ctx: WorkflowContext, number: int) -> list[int]:
    found = [number]
    for _ in range(3):
        found.append(await ctx.call_activity("double", input=found[-1]))
    return found


async def _child(ctx: WorkflowContext, number: int) -> Any:
    return await ctx.call_activity("double", input=await ctx.call_activity("double", input=number))


async def _parent(ctx: WorkflowContext, number: int) -> Any:
    first = await ctx.call_activity("double", input=number)
    both = [ctx.call_child_workflow(_child, input=first), ctx.call_child_workflow(_child, input=first + 1)]
    return await ctx.when_all(both)


class Forks(kit.Suite):
    """Forks: another instance goes on from a call of a history."""

    @kit.scenario
    async def test_a_fork_with_another_output_goes_on_from_there(self, place: kit.Place) -> None:
        """Nothing before the call is run again, nor the call itself; the source stays as it is."""
        counted = _Counted()
        async with place.runtime(kit.registry(_steps, activities=[counted.double])) as runtime:
            await runtime.start(_steps, 1, instance_id="one")
            assert await runtime.wait("one", self.patience) == [1, 2, 4, 8]
            fork = await runtime.fork("one", 1, output=100)
            assert await runtime.wait(fork, self.patience) == [1, 2, 100, 200]
            assert counted.given == [1, 2, 4, 100]
            assert await runtime.wait("one", self.patience) == [1, 2, 4, 8]
            record = await runtime.find(fork)
            assert record is not None
            assert record.attributes == {"perdure.forked_from": "one"}

    @kit.scenario
    async def test_a_fork_makes_a_call_again_with_another_input_or_the_same(self, place: kit.Place) -> None:
        """Under an idempotency key of the fork's own."""
        counted = _Counted()
        async with place.runtime(kit.registry(_steps, activities=[counted.double])) as runtime:
            await runtime.start(_steps, 1, instance_id="one")
            await runtime.wait("one", self.patience)
            again = await runtime.fork("one", 2, new_instance_id="again")
            other = await runtime.fork("one", 1, input=50, new_instance_id="other")
            assert await runtime.wait(again, self.patience) == [1, 2, 4, 8]
            assert await runtime.wait(other, self.patience) == [1, 2, 100, 200]
            assert sorted(counted.given) == [1, 2, 4, 4, 50, 100]

    @kit.scenario
    async def test_a_fork_that_takes_an_id_again_has_keys_of_its_own(self, place: kit.Place) -> None:
        """Though it makes the same call of the same source again, as do its child workflows."""
        keys: list[str] = []

        async def note(_: Any) -> None:
            keys.append(current_activity().idempotency_key)

        async def child(ctx: WorkflowContext) -> None:
            await ctx.call_activity(note)

        async def parent(ctx: WorkflowContext) -> None:
            await ctx.call_activity(note)
            await ctx.call_child_workflow(child)

        async with place.runtime(kit.registry(parent, child, activities=[note])) as runtime:
            await runtime.start(parent, instance_id="source")
            await runtime.wait("source", self.patience)
            for path in (0, 1, [1, 0]):
                for _ in range(2):
                    fork = await runtime.fork("source", path, new_instance_id="fork")
                    await runtime.wait(fork, self.patience)
                    await runtime.purge(fork)
        assert len(set(keys)) == len(keys) == 2 + 2 * 2 + 2 + 2

    @kit.scenario
    async def test_a_fork_begins_with_what_its_code_had_set_by_then(self, place: kit.Place) -> None:
        """Custom status and attributes, however far the source has gone since; what it was started with is kept."""

        async def flow(ctx: WorkflowContext) -> None:
            for step in ("first", "second", "third"):
                ctx.set_attributes(step=step)
                if step != "first":
                    ctx.set_custom_status(step)
                await ctx.wait_for_external_event(step)
                await ctx.call_activity(kit.echo)

        async def waits_for(runtime: kit.CapableRuntime, step: str) -> None:
            async def look() -> bool:
                return step in (await self.waiting(runtime, "source", "events"))["events"]

            await self.until(look)

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="source", attributes={"tenant": "acme"})
            for step in ("first", "second", "third"):
                await waits_for(runtime, step)
                await runtime.raise_event("source", step)
            await runtime.wait("source", self.patience)
            for call, step, status in ((0, "second", '"second"'), (1, "third", '"third"')):
                fork = await runtime.fork("source", call)
                await self.waiting(runtime, fork, "events")
                record = await runtime.find(fork)
                assert record is not None
                attributes = {"tenant": "acme", "step": step, "perdure.forked_from": "source"}
                assert (record.attributes, record.custom_status) == (attributes, status)

    @kit.scenario
    async def test_a_fork_of_a_later_generation_keeps_the_status_of_those_before(self, place: kit.Place) -> None:
        """Until its own generation sets another one."""

        async def flow(ctx: WorkflowContext, number: int) -> None:
            if number == 0:
                ctx.set_custom_status("begun")
                ctx.continue_as_new(1)
                return
            await ctx.call_activity(kit.echo)
            await ctx.wait_for_external_event("go")

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, 0, instance_id="source")
            await self.waiting(runtime, "source", "events")
            fork = await runtime.fork("source", 0)
            await self.waiting(runtime, fork, "events")
            record = await runtime.find(fork)
            assert record is not None
            assert record.custom_status == '"begun"'

    @kit.scenario
    async def test_a_fork_of_a_fork_is_a_fork(self, place: kit.Place) -> None:
        """As deep as one likes; large values included."""
        counted = _Counted()

        async def big(ctx: WorkflowContext, text: str) -> Any:
            text = await ctx.call_activity(kit.echo, input=text * 2)
            number = await ctx.call_activity("double", input=len(text))
            return [len(text), number]

        async with place.runtime(kit.registry(big, activities=[counted.double])) as runtime:
            last = await runtime.start(big, "x" * 30_000)
            assert await runtime.wait(last, self.patience) == [60_000, 120_000]
            for number in range(3):
                last = await runtime.fork(last, 1, output=number)
                assert await runtime.wait(last, self.patience) == [60_000, number]

    @kit.scenario
    async def test_a_fork_outlives_its_source(self, place: kit.Place) -> None:
        """What the source's purge leaves is enough, whatever the values' size and nesting."""

        async def flow(ctx: WorkflowContext, given: dict[str, Any]) -> Any:
            large = await ctx.call_activity(kit.echo, input={**given, "more": ["y" * 5_000, "z" * 5_000]})
            await ctx.call_activity(kit.echo)
            await ctx.wait_for_external_event("go")
            return [len(given["text"]), [len(one) for one in large["more"]], len(large["many"])]

        known = kit.registry(flow)
        async with place.runtime(known) as runtime:
            given = {"text": "x" * 40_000, "many": [f"{n} " * 300 for n in range(60)]}
            await runtime.start(flow, given, instance_id="source")
            await self.until(lambda: _rows(runtime, "source", 3))
            await self.waiting(runtime, "source")
            await runtime.fork("source", 1, new_instance_id="fork")
            await self.waiting(runtime, "fork")
            await runtime.terminate("source")
            await self.ended(runtime, "source")
            await runtime.purge("source")
            await runtime.fork("fork", 1, new_instance_id="second")
            await self.waiting(runtime, "second")
        async with place.runtime(known) as runtime:
            for name in ("fork", "second"):
                await runtime.raise_event(name, "go")
                assert await runtime.wait(name, self.patience) == [40_000, [5_000, 5_000], 60]

    @kit.scenario
    async def test_a_fork_leads_into_child_workflows(self, place: kit.Place) -> None:
        """The other children's results are kept; the child goes on as one of the fork's own."""
        counted = _Counted()
        async with place.runtime(kit.registry(_parent, _child, activities=[counted.double])) as runtime:
            await runtime.start(_parent, 1, instance_id="p")
            assert await runtime.wait("p", self.patience) == [8, 12]
            before = len(counted.given)
            await runtime.fork("p", [2, 1], output=-1, new_instance_id="inside")
            assert await runtime.wait("inside", self.patience) == [8, -1]
            assert await kit.ids(runtime, parent="inside") == ["inside:0002"]
            await runtime.fork("p", [1, 0], input=10, new_instance_id="again")
            assert await runtime.wait("again", self.patience) == [40, 12]
            assert counted.given[before:] == [10, 20]
            await runtime.fork("p", 1, input=5, new_instance_id="anew")
            assert await runtime.wait("anew", self.patience) == [20, 12]
            await runtime.fork("p", 1, output="edited", new_instance_id="edited")
            assert await runtime.wait("edited", self.patience) == ["edited", 12]
            assert await runtime.wait("p", self.patience) == [8, 12]

    @kit.scenario
    async def test_a_run_that_continued_as_new_forks_in_its_last_generation(self, place: kit.Place) -> None:
        """Also one whose first episode was the end of its first generation."""
        counted = _Counted()

        async def flow(ctx: WorkflowContext, number: int) -> Any:
            if number < 2:
                if number:
                    await ctx.create_timer(0)
                ctx.continue_as_new(number + 1)
                return None
            first = await ctx.call_activity("double", input=number)
            return [ctx.generation, first, await ctx.call_child_workflow(_child, input=first)]

        async with place.runtime(kit.registry(flow, _child, activities=[counted.double])) as runtime:
            for begin in (0, 1):
                source = await runtime.start(flow, begin)
                assert await runtime.wait(source, self.patience) == [2 - begin, 4, 16]
                fork = await runtime.fork(source, 0, output=5)
                assert await runtime.wait(fork, self.patience) == [2 - begin, 5, 20]
                again = await runtime.fork(source, [1, 0], output=9)
                assert await runtime.wait(again, self.patience) == [2 - begin, 4, 18]

    @kit.scenario
    async def test_a_fork_passes_calls_that_were_cancelled(self, place: kit.Place) -> None:
        """They have no outcome, and need none; at one of them no fork is possible."""
        counted = _Counted()

        async def flow(ctx: WorkflowContext) -> Any:
            tasks = [ctx.call_activity("double", input=1), ctx.call_activity(kit.endless)]
            tasks.append(ctx.call_child_workflow(kit.patient))
            await ctx.when_any(tasks, cancel_losers=True)
            return await ctx.call_activity("double", input=2)

        known = kit.registry(flow, kit.patient, activities=[counted.double, kit.endless])
        async with place.runtime(known) as runtime:
            await runtime.start(flow, instance_id="one")
            assert await runtime.wait("one", self.patience) == 4
            calls = [one.id for one in await kit.events(runtime, "one") if isinstance(one, TaskScheduled)]
            last = calls[-1]
            assert await runtime.wait(await runtime.fork("one", last, output=5), self.patience) == 5
            await kit.is_refused(runtime.fork("one", 1), UsageError, "#1 'endless'", "fork at another call")
            await kit.is_refused(runtime.fork("one", 2), UsageError, "#2 'patient'", "fork at another call")

    @kit.scenario
    async def test_a_run_forks_at_a_call_that_has_no_outcome_yet(self, place: kit.Place) -> None:
        """Whether it still runs, or was ended from outside in its middle."""
        counted = _Counted()

        async def flow(ctx: WorkflowContext) -> Any:
            first = await ctx.call_activity("double", input=1)
            return [first, await ctx.call_activity(kit.endless)]

        known = kit.registry(flow, activities=[counted.double, kit.endless])
        async with place.runtime(known) as runtime:
            await runtime.start(flow, instance_id="one")
            await self.until(lambda: _rows(runtime, "one", 3))
            assert await runtime.wait(await runtime.fork("one", 1, output="early"), self.patience) == [2, "early"]
            await runtime.terminate("one")
            await self.ended(runtime, "one")
            assert await runtime.wait(await runtime.fork("one", 1, output="late"), self.patience) == [2, "late"]
        assert counted.given == [1]

    @kit.scenario
    async def test_no_fork_repeats_what_others_have_begun(self, place: kit.Place) -> None:
        """Calls beside the chosen one that have no outcome make it impossible, and the error says so."""

        async def flow(ctx: WorkflowContext) -> Any:
            return await ctx.when_all([ctx.call_activity(kit.echo), ctx.call_activity(kit.endless)])

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            await self.until(lambda: _rows(runtime, "one", 3))
            await kit.is_refused(runtime.fork("one", 0), InstanceError, "'endless' (#1)", "wait for them to finish")
            await runtime.terminate("one")
            await self.ended(runtime, "one")
            await kit.is_refused(runtime.fork("one", 0), InstanceError, "'endless' (#1)", "fork at a call before these")

    @kit.scenario
    async def test_an_outcome_that_came_later_is_kept(self, place: kit.Place) -> None:
        """Calls made before the fork's place are not made again, wherever their outcomes stand."""
        counted = _Counted()

        async def flow(ctx: WorkflowContext) -> Any:
            child = ctx.call_child_workflow(kit.patient, instance_id=f"{ctx.instance_id}:c")
            first = await ctx.call_activity("double", input=1)
            return [first, await child]

        async with place.runtime(kit.registry(flow, kit.patient, activities=[counted.double])) as runtime:
            await runtime.start(flow, instance_id="one")
            await self.until(lambda: _rows(runtime, "one", 3))
            await self.waiting(runtime, "one:c")
            await runtime.raise_event("one:c", "wake", "woken")
            assert await runtime.wait("one", self.patience) == [2, "woken"]
            assert await runtime.wait(await runtime.fork("one", 1, output=7), self.patience) == [7, "woken"]
            assert await kit.ids(runtime, workflow="patient") == ["one:c"]

    @kit.scenario
    async def test_a_fork_of_a_failed_run_goes_another_way(self, place: kit.Place) -> None:
        """The failure is left behind."""

        async def flow(ctx: WorkflowContext) -> Any:
            return await ctx.call_activity(kit.refuse, input="closed")

        async with place.runtime(kit.registry(flow)) as runtime:
            await runtime.start(flow, instance_id="one")
            assert (await self.ended(runtime, "one")).status is Status.FAILED
            assert await runtime.wait(await runtime.fork("one", 0, output="open"), self.patience) == "open"

    @kit.scenario
    async def test_unusable_forks_are_refused_and_leave_nothing(self, place: kit.Place) -> None:
        """Field, value and remedy."""
        counted = _Counted()
        wrong: Any = {"a": 1}
        async with place.runtime(kit.registry(_parent, _child, activities=[counted.double])) as runtime:
            await runtime.start(_parent, 1, instance_id="p")
            await runtime.wait("p", self.patience)
            known = await kit.ids(runtime)
            await kit.is_refused(runtime.fork("none", 0), InstanceNotFoundError, "no instance 'none'")
            await kit.is_refused(runtime.fork("p", 9), UsageError, "no call #9", "#0 double, #1 _child")
            await kit.is_refused(runtime.fork("p", []), UsageError, "at is []", "use the number of a call")
            await kit.is_refused(runtime.fork("p", wrong), UsageError, "at is {'a': 1}", "use the number of a call")
            await kit.is_refused(runtime.fork("p", [0, 1]), UsageError, "call #0 is an activity")
            await kit.is_refused(runtime.fork("p", 0, output=1, input=1), UsageError, "not both")
            taken = runtime.fork("p", 0, new_instance_id="p:0001")
            await kit.is_refused(taken, InstanceExistsError, "'p:0001' is taken")
            assert await kit.ids(runtime) == known


async def _rows(runtime: kit.CapableRuntime, instance_id: str, count: int) -> bool:
    return len(await runtime.history(instance_id)) >= count
