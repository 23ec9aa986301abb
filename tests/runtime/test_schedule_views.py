from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.runtime.harness import ManualClock, Place, options, registry_of, until, waits_of

from perdure.base.schedule import Schedule
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.schedules import ScheduleView, schedule_view, schedule_views

START = 1_700_000_000.0
HOUR = 3_600.0


async def note(ctx: Any, what: Any) -> Any:
    return what


@pytest.fixture(params=["sqlite", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    return Place(request.param, tmp_path)


def _runtime(place: Place, clock: ManualClock, *, worker: bool = True) -> EmbeddedRuntime:
    registry = registry_of(note)
    return EmbeddedRuntime(place.store(), registry=registry, clock=clock, options=options("warm"), worker=worker)


async def _seen(runtime: EmbeddedRuntime, name: str) -> ScheduleView:
    view = await schedule_view(runtime.store, name)
    assert view is not None
    return view


async def _sleeping(runtime: EmbeddedRuntime, until_moment: float) -> None:
    async def sleeps() -> bool:
        return (await waits_of(runtime, "schedule:tick")).get("timer") == until_moment

    await until(sleeps)


def test_a_schedule_tells_its_next_firing_before_any_worker_has_seen_it(place: Place) -> None:
    async def run() -> None:
        async with _runtime(place, ManualClock(START), worker=False) as runtime:
            await runtime.schedule("tick", note, Schedule(every=HOUR, starts=START + HOUR), {"n": 1})
            await runtime.schedule("past", note, Schedule(at=START - HOUR))
            past, tick = await schedule_views(runtime.store)
            assert (tick.name, tick.state, tick.next, tick.last, tick.fired) == (
                "tick",
                "active",
                START + HOUR,
                None,
                0,
            )
            assert (tick.plan.workflow, tick.plan.input) == ("note", {"n": 1})
            assert (past.name, past.next) == ("past", START - HOUR)
            assert await schedule_views(runtime.store, "elsewhere") == []

    asyncio.run(run())


def test_the_last_firing_is_the_last_that_was_run(place: Place) -> None:
    async def run() -> None:
        clock = ManualClock(START)
        async with _runtime(place, clock) as runtime:
            await runtime.schedule("tick", note, Schedule(every=HOUR, starts=START + HOUR, missed="skip"))
            await _sleeping(runtime, START + HOUR)
            clock.at = START + HOUR + 1
            await _sleeping(runtime, START + 2 * HOUR)
            view = await _seen(runtime, "tick")
            assert (view.last, view.fired, view.next) == (START + HOUR, 1, START + 2 * HOUR)
            assert view.last_run is not None
            await runtime.wait(view.last_run.instance_id, 5)
            clock.at = START + 2 * HOUR + 1_000
            await _sleeping(runtime, START + 3 * HOUR)
            # The one in between was skipped; the generation that skipped it still knows the one before.
            assert (await _seen(runtime, "tick")).last == START + HOUR
            await runtime.purge(view.last_run.instance_id)
            assert (await _seen(runtime, "tick")).last is None

    asyncio.run(run())


def test_what_was_asked_of_a_schedule_is_seen_until_a_worker_has_read_it(place: Place) -> None:
    async def run() -> None:
        async with _runtime(place, ManualClock(START), worker=False) as runtime:
            schedule = await runtime.schedule("tick", note, Schedule(every=HOUR))
            await runtime.suspend(schedule)
            assert ((await _seen(runtime, "tick")).state, (await _seen(runtime, "tick")).asked) == ("active", "pause")
            await runtime.resume(schedule)
            assert (await _seen(runtime, "tick")).asked is None
            await runtime.terminate(schedule)
            await runtime.suspend(schedule)
            assert (await _seen(runtime, "tick")).asked == "remove"

    asyncio.run(run())


def test_a_run_with_the_id_of_a_schedule_is_none(place: Place) -> None:
    async def run() -> None:
        async with _runtime(place, ManualClock(START), worker=False) as runtime:
            await runtime.start(note, instance_id="schedule:odd")
            assert await schedule_view(runtime.store, "odd") is None
            assert await schedule_views(runtime.store) == []

    asyncio.run(run())
