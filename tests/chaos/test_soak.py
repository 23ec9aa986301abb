"""The soak: 200 agents at a time, killed at random moments, for minutes.

``make chaos`` runs ten minutes with at least 300 kills; CHAOS_SECONDS and CHAOS_KILLS change that.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.chaos.fleet import MODEL, sail
from tests.chaos.harness import Life, killed, read_records, runs_by_key
from tests.shapes import effects

from perdure.base.events import ExecutionCompleted, Status

AGENTS = 200


class Soak:
    """One store under fire, and the books that are kept on it."""

    def __init__(self, folder: Path, agents: int, seed: int) -> None:
        self.folder = folder
        self.agents = agents
        self.random = random.Random(seed)
        self.kills = 0
        self.finished = 0
        self.recorded: set[str] = set()

    def wave(self, number: int, seconds: float) -> None:
        """Run one wave of agents to its end, with deaths on the way; the books must balance after each."""
        store, log = self.folder / f"{number}.db", self.folder / f"{number}.log"
        end = time.monotonic() + seconds
        self.recorded.clear()
        while True:
            before = runs_by_key(log)
            life = Life(sail, store, log, number, self.agents)
            if time.monotonic() < end:
                time.sleep(self.random.uniform(0.2, 1.5))
                life.kill()
            code = life.end()
            assert code == 0 or killed(code), f"a process failed with exit code {code}"
            self.kills += killed(code)
            self.balance(store, log, before, life.accepted)
            if code == 0:
                break
        self.assert_finished(store, log)

    def balance(self, store: Path, log: Path, before: Counter[str], accepted: int) -> None:
        """Nothing that was recorded at the last death has run again; nothing accepted is gone."""
        after = runs_by_key(log)
        again = [key for key in self.recorded if after[key] != before[key]]
        assert not again, f"recorded activities ran again: {again[:5]}"
        if not store.exists():
            assert accepted == 0
            return
        records = read_records(store)
        assert len(records.histories) >= accepted, "an accepted run is lost"
        self.recorded = records.completed_keys

    def assert_finished(self, store: Path, log: Path) -> None:
        """Every agent has its answer; every model call and every payment is in the books once."""
        histories = read_records(store).histories
        assert len(histories) == self.agents
        for rows in histories.values():
            last = rows[-1].events[-1]
            assert isinstance(last, ExecutionCompleted)
            assert last.status is Status.COMPLETED
        ledger = Counter(log.with_suffix(".ledger").read_text().splitlines())
        assert max(ledger.values()) == 1, f"a payment was booked twice: {ledger.most_common(3)}"
        models = {key for _, key, name in effects(log) if name == MODEL}
        assert len(models) == self.agents * 7
        self.finished += len(histories)


def test_a_short_soak_loses_and_repeats_nothing(tmp_path: Path) -> None:
    soak = Soak(tmp_path, agents=40, seed=7)
    soak.wave(0, seconds=4)
    assert soak.kills >= 2


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_the_long_soak_loses_and_repeats_nothing(tmp_path: Path) -> None:
    seconds = float(os.environ.get("CHAOS_SECONDS", "600"))
    wanted = int(os.environ.get("CHAOS_KILLS", "300"))
    seed = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))
    soak = Soak(tmp_path, AGENTS, seed)
    begin = time.monotonic()
    wave = 0
    while time.monotonic() - begin < seconds or soak.kills < wanted:
        soak.wave(wave, seconds=25)
        wave += 1
        elapsed = time.monotonic() - begin
        sys.stderr.write(f"\r{elapsed:5.0f} s  seed {seed}  kills {soak.kills}  agents finished {soak.finished}  ")
    sys.stderr.write("\n")
    assert soak.kills >= wanted
