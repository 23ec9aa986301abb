"""Several processes over one store: do four lose throughput against one, and how soon does one hear of another?

Throughput: a client puts the instances into the store, then one worker process, or four, take them up and run them to
their ends. Waking: a client without worker raises an event, or starts an instance, and the activity begins in the
worker process; the run ends there, and the client's ``wait`` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    mean_row_bytes,
    median_ms,
    options,
    parted,
    percentile,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext
from perdure.workflows.registry import Registry

STEPS_EACH = 10
PATIENCE = 120
PAUSE = 0.02
"""Seconds between two measured wake-ups, so that each finds the processes asleep."""


executed: Counter[str] = Counter()
"""How often this process has executed which activity."""


async def step(number: int) -> int:
    executed["step"] += 1
    return number + 1


async def stamp(number: int) -> float:  # noqa: ARG001 - what it returns is the time
    return time.monotonic()


async def late_stamp(number: int) -> float:  # noqa: ARG001 - as above
    # By now whoever waits for the run's end is at rest, too.
    await asyncio.sleep(PAUSE)
    return time.monotonic()


async def ten_steps(ctx: WorkflowContext, first: int) -> int:
    number = first
    for _ in range(STEPS_EACH):
        number = await ctx.call_activity(step, input=number)
    return number


async def on_each_event(ctx: WorkflowContext, count: int) -> list[float]:
    stamps: list[float] = []
    for number in range(count):
        await ctx.wait_for_external_event("wake up")
        stamps.append(await ctx.call_activity(stamp, input=number))
    return stamps


async def two_stamps(ctx: WorkflowContext, number: int) -> list[float]:
    first: float = await ctx.call_activity(stamp, input=number)
    last: float = await ctx.call_activity(late_stamp, input=number)
    return [first, last]


# -- the worker processes


async def work(database: Path) -> None:
    """Know no workflow until told so, then execute what there is, until told to stop."""
    registry = Registry()
    async with EmbeddedRuntime(SQLiteHistoryStore(database), registry=registry) as runtime:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for function in (ten_steps, on_each_event, two_stamps):
            registry.add_workflow(function)
        runtime.look_for_work()
        await asyncio.to_thread(sys.stdin.readline)
    print(executed["step"], flush=True)


class Workers:
    """Worker processes over one database, which begin at the same time."""

    def __init__(self, database: Path, count: int, chosen: Options) -> None:
        command = [sys.executable, __file__, "--worker", str(database), *(["--uvloop"] if chosen.uvloop else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes: list[subprocess.Popen[str]] = [subprocess.Popen(command, **pipes) for _ in range(count)]
        for process in self._processes:
            _said(process)

    def tell(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def end(self) -> list[int]:
        """Stop them; return how many activities each has executed."""
        self.tell()
        return [int(_said(process)) for process in self._processes]

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"a worker process ended early with status {process.wait()}"
    return line


@contextlib.contextmanager
def workers(database: Path, count: int, chosen: Options) -> Iterator[Workers]:
    group = Workers(database, count, chosen)
    try:
        yield group
    finally:
        group.kill()


# -- throughput


async def put(database: Path, instances: int) -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore(database), registry=Registry(), worker=False) as runtime:
        await asyncio.gather(*(runtime.start("ten_steps", number) for number in range(instances)))


def until_all_ended(database: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(database)) as connection:
        while connection.execute("SELECT EXISTS (SELECT 1 FROM instance WHERE status = 'RUNNING')").fetchone()[0]:
            assert time.monotonic() < give_up_at, "the instances did not end in time"
            time.sleep(0.005)


def throughput(folder: Path, processes: int, instances: int, chosen: Options) -> tuple[float, float]:
    """Return activities per second, and which part of them the busiest process executed."""
    folder.mkdir()
    database = folder / "perdure.db"
    run(put(database, instances), chosen)
    with workers(database, processes, chosen) as group:
        begun = time.perf_counter()
        group.tell()
        until_all_ended(database)
        taken = time.perf_counter() - begun
        each = group.end()
    assert sum(each) == instances * STEPS_EACH, each
    return sum(each) / taken, max(each) / sum(each)


def measure_throughput(chosen: Options, phases: Phases, figures: Repeated) -> None:
    instances, repetitions = chosen.size(4_000, 40), chosen.size(5, 1)
    advance = phases.begin(f"{instances} instances in one process, and in four", repetitions)
    for number in range(repetitions):
        one, _ = throughput(chosen.folder / f"one-{number}", 1, instances, chosen)
        four, busiest = throughput(chosen.folder / f"four-{number}", 4, instances, chosen)
        folder = chosen.folder / f"one-{number}"
        raw = RawSqlite(folder, mean_row_bytes(folder / "perdure.db"))
        figures.add(
            activities_per_s_1=one,
            activities_per_s_4=four,
            busiest_of_4=busiest,
            raw_group_rows_per_s=raw.group_rate(chosen.size(20_000, 1_000)),
            raw_commit_p50_ms=median_ms(raw.commits(chosen.size(500, 50))),
        )
        raw.close()
        advance()


# -- waking


async def wake(runtime: EmbeddedRuntime, count: int) -> list[float]:
    """Return the seconds from each event to the beginning of the activity that it leads to."""
    instance_id = await runtime.start("on_each_event", count)
    sent: list[float] = []
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        sent.append(time.monotonic())
        await runtime.raise_event(instance_id, "wake up")
    begun = await runtime.wait(instance_id, PATIENCE)
    return [after - before for before, after in zip(sent, begun, strict=True)]


async def start_and_wait(runtime: EmbeddedRuntime, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds from a start to its first activity, and from the last activity to the return of ``wait``."""
    starts: list[float] = []
    ends: list[float] = []
    for number in range(count):
        await asyncio.sleep(PAUSE)
        before = time.monotonic()
        first, last = await runtime.wait(await runtime.start("two_stamps", number), PATIENCE)
        ends.append(time.monotonic() - last)
        starts.append(first - before)
    return starts, ends


async def measure_waking(database: Path, chosen: Options, phases: Phases, figures: Repeated) -> None:
    count, repetitions = chosen.size(200, 20), chosen.size(5, 1)
    advance = phases.begin("waking another process", repetitions)
    async with EmbeddedRuntime(SQLiteHistoryStore(database), registry=Registry(), worker=False) as runtime:
        for _ in range(repetitions):
            events = await wake(runtime, count)
            starts, ends = await start_and_wait(runtime, count)
            for name, seconds in {"wake": events, "start": starts, "end": ends}.items():
                figures.add(
                    **{
                        f"{name}_across_p50_ms": median_ms(seconds),
                        f"{name}_across_p99_ms": percentile(seconds, 99) * 1000,
                    }
                )
            advance()


def measure(chosen: Options, phases: Phases) -> Repeated:
    figures = Repeated()
    measure_throughput(chosen, phases, figures)
    folder = chosen.folder / "waking"
    folder.mkdir()
    database = folder / "perdure.db"
    with workers(database, 1, chosen) as group:
        group.tell()
        run(measure_waking(database, chosen, phases, figures), chosen)
    return figures


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            measured = measure(chosen, phases)
        found, raw = parted(measured.medians())
        more = {"busiest_of_4": found.pop("busiest_of_4")}
        targets = [
            Target("activities_per_s_4", found["activities_per_s_1"], "activities_per_s_1", at_least=True),
            *(Target(f"{name}_across_p99_ms", 10, "10") for name in ("wake", "start", "end")),
        ]
        report("processes", chosen, found, raw=raw, targets=targets, spread=measured.spread(), more=more)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        run(
            work(Path(sys.argv[2])),
            Options(quick=False, folder=Path(sys.argv[2]).parent, uvloop="--uvloop" in sys.argv),
        )
    else:
        main()
