"""A disk whose flushes fail: what was acknowledged is kept, what was recorded never runs again."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.harness import read_records
from tests.components.history.child import Child
from tests.misfortunes.faults import Faults
from tests.misfortunes.harness import Sailor, bookings, ended_in, require_complete, require_once, until
from tests.misfortunes.sailor import Voyage


def voyage_in(folder: Path, name: str = "run", **others: object) -> Voyage:
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    return Voyage(store=str(disk / "perdure.db"), ledger=str(folder / "ledger"), name=name, **others)  # type: ignore[arg-type]


def runs_of(*voyages: Voyage) -> set[str]:
    return {f"{voyage.name}-{n}" for voyage in voyages for n in range(voyage.errands)}


def test_runs_outlast_flushes_that_fail_for_a_while(faults: Faults, tmp_path: Path):
    voyage = voyage_in(tmp_path, errands=30)
    store, ledger = Path(voyage.store), Path(voyage.ledger)
    with Sailor(voyage, faults.environment()) as sailor:
        until(lambda: len(bookings(ledger)) > 40)
        faults.fail_flushes()
        until(lambda: faults.failed_flushes > 5)
        faults.heal()
        sailor.finish()
    assert sailor.log.count("the store refuses commits, runs wait for it") == 1
    assert "the disk failed; look into the system's log" in sailor.log
    assert "the store takes commits again" in sailor.log
    require_once(ledger)
    require_complete(store, ledger, runs_of(voyage))


def test_runs_outlast_a_disk_that_fails_now_and_then(faults: Faults, tmp_path: Path):
    voyage = voyage_in(tmp_path, errands=30)
    with Sailor(voyage, faults.environment()) as sailor:
        sailor.hear("open")
        faults.fail_flushes(odds=300)
        sailor.hear("finished")
        faults.heal()
        sailor.finish()
    assert faults.failed_flushes > 5
    require_once(Path(voyage.ledger))
    require_complete(Path(voyage.store), Path(voyage.ledger), runs_of(voyage))


def test_what_was_acknowledged_is_there_when_the_process_starts_again_on_a_mended_disk(faults: Faults, tmp_path: Path):
    voyage = voyage_in(tmp_path, errands=30)
    store, ledger = Path(voyage.store), Path(voyage.ledger)
    with Sailor(voyage, faults.environment()) as sailor:
        until(lambda: len(bookings(ledger)) > 40)
        faults.fail_flushes()
        until(lambda: faults.failed_flushes > 5)
    faults.heal()
    accepted, ended = set(sailor.told("accepted")), set(sailor.told("ended"))
    recorded, made = read_records(store), bookings(ledger)
    assert accepted <= set(recorded.histories)
    with Sailor(voyage) as again:
        again.finish()
    require_complete(store, ledger, runs_of(voyage))
    now = bookings(ledger)
    assert {key: now[key] for key in recorded.completed_keys} == {key: made[key] for key in recorded.completed_keys}
    assert ended <= set(again.told("ended"))


@pytest.mark.parametrize("restarts", [False, True], ids=["the process goes on", "the process is killed"])
def test_what_was_acknowledged_after_a_failed_flush_survives_a_power_cut(
    faults: Faults, tmp_path: Path, restarts: bool
):
    first, second = (
        voyage_in(tmp_path, name, errands=10, pace=pace, lease_seconds=0.5)
        for name, pace in (("first", 0.01), ("second", 0.03))
    )
    image = tmp_path / "image"
    image.mkdir()
    with Sailor(first, faults.environment(image)) as sailor:
        until(lambda: len(bookings(Path(first.ledger))) > 20)
        faults.fail_flushes()
        until(lambda: faults.failed_flushes > 2)
        if restarts:
            sailor.kill()
        faults.heal()
        if not restarts:
            sailor.finish()
    with Sailor(second, faults.environment(image)) as later:
        later.hear("ended", 3)
    acknowledged = {word: set(sailor.told(word)) | set(later.told(word)) for word in ("accepted", "ended")}
    assert len(acknowledged["accepted"]) >= 15

    # The power cut: what the memory held is gone, the disk's own content is all there is.
    shutil.rmtree(Path(first.store).parent)
    image.rename(Path(first.store).parent)
    records = read_records(Path(first.store))
    assert acknowledged["accepted"] <= set(records.histories)
    assert acknowledged["ended"] <= ended_in(records)
    with Sailor(first) as one, Sailor(second) as two:
        one.finish()
        two.finish()
    assert set(read_records(Path(first.store)).histories) == runs_of(first, second)


def damage_index(store: Path) -> None:
    """Leave the log's index as a process does that dies while it writes there; the next one reads the whole log."""
    with Path(f"{store}-shm").open("r+b") as index:
        index.write(b"\xff" * 48)


def renewals(store: Path) -> int:
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT renewals FROM worker").fetchone()[0])


def test_an_episode_whose_failed_commit_was_kept_is_known_again_as_ones_own(faults: Faults, tmp_path: Path):
    store = tmp_path / "perdure.db"
    with Child("own", store, environment=faults.environment()) as child:
        assert child.hear() == "owning"
        until(lambda: renewals(store))  # the next one is far away: nothing but the episode is committed
        faults.fail_flushes()
        child.tell()
        assert child.hear() == "StoreUnavailableError"
        faults.heal()
        damage_index(store)
        child.tell()
        assert child.hear() == "accepted"
        child.tell()
        assert child.hear() == "StaleLeaseError", "no longer in doubt, and there already"
    assert len(read_records(store).histories["owned"]) == 2


def test_a_process_that_ends_on_a_failed_disk_is_known_to_be_gone_at_once(faults: Faults, tmp_path: Path):
    # Neither its farewell nor its lease can be written, and the lease would last for an hour.
    voyage = voyage_in(tmp_path, errands=5, pace=0.1, lease_seconds=3600.0)
    with Sailor(voyage, faults.environment()) as sailor:
        sailor.hear("accepted", 5)
        faults.fail_flushes()
        until(lambda: faults.failed_flushes > 1)
        sailor.process.send_signal(signal.SIGINT)
        sailor.end()
    faults.heal()
    with Sailor(voyage) as again:
        again.finish()
    require_complete(Path(voyage.store), Path(voyage.ledger), runs_of(voyage))
    assert not list(Path(voyage.store).parent.glob("*-worker-*"))
