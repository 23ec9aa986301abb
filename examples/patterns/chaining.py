"""Prompt chaining: each step works on what the one before returned, with a gate between them.

Run it: python examples/patterns/chaining.py
"""

from __future__ import annotations

import asyncio

from _models import model

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, task, workflow

TALKER = model(lambda prompt: "Paris" if "destination" in prompt else f"planned: {prompt}")


@task(llm=TALKER)
def extract_destination(wish: str) -> str:
    """Name the destination in this wish, and nothing else: {wish}"""


@task(llm=TALKER)
def outline(destination: str) -> str:
    """Outline three days in {destination}."""


@task(llm=TALKER)
def expand(text: str) -> str:
    """Expand this outline into a plan: {text}"""


@workflow
async def plan_travel(ctx: WorkflowContext, wish: str) -> str:
    destination = await ctx.call_activity(extract_destination, input=wish)
    if "paris" not in destination.lower():
        return "No plan: the destination is not known here."
    return await ctx.call_activity(expand, input=await ctx.call_activity(outline, input=destination))


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("travel.db")) as runtime:
        run = await runtime.start(plan_travel, "three days of museums in Paris", instance_id="paris")
        print(await runtime.wait(run))


if __name__ == "__main__":
    asyncio.run(main())
