"""Limits: what they cost beside the same activities without, and how long one tenant's few wait behind another's many.

Every figure is the median of several repetitions, taken in turn in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
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
    options,
    parted,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, Limits, WorkflowContext, activity, workflow

STEPS_EACH = 10
WIDE, NARROW = 1_000_000, 100
FEW = 10
WORK_SECONDS = 0.005


@activity
async def free(number: int) -> int:
    return number + 1


@activity(limits=Limits(concurrency=WIDE, per_key=WIDE), key=lambda number: number % 100)
async def wide(number: int) -> int:
    return number + 1


@activity(limits=Limits(concurrency=NARROW, per_key=NARROW), key=lambda number: number % 100)
async def narrow(number: int) -> int:
    return number + 1


async def steps(ctx: WorkflowContext, step: Any, number: int) -> int:
    for _ in range(STEPS_EACH):
        number = await ctx.call_activity(step, input=number)
    return number


@workflow
async def without_limits(ctx: WorkflowContext, first: int) -> int:
    return await steps(ctx, free, first)


@workflow
async def with_room(ctx: WorkflowContext, first: int) -> int:
    return await steps(ctx, wide, first)


@workflow
async def in_line(ctx: WorkflowContext, first: int) -> int:
    return await steps(ctx, narrow, first)


@activity
async def work() -> None:
    await asyncio.sleep(WORK_SECONDS)


@workflow(limits=Limits(concurrency=10), key=lambda tenant: tenant)
async def order(ctx: WorkflowContext, tenant: str) -> str:
    await ctx.call_activity(work)
    return tenant


async def finished(runtime: EmbeddedRuntime, function: Any, given: Any) -> Any:
    return await runtime.wait(await runtime.start(function, given))


async def rate(runtime: EmbeddedRuntime, function: Any, instances: int) -> float:
    """Return activities per second, from the first start to the last result."""
    start = time.perf_counter()
    results = await asyncio.gather(*(finished(runtime, function, number) for number in range(instances)))
    taken = time.perf_counter() - start
    assert results == [number + STEPS_EACH for number in range(instances)]
    return instances * STEPS_EACH / taken


def waiting(database: str) -> int:
    """Return how many runs wait for their turn."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        count: int = connection.execute("SELECT sum(waiting) FROM queue").fetchone()[0]
    return count


async def few(runtime: EmbeddedRuntime) -> float:
    """Return the milliseconds that a tenant's few orders take, from the first start to the last result."""
    start = time.perf_counter()
    await asyncio.gather(*(finished(runtime, order, "few") for _ in range(FEW)))
    return (time.perf_counter() - start) * 1000


async def costs(runtime: EmbeddedRuntime, chosen: Options, phases: Phases, figures: Repeated) -> None:
    instances, repetitions = chosen.size(1_000, 30), chosen.size(5, 2)
    advance = phases.begin("activities with and without limits", repetitions)
    for function in (without_limits, with_room, in_line):
        await rate(runtime, function, instances)
    raw = RawSqlite(chosen.folder, mean_row_bytes(Path(runtime.store.name)))
    for _ in range(repetitions):
        figures.add(
            raw_group_rows_per_s=raw.group_rate(chosen.size(50_000, 1_000)),
            activities_per_s_free=await rate(runtime, without_limits, instances),
            activities_per_s_with_room=await rate(runtime, with_room, instances),
            activities_per_s_in_line=await rate(runtime, in_line, instances),
        )
        advance()
    raw.close()


async def fairness(runtime: EmbeddedRuntime, chosen: Options, phases: Phases, figures: Repeated) -> None:
    many, repetitions = chosen.size(10_000, 100), chosen.size(3, 2)
    advance = phases.begin(f"{FEW} of one tenant behind {many} of another", repetitions)
    await few(runtime)
    for _ in range(repetitions):
        alone = await few(runtime)
        crowd = await asyncio.gather(*(runtime.start(order, "many") for _ in range(many)))
        ahead = waiting(runtime.store.name)
        behind = await few(runtime)
        await asyncio.gather(*(runtime.wait(instance) for instance in crowd))
        figures.add(ten_alone_ms=alone, ten_behind_10000_ms=behind, waiting_before_the_ten=ahead)
        advance()


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures = run(measure_sections(chosen, phases, costs, fairness), chosen)
        found, raw = parted(figures.medians())
        targets = [
            Target("activities_per_s_with_room", found["activities_per_s_free"] / 3, "free / 3", at_least=True),
            Target("activities_per_s_in_line", found["activities_per_s_free"] / 10, "free / 10", at_least=True),
            Target("ten_behind_10000_ms", 10 * found["ten_alone_ms"], "10 x ten_alone_ms"),
        ]
        report("queues", chosen, found, raw=raw, targets=targets, spread=figures.spread())


if __name__ == "__main__":
    main()
