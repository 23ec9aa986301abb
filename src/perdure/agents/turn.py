"""One turn of an agent, decided purely: given what the model said, what comes next?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import msgspec

from perdure.base.codec import Record
from perdure.base.messages import Message, ToolCall, Usage

LIMIT_NOTICE = (
    "I stopped because the maximum number of reasoning steps was reached before I had a final answer. "
    "Raise max_iterations or ask for less at once."
)


class ModelTurn(Record, frozen=True, kw_only=True, gc=False):
    """What one model call returned, with everything that governs the decision after it.

    It is recorded as the result of the model's activity, so that a replay decides as the first run did, whatever has
    become of the agent's configuration since.

    Attributes:
        message: the assistant message.
        model: the model that answered.
        usage: tokens used.
        definition: digest of the agent's definition that this turn used: prompt, tools, model.
        max_iterations: the limit in force.
        sequential: whether the turn's tool calls run one by one.
    """

    message: Message
    model: str
    usage: Usage
    definition: str
    max_iterations: int
    sequential: bool = False


class ToolOutcome(Record, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What became of one tool call: the text for the model, and whether it tells of an error."""

    content: str
    failed: bool = False


class CallTools(msgspec.Struct, frozen=True, gc=False):
    """Run these calls, in parallel or one by one, and ask the model again."""

    message: Message
    calls: tuple[ToolCall, ...]
    sequential: bool


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The run is over with this message."""

    message: Message


Decision = CallTools | Finish


def decide(turn: ModelTurn, name: str) -> Decision:
    """Return what follows a model call.

    Args:
        turn: what the model call returned.
        name: the agent's sanitised name, which its messages carry.
    """
    message = msgspec.structs.replace(_with_distinct_ids(turn.message), name=name)
    if message.tool_calls:
        return CallTools(message, message.tool_calls, turn.sequential)
    return Finish(message)


def is_last(turn: ModelTurn, number: int) -> bool:
    """Whether the turn of this number, counted from 1, is the last one that the limit in force allows."""
    return number >= turn.max_iterations


def limit_reached(name: str) -> Message:
    """Return the answer of a run that used up its turns (reference: wire.md 2.2, iteration limit reached)."""
    return Message(role="assistant", content=LIMIT_NOTICE, name=name)


def tool_messages(calls: Sequence[ToolCall], outcomes: Sequence[ToolOutcome]) -> list[Message]:
    """Return the answers to some calls, in the order of the calls, each to its own id."""
    return [
        Message(role="tool", content=outcome.content, name=call.function.name, tool_call_id=call.id)
        for call, outcome in zip(calls, outcomes, strict=True)
    ]


def _with_distinct_ids(message: Message) -> Message:
    """Give calls without an id, or with one that another call has, an id of their own: answers go by id."""
    taken = {call.id for call in message.tool_calls}
    seen = {""}
    calls: list[ToolCall] = []
    for index, call in enumerate(message.tool_calls):
        if call.id in seen:
            names = (f"{call.id or 'call'}_{number}" for number in count(index))
            fresh = next(name for name in names if name not in taken)
            call = msgspec.structs.replace(call, id=fresh)  # noqa: PLW2901 - the call goes on under its own id
            taken.add(fresh)
        seen.add(call.id)
        calls.append(call)
    return msgspec.structs.replace(message, tool_calls=tuple(calls))
