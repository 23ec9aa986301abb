"""The soak: four processes of one app share a store, and are killed and stopped at random moments, for minutes.

``make chaos`` runs ten minutes with at least 300 kills and 60 stops; CHAOS_SECONDS, CHAOS_KILLS, CHAOS_STOPS and
CHAOS_SEED change that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tests.chaos.storm import Tally, Wave

AGENTS = 200
WAVE_SECONDS = 40


def test_a_short_soak_loses_and_repeats_nothing(tmp_path: Path) -> None:
    tally = Tally()
    wave = Wave(tmp_path, agents=AGENTS, first_life=0, tally=tally, chance=random.Random(7))
    asyncio.run(wave.run(10, lambda: tally.kills >= 5 and tally.rejoined >= 1 and tally.refused >= 1))
    assert tally.finished >= AGENTS


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_the_long_soak_loses_and_repeats_nothing(tmp_path: Path) -> None:
    seconds = float(os.environ.get("CHAOS_SECONDS", "600"))
    kills, stops = int(os.environ.get("CHAOS_KILLS", "300")), int(os.environ.get("CHAOS_STOPS", "60"))
    chance = random.Random(int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000))))
    tally, begin, first_life = Tally(), time.monotonic(), 0
    with progress(tally, seconds) as note_elapsed:
        while (elapsed := time.monotonic() - begin) < seconds or tally.kills < kills or tally.stops < stops:
            note_elapsed(elapsed)
            folder = tmp_path / str(first_life)
            wave = Wave(folder, agents=AGENTS, first_life=first_life, tally=tally, chance=chance)
            asyncio.run(wave.run(WAVE_SECONDS, lambda: True))
            first_life = wave.next_life
            shutil.rmtree(folder)
    assert tally.kills >= kills
    assert tally.stops >= stops
    assert tally.rejoined
    assert tally.refused


@contextlib.contextmanager
def progress(tally: Tally, seconds: float) -> Iterator[Callable[[float], None]]:
    """Show on stderr what has happened so far, and, as far as that is told, how long the soak has gone on."""
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[tally]}"))
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as shown:
        # The tally is written out anew at each refresh, so that it moves within a wave, too.
        task = shown.add_task("soak", total=seconds, tally=tally)
        yield lambda elapsed: shown.update(task, completed=elapsed)
        # As a line of its own it is not cut where the terminal is narrow.
        shown.console.print(str(tally))
