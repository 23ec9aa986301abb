"""The effects of an agent: one model call, one tool call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from perdure.agents.turn import ModelTurn, ToolOutcome
from perdure.base.conversation import Conversation
from perdure.base.errors import ToolError
from perdure.base.ids import digest
from perdure.base.messages import Message, ToolCall
from perdure.engine.activity import call_within, current_activity, reconciled
from perdure.ports.chat_model import ChatModel, ChatRequest
from perdure.ports.toolset import Interrupted, Reconciled
from perdure.tools.results import as_text, error_text, unknown_tool_text
from perdure.tools.toolset import Toolset


class Definition(Protocol):
    """An agent's definition as its activities read it, at the time of each call."""

    @property
    def model(self) -> ChatModel:
        """The chat model."""
        ...

    @property
    def toolset(self) -> Toolset:
        """The tools."""
        ...

    @property
    def max_iterations(self) -> int:
        """Model calls in one run at most."""
        ...

    @property
    def tool_choice(self) -> str | None:
        """What the model is told about choosing tools."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether tool calls run one by one."""
        ...

    def prompt(self, today: str | None) -> str:
        """Return the system prompt, with the line of today's date when a date is given."""
        ...


async def call_model(agent: Definition, call: dict[str, Any]) -> ModelTurn:
    """Ask the model for its next message, with the conversation so far.

    Args:
        agent: the definition, read now.
        call: ``conversation`` and the number of the ``turn``.

    Raises:
        ModelError, ModelUnavailableError: as the model raises them.
    """
    conversation: Conversation = call["conversation"]
    today = dt.datetime.now(dt.UTC).date().isoformat()
    system = Message(role="system", content=agent.prompt(today))
    tools = agent.toolset.definitions()
    request = ChatRequest(
        messages=[system, *conversation.messages()],
        tools=tools,
        tool_choice=agent.tool_choice if tools else None,
        idempotency_key=current_activity().idempotency_key,
    )
    reply = await agent.model.complete(request)
    return ModelTurn(
        message=reply.message,
        model=reply.model,
        usage=reply.usage,
        definition=definition_digest(agent),
        max_iterations=agent.max_iterations,
        sequential=agent.sequential,
    )


def definition_digest(agent: Definition) -> str:
    """Return the content address of an agent's definition: prompt, tools, model, mode."""
    model = agent.model
    facts = [
        agent.prompt(None),
        agent.toolset.definitions(),
        model.provider,
        model.model,
        agent.tool_choice,
        agent.sequential,
        agent.max_iterations,
    ]
    return digest(msgspec.json.encode(facts, order="sorted"))


async def call_tool(agent: Definition, call: dict[str, Any]) -> ToolOutcome:
    """Run one tool call; its errors are outcomes, which the model is told.

    Args:
        agent: the definition, read now.
        call: the ``tool_call`` as the wire has it, and its ``order`` in the turn.
    """
    wanted = msgspec.convert(call["tool_call"], ToolCall)
    name = wanted.function.name
    tool = agent.toolset.find(name)
    if tool is None:
        known = [definition.name for definition in agent.toolset.definitions()]
        return ToolOutcome(content=unknown_tool_text(name, known), failed=True)
    try:
        arguments = tool.validate(wanted.function.arguments)
        result = await call_within(
            lambda: tool.invoke(arguments),
            is_async=tool.is_async,
            seconds=tool.timeout,
            name=f"tool {tool.definition.name!r}",
        )
    except ToolError as error:
        return ToolOutcome(content=str(error), failed=True)
    except Exception as error:  # noqa: BLE001 - whatever a tool raises, the model is told
        return ToolOutcome(content=error_text(name, error), failed=True)
    return ToolOutcome(content=as_text(result))


def reconcile_tool(agent: Definition) -> Callable[[Interrupted], Any]:
    """Return what decides about a tool call that a crash cut off: the policy of the tool that it called."""

    async def decide(question: Interrupted) -> Reconciled:
        wanted = msgspec.convert(question.arguments["tool_call"], ToolCall)
        tool = agent.toolset.find(wanted.function.name)
        if tool is None or tool.on_crash == "ask":
            # A tool that is gone may have had its effect, and cannot say what that means.
            return question.ask()
        if tool.on_crash == "retry":
            return question.retry()
        try:
            arguments = tool.validate(wanted.function.arguments)
        except ToolError:
            # The tool has changed since: its function would look for another call than the one that was cut off.
            return question.ask()
        inner = Interrupted(tool=tool.definition.name, arguments=arguments, idempotency_key=question.idempotency_key)
        answer = await reconciled(tool.on_crash, inner)
        if answer.decision == "completed":
            return question.completed(ToolOutcome(content=as_text(answer.result)))
        return answer

    return decide
