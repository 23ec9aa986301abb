from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.simulation.__main__ import main
from tests.simulation.simulation import Outcome, Parts, simulate
from tests.simulation.test_mutations import Hasty

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 2_000
PIECE = 400
FAILING = Parts(connection=Hasty)

SITUATIONS = (
    "crashes",
    "stands still",
    "goes on",
    "lease 1 has ended",
    "is asked to leave",
    "has left",
    "its clock is",
    "is refused everything",
    "-> StaleLeaseError",
    "-> StoreFullError",
    "created=False",
    "-> TERMINATED",
    "perdure.asked",
    "perdure.cancelled",
    "ExecutionSuspended",
    "ExecutionResumed",
    "SubOrchestrationInstanceCompleted",
    '"generation":2',
    "perdure.answered",
    "perdure.not_started",
    '"retry_of"',
    "attempt 3",
    "$text",
    "$conversation",
    "has its answer to Clash",
    "has its answer to Wait",
)
"""Texts of traces: if one of these is missing, the seeds do not try what they are for."""


def _assert_sound(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.violations]
    assert not failed, "\n\n".join(str(outcome) for outcome in failed[:5])


@pytest.mark.parametrize("first", range(0, SEEDS, PIECE))
def test_the_engine_keeps_its_promises_whatever_a_seed_makes_happen(first: int) -> None:
    _assert_sound([simulate(seed) for seed in range(first, first + PIECE)])


def test_the_seeds_meet_every_kind_of_misfortune() -> None:
    met: Counter[str] = Counter()
    for seed in range(200):
        text = "\n".join(simulate(seed, tracing=True).trace)
        met.update(situation for situation in SITUATIONS if situation in text)
    assert [situation for situation in SITUATIONS if not met[situation]] == []


def test_a_seed_gives_the_same_run_every_time_and_another_seed_another_one() -> None:
    traces = [simulate(seed, tracing=True).trace for seed in (11, 12, 11)]
    assert traces[0] == traces[2]
    assert traces[0] != traces[1]


def test_a_seed_that_fails_fails_alike_when_it_is_traced() -> None:
    failed = next(outcome for outcome in (simulate(seed, parts=FAILING) for seed in range(50)) if outcome.violations)
    again = simulate(failed.seed, parts=FAILING, tracing=True)
    assert (again.violations, again.callbacks, again.seconds) == (failed.violations, failed.callbacks, failed.seconds)
    assert "ORACLE" in "".join(again.trace)


def test_what_fails_is_told_with_the_command_that_repeats_it() -> None:
    told = str(Outcome(1234, ["at 3.0: p0 ended twice"]))
    assert "p0 ended twice" in told
    assert "python -m tests.simulation --seed 1234 --trace" in told


def test_runs_do_not_depend_on_the_order_of_hashes() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "0:120", "--digest"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    children = [
        subprocess.Popen(command, cwd=ROOT, env={**environment, "PYTHONHASHSEED": number}, stdout=subprocess.PIPE)
        for number in ("1", "2")
    ]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1]
    assert b"digest" in said[0]


def test_the_command_runs_seeds_and_one_seed_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5:8"]) == 0
    assert capsys.readouterr().out == "3 seeds, 0 failed\n"
    assert main(["--seed", "5", "--trace"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == simulate(5, tracing=True).trace
    assert lines[-1].startswith("seed 5: ")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_the_long_simulation_keeps_its_promises() -> None:
    """Run new seeds for minutes; SIMULATION_SECONDS and SIMULATION_SEED change how long and from where."""
    seconds = float(os.environ.get("SIMULATION_SECONDS", "300"))
    first = int(os.environ.get("SIMULATION_SEED", str(time.time_ns() % 1_000_000_000)))
    end = time.monotonic() + seconds
    seed = first
    while time.monotonic() < end:
        _assert_sound([simulate(number) for number in range(seed, seed + 100)])
        seed += 100
        sys.stderr.write(f"\r{seed - first} seeds from {first}, none failed  ")
    sys.stderr.write("\n")
