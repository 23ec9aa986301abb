"""A real process dies at every named crash point, for every shape; the next one finishes what it left."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.harness import Life, killed, live, read_records, runs_by_key
from tests.shapes import ALL, completions

from perdure.base.faults import CRASH_POINTS, CrashPoint

PASSES = {"store.in_transaction": (2, 4), "activity.after_run": (1, 2, 5), "episode.after_commit": (1, 3)}
"""At which pass of a point to die; the first pass of a store's transaction is the worker's own registration."""

NEEDS: dict[str, str] = {
    "signal.before_commit": "events",
    "signal.after_commit": "events",
}


@pytest.mark.parametrize("point", CRASH_POINTS)
@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_a_run_survives_a_death_at_every_point(point: CrashPoint, shape, tmp_path: Path) -> None:
    for passes in PASSES.get(point, (1,)):
        store, log = tmp_path / f"{passes}.db", tmp_path / f"{passes}.log"
        die_and_recover(store, log, [shape.name], point, passes)


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_all_shapes_at_once_survive_repeated_deaths_at_a_point(point: CrashPoint, tmp_path: Path) -> None:
    store, log = tmp_path / "all.db", tmp_path / "all.log"
    names = [shape.name for shape in ALL]
    deaths = 0
    for passes in (3, 11, 29, 40):
        code = one_life(store, log, names, point, passes)
        deaths += killed(code)
    assert one_life(store, log, names, None, 1) == 0
    assert_complete(store, names)
    assert deaths or point in {"claim.after_commit", "timer.before_fire", *NEEDS}, "no process died: a vacuous test"


def die_and_recover(store: Path, log: Path, names: list[str], point: CrashPoint, passes: int) -> None:
    one_life(store, log, names, point, passes)
    assert one_life(store, log, names, None, 1) == 0
    assert_complete(store, names)


def one_life(store: Path, log: Path, names: list[str], point: CrashPoint | None, passes: int) -> int:
    """Live once more on a store, and check that nothing recorded before ran again."""
    recorded = read_records(store).completed_keys if store.exists() else set()
    ran = runs_by_key(log)
    life = Life(live, store, log, names, point, passes)
    code = life.end()
    assert code == 0 or killed(code), f"the process failed with exit code {code}"
    again = runs_by_key(log)
    assert {key: again[key] for key in recorded} == {key: ran[key] for key in recorded}
    assert len(read_records(store).histories) >= life.accepted, "an accepted run is lost"
    return code


def assert_complete(store: Path, names: list[str]) -> None:
    histories = read_records(store).histories
    expected = {key: counts for shape in ALL if shape.name in names for key, counts in shape.expected_counts().items()}
    assert {name: completions(rows) for name, rows in histories.items()} == expected
