"""A million waiting instances in one store: whether looking, waking and starting stay quick beside them."""

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
    mean_row_bytes,
    median_ms,
    options,
    percentile,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, Status, WorkflowContext
from perdure.ports.history_store import InstanceQuery
from perdure.workflows.decorators import workflow

AT_ONCE = 1_000
PATIENCE = 1_800


@workflow
async def wait_for_word(ctx: WorkflowContext, number: int) -> str:
    return f"{number}: {await ctx.wait_for_external_event('word')}"


def waiting_id(number: int) -> str:
    return f"waiting-{number:07}"


async def start_all(runtime: EmbeddedRuntime, count: int, advance: Callable[..., None]) -> None:
    for begin in range(0, count, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, count))
        await asyncio.gather(
            *(
                runtime.start(wait_for_word, n, instance_id=waiting_id(n), attributes={"tenant": f"t{n % 1000}"})
                for n in numbers
            )
        )
        advance(len(numbers))


async def list_pages(runtime: EmbeddedRuntime) -> dict[str, float]:
    """Return the slowest first page of each kind, in milliseconds."""
    queries = {
        "list_ms": InstanceQuery(),
        "list_by_status_ms": InstanceQuery(status=(Status.RUNNING,)),
        "list_by_workflow_ms": InstanceQuery(workflow="wait_for_word"),
        "list_by_attribute_ms": InstanceQuery(attributes={"tenant": "t7"}),
        "list_finished_ms": InstanceQuery(status=(Status.FAILED,)),
    }
    figures: dict[str, float] = {}
    for name, query in queries.items():
        slowest = 0.0
        for _ in range(5):
            begun = time.perf_counter()
            found = await runtime.instances(query)
            slowest = max(slowest, time.perf_counter() - begun)
            assert bool(found) == (name != "list_finished_ms")
        figures[name] = slowest * 1000
    return figures


async def wake(runtime: EmbeddedRuntime, number: int) -> float:
    begun = time.perf_counter()
    await runtime.raise_event(waiting_id(number), "word", "yes")
    assert await runtime.wait(waiting_id(number)) == f"{number}: yes"
    return time.perf_counter() - begun


async def start_one(runtime: EmbeddedRuntime, number: int) -> float:
    begun = time.perf_counter()
    await runtime.start(wait_for_word, number, instance_id=f"late-{number}")
    return time.perf_counter() - begun


async def measure(chosen: Options, phases: Phases) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    count, samples = chosen.size(1_000_000, 5_000), chosen.size(1_000, 50)
    database = chosen.folder / "perdure.db"
    chance = random.Random(5)
    raw_commits = Repeated()
    async with EmbeddedRuntime(SQLiteHistoryStore(database)) as runtime:
        begun = time.perf_counter()
        await start_all(runtime, count, phases.begin(f"{count} instances start, then wait", count))
        await all_waiting(database, count, PATIENCE)
        started = count / (time.perf_counter() - begun)
        figures = await list_pages(runtime)
        raw = RawSqlite(chosen.folder, mean_row_bytes(database))
        raw_commits.add(raw_commit_p50_ms=median_ms(raw.commits(500)))
        advance = phases.begin("some wake up, others start", 2 * samples)
        woken: list[float] = []
        late: list[float] = []
        for number in chance.sample(range(count), samples):
            woken.append(await wake(runtime, number))
            late.append(await start_one(runtime, number))
            advance(2)
        raw_commits.add(raw_commit_p50_ms=median_ms(raw.commits(500)))
        raw.close()
    figures |= {
        "wake_p50_ms": median_ms(woken),
        "wake_p99_ms": percentile(woken, 99) * 1000,
        "start_p50_ms": median_ms(late),
        "start_p99_ms": percentile(late, 99) * 1000,
    }
    return figures, raw_commits.medians(), {"instances": count, "started_and_waiting_per_s": started}


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures, raw, more = run(measure(chosen, phases), chosen)
        targets = [
            *(Target(name, 50, "50") for name in figures if name.startswith("list_")),
            Target("wake_p99_ms", 10, "10"),
            Target("start_p99_ms", 10, "10"),
        ]
        report("scale", chosen, figures, raw=raw, targets=targets, more=more)


if __name__ == "__main__":
    main()
