"""The contract of a chat model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import msgspec

from perdure.base.messages import Message, Usage


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tool as a model sees it.

    Attributes:
        name: sanitised name, unique within one request.
        description: what it does and when to use it.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str
    parameters: dict[str, Any]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One question to a chat model.

    Attributes:
        messages: the whole conversation, system messages first.
        tools: what the model may call.
        tool_choice: "auto", "none", "required" or the name of one tool; None leaves it to the model.
        idempotency_key: the same on every retry of this question.
    """

    messages: list[Message]
    tools: list[ToolDefinition] = []
    tool_choice: str | None = None
    idempotency_key: str | None = None


class ChatReply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A chat model's answer.

    Attributes:
        message: an assistant message, with content, tool calls or both.
        model: the model that answered, as the provider names it.
        usage: tokens used; zeros where the provider does not tell.
        finish_reason: the provider's word for why it stopped.
    """

    message: Message
    model: str = "unknown"
    usage: Usage = Usage()
    finish_reason: str = "stop"


@runtime_checkable
class ChatModel(Protocol):
    """Answers conversations.

    Attributes:
        provider: name of the login, such as "openai", "ollama", "scripted" or "echo".
        model: name of the model, as the provider knows it.
    """

    @property
    def provider(self) -> str:
        """Name of the login, such as "openai", "ollama", "scripted" or "echo"."""
        ...

    @property
    def model(self) -> str:
        """Name of the model, as the provider knows it."""
        ...

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer one conversation.

        Called from the runtime's event loop, concurrently for many conversations. It keeps no state between calls
        that a restart would lose. It does not retry: the retry policy of the activity around it does.

        Raises:
            ModelUnavailableError: overloaded, rate-limited, timed out or out of reach (``retry_after`` when told).
            ModelError: refused for a reason that asking again does not change.
        """
        ...
