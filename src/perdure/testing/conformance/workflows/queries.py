"""Queries: which instances there are."""

from __future__ import annotations

import time
from typing import Any

from perdure.base.errors import UsageError
from perdure.base.events import Status
from perdure.ports.history_store import InstanceQuery
from perdure.testing.conformance.workflows import kit
from perdure.workflows.context import WorkflowContext


class Queries(kit.Suite):
    """Queries: which instances there are."""

    @kit.scenario
    async def test_runs_are_found_by_how_they_stand(self, place: kit.Place) -> None:
        """Any of several statuses."""

        async def fails(_: WorkflowContext) -> None:
            raise ValueError("no")

        async with place.runtime(kit.registry(kit.patient, kit.echoing, fails)) as runtime:
            for name in ("runs", "held", "ended"):
                await runtime.start(kit.patient, instance_id=name)
            await runtime.start(kit.patient, instance_id="later", start_at=3600)
            await runtime.start(fails, instance_id="failed")
            await runtime.wait(await runtime.start(kit.echoing, 1, instance_id="done"), self.patience)
            await runtime.suspend("held")
            await runtime.terminate("ended")
            await self.stands(runtime, "held", Status.SUSPENDED)
            for name in ("ended", "failed"):
                await self.ended(runtime, name)
            for status, name in zip(Status, ("later", "runs", "held", "done", "failed", "ended"), strict=True):
                assert await kit.ids(runtime, status=(status,)) == [name]
            assert await kit.ids(runtime, status=(Status.FAILED, Status.COMPLETED)) == ["done", "failed"]

    @kit.scenario
    async def test_runs_are_found_by_attributes_of_exactly_that_value(self, place: kit.Place) -> None:
        """All of them have to be there; a truth value is no number, and a number no text."""
        sets: dict[str, dict[str, Any]] = {
            "text": {"kind": "1", "tenant": "acme"},
            "number": {"kind": 1, "tenant": "acme"},
            "truth": {"kind": True, "tenant": "zeta"},
            "other": {"kind": "größe \N{SNOWMAN} '%_\""},
            "none": {},
        }
        async with place.runtime(kit.registry(kit.patient)) as runtime:
            for name, attributes in sets.items():
                await runtime.start(kit.patient, instance_id=name, attributes=attributes)
            for name in ("text", "number", "truth", "other"):
                assert await kit.ids(runtime, attributes={"kind": sets[name]["kind"]}) == [name]
            assert await kit.ids(runtime, attributes={"tenant": "acme"}) == ["number", "text"]
            assert await kit.ids(runtime, attributes={"tenant": "acme", "kind": 1}) == ["number"]
            assert await kit.ids(runtime, attributes={"tenant": "acme", "kind": 2}) == []
            assert await kit.ids(runtime, attributes={"nothing": "acme"}) == []

    @kit.scenario
    async def test_runs_are_found_by_workflow_app_and_caller(self, place: kit.Place) -> None:
        """Conditions hold together."""

        async def parent(ctx: WorkflowContext) -> Any:
            return await ctx.call_child_workflow(kit.echoing, input=1)

        known = kit.registry(parent, kit.echoing)
        async with place.runtime(known, app_id="shop") as runtime:
            await runtime.wait(await runtime.start(parent, instance_id="p"), self.patience)
            await runtime.wait(await runtime.start(kit.echoing, 2, instance_id="e"), self.patience)
            assert await kit.ids(runtime, app_id="shop") == ["e", "p", "p:0000"]
            assert await kit.ids(runtime, app_id="other") == []
            assert await kit.ids(runtime, workflow="echoing") == ["e", "p:0000"]
            assert await kit.ids(runtime, workflow="echo") == []
            assert await kit.ids(runtime, parent="p") == ["p:0000"]
            assert await kit.ids(runtime, parent="p", workflow="parent") == []

    @kit.scenario
    async def test_runs_are_found_by_when_they_began_and_ended(self, place: kit.Place) -> None:
        """From a moment on, and before one."""
        async with place.runtime(kit.registry(kit.patient, kit.echoing)) as runtime:
            await runtime.wait(await runtime.start(kit.echoing, 1, instance_id="first"), self.patience)
            first = await self.ended(runtime, "first")
            assert first.finished_at is not None
            await self.until(lambda: _after(first.finished_at or 0))
            await runtime.start(kit.patient, instance_id="second")
            second = await runtime.find("second")
            assert second is not None
            assert await kit.ids(runtime, created_from=second.created_at) == ["second"]
            assert await kit.ids(runtime, created_until=second.created_at) == ["first"]
            assert await kit.ids(runtime, finished_until=second.created_at) == ["first"]
            assert await kit.ids(runtime, finished_until=first.finished_at) == []

    @kit.scenario
    async def test_pages_follow_each_other_newest_first(self, place: kit.Place) -> None:
        """Also those of a query with conditions."""
        async with place.runtime(kit.registry(kit.patient), worker=False) as runtime:
            for number in range(9):
                await runtime.start("patient", instance_id=str(number), attributes={"odd": number % 2 == 1})
            found: list[str] = []
            before = None
            while page := await runtime.instances(InstanceQuery(attributes={"odd": True}, limit=3, before=before)):
                found += [one.instance_id for one in page]
                before = page[-1].key
            assert found == ["7", "5", "3", "1"]
            assert await runtime.instances(InstanceQuery(limit=0)) == []

    @kit.scenario
    async def test_unusable_queries_are_refused(self, place: kit.Place) -> None:
        """Field, value and remedy."""
        wrong: Any = "RUNNING"
        async with place.runtime(kit.registry(), worker=False) as runtime:
            await kit.is_refused(_query(runtime, status=wrong), UsageError, "status is 'RUNNING'", "use a tuple")
            await kit.is_refused(_query(runtime, limit=-1), UsageError, "limit is -1", "use a number of at least 0")


async def _query(runtime: kit.CapableRuntime, **conditions: Any) -> Any:
    return await runtime.instances(InstanceQuery(**conditions))


async def _after(moment: float) -> bool:
    return time.time() > moment
