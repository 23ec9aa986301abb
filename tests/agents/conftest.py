from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableAgent
from perdure.base.events import HistoryRow
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


class Bench:
    """Runs agents on a store of their own, with functions kept in memory or put away after every step."""

    def __init__(self, path: Path, options: WorkerOptions) -> None:
        self.path = path
        self.options = options

    def runtime(self, agent: DurableAgent) -> EmbeddedRuntime:
        registry = Registry()
        agent.register(registry)
        return EmbeddedRuntime(SQLiteHistoryStore(self.path), registry=registry, options=self.options)

    def run(self, agent: DurableAgent, payload: Any = None, *, instance_id: str | None = None) -> dict[str, Any]:
        """Run an agent to its end and return the final message."""

        async def body() -> Any:
            async with self.runtime(agent) as runtime:
                asked = {"task": "go"} if payload is None else payload
                started = await runtime.start(agent.agent_workflow_name, asked, instance_id=instance_id)
                return await runtime.wait(started, 30)

        return asyncio.run(body())

    def history(self, agent: DurableAgent, instance_id: str) -> list[HistoryRow]:
        async def body() -> list[HistoryRow]:
            async with self.runtime(agent) as runtime:
                return await runtime.history(instance_id)

        return asyncio.run(body())


@pytest.fixture(params=["warm", "put away"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "agents.db", WorkerOptions(put_away=request.param == "put away"))


@pytest.fixture
def tool_answers() -> Callable[[Any], list[str]]:
    """Return the texts that a model was given for its tool calls, of its last request."""

    def read(model: Any) -> list[str]:
        return [message.content for message in model.calls[-1].messages if message.role == "tool"]

    return read


def as_json(text: str | None) -> Any:
    assert text is not None
    return json.loads(text)
