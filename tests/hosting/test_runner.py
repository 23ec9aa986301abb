"""AgentRunner: on a running loop, on a thread of its own, and across lives of a process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import AgentRunner, DurableAgent, RunFailedError, StoreError, UsageError, tool
from perdure.base.errors import InstanceExistsError
from perdure.components.history.memory import MemoryHistoryStore
from perdure.llm.scripted import ScriptedModel
from perdure.workflows.registry import default_registry


@pytest.fixture(autouse=True)
def _own_names():
    before = dict(default_registry.workflows), dict(default_registry.activities)
    yield
    default_registry.workflows.clear()
    default_registry.activities.clear()
    default_registry.workflows.update(before[0])
    default_registry.activities.update(before[1])


def greeter(*replies: object) -> DurableAgent:
    return DurableAgent(name="Greeter", llm=ScriptedModel(list(replies) or ["hello"]))


def test_run_sync_returns_the_final_message_as_json_text(tmp_path: Path) -> None:
    with AgentRunner(store=tmp_path / "a.db") as runner:
        answer = runner.run_sync(greeter(), {"task": "hi"})
    assert json.loads(answer or "") == {"role": "assistant", "content": "hello", "name": "Greeter"}


def test_run_in_an_event_loop_is_scheduled_at_once_and_awaitable(tmp_path: Path) -> None:
    async def body() -> None:
        async with AgentRunner(store=tmp_path / "a.db") as runner:
            agent = greeter()
            run_id = await runner.run(agent, {"task": "hi"}, instance_id="one", wait=False)
            assert run_id == "one"
            assert json.loads(await runner.run(agent, {"task": "hi"}, instance_id="one") or "")["content"] == "hello"
            assert len(agent.model.calls) == 1

    asyncio.run(body())


def test_a_run_that_takes_longer_gives_none_and_goes_on(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def body() -> None:
        async def reply(_: object) -> str:
            await release.wait()
            return "late"

        agent = DurableAgent(name="Greeter", llm=ScriptedModel(reply))
        async with AgentRunner(store=tmp_path / "a.db") as runner:
            given = {"task": "hi"}
            assert await runner.run(agent, given, instance_id="slow", timeout_in_seconds=0.05) is None
            release.set()
            assert "late" in (await runner.run(agent, given, instance_id="slow") or "")

    asyncio.run(body())


def test_a_failed_run_raises_with_its_cause(tmp_path: Path) -> None:
    with AgentRunner(store=tmp_path / "a.db") as runner, pytest.raises(RunFailedError, match="holds no task"):
        runner.run_sync(greeter(), {})


def test_sync_calls_inside_a_loop_and_async_ones_outside_say_what_to_use(tmp_path: Path) -> None:
    runner = AgentRunner(store=tmp_path / "a.db")
    with pytest.raises(UsageError, match="run_sync"):
        runner.run(greeter(), {"task": "hi"})

    async def body() -> None:
        for wrong in (lambda: runner.run_sync(greeter(), {"task": "hi"}), runner.start):
            with pytest.raises(UsageError, match=r"await runner\.run"):
                wrong()

    asyncio.run(body())


def test_start_hosts_what_an_earlier_runner_left_and_run_works_beside_it(tmp_path: Path) -> None:
    agent = greeter()
    runner = AgentRunner(agent, store=tmp_path / "a.db").start()

    async def body() -> None:
        assert "hello" in (await runner.run(agent, {"task": "hi"}) or "")

    asyncio.run(body())
    runner.shutdown()
    runner.shutdown()


def test_start_without_an_agent_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give it an agent"):
        AgentRunner(store=tmp_path / "a.db").start()


def test_a_store_that_cannot_be_opened_raises_at_the_call(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, but long enough to look like a file with something in it" * 20)
    with pytest.raises(StoreError, match="not a database"):
        AgentRunner(store=tmp_path / "a.db").run_sync(greeter(), {"task": "hi"})


def test_a_history_store_object_may_be_given() -> None:
    with AgentRunner(store=MemoryHistoryStore()) as runner:
        assert "hello" in (runner.run_sync(greeter(), "hi") or "")


def test_an_async_tool_runs_on_the_loop_of_the_program(tmp_path: Path) -> None:
    async def body() -> None:
        loops: list[object] = []

        @tool
        async def where() -> str:
            """Say where."""
            loops.append(asyncio.get_running_loop())
            return "here"

        agent = DurableAgent(name="W", tools=[where], llm=ScriptedModel([{"tool": "where", "arguments": {}}, "ok"]))
        async with AgentRunner(store=tmp_path / "a.db") as runner:
            await runner.run(agent, {"task": "where?"})
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(body())


PROGRAM = """
import sys, time
from pathlib import Path
from perdure import AgentRunner, DurableAgent, tool
from perdure.testing import ScriptedModel

@tool
def book() -> str:
    '''Book.'''
    with Path("log").open("a") as log:
        log.write("book\\n")
    if not Path("go").exists():
        Path("inside").touch()
        time.sleep(60)
    return "booked"

def reply(request):
    with Path("log").open("a") as log:
        log.write("model\\n")
    return "done" if request.messages[-1].role == "tool" else {"tool": "book", "arguments": {}}

agent = DurableAgent(name="Concierge", tools=[book], llm=ScriptedModel(reply))
print(AgentRunner(store="runs.db").run_sync(agent, {"task": "a table"}, instance_id="table-1"))
"""


def test_a_program_killed_in_a_tool_call_and_started_again_finishes_without_asking_twice(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py"]
    first = subprocess.Popen(command, cwd=tmp_path)
    while not (tmp_path / "inside").exists():
        assert first.poll() is None
    first.kill()
    first.wait()
    (tmp_path / "go").touch()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(again.stdout)["content"] == "done"
    assert (tmp_path / "log").read_text().split() == ["model", "book", "book", "model"]


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [
        (None, {}, "default"),
        (None, {"APP_ID": "dapr"}, "dapr"),
        (None, {"APP_ID": "dapr", "PERDURE_APP_ID": "ours"}, "ours"),
        ("given", {"APP_ID": "dapr", "PERDURE_APP_ID": "ours"}, "given"),
    ],
)
def test_runs_belong_to_the_app_that_is_given_or_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, environment: dict[str, str], expected: str
) -> None:
    for name in ("APP_ID", "PERDURE_APP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    async def body() -> None:
        store = MemoryHistoryStore()
        async with AgentRunner(store=store, app_id=chosen) as runner:
            await runner.run(greeter(), {"task": "hi"}, instance_id="one")
            record = await store.find("one")
            assert record is not None
            assert record.app_id == expected

    asyncio.run(body())


def test_the_same_agent_in_two_apps_shares_no_runs() -> None:
    async def body() -> None:
        store = MemoryHistoryStore()
        agent = greeter()
        async with AgentRunner(store=store, app_id="one") as one, AgentRunner(store=store, app_id="two") as two:
            await one.run(agent, {"task": "hi"}, instance_id="taken")
            with pytest.raises(InstanceExistsError, match="it is a run of app 'one', not of 'two'"):
                await two.run(agent, {"task": "hi"}, instance_id="taken")

    asyncio.run(body())
