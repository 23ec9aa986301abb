"""Processes that run limited workflows with limited activities over one store, and write down who is inside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perdure.base.limits import Limits
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.activity import current_activity
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

RUNS, CALLS, CALLS_EACH = 5, 3, 2
"""Limits: of the runs, of the calls, and of the calls of each tenant."""

TENANTS = ("a", "b", "c")
REGISTRY = Registry()


def _write(sign: str, what: str) -> None:
    line = f"{sign} {what}\n".encode()
    file = os.open(os.environ["CROWD_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@REGISTRY.activity(limits=Limits(concurrency=CALLS, per_key=CALLS_EACH), key=lambda tenant: tenant)
async def visit(tenant: str) -> None:
    key = current_activity().idempotency_key
    _write("+", f"call {tenant} {key}")
    await asyncio.sleep(0.005)
    _write("-", f"call {tenant} {key}")


@REGISTRY.activity
async def step(sign: str) -> None:
    _write(sign, f"run {current_activity().instance_id}")


@REGISTRY.workflow(limits=Limits(concurrency=RUNS), key=lambda tenant: tenant)
async def stay(ctx: Any, tenant: str) -> str:
    await ctx.call_activity(step, input="+")
    await ctx.when_all([ctx.call_activity(visit, input=tenant) for _ in range(2)])
    await ctx.call_activity(step, input="-")
    return tenant


def come(store: Path, log: Path, first: int, size: int, accepted: Any) -> None:
    """Start some runs, and stay until they have ended, wherever they did; started again, go on with the same ones."""
    os.environ["CROWD_LOG"] = str(log)
    asyncio.run(_come(store, range(first, first + size), accepted))


async def _come(store: Path, numbers: range, accepted: Any) -> None:
    options = WorkerOptions(warm=3)
    async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=REGISTRY, options=options) as runtime:
        for number in numbers:
            await runtime.start(stay, TENANTS[number % len(TENANTS)], instance_id=f"run-{number}")
            with accepted.get_lock():
                accepted.value += 1
        for number in numbers:
            assert await runtime.wait(f"run-{number}", 60) == TENANTS[number % len(TENANTS)]


def crowds(lines: Iterable[str]) -> tuple[int, int, int]:
    """Return how many runs, calls, and calls of one tenant were inside at most.

    Who came in and died there is inside until his successor has left.
    """
    runs: set[str] = set()
    calls: set[tuple[str, str]] = set()
    most = (0, 0, 0)
    for line in lines:
        sign, kind, *who = line.split()
        inside: set[Any] = runs if kind == "run" else calls
        item: Any = who[0] if kind == "run" else tuple(who)
        (inside.add if sign == "+" else inside.discard)(item)
        each = max((sum(tenant == one for one, _ in calls) for tenant in TENANTS), default=0)
        most = (max(most[0], len(runs)), max(most[1], len(calls)), max(most[2], each))
    assert not runs
    assert not calls
    return most
