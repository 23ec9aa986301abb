"""Routing: a model says what a question is about, and the workflow sends it to whoever knows.

Run it: python examples/patterns/routing.py
"""

from __future__ import annotations

import asyncio
from enum import StrEnum

from _models import model

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, task, workflow


class Subject(StrEnum):
    SIGHTS = "sights"
    HOTELS = "hotels"


TALKER = model(lambda prompt: '"hotels"' if "classify" in prompt.lower() and "sleep" in prompt else f"answer: {prompt}")


@task(llm=TALKER)
def classify(question: str) -> Subject:
    """Classify this question: {question}"""


@task(llm=TALKER)
def about_sights(question: str) -> str:
    """You know every sight. {question}"""


@task(llm=TALKER)
def about_hotels(question: str) -> str:
    """You know every hotel. {question}"""


HANDLERS = {Subject.SIGHTS: about_sights, Subject.HOTELS: about_hotels}


@workflow
async def assist(ctx: WorkflowContext, question: str) -> str:
    subject = await ctx.call_activity(classify, input=question)
    return await ctx.call_activity(HANDLERS[subject], input=question)


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("assist.db")) as runtime:
        print(await runtime.wait(await runtime.start(assist, "Where shall we sleep?", instance_id="sleep")))


if __name__ == "__main__":
    asyncio.run(main())
