"""Workflow steps: latency of one instance, throughput of many, fan-out, and whether a long history slows one down.

Every figure is the median of several repetitions, and each repetition measures SQLite itself beside it.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    mean_row_bytes,
    measure_sections,
    median_ms,
    options,
    parted,
    percentile,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, WorkflowContext, activity, workflow

STEPS_EACH = 10
FAN_OUT = 500

begun: list[float] = []
"""When each activity of the one measured instance began."""


@activity
async def stamp(number: int) -> int:
    begun.append(time.perf_counter())
    return number


@activity
async def step(number: int) -> int:
    return number + 1


@workflow
async def one_by_one(ctx: WorkflowContext, count: int) -> int:
    for number in range(count):
        await ctx.call_activity(stamp, input=number)
    return count


@workflow
async def ten_steps(ctx: WorkflowContext, first: int) -> int:
    number = first
    for _ in range(STEPS_EACH):
        number = await ctx.call_activity(step, input=number)
    return number


@workflow
async def fan_out(ctx: WorkflowContext, count: int) -> int:
    results = await ctx.when_all([ctx.call_activity(step, input=number) for number in range(count)])
    return len(results)


async def finished(runtime: EmbeddedRuntime, function: Any, given: int) -> Any:
    return await runtime.wait(await runtime.start(function, given))


async def from_step_to_step(runtime: EmbeddedRuntime, count: int) -> list[float]:
    """Return the seconds from the beginning of each activity to that of the next: run, commit, decide."""
    begun.clear()
    assert await finished(runtime, one_by_one, count) == count
    return [after - before for before, after in pairwise(begun)]


async def throughput(runtime: EmbeddedRuntime, instances: int) -> float:
    """Return activities per second, from the first start to the last result."""
    start = time.perf_counter()
    results = await asyncio.gather(*(finished(runtime, ten_steps, number) for number in range(instances)))
    taken = time.perf_counter() - start
    assert results == [number + STEPS_EACH for number in range(instances)]
    return instances * STEPS_EACH / taken


async def fan_out_rate(runtime: EmbeddedRuntime, width: int) -> float:
    start = time.perf_counter()
    assert await finished(runtime, fan_out, width) == width
    return width / (time.perf_counter() - start)


async def sequential(runtime: EmbeddedRuntime, chosen: Options, phases: Phases, figures: Repeated) -> None:
    count, repetitions = chosen.size(1_000, 50), chosen.size(7, 3)
    advance = phases.begin("one instance, activity after activity", repetitions)
    await from_step_to_step(runtime, count)
    raw = RawSqlite(chosen.folder, mean_row_bytes(Path(runtime.store.name)))
    raw.commits(count)
    for _ in range(repetitions):
        alone = raw.commits(count)
        taken = await from_step_to_step(runtime, count)
        figures.add(
            sequential_p50_ms=median_ms(taken),
            sequential_p99_ms=percentile(taken, 99) * 1000,
            raw_commit_p50_ms=median_ms(alone),
            raw_commit_p99_ms=percentile(alone, 99) * 1000,
        )
        advance()
    raw.close()


async def many(runtime: EmbeddedRuntime, chosen: Options, phases: Phases, figures: Repeated) -> None:
    fewer, more, repetitions = chosen.size(200, 20), chosen.size(2_000, 50), chosen.size(7, 3)
    advance = phases.begin("many instances at once", repetitions)
    await throughput(runtime, more)
    raw = RawSqlite(chosen.folder, mean_row_bytes(Path(runtime.store.name)))
    raw.group_rate(chosen.size(20_000, 1_000))
    for _ in range(repetitions):
        rate = raw.group_rate(chosen.size(50_000, 1_000))
        figures.add(
            raw_group_rows_per_s=rate,
            activities_per_s_200=await throughput(runtime, fewer),
            activities_per_s_2000=await throughput(runtime, more),
            fanout_500_per_s=await fan_out_rate(runtime, chosen.size(FAN_OUT, 50)),
        )
        advance()
    raw.close()


async def long(runtime: EmbeddedRuntime, chosen: Options, phases: Phases, figures: Repeated) -> None:
    count, repetitions = chosen.size(10_000, 300), 3
    part = count // 10
    advance = phases.begin(f"{count} activities in one instance", repetitions)
    for _ in range(repetitions):
        taken = await from_step_to_step(runtime, count)
        figures.add(first_thousand_p50_ms=median_ms(taken[:part]), last_thousand_p50_ms=median_ms(taken[-part:]))
        advance()


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures = run(measure_sections(chosen, phases, sequential, many, long), chosen)
        found, raw = parted(figures.medians())
        targets = [
            Target("sequential_p50_ms", 2 * raw["raw_commit_p50_ms"], "2 x raw_commit_p50_ms"),
            Target("activities_per_s_2000", 30_000, "30000", at_least=True),
            Target(
                "activities_per_s_2000", raw["raw_group_rows_per_s"] / 10, "raw_group_rows_per_s / 10", at_least=True
            ),
            Target("last_thousand_p50_ms", 1.2 * found["first_thousand_p50_ms"], "1.2 x first_thousand_p50_ms"),
        ]
        report("steps", chosen, found, raw=raw, targets=targets, spread=figures.spread())


if __name__ == "__main__":
    main()
