"""Evaluator and optimizer: one prompt writes, another one judges, until the text is good or the rounds are used up.

Run it: python examples/patterns/evaluator_optimizer.py
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from _models import model

from perdure import EmbeddedRuntime, SQLiteHistoryStore, WorkflowContext, task, workflow


@dataclass
class Verdict:
    score: int
    feedback: str


def _scripted(prompt: str) -> str:
    if "Judge" in prompt:
        return '{"score": 9, "feedback": ""}' if "mended" in prompt else '{"score": 4, "feedback": "too dry"}'
    return "a mended text" if "too dry" in prompt else "a text"


TALKER = model(_scripted)


@task(llm=TALKER)
def write(request: str, feedback: str = "") -> str:
    """Write: {{ request }}{% if feedback %} Mind this: {{ feedback }}{% endif %}"""


@task(llm=TALKER)
def judge(text: str) -> Verdict:
    """Judge this text, with a score of 0 to 10: {text}"""


@workflow
async def refine(ctx: WorkflowContext, request: str) -> dict[str, Any]:
    text = await ctx.call_activity(write, input=request)
    for iteration in range(1, 4):
        verdict = await ctx.call_activity(judge, input=text)
        if verdict.score >= 8:
            return {"text": text, "iterations": iteration}
        text = await ctx.call_activity(write, input={"request": request, "feedback": verdict.feedback})
    return {"text": text, "iterations": iteration}


async def main() -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore("refine.db")) as runtime:
        print(await runtime.wait(await runtime.start(refine, "a paragraph on tea", instance_id="tea")))


if __name__ == "__main__":
    asyncio.run(main())
