"""A wall clock that jumps by hours: the living keep their leases, the dead lose theirs, timers ring by the clock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.misfortunes.faults import HOUR, Faults
from tests.misfortunes.harness import (
    Sailor,
    bookings,
    facts_of,
    let_pass,
    require_complete,
    require_once,
    until,
)
from tests.misfortunes.sailor import Voyage, registry, runtime_of
from tests.runtime.harness import ManualClock
from tests.runtime.harness import until as come_true

from perdure.base.events import Status
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime

SOON = 5.0
"""Seconds within which something must happen that needs no waiting at all."""


@pytest.fixture
def others(shim: Path, tmp_path: Path) -> Iterator[Faults]:
    """Return the clock of a second process."""
    switches = Faults(shim, tmp_path / "other-faults", "")
    yield switches
    switches.close()


def voyage_in(folder: Path, name: str, **others: Any) -> Voyage:
    # No timers, unless a test is about them: one that is set when the clock goes back by an hour rings an hour later.
    given = {"lease_seconds": 1.0, "nap": 0.0, **others}
    return Voyage(store=str(folder / "perdure.db"), ledger=str(folder / "ledger"), name=name, **given)


def with_client(voyage: Voyage, work: Callable[[EmbeddedRuntime], Awaitable[Any]]) -> Any:
    """Do something with a runtime that executes nothing, by the true clock."""

    async def run() -> Any:
        async with runtime_of(voyage, worker=False) as client:
            return await work(client)

    return asyncio.run(run())


def started(voyage: Voyage, workflow: str, given: Any, instance_id: str) -> None:
    with_client(voyage, lambda client: client.start(workflow, given, instance_id=instance_id))


def status_of(voyage: Voyage, instance_id: str) -> Status:
    return facts_of(Path(voyage.store))[instance_id].status


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
def test_workers_that_live_keep_their_leases_when_a_clock_jumps(
    faults: Faults, others: Faults, tmp_path: Path, jump: float
):
    one, two = (voyage_in(tmp_path, name, errands=10, pace=0.08) for name in ("one", "two"))
    with Sailor(one, faults.environment()) as first, Sailor(two, others.environment()) as second:
        until(lambda: len(bookings(Path(one.ledger))) > 20)
        faults.set_clock(jump)
        let_pass(2.5)  # several leases
        others.set_clock(-jump)
        first.finish()
        second.finish()
        assert "the lease of worker" not in first.log + second.log
    require_once(Path(one.ledger))
    require_complete(Path(one.store), Path(one.ledger), {f"{name}-{n}" for name in ("one", "two") for n in range(10)})
    assert {record.recoveries for record in facts_of(Path(one.store)).values()} == {0}


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
def test_what_a_dead_worker_left_is_taken_over_at_once_although_the_clock_jumped(
    faults: Faults, others: Faults, tmp_path: Path, jump: float
):
    # The dead one's clock was an hour ahead, so that all that it started was started in the other's future.
    one = voyage_in(tmp_path, "one", errands=5, pace=0.1, lease_seconds=3600.0)
    others.set_clock(HOUR)
    with Sailor(one, others.environment()) as dead:
        dead.hear("accepted", 5)
        until(lambda: len(bookings(Path(one.ledger))) > 10)
    with Sailor(voyage_in(tmp_path, "two", stays=True), faults.environment()) as living:
        living.hear("finished")
        faults.set_clock(jump)
        until(lambda: {record.status for record in facts_of(Path(one.store)).values()} == {Status.COMPLETED})
    assert {record.recoveries for record in facts_of(Path(one.store)).values()} == {1}


def test_a_worker_that_hangs_is_taken_for_dead_although_the_clock_went_back(
    faults: Faults, others: Faults, tmp_path: Path
):
    one, two = voyage_in(tmp_path, "one", errands=5, pace=0.1), voyage_in(tmp_path, "two", stays=True)
    with Sailor(one, others.environment()) as hanging, Sailor(two, faults.environment()) as living:
        hanging.hear("accepted", 5)
        living.hear("finished")
        faults.set_clock(-HOUR)
        others.set_clock(HOUR)
        hanging.stop_between_commits(Path(one.store))
        until(lambda: {record.status for record in facts_of(Path(one.store)).values()} == {Status.COMPLETED})
    assert {record.recoveries for record in facts_of(Path(one.store)).values()} == {1}


@pytest.mark.parametrize("workflow", ["alarm", "race"], ids=["in the store", "in a worker's hands"])
def test_a_timer_rings_when_the_clock_says_so_and_not_before(faults: Faults, tmp_path: Path, workflow: str):
    voyage = voyage_in(tmp_path, "one", stays=True)
    with Sailor(voyage, faults.environment()) as sailor:
        sailor.hear("finished")
        started(voyage, workflow, HOUR, "late")
        until(lambda: _recorded(voyage, "late") > 1)
        faults.set_clock(-HOUR)
        let_pass(0.5)
        faults.set_clock(HOUR - 10)
        let_pass(0.5)
        assert status_of(voyage, "late") is Status.RUNNING
        spent = processor_seconds(sailor.process.pid)
        let_pass(1.0)
        assert processor_seconds(sailor.process.pid) - spent < 0.5, "it waits busily"
        assert status_of(voyage, "late") is Status.RUNNING
        faults.set_clock(HOUR + 1)
        assert with_client(voyage, lambda client: client.wait("late", SOON)) == "rang"


def _recorded(voyage: Voyage, instance_id: str) -> int:
    return len(with_client(voyage, lambda client: client.history(instance_id)))


def test_what_is_begun_after_the_clock_went_back_takes_its_usual_time(faults: Faults, tmp_path: Path):
    with Sailor(voyage_in(tmp_path, "one", stays=True), faults.environment()) as sailor:
        sailor.hear("finished")
        faults.set_clock(-HOUR)
        with Sailor(voyage_in(tmp_path, "two", errands=10, nap=0.05), faults.environment()) as later:
            later.finish()


def test_a_timer_in_a_workers_hands_follows_an_injected_clock_forwards_and_back(tmp_path: Path):
    async def run() -> None:
        clock = ManualClock()
        store = SQLiteHistoryStore(tmp_path / "perdure.db")
        options = WorkerOptions(poll=0.01, drain=0.0)
        async with EmbeddedRuntime(store, registry=registry(), options=options, clock=clock) as runtime:
            await runtime.start("race", HOUR, instance_id="late")
            begun = clock.at

            async def recorded() -> bool:
                return len(await runtime.history("late")) > 1

            await come_true(recorded)
            clock.at = begun - HOUR
            await asyncio.sleep(0.05)
            clock.at = begun + HOUR - 1
            await asyncio.sleep(0.05)
            assert not (await runtime.find("late")).status.finished
            clock.at = begun + HOUR
            assert await runtime.wait("late", SOON) == "rang"

    asyncio.run(run())
