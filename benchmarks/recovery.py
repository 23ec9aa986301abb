"""Recovery: a process with very many instances in flight is killed; how long until all of them run again elsewhere?

A child process brings every instance into the middle of its second activity and gets SIGKILL. A second one opens the
store; every instance's interrupted activity must begin again, and every accepted instance must finish. Each activity
leaves a line in a log of effects as it begins, which is how lost and repeated work is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    progress,
    report,
    run,
)

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, activity, current_activity, workflow

AT_ONCE = 500
PATIENCE = 300


class Flight:
    """What the activities of a child process share: where effects are noted, and whether all have begun."""

    def __init__(self, log: Path, expected: int) -> None:
        self._log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._left = expected
        self.all_begun = asyncio.Event()

    def note(self, effect: str, instance_id: str) -> None:
        # Straight to the kernel, which outlives the process.
        os.write(self._log, f"{effect} {instance_id}\n".encode())

    def second_begun(self) -> None:
        self._left -= 1
        if not self._left:
            self.all_begun.set()


flight: Flight


@activity
async def reserve(order: int) -> int:
    flight.note("first", current_activity().instance_id)
    return order


@activity
async def charge(order: int) -> int:
    flight.note("second", current_activity().instance_id)
    flight.second_begun()
    await flight.all_begun.wait()
    if finish_at_all:
        return order
    await asyncio.Event().wait()
    raise AssertionError("the process was to be killed here")


finish_at_all = True


@workflow
async def place_order(ctx: WorkflowContext, order: int) -> int:
    reserved: int = await ctx.call_activity(reserve, input=order)
    charged: int = await ctx.call_activity(charge, input=reserved)
    return charged


# -- the children


async def fly(folder: Path, count: int) -> None:
    """Bring all instances into their second activity, say so, and wait to be killed."""
    global flight, finish_at_all
    flight, finish_at_all = Flight(folder / "before.log", count), False
    async with EmbeddedRuntime(SQLiteHistoryStore(folder / "perdure.db")) as runtime:

        async def accept(order: int) -> None:
            flight.note("accepted", await runtime.start(place_order, order, instance_id=f"order-{order}"))

        for begin in range(0, count, AT_ONCE):
            await asyncio.gather(*(accept(order) for order in range(begin, min(begin + AT_ONCE, count))))
        await flight.all_begun.wait()
        print("in flight", flush=True)
        await asyncio.Event().wait()


async def recover(folder: Path, count: int) -> None:
    """Open the store, report when all instances run again, and let them finish."""
    global flight  # noqa: PLW0603 - as above
    flight = Flight(folder / "after.log", count)
    opening = time.perf_counter()
    async with EmbeddedRuntime(SQLiteHistoryStore(folder / "perdure.db")) as runtime:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(flight.all_begun.wait(), PATIENCE)
        print(json.dumps({"from_open_s": time.perf_counter() - opening}), flush=True)
        flight.all_begun.set()
        finished = await asyncio.gather(*(_ends_well(runtime, order) for order in range(count)))
    print(json.dumps({"finished": sum(finished)}), flush=True)


async def _ends_well(runtime: EmbeddedRuntime, order: int) -> bool:
    try:
        return bool(await runtime.wait(f"order-{order}", PATIENCE) == order)
    except Exception as error:  # noqa: BLE001 - whatever it is, this order was lost
        print(f"order-{order}: {type(error).__name__}: {error}", file=sys.stderr)
        return False


def child(role: str, folder: Path, count: int, chosen: Options) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", role, str(folder), str(count)]
    if chosen.uvloop:
        command.append("--uvloop")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def child_main(role: str, folder: str, count: str, *flags: str) -> None:
    work: Callable[[Path, int], Any] = {"fly": fly, "recover": recover}[role]
    run(work(Path(folder), int(count)), Options(quick=False, folder=Path(folder), uvloop="--uvloop" in flags))


# -- the measurement


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the child process ended early with status {process.wait()}"
    return line


def effects(log: Path) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {"accepted": Counter(), "first": Counter(), "second": Counter()}
    for line in log.read_text().splitlines():
        effect, _, instance_id = line.partition(" ")
        found[effect][instance_id] += 1
    return found


def again(counted: Counter[str]) -> int:
    return sum(times - 1 for times in counted.values())


def crash_and_recover(folder: Path, count: int, chosen: Options) -> dict[str, float]:
    with child("fly", folder, count, chosen) as doomed:
        said(doomed)
        doomed.kill()
    begun = time.perf_counter()
    with child("recover", folder, count, chosen) as heir:
        from_open = json.loads(said(heir))["from_open_s"]
        recovery = time.perf_counter() - begun
        finished = json.loads(said(heir))["finished"]
    before, after = effects(folder / "before.log"), effects(folder / "after.log")
    # Recorded when the process died: the first activity of all. Recorded afterwards: the second, once interrupted.
    repeated = again(before["first"] + after["first"]) + again(before["second"]) + again(after["second"])
    return {
        "recovery_s": recovery,
        "recovery_from_open_s": from_open,
        "lost": len(before["accepted"]) - finished,
        "repeated": repeated,
    }


def measure(chosen: Options, phases: Phases) -> Repeated:
    count, repetitions = chosen.size(10_000, 200), chosen.size(3, 1)
    advance = phases.begin(f"{count} instances in flight, killed, recovered", repetitions)
    figures = Repeated()
    for number in range(repetitions):
        folder = chosen.folder / str(number)
        folder.mkdir()
        figures.add(**crash_and_recover(folder, count, chosen))
        raw = RawSqlite(folder, mean_row_bytes(folder / "perdure.db"))
        figures.add(raw_commit_p50_ms=median_ms(raw.commits(500)), raw_group_rows_per_s=raw.group_rate(20_000))
        raw.close()
        advance()
    return figures


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            measured = measure(chosen, phases)
        found, raw = parted(measured.medians())
        # No median here: one lost or repeated piece of work in any repetition is one too many.
        found |= {name: measured.total(name) for name in ("lost", "repeated")}
        more = {"recovery_from_open_s": found.pop("recovery_from_open_s")}
        targets = [Target("recovery_s", 5, "5"), Target("lost", 0, "0"), Target("repeated", 0, "0")]
        report("recovery", chosen, found, raw=raw, targets=targets, spread=measured.spread(), more=more)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child_main(*sys.argv[2:])
    else:
        main()
