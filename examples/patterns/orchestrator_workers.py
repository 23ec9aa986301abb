"""Orchestrator and workers: a model breaks a request down, each part is a child workflow, and a model sums up.

Run it: python examples/patterns/orchestrator_workers.py
"""

from __future__ import annotations

import asyncio

from _models import model

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, task, workflow

TALKER = model(lambda prompt: '["flights", "rooms"]' if "Break" in prompt else f"done: {prompt}")


@task(llm=TALKER)
def break_down(request: str) -> list[str]:
    """Break this down into independent parts: {request}"""


@task(llm=TALKER)
def carry_out(part: str) -> str:
    """Carry this out: {part}"""


@task(llm=TALKER)
def sum_up(results: list[str]) -> str:
    """Sum up: {results}"""


@workflow
async def work_on_part(ctx: WorkflowContext, part: str) -> str:
    return await ctx.call_activity(carry_out, input=part)


@workflow
async def orchestrate(ctx: WorkflowContext, request: str) -> str:
    parts = await ctx.call_activity(break_down, input=request)
    ctx.set_custom_status({"parts": parts})
    results = await ctx.when_all([ctx.call_child_workflow(work_on_part, input=part) for part in parts])
    return await ctx.call_activity(sum_up, input={"results": results})


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("orchestrator.db")) as runtime:
        print(await runtime.wait(await runtime.start(orchestrate, "a week in Oslo", instance_id="oslo")))


if __name__ == "__main__":
    asyncio.run(main())
