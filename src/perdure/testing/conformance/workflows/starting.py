"""Starts: later ones, ones whose id is taken, unusable ones."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from perdure.base.errors import InstanceExistsError, NotSerializableError, UsageError
from perdure.base.events import Status
from perdure.engine.activity import current_activity
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class Starting(kit.Suite):
    """Starts: later ones, ones whose id is taken, unusable ones."""

    @kit.scenario
    async def test_a_start_that_is_put_off_is_pending_until_its_time(self, place: kit.Place) -> None:
        """Seconds, a timedelta or a moment, from which its clock goes on; a moment in the past is now."""

        async def flow(ctx: WorkflowContext) -> float:
            await ctx.create_timer(0.05)
            return ctx.current_utc_datetime.timestamp()

        async with place.runtime(kit.registry(flow)) as runtime:
            at = int(time.time() * 100 + 15) / 100
            await runtime.start(flow, instance_id="soon", start_at=dt.datetime.fromtimestamp(at, dt.UTC))
            await runtime.start(flow, instance_id="past", start_at=-5)
            await runtime.start(flow, instance_id="later", start_at=dt.timedelta(hours=1))
            record = await runtime.find("later")
            assert record is not None
            assert record.status is Status.PENDING
            assert record.due is not None
            assert 3500 < record.due - time.time() < 3700
            await runtime.wait("past", self.patience)
            assert await runtime.wait("soon", self.patience) >= at + 0.05
            assert await kit.ids(runtime, status=(Status.PENDING,)) == ["later"]

    @kit.scenario
    async def test_an_event_for_a_pending_run_waits_with_it(self, place: kit.Place) -> None:
        """It does not begin before its time, and reads the event when it does; also across a restart."""
        known = kit.registry(kit.patient)
        async with place.runtime(known) as runtime:
            await runtime.start(kit.patient, instance_id="later", start_at=3600)
            await runtime.start(kit.patient, instance_id="soon", start_at=0.1)
            for name in ("later", "soon"):
                await runtime.raise_event(name, "wake", 4)
        async with place.runtime(known) as runtime:
            assert await runtime.wait("soon", self.patience) == 4
            record = await runtime.find("later")
            assert record is not None
            assert (record.status, len(await runtime.history("later"))) == (Status.PENDING, 1)

    @kit.scenario
    async def test_a_run_that_is_suspended_before_it_begins_does_not_begin(self, place: kit.Place) -> None:
        """When its time has come it says so, and begins once it is resumed, with the events that came meanwhile."""
        began: list[str] = []

        async def act(name: str) -> None:
            began.append(name)

        async def flow(ctx: WorkflowContext) -> Any:
            await ctx.call_activity(act, input=ctx.instance_id)
            return await ctx.wait_for_external_event("wake")

        known = kit.registry(flow, activities=[act])
        async with place.runtime(known, worker=False) as looker:
            await looker.start("flow", instance_id="soon", start_at=0.02)
            await looker.start("flow", instance_id="now")
            for name in ("soon", "now"):
                await looker.suspend(name, "a break")
        async with place.runtime(known) as runtime:
            for name in ("soon", "now"):
                await self.stands(runtime, name, Status.SUSPENDED)
                await runtime.raise_event(name, "wake", name)
                assert await self.waiting(runtime, name, "suspended") == {"suspended": "a break"}
            assert began == []
        async with place.runtime(known) as runtime:
            for name in ("soon", "now"):
                await runtime.resume(name)
                assert await runtime.wait(name, self.patience) == name
        assert began == ["soon", "now"]

    @kit.scenario
    async def test_a_pending_run_is_terminated_at_once(self, place: kit.Place) -> None:
        """It never began."""
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            await runtime.start(kit.patient, instance_id="later", start_at=3600)
            await runtime.raise_event("later", "wake")
            await runtime.terminate("later", "no longer needed")
            assert "no longer needed" in await self.failure(runtime, "later")

    @kit.scenario
    async def test_a_start_with_a_known_id_does_what_its_policy_says(self, place: kit.Place) -> None:
        """attach, refuse and ignore, for a run that has not ended and one that has."""
        async with place.runtime(kit.registry(kit.patient, kit.echoing)) as runtime:
            await runtime.start(kit.patient, instance_id="runs")
            await runtime.wait(await runtime.start(kit.echoing, 1, instance_id="ended"), self.patience)
            for name, workflow, given in (("runs", kit.patient, None), ("ended", kit.echoing, 1)):
                assert await runtime.start(workflow, given, instance_id=name) == name
                assert await runtime.start(workflow, 9, instance_id=name, reuse="ignore") == name
                again = runtime.start(workflow, given, instance_id=name, reuse="refuse")
                await kit.is_refused(again, InstanceExistsError, f"instance id {name!r} is taken", "Choose another id")
                other = runtime.start(workflow, 9, instance_id=name)
                await kit.is_refused(other, InstanceExistsError, "with another input", "Choose another id")
            other = runtime.start(kit.echoing, instance_id="runs")
            await kit.is_refused(other, InstanceExistsError, "a run of workflow 'patient', not of workflow 'echoing'")

    @kit.scenario
    async def test_only_a_run_that_has_ended_is_replaced(self, place: kit.Place) -> None:
        """Then nothing is left of it."""
        async with place.runtime(kit.registry(kit.patient, kit.echoing)) as runtime:
            await runtime.start(kit.patient, instance_id="one")
            early = runtime.start(kit.echoing, 2, instance_id="one", reuse="replace")
            await kit.is_refused(early, InstanceExistsError, "has not finished")
            await runtime.raise_event("one", "wake", 1)
            await runtime.wait("one", self.patience)
            await runtime.start(kit.echoing, 2, instance_id="one", reuse="replace")
            assert await runtime.wait("one", self.patience) == 2
            record = await runtime.find("one")
            assert record is not None
            assert record.workflow == "echoing"
            assert await kit.ids(runtime) == ["one"]

    @kit.scenario
    async def test_a_run_that_takes_an_id_again_has_keys_and_identifiers_of_its_own(self, place: kit.Place) -> None:
        """Its child workflows too, those with a chosen id and the others; a generation keeps to its run."""
        keys: list[str] = []
        made: list[Any] = []

        async def note(_: Any) -> None:
            keys.append(current_activity().idempotency_key)

        async def child(ctx: WorkflowContext) -> None:
            made.append(ctx.new_uuid())
            await ctx.call_activity(note)

        async def parent(ctx: WorkflowContext, generation: int) -> None:
            made.append(ctx.random.random())
            await ctx.call_activity(note)
            await ctx.call_child_workflow(child)
            await ctx.call_child_workflow(child, instance_id=f"chosen-{generation}")
            if generation == 0:
                ctx.continue_as_new(1)

        async with place.runtime(kit.registry(parent, child, activities=[note])) as runtime:
            for purges in (False, True, False):
                await runtime.start(parent, 0, instance_id="p", reuse="replace")
                await runtime.wait("p", self.patience)
                if purges:
                    await runtime.purge("p")
            await runtime.purge("p")
            await runtime.wait(await runtime.start(parent, 1), self.patience)
        assert len(set(keys)) == len(keys) == 3 * 2 * 3 + 3
        assert len(set(made)) == len(keys)

    @kit.scenario
    async def test_a_run_that_is_replaced_makes_way_with_its_children(self, place: kit.Place) -> None:
        """Its successor calls children under the same ids."""

        async def parent(ctx: WorkflowContext, value: int) -> Any:
            first = await ctx.call_child_workflow(kit.echoing, input=value)
            return [first, await ctx.call_child_workflow(kit.echoing, input=value, instance_id="chosen")]

        async with place.runtime(kit.registry(parent, kit.echoing)) as runtime:
            for value in range(3):
                await runtime.start(parent, value, instance_id="p", reuse="replace")
                assert await runtime.wait("p", self.patience) == [value, value]

    @kit.scenario
    async def test_terminate_ends_a_run_and_its_children_and_starts_another(self, place: kit.Place) -> None:
        """Whoever waits for the id gets what the one that is there then gives."""

        async def parent(ctx: WorkflowContext, value: int) -> Any:
            child = ctx.call_child_workflow(kit.patient, instance_id="c")
            return [value, await child]

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            for value in range(3):
                await runtime.start(parent, value, instance_id="p", reuse="terminate")
                await self.waiting(runtime, "c")
                await self.waiting(runtime, "p")
            await runtime.raise_event("c", "wake", "last")
            assert await runtime.wait("p", self.patience) == [2, "last"]
            assert await kit.ids(runtime) == ["c", "p"]

    @kit.scenario
    async def test_a_child_of_a_replaced_run_answers_no_call_of_its_successor(self, place: kit.Place) -> None:
        """Though that call has the same number."""

        async def parent(ctx: WorkflowContext, child: str) -> Any:
            return await ctx.call_child_workflow(kit.patient, instance_id=child)

        async with place.runtime(kit.registry(parent, kit.patient)) as runtime:
            await runtime.start(parent, "old", instance_id="p")
            await self.waiting(runtime, "old")
            await runtime.terminate("p", recursive=False)
            await self.ended(runtime, "p")
            await runtime.start(parent, "new", instance_id="p", reuse="replace")
            await self.waiting(runtime, "p")
            await runtime.raise_event("old", "wake", "of the old one")
            await runtime.wait("old", self.patience)
            await self.waiting(runtime, "p")
            await runtime.raise_event("new", "wake", "of the new one")
            assert await runtime.wait("p", self.patience) == "of the new one"

    @kit.scenario
    async def test_unusable_starts_are_refused_before_anything_is_stored(self, place: kit.Place) -> None:
        """Field, value and remedy."""
        wrong: Any = "tomorrow"
        async with place.runtime(kit.registry(kit.echoing)) as runtime:
            for refused, words in (
                ({"start_at": wrong}, ("start_at is 'tomorrow'", "use seconds from now, a timedelta or a datetime")),
                ({"start_at": float("nan")}, ("start_at is nan", "use seconds from now")),
                ({"reuse": wrong}, ("reuse is 'tomorrow'", "attach, refuse, ignore, replace, terminate")),
                ({"instance_id": ""}, ("instance_id is ''", "use 1 to 256 characters")),
                ({"instance_id": "x" * 257}, ("instance_id is 'xxx", "use 1 to 256 characters")),
                ({"instance_id": 5}, ("instance_id is 5", "use 1 to 256 characters")),
                ({"attributes": wrong}, ("attributes is 'tomorrow'", "use a mapping")),
                ({"attributes": {"a": None}}, ("attribute 'a' is None", "use a text of at most 256 characters")),
                ({"attributes": {"": 1}}, ("attribute name ''", "use 1 to 64 characters")),
                ({"attributes": {"a": float("inf")}}, ("attribute 'a' is inf", "use a finite number")),
            ):
                given: Any = refused
                await kit.is_refused(runtime.start(kit.echoing, **given), UsageError, *words)
            await kit.is_refused(runtime.start(kit.echoing, object()), NotSerializableError, "builtins.object")
            assert await kit.ids(runtime) == []
