"""Every pattern runs as its page says, and once more: the second time it finds what the first one recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PATTERNS = Path(__file__).resolve().parents[2] / "examples" / "patterns"

SAYS = {
    "approval": "paid 250",
    "chaining": "planned: Expand this outline into a plan: planned: Outline three days in Paris.",
    "evaluator_optimizer": "{'text': 'a mended text', 'iterations': 2}",
    "monitor": "payments is down",
    "orchestrator_workers": "done: Sum up: ['done: Carry this out: flights', 'done: Carry this out: rooms']",
    "parallelization": "You plan travels. Recommend sights for Rome. You plan travels. Recommend hotels for Rome. ",
    "routing": "answer: You know every hotel. Where shall we sleep?",
    "saga": "['flight booked', 'hotel booked', 'no cars left', 'hotel cancelled', 'flight cancelled']",
}


def test_every_pattern_is_tested() -> None:
    assert sorted(SAYS) == sorted(path.stem for path in PATTERNS.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", sorted(SAYS))
def test_a_pattern_says_the_same_when_it_is_run_again(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PERDURE_MODEL"}
    command = [sys.executable, str(PATTERNS / f"{name}.py")]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().startswith(SAYS[name].strip())
