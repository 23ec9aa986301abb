"""Ten thousand timers that are due in the same second: how late the last one fires, and that none is early."""

from __future__ import annotations

import asyncio
import time

from _common import (
    Options,
    Phases,
    RawSqlite,
    Target,
    mean_row_bytes,
    options,
    percentile,
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext
from perdure.workflows.decorators import activity, workflow

AT_ONCE = 500
PATIENCE = 120

fired: dict[int, float] = {}
"""When each instance went on, by its number; wall clock."""


@activity
async def note(number: int) -> None:
    fired[number] = time.time()


@workflow
async def sleep_until(ctx: WorkflowContext, given: dict[str, float]) -> None:
    await ctx.create_timer(given["at"] - ctx.current_utc_datetime.timestamp())
    await ctx.call_activity(note, input=int(given["number"]))


async def measure(chosen: Options, phases: Phases) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    count = chosen.size(10_000, 200)
    database = chosen.folder / "perdure.db"
    async with EmbeddedRuntime(SQLiteHistoryStore(database)) as runtime:
        # Time enough for all of them to go to sleep.
        due = time.time() + max(3.0, count / 1_500)
        advance = phases.begin(f"{count} instances go to sleep", count)
        for begin in range(0, count, AT_ONCE):
            numbers = range(begin, min(begin + AT_ONCE, count))
            # Spread over one second, as timers of one second are.
            given = [{"at": due + n / count, "number": n} for n in numbers]
            await asyncio.gather(*(runtime.start(sleep_until, one) for one in given))
            advance(len(numbers))
        assert time.time() < due, "the machine is too slow: timers were due before all were set"
        end = time.monotonic() + PATIENCE
        while len(fired) < count:
            assert time.monotonic() < end, f"only {len(fired)} of {count} timers fired"
            await asyncio.sleep(0.02)
        late = [fired[number] - (due + number / count) for number in range(count)]
        raw = RawSqlite(chosen.folder, mean_row_bytes(database))
        rate = raw.group_rate(20_000)
        raw.close()
    figures = {
        "last_fired_after_s": max(fired.values()) - (due + 1),
        "late_p50_ms": percentile(late, 50) * 1000,
        "late_p99_ms": percentile(late, 99) * 1000,
        "early": float(sum(one < 0 for one in late)),
    }
    # All fire within 1.5 s of the beginning of their second.
    figures["all_fired_within_s"] = max(fired.values()) - due
    return figures, {"raw_group_rows_per_s": rate}, {"timers": count}


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures, raw, more = run(measure(chosen, phases), chosen)
        targets = [Target("all_fired_within_s", 1.5, "1.5"), Target("early", 0, "0")]
        report("timers", chosen, figures, raw=raw, targets=targets, more=more)


if __name__ == "__main__":
    main()
