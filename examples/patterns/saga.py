"""Saga: each step that succeeds leaves behind how to undo it; when a later one fails for good, all are undone.

Run it: python examples/patterns/saga.py
"""

from __future__ import annotations

import asyncio

from perdure import (
    ActivityFailedError,
    EmbeddedRuntime,
    RetryPolicy,
    SQLiteHistoryStore,
    WorkflowContext,
    activity,
    workflow,
)


@activity
async def book(what: str) -> str:
    if what == "car":
        raise PermissionError("no cars left")
    return f"{what} booked"


@activity
async def cancel(what: str) -> str:
    return f"{what} cancelled"


@workflow
async def book_trip(ctx: WorkflowContext, parts: list[str]) -> list[str]:
    story: list[str] = []
    done: list[str] = []
    try:
        for part in parts:
            policy = RetryPolicy(max_attempts=3, initial_backoff=0.1, non_retryable=("PermissionError",))
            story.append(await ctx.call_activity(book, input=part, retry_policy=policy))
            done.append(part)
    except ActivityFailedError as refused:
        story.append(refused.failure.message)
        story += [await ctx.call_activity(cancel, input=part) for part in reversed(done)]
    return story


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("trips.db")) as runtime:
        print(await runtime.wait(await runtime.start(book_trip, ["flight", "hotel", "car"], instance_id="trip-1")))


if __name__ == "__main__":
    asyncio.run(main())
