"""The loop, run for real: on the store, with a scripted model."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading

import msgspec
import pytest

from perdure import (
    AgentExecutionConfig,
    DurableAgent,
    ModelError,
    ModelUnavailableError,
    RunFailedError,
    ToolError,
    ToolExecutionMode,
    WorkflowRetryPolicy,
    current_activity,
    tool,
)
from perdure.agents.turn import LIMIT_NOTICE
from perdure.base.codec import conversation_references
from perdure.base.events import TaskScheduled
from perdure.base.messages import FunctionCall, Message, ToolCall
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatReply


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def shout(text: str) -> str:
    """Say it loud."""
    return text.upper()


def call(name: str, /, **arguments: object) -> dict[str, object]:
    return {"tool": name, "arguments": arguments}


def test_an_agent_answers_after_its_tools(bench, tool_answers) -> None:
    model = ScriptedModel([call("add", a=1, b=2), call("shout", text="three"), "It is THREE."])
    answer = bench.run(DurableAgent(name="My Agent", tools=[add, shout], llm=model))
    assert answer == {"role": "assistant", "content": "It is THREE.", "name": "MyAgent"}
    assert tool_answers(model) == ["3", "THREE"]


def test_a_task_may_be_given_as_plain_text(bench) -> None:
    model = ScriptedModel(["hello"])
    bench.run(DurableAgent(name="A", llm=model), "say hello")
    assert model.calls[0].messages[-1] == Message(role="user", content="say hello")


@pytest.mark.parametrize("payload", [{}, {"task": None}, {"task": " "}, {"task": 7}, [1], 3])
def test_a_payload_without_task_fails_the_run_with_the_remedy(bench, payload) -> None:
    with pytest.raises(RunFailedError, match=r"pass \{'task'"):
        bench.run(DurableAgent(name="A", llm=ScriptedModel(["x"])), payload)


def test_the_model_is_given_the_system_prompt_with_todays_date_and_the_tools(bench) -> None:
    model = ScriptedModel(["done"])
    agent = DurableAgent(name="A", role="Clerk", goal="Serve", instructions=["Be {brief}."], tools=[add], llm=model)
    bench.run(agent)
    request = model.calls[0]
    system = request.messages[0]
    assert system.role == "system"
    for part in ("Clerk", "Serve", "Be {brief}.", dt.datetime.now(dt.UTC).date().isoformat()[:7]):
        assert part in (system.content or "")
    assert [definition.name for definition in request.tools] == ["add"]
    assert request.tool_choice == "auto"
    assert request.idempotency_key


def test_without_tools_no_tool_choice_is_sent(bench) -> None:
    model = ScriptedModel(["done"])
    bench.run(DurableAgent(name="A", llm=model))
    assert model.calls[0].tool_choice is None


def test_an_unknown_tool_is_told_to_the_model_and_the_run_goes_on(bench, tool_answers) -> None:
    model = ScriptedModel([call("subtract", a=1), "sorry"])
    assert bench.run(DurableAgent(name="A", tools=[add], llm=model))["content"] == "sorry"
    assert tool_answers(model)[0].startswith(
        "Error executing tool 'subtract': AgentToolExecutorError: Tool 'subtract' not found."
    )
    assert "add" in tool_answers(model)[0]


@pytest.mark.parametrize("arguments", ["{", "[1]", '{"a": "one", "b": 2}', '{"a": 1}', ""])
def test_malformed_arguments_are_told_to_the_model_and_the_tool_is_not_called(bench, tool_answers, arguments) -> None:
    wanted = ToolCall(id="c1", function=FunctionCall(name="add", arguments=arguments))
    reply = ChatReply(message=Message(role="assistant", tool_calls=(wanted,)))
    model = ScriptedModel([reply, "sorry"])
    assert bench.run(DurableAgent(name="A", tools=[add], llm=model))["content"] == "sorry"
    assert "add" in tool_answers(model)[0]
    assert tool_answers(model)[0] != "3"


def test_what_a_tool_raises_is_told_to_the_model(bench, tool_answers) -> None:
    @tool
    def divide(a: int) -> float:
        """Divide by zero."""
        return a / 0

    @tool
    async def refuse() -> None:
        """Refuse."""
        raise ToolError("not on Sundays")

    model = ScriptedModel([[call("divide", a=1), call("refuse")], "sorry"])
    bench.run(DurableAgent(name="A", tools=[divide, refuse], llm=model))
    assert tool_answers(model)[0] == "Error executing tool 'divide': ZeroDivisionError: division by zero"
    assert "not on Sundays" in tool_answers(model)[1]


def test_a_tool_that_takes_too_long_is_told_to_the_model(bench, tool_answers) -> None:
    @tool(timeout=0.05)
    async def wait_for_ever() -> None:
        """Wait."""
        await asyncio.Event().wait()

    @tool(timeout=5)
    async def own_timeout() -> None:
        """Raise a TimeoutError of its own."""
        raise TimeoutError("the server is slow")

    model = ScriptedModel([[call("wait_for_ever"), call("own_timeout")], "sorry"])
    bench.run(DurableAgent(name="A", tools=[wait_for_ever, own_timeout], llm=model))
    assert "took longer than 0.05 s" in tool_answers(model)[0]
    assert "the server is slow" in tool_answers(model)[1]


def test_parallel_tool_calls_overlap_and_answer_in_the_order_of_the_calls(bench, tool_answers) -> None:
    both = threading.Barrier(2, timeout=10)

    @tool
    def meet(name: str) -> str:
        """Wait for the other one."""
        both.wait()
        return name

    model = ScriptedModel([[call("meet", name="first"), call("meet", name="second")], "met"])
    bench.run(DurableAgent(name="A", tools=[meet], llm=model))
    assert tool_answers(model) == ["first", "second"]


def test_sequential_tool_calls_begin_when_the_one_before_is_recorded(bench, tool_answers) -> None:
    running: list[str] = []

    @tool
    async def alone(name: str) -> str:
        """Be alone."""
        running.append(name)
        await asyncio.sleep(0)
        seen = list(running)
        running.remove(name)
        return ",".join(seen)

    model = ScriptedModel([[call("alone", name=str(number)) for number in range(4)], "done"])
    mode = AgentExecutionConfig(tool_execution_mode=ToolExecutionMode.SEQUENTIAL)
    agent = DurableAgent(name="A", tools=[alone], llm=model, execution=mode)
    bench.run(agent, instance_id="sequential")
    assert tool_answers(model) == ["0", "1", "2", "3"]
    rows = bench.history(agent, "sequential")
    assert all(sum(isinstance(event, TaskScheduled) for event in row.events) <= 1 for row in rows)


def test_the_iteration_limit_ends_the_run_with_a_notice(bench) -> None:
    model = ScriptedModel(lambda _: call("add", a=1, b=1))
    agent = DurableAgent(name="A", tools=[add], llm=model, execution=AgentExecutionConfig(max_iterations=3))
    answer = bench.run(agent)
    assert answer == {"role": "assistant", "content": LIMIT_NOTICE, "name": "A"}
    assert len(model.calls) == 3


def test_an_answer_on_the_last_allowed_turn_is_the_answer(bench) -> None:
    model = ScriptedModel([call("add", a=1, b=1), "two"])
    agent = DurableAgent(name="A", tools=[add], llm=model, execution=AgentExecutionConfig(max_iterations=2))
    assert bench.run(agent)["content"] == "two"


def test_a_model_that_is_unavailable_is_asked_again_by_the_recorded_policy(bench) -> None:
    attempts: list[int] = []

    def reply(_: object) -> str:
        attempts.append(current_activity().attempt)
        if len(attempts) < 3:
            raise ModelUnavailableError("overloaded", retry_after=0.01)
        return "at last"

    policy = WorkflowRetryPolicy(max_attempts=3, initial_backoff_seconds=0.01)
    assert bench.run(DurableAgent(name="A", llm=ScriptedModel(reply), retry_policy=policy))["content"] == "at last"
    assert attempts == [1, 2, 3]


def test_a_model_that_refuses_is_not_asked_again_and_fails_the_run(bench) -> None:
    model = ScriptedModel([ModelError("no such model")])
    with pytest.raises(RunFailedError, match="Agent A workflow failed: ModelError: no such model"):
        bench.run(DurableAgent(name="A", llm=model))
    assert len(model.calls) == 1


def test_duplicate_and_missing_call_ids_are_made_distinct(bench) -> None:
    twice = tuple(
        ToolCall(id=given, function=FunctionCall(name="add", arguments=f'{{"a": {number}, "b": 0}}'))
        for number, given in enumerate(["same", "same", ""])
    )
    model = ScriptedModel([ChatReply(message=Message(role="assistant", tool_calls=twice)), "ok"])
    bench.run(DurableAgent(name="A", tools=[add], llm=model))
    answers = [message for message in model.calls[-1].messages if message.role == "tool"]
    assert [message.content for message in answers] == ["0", "1", "2"]
    assert len({message.tool_call_id for message in answers}) == 3


def test_a_long_conversation_is_stored_once_and_passed_by_reference(bench) -> None:
    model = ScriptedModel([*(call("shout", text=f"{number} " + "word " * 500) for number in range(8)), "done"])
    agent = DurableAgent(name="A", tools=[shout], llm=model)
    bench.run(agent, {"task": "start " * 2000}, instance_id="long")
    rows = bench.history(agent, "long")
    inputs = [event.input for row in rows for event in row.events if isinstance(event, TaskScheduled)]
    model_inputs = [raw for raw in inputs if conversation_references(bytes(raw))]
    assert len(model_inputs) == 9
    assert all(len(bytes(raw)) < 200 for raw in model_inputs)
    assert [message.content for message in model.calls[-1].messages if message.role == "user"] == ["start " * 2000]


def test_each_turn_records_the_digest_of_the_definition_that_it_used(bench) -> None:
    digests: list[str] = []
    for goal in ("one", "one", "two"):
        agent = DurableAgent(name="A", goal=goal, llm=ScriptedModel(["x"]))
        instance_id = f"run-{len(digests)}"
        bench.run(agent, instance_id=instance_id)
        rows = bench.history(agent, instance_id)
        (result,) = [event.result for row in rows for event in row.events if type(event).__name__ == "TaskCompleted"]
        digests.append(msgspec.json.decode(result)["definition"])
    assert digests[0] == digests[1] != digests[2]
