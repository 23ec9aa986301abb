"""A fleet of agents for the soak: every one answers a sum that it works out with tools, some slow, some in threads."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from perdure import DurableAgent, Interrupted, current_activity, tool
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatRequest
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

TURNS = 6
MODEL = "model"


def _note(name: str) -> None:
    call = current_activity()
    line = f"{call.instance_id} {call.idempotency_key} {name}\n".encode()
    file = os.open(os.environ["FLEET_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers, after a while."""
    _note("add")
    await asyncio.sleep(0.05 * ((a + b) % 5))
    return a + b


@tool
def add_slowly(a: int, b: int) -> int:
    """Add two numbers on a thread."""
    _note("add_slowly")
    time.sleep(0.05 * (a % 3))
    return a + b


def _already_paid(interrupted: Interrupted) -> Any:
    """Look into the ledger: a payment that was booked is not made again."""
    ledger = Path(os.environ["FLEET_LOG"]).with_suffix(".ledger")
    booked = ledger.read_text().splitlines() if ledger.exists() else []
    if interrupted.idempotency_key in booked:
        return interrupted.completed(interrupted.arguments["amount"])
    return interrupted.retry()


@tool(on_crash=_already_paid)
async def pay(amount: int) -> int:
    """Book a payment; booking the same one twice is what must never happen."""
    _note("pay")
    await asyncio.sleep(0.01)
    key = current_activity().idempotency_key
    ledger = Path(os.environ["FLEET_LOG"]).with_suffix(".ledger")
    with ledger.open("a") as file:
        file.write(key + "\n")
    await asyncio.sleep(0.01)
    return amount


def _reply(request: ChatRequest) -> Any:
    """Ask for three tool calls a turn, then answer with the sum of what they returned."""
    _note(MODEL)
    turn = sum(message.role == "assistant" for message in request.messages)
    if turn < TURNS:
        return [
            {"tool": "add", "arguments": {"a": turn, "b": 1}},
            {"tool": "add_slowly", "arguments": {"a": turn, "b": 2}},
            {"tool": "pay", "arguments": {"amount": turn}},
        ]
    return str(sum(int(message.content or 0) for message in request.messages if message.role == "tool"))


EXPECTED = str(sum((turn + 1) + (turn + 2) + turn for turn in range(TURNS)))


def fleet_registry() -> Registry:
    """Return a registry with the fleet's agent."""
    registry = Registry()
    fleet_agent().register(registry)
    return registry


def fleet_agent() -> DurableAgent:
    """Return the agent that the whole fleet is made of."""
    return DurableAgent(name="Fleet", tools=[add, add_slowly, pay], llm=ScriptedModel(_reply, delay=0.1))


def sail(store: Path, log: Path, wave: int, size: int, accepted: Any) -> None:
    """Run a wave of agents to their end; started again, go on with the same wave."""
    os.environ["FLEET_LOG"] = str(log)
    asyncio.run(_sail(store, wave, size, accepted))


async def _sail(store: Path, wave: int, size: int, accepted: Any) -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=fleet_registry()) as runtime:
        await asyncio.gather(*(_one(runtime, f"wave-{wave}-{number}", accepted) for number in range(size)))


async def _one(runtime: EmbeddedRuntime, instance_id: str, accepted: Any) -> None:
    workflow = fleet_agent().agent_workflow_name
    await runtime.start(workflow, {"task": "work out the sum"}, instance_id=instance_id)
    with accepted.get_lock():
        accepted.value += 1
    answer = await runtime.wait(instance_id, 120)
    assert answer["content"] == EXPECTED, f"{instance_id}: {answer}"
