"""Monitor: a workflow that looks again and again, for a day or for years, with a history that never grows.

Run it: python examples/patterns/monitor.py
"""

from __future__ import annotations

import asyncio

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, activity, workflow

looks = 0


@activity
async def is_healthy(service: str) -> bool:
    global looks  # noqa: PLW0603 - stands for the service
    looks += 1
    return looks < 4


@activity
async def alarm(service: str) -> str:
    return f"{service} is down"


@workflow
async def watch(ctx: WorkflowContext, state: dict) -> str:
    if not await ctx.call_activity(is_healthy, input=state["service"]):
        return await ctx.call_activity(alarm, input=state["service"])
    # A look each interval; an event asks for one at once.
    await ctx.when_any([ctx.create_timer(state["interval"]), ctx.wait_for_external_event("look")], cancel_losers=True)
    ctx.continue_as_new(state)
    return ""


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("monitor.db")) as runtime:
        run = await runtime.start(watch, {"service": "payments", "interval": 0.1}, instance_id="watch-payments")
        print(await runtime.wait(run))


if __name__ == "__main__":
    asyncio.run(main())
