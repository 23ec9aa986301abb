"""Chat messages and tool calls, in the shapes of the OpenAI wire that every provider speaks or is mapped to."""

from __future__ import annotations

from typing import Literal

from perdure.base.codec import Record

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(Record, frozen=True, kw_only=True, gc=False):
    """What a model wants called: a name, and its arguments as JSON text, exactly as the model wrote them."""

    name: str
    arguments: str = "{}"


class ToolCall(Record, frozen=True, kw_only=True, gc=False):
    """One tool call of an assistant message."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One message of a conversation.

    Attributes:
        role: who speaks.
        content: the text; None where an assistant only calls tools.
        name: name of the speaker or tool, sanitised.
        tool_calls: the calls that an assistant message asks for.
        tool_call_id: on a tool message, the id of the call that it answers.
    """

    role: Role
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Usage(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Tokens that one model call used."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens
