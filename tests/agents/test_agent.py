"""What a user builds: construction, class style, registration."""

from __future__ import annotations

import pytest

from perdure import AgentExecutionConfig, DurableAgent, EchoModel, UsageError, WorkflowRetryPolicy, tool
from perdure.llm.scripted import ScriptedModel
from perdure.workflows.registry import Registry


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


class Clerk(DurableAgent):
    """An agent in class style."""

    system_prompt = "You are a {clerk}."

    def __init__(self, prefix: str = ">", **options: object) -> None:
        super().__init__(llm=ScriptedModel([{"tool": "stamp", "arguments": {"text": "x"}}, "stamped"]), **options)
        self.prefix = prefix

    @tool
    def stamp(self, text: str) -> str:
        """Stamp a text."""
        return self.prefix + text


class ChiefClerk(Clerk):
    @tool
    async def sign(self) -> str:
        """Sign."""
        return "signed"


def test_methods_marked_as_tools_are_the_agents_tools_bound_to_it(bench, tool_answers) -> None:
    clerk = Clerk(prefix="*")
    assert bench.run(clerk)["content"] == "stamped"
    assert tool_answers(clerk.model) == ["*x"]
    assert clerk.model.calls[0].messages[0].content == "You are a {clerk}."


def test_a_class_gives_the_agent_its_name_and_its_tools_are_inherited() -> None:
    chief = ChiefClerk(tools=[look_up])
    assert chief.name == "ChiefClerk"
    assert [each.definition.name for each in chief.toolset] == ["stamp", "sign", "look_up"]
    assert chief.stamp("a") == ">a"


def test_a_subclass_may_take_a_tool_away() -> None:
    class Apprentice(Clerk):
        stamp = None  # type: ignore[assignment]

    assert [each.definition.name for each in Apprentice().toolset] == []


def test_the_names_are_those_of_the_wire() -> None:
    agent = DurableAgent(name="My Agent", llm=EchoModel())
    assert agent.message_name == "MyAgent"
    assert agent.agent_workflow_name == "dapr.agents.MyAgent.workflow"
    assert agent.model_activity == "dapr.agents.MyAgent.call_llm"
    assert agent.tool_activity == "dapr.agents.MyAgent.run_tool"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({}, "needs a name"),
        ({"name": "  "}, "needs a name"),
        ({"name": "x" * 65}, "at most 64"),
        ({"name": "A", "instructions": [1]}, "DurableAgent.instructions"),
        ({"name": "A", "llm": "opnai:gpt-5"}, "openai"),
        ({"name": "A", "tools": [look_up, look_up]}, "look_up"),
        ({"name": "A", "retry_policy": WorkflowRetryPolicy(max_attempts=0)}, "max_attempts"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_name(arguments, remedy) -> None:
    with pytest.raises(UsageError, match=remedy):
        DurableAgent(**arguments)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [({"max_iterations": 0}, "at least 1"), ({"tool_execution_mode": "both"}, "parallel")],
)
def test_a_wrong_execution_config_is_refused(arguments, remedy) -> None:
    with pytest.raises(UsageError, match=remedy):
        AgentExecutionConfig(**arguments)


def test_one_text_counts_as_a_list_of_one() -> None:
    agent = DurableAgent(name="A", instructions="Be brief.", style_guidelines="Be kind.", llm=EchoModel())
    assert "Be brief." in agent.prompt(None)
    assert "Be kind." in agent.prompt(None)


def test_a_model_may_be_changed_and_named_later() -> None:
    agent = DurableAgent(name="A", llm="echo")
    assert isinstance(agent.model, EchoModel)
    agent.llm = "echo"
    assert agent.model.provider == "echo"


def test_registering_twice_changes_nothing_and_a_namesake_is_refused() -> None:
    registry = Registry()
    agent = DurableAgent(name="A", llm=EchoModel())
    agent.register(registry)
    agent.register(registry)
    with pytest.raises(UsageError, match="two agents are named"):
        DurableAgent(name="A", llm=EchoModel()).register(registry)
