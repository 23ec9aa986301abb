"""A chat model that needs no key: it says back what it was told."""

from __future__ import annotations

from perdure.base.messages import Message
from perdure.llm.scripted import approximate_usage
from perdure.ports.chat_model import ChatReply, ChatRequest


class EchoModel:
    """Answers with the last user message and never calls a tool."""

    @property
    def provider(self) -> str:
        """The word "echo"."""
        return "echo"

    @property
    def model(self) -> str:
        """The word "echo"."""
        return "echo"

    def __repr__(self) -> str:
        return "EchoModel()"

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with the last user message."""
        said = next((m.content for m in reversed(request.messages) if m.role == "user"), None)
        message = Message(role="assistant", content=f"You said: {said}" if said else "You said nothing.")
        return ChatReply(message=message, model="echo", usage=approximate_usage(request, message))
