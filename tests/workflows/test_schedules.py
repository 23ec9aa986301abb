from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.runtime.harness import ManualClock, Place, options, registry_of, until, waits_of

from perdure.base.events import Status
from perdure.base.schedule import Schedule
from perdure.ports.history_store import InstanceQuery
from perdure.runtime.embedded import EmbeddedRuntime

START = 1_700_000_000.0


async def note(ctx: Any, what: Any) -> Any:
    return what


async def another(ctx: Any, what: Any) -> Any:
    return what


@pytest.fixture(params=["sqlite", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    return Place(request.param, tmp_path)


def _runtime(place: Place, clock: ManualClock) -> EmbeddedRuntime:
    return EmbeddedRuntime(place.store(), registry=registry_of(note, another), clock=clock, options=options("warm"))


async def _sleeping(runtime: EmbeddedRuntime, schedule: str, until_moment: float) -> None:
    async def sleeps() -> bool:
        return (await waits_of(runtime, schedule)).get("timer") == until_moment

    await until(sleeps)


async def _started(runtime: EmbeddedRuntime, workflow: str = "note") -> list[str]:
    found = await runtime.instances(InstanceQuery(workflow=workflow))
    return sorted(record.instance_id for record in found)


def test_a_schedule_starts_its_workflow_at_each_firing(place: Place) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        async with _runtime(place, clock) as runtime:
            schedule = await runtime.schedule("tick", note, Schedule(every=60, starts=START + 60), {"n": 1})
            await _sleeping(runtime, schedule, START + 60)
            assert await _started(runtime) == []
            for firing in (1, 2, 3):
                clock.at = START + 60 * firing
                await _sleeping(runtime, schedule, START + 60 * (firing + 1))
            ids = await _started(runtime)
            assert ids == [f"tick/2023-11-14T22:1{minute}:20.000Z" for minute in (4, 5, 6)]
            assert await runtime.wait(ids[0], 5) == {"n": 1}
            record = await runtime.find(schedule)
            assert json.loads(record.custom_status) == {"fired": 3, "skipped": 0, "next": START + 240}

    asyncio.run(run())


@pytest.mark.parametrize(("missed", "runs"), [("skip", 0), ("run_once", 1), ("run_all", 5)])
def test_firings_that_nobody_was_there_for_are_treated_as_declared(place: Place, missed: Any, runs: int) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        when = Schedule(every=3600, starts=START + 3600, missed=missed)
        async with _runtime(place, clock) as runtime:
            schedule = await runtime.schedule("hourly", note, when)
            await _sleeping(runtime, schedule, START + 3600)
        clock.at = START + 5 * 3600 + 600
        async with _runtime(place, clock) as runtime:
            await _sleeping(runtime, schedule, START + 6 * 3600)
            assert len(await _started(runtime)) == runs

    asyncio.run(run())


def test_a_schedule_is_paused_by_suspending_it_and_removed_by_terminating_it(place: Place) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        async with _runtime(place, clock) as runtime:
            schedule = await runtime.schedule("tick", note, Schedule(every=60, starts=START + 60))
            await _sleeping(runtime, schedule, START + 60)
            await runtime.suspend(schedule, "holidays")
            await until(lambda: _is(runtime, schedule, Status.SUSPENDED))
            clock.at = START + 200
            assert await waits_of(runtime, schedule) == {"suspended": "holidays", "timer": START + 60}
            await runtime.resume(schedule)
            await _sleeping(runtime, schedule, START + 240)
            assert len(await _started(runtime)) == 1
            await runtime.terminate(schedule)
            await until(lambda: _is(runtime, schedule, Status.TERMINATED))

    asyncio.run(run())


async def _is(runtime: EmbeddedRuntime, instance_id: str, status: Status) -> bool:
    record = await runtime.find(instance_id)
    return record is not None and record.status is status and record.owner is None


def test_the_same_schedule_again_changes_nothing_and_another_one_takes_its_place(place: Place) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        async with _runtime(place, clock) as runtime:
            when = Schedule(every=60, starts=START + 60)
            schedule = await runtime.schedule("tick", note, when)
            await _sleeping(runtime, schedule, START + 60)
            key = (await runtime.find(schedule)).key
            assert await runtime.schedule("tick", note, when) == schedule
            assert (await runtime.find(schedule)).key == key
            assert await runtime.schedule("tick", another, when) == schedule
            clock.at = START + 60
            await _sleeping(runtime, schedule, START + 120)
            assert (len(await _started(runtime)), len(await _started(runtime, "another"))) == (0, 1)

    asyncio.run(run())


def test_a_one_shot_fires_once_and_its_schedule_ends(place: Place) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        async with _runtime(place, clock) as runtime:
            schedule = await runtime.schedule("once", note, Schedule(at=START + 5))
            await _sleeping(runtime, schedule, START + 5)
            clock.at = START + 6
            assert (await runtime.wait(schedule, 5))["fired"] == 1
            assert await _started(runtime) == ["once/2023-11-14T22:13:25.000Z"]

    asyncio.run(run())
