"""What a crash in the middle of a tool call means is the tool's to say."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableAgent, Interrupted, tool
from perdure.base.faults import arm
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.llm.scripted import ScriptedModel
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

PATIENCE = 30


def _note(folder: Path, text: str) -> None:
    with (folder / "log").open("a") as file:
        file.write(text + "\n")


def make_agent(folder: Path, on_crash: Any) -> DurableAgent:
    @tool(on_crash=on_crash)
    def pay(amount: int) -> str:
        """Pay an amount."""
        _note(folder, f"paid {amount}")
        return f"paid {amount}"

    return DurableAgent(
        name="Payer", tools=[pay], llm=ScriptedModel([{"tool": "pay", "arguments": {"amount": 7}}, "done"])
    )


def was_paid(question: Interrupted) -> Any:
    """Say that the payment took place."""
    return question.completed(f"found: {question.arguments['amount']} {question.tool}")


async def was_not_paid(question: Interrupted) -> Any:
    """Say, asynchronously, that it did not."""
    return question.retry()


def nobody_knows(question: Interrupted) -> Any:
    return question.ask()


def wrong_answer(question: Interrupted) -> Any:
    return True


def cut_off(path: Path, folder: Path, on_crash: Any) -> None:
    """Run the agent in this process and die right after the tool's effect."""

    async def body() -> None:
        registry = Registry()
        agent = make_agent(folder, on_crash)
        agent.register(registry)
        async with EmbeddedRuntime(SQLiteHistoryStore(path), registry=registry) as runtime:
            arm("activity.after_run", 2)
            await runtime.start(agent.agent_workflow_name, {"task": "pay"}, instance_id="payment")
            await runtime.wait("payment")

    asyncio.run(body())


@pytest.fixture
def interrupted(bench, tmp_path: Path):
    """Return a function that leaves a run behind whose payment took place and was not recorded."""

    def leave(on_crash: Any) -> DurableAgent:
        process = multiprocessing.get_context("forkserver").Process(
            target=cut_off, args=(bench.path, tmp_path, on_crash)
        )
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == -9
        return make_agent(tmp_path, on_crash)

    return leave


@pytest.fixture
def paid(tmp_path: Path):
    return lambda: (tmp_path / "log").read_text().splitlines()


def tool_text(agent: DurableAgent) -> str:
    return agent.model.calls[-1].messages[-1].content


def test_by_default_the_call_is_made_again_with_the_same_key(bench, interrupted, paid) -> None:
    agent = interrupted("retry")
    assert bench.run(agent, {"task": "pay"}, instance_id="payment")["content"] == "done"
    assert paid() == ["paid 7", "paid 7"]


def test_a_reconcile_function_may_find_that_it_took_place(bench, interrupted, paid) -> None:
    agent = interrupted(was_paid)
    bench.run(agent, {"task": "pay"}, instance_id="payment")
    assert tool_text(agent) == "found: 7 pay"
    assert paid() == ["paid 7"]


def test_a_reconcile_function_may_find_that_it_did_not(bench, interrupted, paid) -> None:
    agent = interrupted(was_not_paid)
    bench.run(agent, {"task": "pay"}, instance_id="payment")
    assert paid() == ["paid 7", "paid 7"]


@pytest.mark.parametrize("on_crash", ["ask", nobody_knows, wrong_answer])
@pytest.mark.parametrize(
    ("decision", "result", "told", "payments"),
    [
        ("retry", None, "paid 7", 2),
        ("completed", "it was paid", "it was paid", 1),
        ("completed", {"receipt": 12}, '{"receipt": 12}', 1),
        ("failed", "the bank refused", "Error: Interrupted: the bank refused", 1),
    ],
)
def test_a_human_decides_when_asked(bench, interrupted, paid, on_crash, decision, result, told, payments) -> None:
    agent = interrupted(on_crash)

    async def body() -> None:
        async with bench.runtime(agent) as runtime:
            waits = await _until_asked(runtime)
            (question,) = waits["asks"]
            assert question["activity"] == "dapr.agents.Payer.run_tool"
            await runtime.answer("payment", question["task"], decision, result)
            assert (await runtime.wait("payment", PATIENCE))["content"] == "done"

    asyncio.run(body())
    assert tool_text(agent) == told
    assert len(paid()) == payments


def test_a_human_is_asked_when_the_interrupted_tool_is_gone(bench, interrupted, paid) -> None:
    interrupted("retry")
    agent = DurableAgent(name="Payer", llm=ScriptedModel([{"tool": "pay", "arguments": {"amount": 7}}, "done"]))

    async def body() -> None:
        async with bench.runtime(agent) as runtime:
            waits = await _until_asked(runtime)
            await runtime.answer("payment", waits["asks"][0]["task"], "completed", "paid 7")
            assert (await runtime.wait("payment", PATIENCE))["content"] == "done"

    asyncio.run(body())
    assert tool_text(agent) == "paid 7"
    assert paid() == ["paid 7"]


async def _until_asked(runtime: Any) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            record = await runtime.find("payment")
            if record.waits and "asks" in json.loads(record.waits) and record.owner is None:
                return json.loads(record.waits)
            await asyncio.sleep(0.01)
