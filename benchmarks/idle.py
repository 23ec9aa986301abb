"""Waiting instances: what each costs in memory and on disk, and how fast one of very many wakes up.

The process that holds them is measured as it is, with its caches; a wake-up is the time from raising the event an
instance waits for to having that instance's result.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    all_waiting,
    checkpointed_bytes,
    history_rows,
    mean_row_bytes,
    median_ms,
    options,
    percentile,
    progress,
    report,
    rss_bytes,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext
from perdure.workflows.decorators import workflow

AT_ONCE = 500
PATIENCE = 600


@workflow
async def wait_for_decision(ctx: WorkflowContext, order: dict[str, str]) -> str:
    decision = await ctx.wait_for_external_event("decided")
    return f"{order['order']}: {decision}"


def order_id(number: int) -> str:
    # Made anew wherever it is needed: ids that the benchmark keeps would count as the runtime's memory.
    return f"order-{number:06}"


async def start_all(runtime: EmbeddedRuntime, first: int, count: int, advance: Callable[..., None]) -> None:
    for begin in range(first, first + count, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, first + count))
        await asyncio.gather(
            *(runtime.start(wait_for_decision, {"order": order_id(n)}, instance_id=order_id(n)) for n in numbers)
        )
        advance(len(numbers))


async def wake(runtime: EmbeddedRuntime, number: int) -> float:
    start = time.perf_counter()
    await runtime.raise_event(order_id(number), "decided", "yes")
    result = await runtime.wait(order_id(number))
    taken = time.perf_counter() - start
    assert result == f"{order_id(number)}: yes"
    return taken


async def measure(chosen: Options, phases: Phases) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    count, woken = chosen.size(100_000, 2_000), chosen.size(1_000, 100)
    database = chosen.folder / "perdure.db"
    chance = random.Random(3)
    raw_commits = Repeated()
    async with EmbeddedRuntime(SQLiteHistoryStore(database)) as runtime:
        # Before the first measurement: what every program that uses the runtime has loaded.
        await start_all(runtime, count, 1, lambda _: None)
        await wake(runtime, count)
        memory, disk = rss_bytes(), checkpointed_bytes(database)
        begun = time.perf_counter()
        await start_all(runtime, 0, count, phases.begin(f"{count} instances start, then wait", count))
        await all_waiting(database, count, PATIENCE)
        started = count / (time.perf_counter() - begun)
        figures = {
            "rss_bytes_each": (rss_bytes() - memory) / count,
            "disk_bytes_each": (checkpointed_bytes(database) - disk) / count,
        }
        raw = RawSqlite(chosen.folder, mean_row_bytes(database))
        raw_commits.add(raw_commit_p50_ms=median_ms(raw.commits(500)))
        advance = phases.begin(f"{woken} of them wake up", woken)
        taken: list[float] = []
        for number in chance.sample(range(count), woken):
            taken.append(await wake(runtime, number))
            advance()
        raw_commits.add(raw_commit_p50_ms=median_ms(raw.commits(500)))
        raw.close()
        figures |= {"wake_p50_ms": median_ms(taken), "wake_p99_ms": percentile(taken, 99) * 1000}
    more = {"started_and_waiting_per_s": started, "rows_of_a_woken_instance": history_rows(database)}
    return figures, raw_commits.medians(), more


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures, raw, more = run(measure(chosen, phases), chosen)
        targets = [Target("rss_bytes_each", 1024, "1024"), Target("wake_p99_ms", 5, "5")]
        report("idle", chosen, figures, raw=raw, targets=targets, more=more)


if __name__ == "__main__":
    main()
