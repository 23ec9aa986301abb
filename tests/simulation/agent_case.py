"""An agent to run: its conversation is a chain of links, passed by reference; its tools are told of crashes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perdure import DurableAgent, tool
from perdure.base.events import ExecutionCompleted, HistoryRow
from perdure.engine.activity import Activity
from perdure.engine.code import Workflow
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatRequest
from perdure.ports.toolset import Interrupted, Reconciled
from perdure.workflows.registry import Registry

_TURNS = 3
_EXPECTED = str(sum((turn + 1) + 10 * turn for turn in range(_TURNS)))


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def _look_up(question: Interrupted) -> Reconciled:
    paid = sum(question.idempotency_key.encode()) % 2
    return question.completed(question.arguments["amount"]) if paid else question.retry()


@tool(on_crash=_look_up)
async def pay(amount: int, why: str) -> int:
    """Pay an amount, for a reason that is a long text."""
    return amount


def _reply(request: ChatRequest) -> Any:
    turn = sum(message.role == "assistant" for message in request.messages)
    if turn < _TURNS:
        return [
            {"tool": "add", "arguments": {"a": turn, "b": 1}},
            {"tool": "pay", "arguments": {"amount": 10 * turn, "why": "because " * 100}},
        ]
    return str(sum(int(message.content or 0) for message in request.messages if message.role == "tool"))


@dataclass(frozen=True)
class AgentCase:
    """An agent that works out a sum in a few turns, two tool calls in each."""

    instance_id: str = "agent"

    @cached_property
    def _registry(self) -> Registry:
        registry = Registry()
        DurableAgent(name="Clerk", tools=[add, pay], llm=ScriptedModel(_reply)).register(registry)
        return registry

    @property
    def input(self) -> Any:
        return {"task": "work out the sum"}

    @property
    def workflow(self) -> Workflow:
        return next(iter(self._registry.workflows.values()))

    @property
    def activities(self) -> Sequence[Activity]:
        return list(self._registry.activities.values())

    def events(self, chance: random.Random) -> list[tuple[str, Any]]:
        return []

    def judge(self, end: ExecutionCompleted, result: Any, rows: Sequence[HistoryRow], sent: Sequence[Any]) -> str:
        if not isinstance(result, dict) or result["content"] != _EXPECTED:
            return f"its answer is {result!r}, not {_EXPECTED}; {end.failure}"
        return ""
