"""The agent's loop: an ordinary workflow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import msgspec

from perdure.agents.turn import CallTools, Finish, ModelTurn, ToolOutcome, decide, is_last, limit_reached, tool_messages
from perdure.base.conversation import Conversation
from perdure.base.errors import ActivityFailedError, AgentError
from perdure.base.events import RetryPolicy
from perdure.base.messages import Message, ToolCall
from perdure.tools.results import as_text
from perdure.workflows.context import WorkflowContext


class LoopNames(Protocol):
    """What the loop needs to know of an agent; everything else is recorded by its activities."""

    @property
    def message_name(self) -> str:
        """The sanitised name that the agent's messages carry."""
        ...

    @property
    def model_activity(self) -> str:
        """Registered name of the activity that calls the model."""
        ...

    @property
    def tool_activity(self) -> str:
        """Registered name of the activity that calls one tool."""
        ...

    @property
    def model_retry(self) -> RetryPolicy:
        """The policy that is recorded with each model call."""
        ...


async def agent_loop(ctx: WorkflowContext, agent: LoopNames, payload: Any) -> dict[str, Any]:
    """Answer one task: call the model, run the tools that it asks for, and again, until it answers.

    Args:
        ctx: the workflow's context.
        agent: the names under which the agent's activities are registered.
        payload: ``{"task": text}``, or the text alone.

    Returns:
        the final assistant message, as the wire has it (reference: wire.md 2.2).

    Raises:
        AgentError: there is no task, or the model could not be reached within its retry policy.
    """
    conversation = Conversation(ctx.instance_id).append(Message(role="user", content=task_of(payload)))
    for number in count(1):
        turn = await _call_model(ctx, agent, conversation, number)
        decision = decide(turn, agent.message_name)
        if isinstance(decision, Finish):
            return as_wire(decision.message)
        conversation = conversation.append(decision.message)
        outcomes = await _call_tools(ctx, agent, decision)
        for message in tool_messages(decision.calls, outcomes):
            conversation = conversation.append(message)
        if is_last(turn, number):
            break
    return as_wire(limit_reached(agent.message_name))


def task_of(payload: Any) -> str:
    """Return the task of a run's input.

    Raises:
        AgentError: there is none.
    """
    task = payload.get("task") if isinstance(payload, dict) else payload
    if not isinstance(task, str) or not task.strip():
        raise AgentError(f"the payload {payload!r} holds no task; pass {{'task': 'what the agent is to do'}}")
    return task


def as_wire(message: Message) -> dict[str, Any]:
    """Return a message as the JSON object that compatible programs read."""
    data: dict[str, Any] = msgspec.to_builtins(message)
    return {"role": message.role, "content": message.content, **data}


async def _call_model(ctx: WorkflowContext, agent: LoopNames, conversation: Conversation, number: int) -> ModelTurn:
    call = {"conversation": conversation, "turn": number}
    try:
        result = await ctx.call_activity(agent.model_activity, input=call, retry_policy=agent.model_retry)
    except ActivityFailedError as error:
        cause = f"{error.failure.error_type}: {error.failure.message}"
        raise AgentError(f"Agent {agent.message_name} workflow failed: {cause}") from error
    return msgspec.convert(result, ModelTurn)


async def _call_tools(ctx: WorkflowContext, agent: LoopNames, decision: CallTools) -> Sequence[ToolOutcome]:
    if decision.sequential:
        return [await _call_tool(ctx, agent, call, order) for order, call in enumerate(decision.calls)]
    tasks = [_tool_task(ctx, agent, call, order) for order, call in enumerate(decision.calls)]
    return [await _outcome(task) for task in tasks]


async def _call_tool(ctx: WorkflowContext, agent: LoopNames, call: ToolCall, order: int) -> ToolOutcome:
    return await _outcome(_tool_task(ctx, agent, call, order))


def _tool_task(ctx: WorkflowContext, agent: LoopNames, call: ToolCall, order: int) -> Any:
    return ctx.call_activity(agent.tool_activity, input={"tool_call": msgspec.to_builtins(call), "order": order})


async def _outcome(task: Any) -> ToolOutcome:
    try:
        result = await task
    except ActivityFailedError as error:
        # Not the tool's own error, which is an outcome already: an interrupted call that a human declared failed.
        return ToolOutcome(content=f"Error: {error.failure.error_type}: {error.failure.message}", failed=True)
    try:
        return msgspec.convert(result, ToolOutcome, strict=True)
    except msgspec.ValidationError:
        # Not from the activity: a human said what an interrupted tool had returned.
        return ToolOutcome(content=as_text(result))
