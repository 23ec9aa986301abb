"""Each benchmark runs at a small size and prints one line of JSON with the figures that it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

PROMISED = {
    "steps": {
        "sequential_p50_ms",
        "sequential_p99_ms",
        "raw_commit_p50_ms",
        "activities_per_s_200",
        "activities_per_s_2000",
        "raw_group_rows_per_s",
        "fanout_500_per_s",
        "first_thousand_p50_ms",
        "last_thousand_p50_ms",
    },
    "agents": {"runs_per_s", "runs_per_s_http", "run_p50_ms"},
    "idle": {"rss_bytes_each", "disk_bytes_each", "wake_p50_ms", "wake_p99_ms"},
    "queues": {
        "activities_per_s_free",
        "activities_per_s_with_room",
        "activities_per_s_in_line",
        "ten_alone_ms",
        "ten_behind_10000_ms",
        "raw_group_rows_per_s",
    },
    "recovery": {"recovery_s", "lost", "repeated"},
    "processes": {
        "activities_per_s_1",
        "activities_per_s_4",
        "wake_across_p50_ms",
        "wake_across_p99_ms",
        "start_across_p99_ms",
        "end_across_p99_ms",
    },
    "conversation": {"stored_over_conversation", "first_turn_ms", "last_turn_ms"},
    "fork": {"fork_at_end_ms", "fork_in_middle_ms"},
    "timers": {"all_fired_within_s", "late_p99_ms", "early"},
    "scale": {"list_ms", "list_by_attribute_ms", "wake_p50_ms", "wake_p99_ms", "start_p50_ms", "start_p99_ms"},
    # The packages and megabytes of a base install need a built wheel, which --quick leaves out.
    "start": {"import_ms", "cold_start_ms"},
}
FACTS = {"benchmark", "targets", "raw_limits", "durability", "versions", "machine"}


def test_every_benchmark_is_run_here() -> None:
    assert {file.stem for file in BENCHMARKS.glob("[a-z]*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_benchmark_prints_one_line_with_what_it_promises(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--store-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert PROMISED[name] | FACTS <= result.keys()
    assert result["benchmark"] == name
    assert result["durability"] == "sqlite WAL synchronous=FULL"
    assert result["versions"].keys() >= {"python", "sqlite", "perdure"}
    assert result["machine"].keys() >= {"cpu", "cores", "memory_gb"}
    assert result["raw_limits"]
    assert all(result[limit] > 0 for limit in result["raw_limits"])
    assert all({"figure", "target", "ratio", "met"} == set(target) for target in result["targets"])
    assert list(tmp_path.iterdir()) == [], "a database was left behind"
