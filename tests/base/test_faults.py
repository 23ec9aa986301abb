from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from perdure.base.faults import CRASH_POINTS, arm, arm_from_environment, crash_point, disarm


def test_nothing_happens_unless_armed():
    for name in CRASH_POINTS:
        crash_point(name)


def test_the_nth_pass_of_the_armed_point_is_fatal_once():
    hits: list[str] = []
    arm("activity.after_run", 2, lambda: hits.append("hit"))
    crash_point("activity.after_run")
    crash_point("activity.before_run")
    assert hits == []
    for _ in range(3):
        crash_point("activity.after_run")
    assert hits == ["hit"]


def test_a_disarmed_point_is_harmless():
    arm("activity.after_run", action=lambda: pytest.fail("armed still"))
    disarm()
    crash_point("activity.after_run")


def test_an_unknown_point_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no crash point 'nowhere'; the points are: start\.before_commit, "):
        arm("nowhere")  # type: ignore[arg-type]


def test_the_environment_arms_a_point(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PERDURE_CRASH_AT", "nowhere:3")
    with pytest.raises(ValueError, match="no crash point 'nowhere'"):
        arm_from_environment()
    monkeypatch.delenv("PERDURE_CRASH_AT")
    arm_from_environment()


@pytest.mark.parametrize(("wanted", "heard"), [("start.before_commit", "1"), ("start.before_commit:3", "1 2 3")])
def test_a_process_dies_at_the_point_as_in_a_power_cut(wanted: str, heard: str):
    program = (
        "from perdure.base.faults import crash_point\n"
        "for n in range(1, 9):\n"
        "    print(n, flush=True)\n"
        "    crash_point('start.before_commit')\n"
    )
    environment = {**os.environ, "PERDURE_CRASH_AT": wanted}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == heard.split()
