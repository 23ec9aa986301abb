"""Forking an instance of ten thousand events: how long until the fork is durable."""

from __future__ import annotations

import statistics
import time

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    mean_row_bytes,
    options,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext
from perdure.workflows.decorators import activity, workflow


@activity
async def step(number: int) -> int:
    return number + 1


@workflow
async def many_steps(ctx: WorkflowContext, count: int) -> int:
    number = 0
    for _ in range(count):
        number = await ctx.call_activity(step, input=number)
    return number


async def measure(chosen: Options, phases: Phases) -> tuple[Repeated, dict[str, float], dict[str, float]]:
    # Each activity makes two events.
    steps, repetitions = chosen.size(5_000, 100), chosen.size(9, 3)
    database = chosen.folder / "perdure.db"
    figures = Repeated()
    async with EmbeddedRuntime(SQLiteHistoryStore(database)) as runtime:
        source = await runtime.start(many_steps, steps)
        assert await runtime.wait(source) == steps
        events = sum(len(row.events) for row in await runtime.history(source))
        advance = phases.begin(f"an instance of {events} events is forked", repetitions)
        for _ in range(repetitions):
            begun = time.perf_counter()
            late = await runtime.fork(source, steps - 1, output=steps + 1)
            taken = time.perf_counter() - begun
            assert await runtime.wait(late) == steps + 1
            begun = time.perf_counter()
            middle = await runtime.fork(source, steps // 2)
            figures.add(fork_at_end_ms=taken * 1000, fork_in_middle_ms=(time.perf_counter() - begun) * 1000)
            assert await runtime.wait(middle) == steps
            advance()
        raw = RawSqlite(chosen.folder, mean_row_bytes(database))
        rates = [raw.group_rate(steps) for _ in range(3)]
        raw.close()
    rows_ms = steps / statistics.median(rates) * 1000
    return figures, {"raw_same_rows_ms": rows_ms}, {"events": events}


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures, raw, more = run(measure(chosen, phases), chosen)
        found = figures.medians()
        targets = [Target("fork_at_end_ms", 100, "100"), Target("fork_in_middle_ms", 100, "100")]
        report("fork", chosen, found, raw=raw, targets=targets, spread=figures.spread(), more=more)


if __name__ == "__main__":
    main()
