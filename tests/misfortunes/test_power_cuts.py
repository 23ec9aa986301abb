"""Power cuts on a disk that fails in some flushes and forgets what it failed to write, life after life."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.harness import Records, read_records
from tests.misfortunes.faults import ALWAYS, Faults
from tests.misfortunes.harness import Sailor, ended_in, let_pass
from tests.misfortunes.sailor import Voyage


class Disk:
    """A store under a process, and what the disk has of it; the promises that were made meanwhile."""

    def __init__(self, folder: Path, faults: Faults, seed: int) -> None:
        self.cuts = 0
        self._folder = folder
        self._faults = faults
        self._random = random.Random(seed)
        self._lives = 0
        self._accepted: set[str] = set()
        self._ended: set[str] = set()
        self._memory, self._image = folder / "memory", folder / "image"
        for place in (self._memory, self._image):
            place.mkdir(parents=True)

    @property
    def store(self) -> Path:
        return self._memory / "perdure.db"

    def live(self) -> None:
        """Let one process work for a moment, on a disk that begins to fail, and kill it."""
        self._lives += 1
        voyage = Voyage(
            store=str(self.store),
            ledger=str(self._folder / "ledger"),
            name=f"life-{self._lives}",
            errands=60,
            bulk=5_000,
            pace=0.03,
            lease_seconds=0.3,
        )
        with Sailor(voyage, self._faults.environment(self._image)) as sailor:
            let_pass(self._random.uniform(0.3, 0.8))
            self._faults.fail_flushes(self._random.choice([50, 200, 600, ALWAYS]))
            let_pass(self._random.uniform(0.1, 0.8))
            if self._random.random() < 0.5:
                self._faults.heal()
                let_pass(self._random.uniform(0.0, 0.8))
        self._faults.heal()
        self._accepted.update(sailor.told("accepted"))
        self._ended.update(sailor.told("ended"))

    def cut_power(self) -> None:
        """Forget what was in memory only; the file must be whole, and all promises kept."""
        self.cuts += 1
        shutil.rmtree(self._memory)
        for flags in self._image.glob("*.unflushed"):
            flags.unlink()
        records = self._look()
        assert self._accepted <= set(records.histories)
        assert self._ended <= ended_in(records)
        shutil.copytree(self._image, self._memory)

    def _look(self) -> Records:
        # At a copy: whoever opens the file changes it.
        copy = self._folder / "copy"
        shutil.copytree(self._image, copy)
        try:
            with closing(sqlite3.connect(copy / "perdure.db")) as connection:
                assert connection.execute("PRAGMA integrity_check(3)").fetchall() == [("ok",)]
            return read_records(copy / "perdure.db")
        finally:
            shutil.rmtree(copy)


def test_promises_outlast_power_cuts_on_a_disk_that_fails(faults: Faults, tmp_path: Path):
    disk = Disk(tmp_path / "disk", faults, seed=5)
    for _ in range(3):
        disk.live()
        disk.live()
        disk.cut_power()
    assert faults.failed_flushes > 3


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_promises_outlast_power_cuts_for_minutes(faults: Faults, tmp_path: Path):
    seed = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))
    end = time.monotonic() + float(os.environ.get("CHAOS_SECONDS", "600"))
    rounds = cuts = 0
    while time.monotonic() < end:
        disk = Disk(tmp_path / str(rounds), faults, seed + rounds)
        for life in range(6):
            disk.live()
            if life % 2 or rounds % 2:
                disk.cut_power()
        rounds, cuts = rounds + 1, cuts + disk.cuts
    print(f"seed {seed}  power cuts {cuts}  failed flushes {faults.failed_flushes}")
    assert faults.failed_flushes > cuts
