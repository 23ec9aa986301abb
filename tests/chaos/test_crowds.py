"""Real processes, some of them killed, respect the limits of workflows and activities together."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.crowd import CALLS, CALLS_EACH, RUNS, come, crowds
from tests.chaos.harness import Life, killed

SIZE = 25


def inside(store: Path) -> list[tuple[int, int]]:
    """Return how many are in and how many wait, by the books of the store."""
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT running, waiting FROM queue").fetchall()


def test_processes_respect_the_limits_together_and_use_them(tmp_path: Path) -> None:
    store, log = tmp_path / "crowd.db", tmp_path / "log"
    lives = [Life(come, store, log, number * SIZE, SIZE) for number in range(3)]
    assert [life.end() for life in lives] == [0, 0, 0]
    assert crowds(log.read_text().splitlines()) == (RUNS, CALLS, CALLS_EACH)
    assert inside(store) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_loses_no_place_and_lets_nobody_in_too_early(seed: int, tmp_path: Path) -> None:
    store, log = tmp_path / "crowd.db", tmp_path / "log"
    chance = random.Random(seed)
    patient = Life(come, store, log, 0, SIZE)
    deaths = 0
    while True:
        life = Life(come, store, log, SIZE, SIZE)
        if deaths < 3:
            time.sleep(chance.uniform(0.03, 0.2))
            life.kill()
        code = life.end()
        deaths += killed(code)
        if code == 0:
            break
    assert patient.end() == 0
    assert deaths, "no process died: a vacuous test"
    most = crowds(log.read_text().splitlines())
    assert all(found <= limit for found, limit in zip(most, (RUNS, CALLS, CALLS_EACH), strict=True)), most
    assert inside(store) == [(0, 0), (0, 0)]
