"""Fan-out and fan-in: three aspects are worked on at the same time, and put together when all are done.

Run it: python examples/patterns/parallelization.py
"""

from __future__ import annotations

import asyncio

from _models import model

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, task, workflow

TALKER = model(lambda prompt: prompt.rpartition("\n")[2])


@task(llm=TALKER)
def work_on(aspect: str, destination: str) -> str:
    """You plan travels. Recommend {aspect} for {destination}."""


@task(llm=TALKER)
def put_together(parts: list[str]) -> str:
    """Put these into one plan:
    {% for part in parts %}{{ part }} {% endfor %}"""


@workflow
async def plan_in_parallel(ctx: WorkflowContext, destination: str) -> str:
    aspects = ("sights", "hotels", "trains")
    calls = [ctx.call_activity(work_on, input={"aspect": one, "destination": destination}) for one in aspects]
    return await ctx.call_activity(put_together, input={"parts": await ctx.when_all(calls)})


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("parallel.db")) as runtime:
        print(await runtime.wait(await runtime.start(plan_in_parallel, "Rome", instance_id="rome")))


if __name__ == "__main__":
    asyncio.run(main())
