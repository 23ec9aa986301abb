"""What all benchmarks share: options, facts about the machine, the raw limits of SQLite, one line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import perdure
from perdure import EmbeddedRuntime, SQLiteHistoryStore

T = TypeVar("T")

DURABILITY = "sqlite WAL synchronous=FULL"
_IN_MEMORY = {"tmpfs", "ramfs"}

_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "temp_store = MEMORY",
    "cache_size = -16000",
    "wal_autocheckpoint = 1000",
    "journal_size_limit = 67108864",
)
_COMMITS_TO_FULL_LOG = 1_200


# -- options


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        quick: small sizes, to see that the benchmark works; its figures mean nothing.
        folder: where databases are put.
        uvloop: whether to run on uvloop instead of asyncio's own loop.
    """

    quick: bool
    folder: Path
    uvloop: bool = False

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@contextlib.contextmanager
def options(description: str | None) -> Iterator[Options]:
    """Read the command line; the folder it names, or a temporary one, holds this run's databases until the end."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--store-dir", type=Path, help="where databases are put, on a real disk")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop (an extra) instead of asyncio's own loop")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="perdure-bench-", dir=given.store_dir or _default_folder()))
    try:
        yield Options(given.quick, folder, given.uvloop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _default_folder() -> Path:
    # A flush to memory costs nothing, and would make every figure a lie.
    temporary = Path(tempfile.gettempdir())
    return Path.home() if _filesystem(temporary) in _IN_MEMORY else temporary


def run(work: Coroutine[Any, Any, T], chosen: Options) -> T:
    """Run a coroutine on the chosen loop."""
    with asyncio.Runner(loop_factory=_uvloop if chosen.uvloop else None) as runner:
        return runner.run(work)


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - an extra

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


# -- figures


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


class Repeated:
    """A figure measured several times: its median is reported, and its spread beside it."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self._values.items()}

    def total(self, name: str) -> float:
        return sum(self._values[name])

    def spread(self) -> dict[str, list[float]]:
        return {name: [rounded(min(values)), rounded(max(values))] for name, values in self._values.items()}


def parted(medians: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the figures, and the raw limits that were measured with them."""
    raw = {name: value for name, value in medians.items() if name.startswith("raw_")}
    return {name: value for name, value in medians.items() if name not in raw}, raw


@dataclass(frozen=True)
class Target:
    """What a figure has to reach.

    Attributes:
        figure: its key.
        bound: the limit.
        says: the limit in words.
        at_least: whether higher is better.
    """

    figure: str
    bound: float
    says: str
    at_least: bool = False


def rounded(value: float) -> float:
    """Return four significant digits; whole numbers from a thousand."""
    if not math.isfinite(value) or value == 0:
        return 0
    digits = 3 - math.floor(math.log10(abs(value)))
    return round(value, digits) if digits > 0 else round(value)


def _judged(targets: Sequence[Target], figures: dict[str, float]) -> list[dict[str, Any]]:
    judged: list[dict[str, Any]] = []
    for target in targets:
        value = figures[target.figure]
        ratio = value / target.bound if target.bound else float(value > 0)
        met = value >= target.bound if target.at_least else value <= target.bound
        sign = ">=" if target.at_least else "<="
        entry = {"figure": target.figure, "target": f"{sign} {target.says}", "ratio": rounded(ratio), "met": met}
        judged.append(entry)
    return judged


def report(
    benchmark: str,
    chosen: Options,
    figures: dict[str, float],
    *,
    raw: dict[str, float],
    targets: Sequence[Target] = (),
    spread: dict[str, list[float]] | None = None,
    more: dict[str, Any] | None = None,
) -> None:
    """Print the result as one line of JSON.

    Args:
        benchmark: its name.
        chosen: the options it ran with.
        figures: what it measured.
        raw: the limits of the machine measured in the same run.
        targets: what the figures are held against; ``ratio`` is figure over target.
        spread: lowest and highest of the repetitions.
        more: whatever else explains the figures.
    """
    line = {
        "benchmark": benchmark,
        **{name: rounded(value) for name, value in figures.items()},
        **{name: rounded(value) for name, value in raw.items()},
        "raw_limits": sorted(raw),
        "targets": _judged(targets, figures),
        "spread": spread or {},
        "more": {name: rounded(value) if isinstance(value, float) else value for name, value in (more or {}).items()},
        "quick": chosen.quick,
        "durability": DURABILITY,
        "versions": _versions(chosen),
        "machine": _machine(chosen.folder),
    }
    print(json.dumps(line))


Section = Callable[[EmbeddedRuntime, Options, "Phases", Repeated], Coroutine[Any, Any, None]]


async def measure_sections(chosen: Options, phases: Phases, *sections: Section) -> Repeated:
    """Run each section over a store of its own."""
    figures = Repeated()
    for section in sections:
        folder = chosen.folder / section.__name__
        folder.mkdir()
        inside = Options(chosen.quick, folder, chosen.uvloop)
        async with EmbeddedRuntime(SQLiteHistoryStore(folder / "perdure.db")) as runtime:
            await section(runtime, inside, phases, figures)
    return figures


# -- facts


def _versions(chosen: Options) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "perdure": perdure.__version__,
        "loop": f"uvloop {version('uvloop')}" if chosen.uvloop else "asyncio",
    }


def _machine(folder: Path) -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "filesystem": _filesystem(folder),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _filesystem(folder: Path) -> str:
    where, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, found, *_ = line.split()
            if folder.resolve().is_relative_to(mount) and len(mount) >= len(where):
                where, kind = mount, found
    return kind


def rss_bytes() -> int:
    """Return the memory that this process has resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def checkpointed_bytes(database: Path) -> int:
    """Return the size of a database with its log, once everything in the log has reached the database file."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return sum(file.stat().st_size for file in database.parent.glob(f"{database.name}*"))


async def all_waiting(database: Path, count: int, patience: float) -> None:
    """Wait until that many instances belong to nobody and wait for a signal."""
    statement = "SELECT count(*) FROM instance WHERE owner IS NULL AND waits IS NOT NULL AND due IS NULL"
    end = time.monotonic() + patience
    with contextlib.closing(sqlite3.connect(database)) as connection:
        while connection.execute(statement).fetchone()[0] < count:
            assert time.monotonic() < end, f"not all of {count} instances came to wait"
            await asyncio.sleep(0.1)


# -- the raw limits


class RawSqlite:
    """A database of its own beside the measured one, with the store's settings: what SQLite itself can do here.

    Its one table has an integer primary key and a text of the size of the measured rows, and no index.
    """

    def __init__(self, folder: Path, row_bytes: int) -> None:
        self._row = "x" * row_bytes
        self._connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
        for pragma in _PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE raw (key INTEGER PRIMARY KEY, events TEXT NOT NULL)")
        # The store gives its log the full size in advance, which makes each flush cheaper; so is it here.
        self.commits(_COMMITS_TO_FULL_LOG)

    def commits(self, count: int) -> list[float]:
        """Return the seconds that each of some transactions of one row took."""
        taken: list[float] = []
        for _ in range(count):
            begun = time.perf_counter()
            self._connection.execute("INSERT INTO raw (events) VALUES (?)", (self._row,))
            taken.append(time.perf_counter() - begun)
        return taken

    def group_rate(self, rows: int) -> float:
        """Return the rows per second in transactions of 100 rows."""
        group = [(self._row,)] * 100
        begun = time.perf_counter()
        for _ in range(max(1, rows // 100)):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO raw (events) VALUES (?)", group)
            self._connection.execute("COMMIT")
        return max(1, rows // 100) * 100 / (time.perf_counter() - begun)

    def close(self) -> None:
        self._connection.close()


def mean_row_bytes(database: Path) -> int:
    """Return the mean size of the history rows in a store."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        mean: float | None = connection.execute("SELECT avg(length(CAST(events AS BLOB))) FROM history").fetchone()[0]
    if mean is None:
        raise SystemExit(f"{database} has no history yet: the size of its rows is known after the first runs")
    return round(mean)


def history_rows(database: Path) -> int:
    """Return how many rows, each of them a commit, the history of the instance that finished last has."""
    last = "SELECT key FROM instance WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM history WHERE instance = ({last})").fetchone()[0]
    return count


# -- progress


class Phases:
    """A progress bar on stderr; plain lines where that is no terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def begin(self, what: str, total: int) -> Callable[..., None]:
        """Show what is under way; return what to call as it advances."""
        self._bar.reset(self._task, total=total, description=what)
        if self._bar.disable:
            print(what, file=sys.stderr, flush=True)

        def advance(count: int = 1) -> None:
            self._bar.advance(self._task, count)

        return advance


@contextlib.contextmanager
def progress() -> Iterator[Phases]:
    """Show progress on stderr, redrawn so rarely that it does not show in what is measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, refresh_per_second=2, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        yield Phases(bar)
