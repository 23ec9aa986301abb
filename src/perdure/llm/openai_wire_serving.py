"""The OpenAI chat completions wire, seen from the server: pure mapping, as strict as the original.

A conversation that OpenAI would refuse is refused here too: tests against it find what production would find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from perdure.base.errors import UsageError
from perdure.base.messages import FunctionCall, Message, ToolCall
from perdure.ports.chat_model import ChatRequest, ToolDefinition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perdure.base.messages import Usage
    from perdure.ports.chat_model import ChatReply


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Call(msgspec.Struct):
    id: str
    function: _Function
    type: Literal["function"] = "function"


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _ToolFunction
    type: Literal["function"]


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    function: _Named


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class ServedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request body, understood.

    Attributes:
        request: the question.
        model: the model that was asked for.
        stream: whether the answer is wanted in chunks.
        include_usage: whether the chunks end with one that tells the usage.
    """

    request: ChatRequest
    model: str
    stream: bool = False
    include_usage: bool = False


def read_request(body: object, idempotency_key: str | None = None) -> ServedRequest:
    """Return what a request body asks for.

    Args:
        body: the JSON body as plain data.
        idempotency_key: what the request's header of that name says.

    Raises:
        UsageError: the body is not a chat completion request, or OpenAI would refuse its conversation.
    """
    try:
        asked = msgspec.convert(body, _Body)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from None
    messages = [_message(message) for message in asked.messages]
    problem = conversation_problem(messages)
    if problem:
        raise UsageError(problem)
    choice = asked.tool_choice
    request = ChatRequest(
        messages=messages,
        tools=[_tool(tool.function) for tool in asked.tools or ()],
        tool_choice=choice.function.name if isinstance(choice, _Choice) else choice,
        idempotency_key=idempotency_key,
    )
    options = asked.stream_options or _StreamOptions()
    return ServedRequest(
        request=request, model=asked.model, stream=bool(asked.stream), include_usage=options.include_usage
    )


def _message(message: _Message) -> Message:
    content = message.content
    return Message(
        role="system" if message.role == "developer" else message.role,
        content="".join(part.text for part in content) if isinstance(content, list) else content,
        name=message.name,
        tool_calls=tuple(
            ToolCall(id=call.id, function=FunctionCall(name=call.function.name, arguments=call.function.arguments))
            for call in message.tool_calls or ()
        ),
        tool_call_id=message.tool_call_id,
    )


def _tool(function: _ToolFunction) -> ToolDefinition:
    return ToolDefinition(
        name=function.name, description=function.description or "", parameters=function.parameters or {}
    )


def conversation_problem(messages: list[Message]) -> str | None:
    """Return why OpenAI would refuse a conversation, or None.

    Every tool call must be answered, by tool messages that follow the assistant's message at once.
    """
    if not messages:
        return "messages must not be empty"
    waiting: set[str] = set()
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return f"{where}: a tool message must answer a tool call of the assistant message before it"
            waiting.discard(message.tool_call_id)
            continue
        if waiting:
            return f"{where}: tool calls without an answer before this message: {', '.join(sorted(waiting))}"
        if message.content is None and not message.tool_calls:
            return f"{where}: a message of role {message.role!r} needs content"
        waiting = {call.id for call in message.tool_calls}
    return f"tool calls without an answer: {', '.join(sorted(waiting))}" if waiting else None


def completion(reply: ChatReply, *, completion_id: str, model: str, created: int) -> dict[str, Any]:
    """Return a reply as a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.message.content}
    if reply.message.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.message.tool_calls]
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": _usage(reply.usage),
    }


def completion_chunks(
    reply: ChatReply, *, completion_id: str, model: str, created: int, include_usage: bool
) -> Iterator[dict[str, Any]]:
    """Yield a reply as the chunks of a streamed chat completion."""
    head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": None if reply.message.tool_calls else ""})
    for piece in _pieces(reply.message.content or ""):
        yield chunk({"content": piece})
    for index, call in enumerate(reply.message.tool_calls):
        empty = {"name": call.function.name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": empty}]})
        for piece in _pieces(call.function.arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, reply.finish_reason)
    if include_usage:
        yield {**head, "choices": [], "usage": _usage(reply.usage)}


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of about a token, so that a client really has to put it together."""
    for start in range(0, len(text), 8):
        yield text[start : start + 8]


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
