"""What a person is told who asks why nothing moves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.components.history.child import Child
from tests.disks import fill_disk, mounted_disk
from tests.misfortunes.faults import Faults
from tests.misfortunes.harness import Sailor
from tests.misfortunes.sailor import Voyage

from perdure.cli.formats import duration


def perdure(*arguments: str | Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "perdure.cli.main", *map(str, arguments)]
    given = {"env": {**environment, "COLUMNS": "200"}, "capture_output": True, "text": True}
    return subprocess.run(command, **given, timeout=30, check=False)  # type: ignore[call-overload,no-any-return]


def doctor(store: Path, environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    report = perdure("doctor", "--store", store, "--json", environment=environment)
    assert not report.stderr
    return report.returncode, {check["name"]: check for check in msgspec.json.decode(report.stdout)}


@pytest.mark.parametrize(
    ("fault", "finding", "remedy"),
    [
        ("flush", "the disk failed", "look into the system's log"),
        (errno.EIO, "the disk failed", "look into the system's log"),
        (errno.ENOSPC, "the disk is full", "free some space"),
    ],
)
def test_the_doctor_says_what_is_wrong_with_a_disk(
    faults: Faults, tmp_path: Path, fault: str | int, finding: str, remedy: str
):
    faults.strike(tmp_path.name)
    voyage = Voyage(store=str(tmp_path / "perdure.db"), ledger=str(tmp_path / "ledger"), name="run", errands=3, pace=9)
    with Sailor(voyage, faults.environment()) as sailor:
        sailor.hear("accepted", 3)
        if isinstance(fault, int):
            faults.fail_writes(fault)
        else:
            faults.fail_flushes()
        code, checks = doctor(Path(voyage.store), faults.environment())
        assert code == 1
        assert checks["commit"]["verdict"] == "fail"
        assert finding in checks["commit"]["finding"]
        assert remedy in checks["commit"]["remedy"]
        assert (
            "Traceback" not in perdure("runs", "list", "--store", voyage.store, environment=faults.environment()).stderr
        )
        faults.heal()
        code, checks = doctor(Path(voyage.store), faults.environment())
        assert code == 0
        assert {checks[name]["verdict"] for name in ("commit", "store", "log", "write lock")} == {"ok"}


def test_the_doctor_names_who_keeps_the_store_locked(tmp_path: Path):
    store = tmp_path / "perdure.db"
    with Sailor(Voyage(store=str(store), ledger=str(tmp_path / "ledger"), name="run", stays=True)) as sailor:
        sailor.hear("finished")
        with Child("lock", store) as locker:
            assert locker.hear() == "locked"
            code, checks = doctor(store, os.environ)
            assert code == 0
            assert checks["write lock"]["verdict"] == "warn"
            if Path("/proc/locks").exists():
                assert f"process {locker.process.pid} has kept the store locked" in checks["write lock"]["finding"]


def test_the_doctor_warns_of_a_log_that_cannot_be_emptied(tmp_path: Path):
    store = tmp_path / "perdure.db"
    with Sailor(Voyage(store=str(store), ledger=str(tmp_path / "ledger"), name="run", stays=True)) as sailor:
        sailor.hear("finished")
        os.truncate(f"{store}-wal", 200_000_000)
        _, checks = doctor(store, os.environ)
        assert checks["log"]["verdict"] == "warn"
        assert "200.0 MB" in checks["log"]["finding"]


def test_a_command_on_a_full_disk_says_so_in_one_line(tmp_path: Path):
    with mounted_disk(tmp_path / "small") as disk:
        store = disk / "perdure.db"
        with Sailor(Voyage(store=str(store), ledger=str(tmp_path / "ledger"), name="run", errands=1)) as sailor:
            sailor.finish()
        fill_disk(disk)
        told = perdure("runs", "list", "--store", store, environment=os.environ)
        assert told.returncode == 1
        assert told.stderr.startswith(f"error: {store}: the disk is full; free some space")
        assert told.stderr.count("\n") == 1


def test_a_span_over_which_the_clock_went_back_is_shown_as_none():
    assert duration(-3600.0) == "0 ms"
