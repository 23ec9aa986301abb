"""Several processes over one store: each executes its own app's runs, wakes the others, and outlives them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.runtime.harness import PATIENCE, until
from tests.runtime.workers import NEVER, Place, Worker

from perdure.base.errors import InstanceExistsError, StoreLockedError
from perdure.base.events import HistoryRow, TaskCompleted
from perdure.runtime import waiting


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def completions(rows: list[HistoryRow]) -> int:
    return sum(isinstance(event, TaskCompleted) for row in rows for event in row.events)


# -- apps


def test_each_process_executes_its_own_apps_runs_only(place: Place):
    async def run() -> None:
        place.gate.touch()
        apps = ("shop", "bank")
        with Worker(place, "shop") as shop, Worker(place, "bank") as bank:
            async with place.runtime("shop") as first, place.runtime("bank") as second:
                for number in range(10):
                    for app_id, client in zip(apps, (first, second), strict=True):
                        await client.start("one_step", number, instance_id=f"{app_id}-{number}")
                results = [await first.wait(f"{app_id}-3", PATIENCE) for app_id in apps]
                assert results == [3, 3]
                await asyncio.gather(*(first.wait(f"{app_id}-{n}", PATIENCE) for app_id in apps for n in range(10)))
            pids = {"shop": str(shop.pid), "bank": str(bank.pid)}
        assert len(place.effects()) == 20
        for instance_id, app_id, pid in place.effects():
            assert (instance_id.partition("-")[0], pids[app_id]) == (app_id, pid)

    asyncio.run(run())


def test_a_run_waits_for_a_process_of_its_own_app(place: Place):
    async def run() -> None:
        place.gate.touch()
        async with place.runtime("bank") as client:
            with Worker(place, "shop"):
                await client.start("one_step", 1, instance_id="mine")
                async with place.runtime("shop") as other:
                    assert await other.wait(await other.start("one_step", 2), PATIENCE) == 2
                assert place.effects("mine") == []
            with Worker(place, "bank"):
                assert await client.wait("mine", PATIENCE) == 1

    asyncio.run(run())


@pytest.mark.parametrize("reuse", ["attach", "ignore", "replace", "terminate"])
def test_an_id_that_another_app_has_is_refused_and_names_the_app(place: Place, reuse):
    async def run() -> None:
        async with place.runtime("shop") as first, place.runtime("bank") as second:
            await first.start("one_step", 1, instance_id="taken")
            with pytest.raises(InstanceExistsError, match="'taken' is taken: it is a run of app 'shop', not of 'bank'"):
                await second.start("one_step", 1, instance_id="taken", reuse=reuse)
            record = await second.find("taken")
            assert record is not None
            assert (record.app_id, record.status) == ("shop", "RUNNING")

    asyncio.run(run())


# -- waking


def test_a_process_that_looks_at_nothing_by_itself_is_woken_by_the_others(place: Place, monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_AGAIN_UNTOLD", NEVER)

    async def run() -> None:
        place.gate.touch()
        with Worker(place, poll=NEVER), Worker(place, "other", poll=NEVER):
            async with place.runtime() as client:
                await client.start("one_event", "go", instance_id="waiting")
                await until(lambda: waits_in_the_store(client, "waiting"))
                await client.raise_event("waiting", "go", 7)
                assert await client.wait("waiting", PATIENCE) == 7
                assert await client.wait(await client.start("one_step", 8), PATIENCE) == 8

    asyncio.run(run())


def test_what_a_leaving_process_had_is_taken_up_by_one_that_looks_at_nothing_by_itself(place: Place):
    async def run() -> None:
        async with place.runtime() as client:
            with Worker(place) as leaving:
                await client.start("one_step", 1, instance_id="left")
                await place.begun("left", leaving)
                with Worker(place, poll=NEVER) as heir:
                    leaving.leave()
                    await place.begun("left", heir)
                    place.gate.touch()
                    assert await client.wait("left", PATIENCE) == 1

    asyncio.run(run())


async def waits_in_the_store(client, instance_id: str) -> bool:
    record = await client.find(instance_id)
    return record.owner is None and record.waits is not None


# -- misfortunes


def test_a_killed_process_is_replaced_within_two_seconds(place: Place):
    async def run() -> None:
        async with place.runtime() as client:
            with Worker(place, lease_seconds=60, poll=1.0) as doomed:
                await client.start("one_step", 1, instance_id="one")
                await place.begun("one", doomed)
                with Worker(place, lease_seconds=60, poll=1.0) as heir:
                    doomed.kill()
                    killed_at = time.monotonic()
                    await place.begun("one", heir)
                    assert time.monotonic() - killed_at < 2
                    place.gate.touch()
                    assert await client.wait("one", PATIENCE) == 1
            assert (await client.find("one")).recoveries == 1

    asyncio.run(run())


@pytest.mark.parametrize("with_a_commit", [True, False])
def test_a_process_that_was_stopped_for_too_long_is_fenced_out_and_begins_anew(place: Place, with_a_commit):
    async def run() -> None:
        async with place.runtime() as client:
            with Worker(place, lease_seconds=0.5) as stopped:
                await client.start("one_step", 1, instance_id="one")
                await place.begun("one", stopped)
                (first_lease,) = place.leases()
                await stopped.stop_between_commits(place)
                with Worker(place, lease_seconds=0.5) as heir:
                    await place.begun("one", heir)
                    if with_a_commit:
                        # The activity of the stopped process ends, too, as soon as that goes on.
                        place.gate.touch()
                        assert await client.wait("one", PATIENCE) == 1
                    before = await client.history("one")
                    stopped.go_on()
                    await until(lambda: any(str(stopped.pid) in name for name in place.leases().values()))
                    assert first_lease not in place.leases()
                    assert await client.history("one") == before
                    place.gate.touch()
                    assert await client.wait("one", PATIENCE) == 1
                assert completions(await client.history("one")) == 1
                assert [effect[2] for effect in place.effects("one")] == [str(stopped.pid), str(heir.pid)]
                assert await client.wait(await client.start("one_step", 2, instance_id="two"), PATIENCE) == 2
                assert [effect[2] for effect in place.effects("two")] == [str(stopped.pid)]

    asyncio.run(run())


def test_a_process_that_loses_its_lease_right_after_a_commit_begins_nothing_of_what_that_decided(place: Place):
    async def run() -> None:
        place.gate.touch()
        async with place.runtime() as client:
            with Worker(place, lease_seconds=0.5) as stopped:
                (first_lease,) = place.leases()
                await stopped.will_stop_at("episode.after_commit")
                await client.start("one_step", 1, instance_id="one")
                await stopped.has_stopped()
                with Worker(place, lease_seconds=0.5) as heir:
                    assert await client.wait("one", PATIENCE) == 1
                    stopped.go_on()
                    await until(lambda: any(str(stopped.pid) in name for name in place.leases().values()))
                    assert first_lease not in place.leases()
                    assert await client.wait(await client.start("one_step", 2), PATIENCE) == 2
                assert [effect[2] for effect in place.effects("one")] == [str(heir.pid)]

    asyncio.run(run())


@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_a_process_that_is_stopped_inside_a_commit_is_named_and_costs_nothing(place: Place, then):
    async def run() -> None:
        lease = 0.4
        async with place.runtime(busy_timeout=0.1) as client:
            with Worker(place, lease_seconds=lease) as working, Worker(place, "other", lease_seconds=lease) as stopped:
                await client.start("one_step", 1, instance_id="one")
                await place.begun("one", working)
                await stopped.stops_inside_a_commit()
                stopped_at = time.monotonic()
                who = f"process {stopped.pid} holds the write lock and is stopped"
                with pytest.raises(StoreLockedError, match=rf"{who}; let it go on \(kill -CONT {stopped.pid}\) or end"):
                    await client.start("one_step", 2, instance_id="two")
                place.gate.touch()
                await until(lambda: "runs wait for it" in working.errors.read_text())
                assert who in working.errors.read_text()
                await until(lambda: time.monotonic() - stopped_at > 3 * lease)
                if then == "goes on":
                    stopped.go_on()
                else:
                    stopped.kill()
                assert await client.wait("one", PATIENCE) == 1
                assert await client.wait(await client.start("one_step", 2, instance_id="two"), PATIENCE) == 2
                # Its lease could not be renewed for longer than it lasts, through no fault of its own.
                assert (await client.find("one")).recoveries == 0
                assert len(place.effects("one")) == 1

    asyncio.run(run())
