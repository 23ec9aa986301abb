"""A disk that fills: runs wait and say so, then go on; nothing is lost, nothing is booked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.disks import fill_disk, mounted_disk
from tests.misfortunes.faults import Faults
from tests.misfortunes.harness import Sailor, bookings, facts_of, let_pass, require_complete, require_once, until
from tests.misfortunes.sailor import Voyage


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "small", "24m") as place:
        yield place


def test_runs_outlast_a_disk_that_is_full_again_and_again(faults: Faults, tmp_path: Path):
    voyage = Voyage(store=str(tmp_path / "perdure.db"), ledger=str(tmp_path / "ledger"), name="run", errands=40)
    with Sailor(voyage, faults.environment()) as sailor:
        sailor.hear("open")
        for _ in range(3):
            seen = len(bookings(Path(voyage.ledger)))
            faults.fail_writes(odds=400)
            until(lambda before=faults.failed_writes: faults.failed_writes > before + 3)
            faults.heal()
            until(lambda seen=seen: len(bookings(Path(voyage.ledger))) > seen or sailor.told("finished"))
        sailor.finish()
    assert {refusal.split()[0] for refusal in sailor.told("refused")} <= {"StoreFullError"}
    assert "the disk is full; free some space" in sailor.log
    assert "the store takes commits again" in sailor.log
    require_once(Path(voyage.ledger))
    require_complete(Path(voyage.store), Path(voyage.ledger), {f"run-{n}" for n in range(40)})


def test_runs_of_two_processes_outlast_a_disk_that_is_really_full_for_longer_than_a_lease(
    small_disk: Path, tmp_path: Path
):
    store, ledger = small_disk / "perdure.db", tmp_path / "ledger"
    voyages = [
        Voyage(store=str(store), ledger=str(ledger), name=name, errands=12, bulk=30_000, pace=0.05, lease_seconds=1.0)
        for name in ("one", "two")
    ]
    with Sailor(voyages[0]) as one, Sailor(voyages[1]) as two:
        until(lambda: len(bookings(ledger)) > 60)
        ballast = fill_disk(small_disk)
        until(lambda: "runs wait for it" in one.log and "runs wait for it" in two.log)
        # Longer than a lease lasts: neither may take the other for dead.
        let_pass(2.5)
        ballast.unlink()
        one.finish()
        two.finish()
    assert "the disk is full; free some space" in one.log + two.log
    require_once(ledger)
    require_complete(store, ledger, {f"{voyage.name}-{n}" for voyage in voyages for n in range(12)})
    assert {record.recoveries for record in facts_of(store).values()} == {0}
