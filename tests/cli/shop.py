"""An app with workflows of every kind of waiting, and instances of it as commands find them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from perdure.base.events import RetryPolicy
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

SHOP = Registry()
PATIENT = RetryPolicy(max_attempts=4, initial_backoff=1800, max_backoff=3600)


@SHOP.activity
def pay(amount: int) -> dict[str, int]:
    return {"paid": amount}


@SHOP.activity
def lose(_: object) -> None:
    raise OSError("the line is dead")


@SHOP.workflow
async def order(ctx: WorkflowContext, amount: int) -> str:
    ctx.set_custom_status({"step": "paying"})
    ctx.set_attributes(customer="ann", amount=amount)
    paid = await ctx.call_activity(pay, input=amount)
    ship = ctx.call_child_workflow("ship", input=f"{paid['paid']} parcels")
    decision = await ctx.wait_for_external_event("approval")
    return f"{await ship}, approved by {decision}"


@SHOP.workflow
async def ship(ctx: WorkflowContext, what: str) -> str:
    await ctx.call_activity(pay, input=1)
    await ctx.wait_for_external_event("arrival")
    return f"{what} arrived"


@SHOP.workflow
async def patient(ctx: WorkflowContext) -> None:
    await ctx.create_timer(3600)


@SHOP.workflow
async def unlucky(ctx: WorkflowContext) -> None:
    await ctx.call_activity(lose, retry_policy=PATIENT)


@SHOP.workflow
async def broken(ctx: WorkflowContext) -> None:
    raise ValueError("no luck")


@SHOP.workflow
async def counting(ctx: WorkflowContext, number: int) -> int:
    if number < 3:
        ctx.continue_as_new(number + 1)
    else:
        await ctx.wait_for_external_event("stop")
    return number


@SHOP.workflow(version="2")
async def modern(ctx: WorkflowContext) -> None:
    await ctx.wait_for_external_event("stop")


def under(store: Path, work: Callable[[EmbeddedRuntime], Awaitable[object]], registry: Registry = SHOP) -> None:
    """Do something beside a worker of the app ``shop``, then end it."""

    async def run() -> None:
        async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=registry, app_id="shop") as runtime:
            await work(runtime)

    asyncio.run(run())


async def parked(runtime: EmbeddedRuntime, *runs: str) -> None:
    """Wait until runs wait for something, with nothing due in their inboxes, or have ended."""

    async def settled(run: str) -> bool:
        record = await runtime.find(run)
        if record is None or record.owner is not None:
            return False
        is_due = record.due is not None and record.due <= time.time()
        return record.status.finished or (bool(record.waits) and not is_due)

    async with asyncio.timeout(20):
        for run in runs:
            while not await settled(run):
                await asyncio.sleep(0.005)


def opened(store: Path, **runs: tuple[str, object]) -> None:
    """Start runs (id to workflow and input), and wait until each one waits or has ended."""

    async def work(runtime: EmbeddedRuntime) -> None:
        for run, (workflow, given) in runs.items():
            await runtime.start(workflow, given, instance_id=run)
        await parked(runtime, *runs)

    under(store, work)
