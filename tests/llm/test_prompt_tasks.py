from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.base.errors import ModelError, RunFailedError, UsageError
from perdure.components.history.memory import MemoryHistoryStore
from perdure.llm.scripted import ScriptedModel
from perdure.llm.tasks import task
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


class Outline(BaseModel):
    title: str
    chapters: list[str]


@dataclass
class Score:
    points: int


class Kind(enum.StrEnum):
    CAT = "cat"
    DOG = "dog"


def said(*texts: str) -> ScriptedModel:
    return ScriptedModel(list(texts))


def last_words(model: ScriptedModel) -> str:
    return model.calls[-1].messages[-1].content or ""


def test_the_docstring_is_the_prompt_and_the_parameters_are_its_variables():
    model = said("a haiku")

    @task(llm=model, name="verses")
    def verses(subject: str, lines: int = 3) -> str:
        """Write {lines} lines about {subject}."""

    assert asyncio.run(verses("tea")) == "a haiku"
    assert last_words(model) == "Write 3 lines about tea."
    asyncio.run(verses({"subject": "rain", "lines": 2}))
    assert last_words(model) == "Write 2 lines about rain."
    asyncio.run(verses(subject="snow"))
    assert last_words(model) == "Write 3 lines about snow."


def test_a_jinja_prompt_may_loop():
    model = said("ok")

    @task(llm=model, name="listed", prompt="{% for item in items %}- {{ item }}\n{% endfor %}")
    def listed(items: list[str]) -> str: ...

    asyncio.run(listed({"items": ["a", "b"]}))
    assert last_words(model) == "- a\n- b\n"


@pytest.mark.parametrize(
    ("returns", "answer", "expected"),
    [
        (Outline, '{"title": "Tea", "chapters": ["Leaf"]}', Outline(title="Tea", chapters=["Leaf"])),
        (Outline, 'Gladly:\n```json\n{"title": "T", "chapters": []}\n```', Outline(title="T", chapters=[])),
        (Score, '{"points": 7}', Score(7)),
        (list[Score], '[{"points": 1}]', [Score(1)]),
        (Kind, '"dog"', Kind.DOG),
        (int, "42", 42),
        (bool, "true", True),
    ],
    ids=str,
)
def test_the_return_annotation_says_what_comes_back(returns: Any, answer: str, expected: Any):
    model = said(answer)

    def judged(text: str) -> str:
        """Judge {text}."""

    judged.__annotations__["return"] = returns
    result = asyncio.run(task(llm=model, name=f"judged {returns} {len(answer)}")(judged)("this"))
    assert result == expected
    assert type(result) is type(expected)
    assert "JSON alone, of this schema" in last_words(model)


def test_an_answer_that_does_not_fit_is_shown_to_the_model_which_tries_again():
    replies = iter(["no idea", '{"points": "many"}', '{"points": 3}'])
    model = ScriptedModel(lambda _: next(replies))

    @task(llm=model, name="rated")
    def rated(text: str) -> Score:
        """Rate {text}."""

    assert asyncio.run(rated("it")) == Score(3)
    assert "does not fit" in last_words(model)
    assert [message.role for message in model.calls[-1].messages] == ["user", "assistant", "user", "assistant", "user"]


def test_an_answer_that_never_fits_is_an_error_that_shows_it():
    @task(llm=ScriptedModel(lambda _: "still no idea"), name="never", repairs=1)
    def never(text: str) -> int:
        """Count {text}."""

    with pytest.raises(ModelError, match=r"(?s)does not fit.*still no idea"):
        asyncio.run(never("it"))


def test_in_a_workflow_the_result_has_its_type_and_the_model_is_asked_once():
    model = said('{"title": "Tea", "chapters": []}')

    @task(llm=model, name="outlined")
    def outlined(subject: str) -> Outline:
        """Outline {subject}."""

    async def flow(ctx: Any) -> str:
        outline = await ctx.call_activity(outlined, input={"subject": "tea"})
        await ctx.create_timer(0)
        return outline.title

    registry = Registry()
    registry.add_workflow(flow)

    async def run() -> None:
        async with EmbeddedRuntime(MemoryHistoryStore(), registry=registry) as runtime:
            assert await runtime.wait(await runtime.start(flow), 5) == "Tea"

    asyncio.run(run())
    assert len(model.calls) == 1
    assert model.calls[0].idempotency_key is not None


def test_wrong_inputs_and_missing_prompts_are_refused_with_the_remedy():
    @task(llm="echo", name="two")
    def two(first: str, second: str) -> str:
        """{first} {second}"""

    async def flow(ctx: Any) -> str:
        return await ctx.call_activity(two, input={"first": "a"})

    registry = Registry()
    registry.add_workflow(flow)

    async def run() -> None:
        async with EmbeddedRuntime(MemoryHistoryStore(), registry=registry) as runtime:
            with pytest.raises(RunFailedError, match=r"'two' takes first, second: missing .*'second'"):
                await runtime.wait(await runtime.start(flow), 5)

    asyncio.run(run())
    with pytest.raises(UsageError, match="has no prompt; write it as the docstring"):

        @task(llm="echo")
        def empty() -> str: ...
