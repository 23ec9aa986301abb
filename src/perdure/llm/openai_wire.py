"""The OpenAI chat completions wire, seen from the client: pure mapping, no I/O, no SDK.

What a model wrote is kept as it wrote it: tool arguments that are not JSON reach the agent, which tells the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from perdure.base.errors import ModelError
from perdure.base.ids import new_instance_id
from perdure.base.messages import FunctionCall, Message, ToolCall, Usage
from perdure.ports.chat_model import ChatReply

if TYPE_CHECKING:
    from perdure.ports.chat_model import ChatRequest, ToolDefinition

MALFORMED = "malformed_arguments"
"""Name under which arguments that are no JSON object are sent back to a provider that takes only JSON."""

_EXCERPT = 300
_CHOICES = frozenset({"auto", "none", "required"})
_NOTHING: Mapping[str, Any] = {}


class WireFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the providers that speak this wire differ.

    Attributes:
        max_tokens_field: how the provider calls the limit on an answer's length.
        json_arguments_only: whether the provider refuses a conversation in which a tool call's arguments are not
            a JSON object, even when its own model wrote them.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    json_arguments_only: bool = True


def request_arguments(
    request: ChatRequest,
    model: str,
    facts: WireFacts,
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of ``chat.completions.create`` for one request.

    Args:
        request: what to ask.
        model: name of the model, as the provider knows it.
        facts: what to know about the provider.
        temperature: sampling temperature; None leaves it to the provider.
        max_tokens: limit on the answer's length; None leaves it to the provider.
    """
    arguments: dict[str, Any] = {
        "model": model,
        "messages": [_message(message, facts) for message in request.messages],
    }
    if request.tools:
        arguments["tools"] = [_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            arguments["tool_choice"] = _tool_choice(request.tool_choice)
    if temperature is not None:
        arguments["temperature"] = temperature
    if max_tokens is not None:
        arguments[facts.max_tokens_field] = max_tokens
    return arguments


def _message(message: Message, facts: WireFacts) -> dict[str, Any]:
    content = message.content
    wire: dict[str, Any] = {"role": message.role, "content": None if content is None else _sendable(content)}
    if message.role == "tool":
        wire["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        wire["name"] = message.name
    if message.tool_calls:
        wire["tool_calls"] = [_call(call, facts) for call in message.tool_calls]
    return wire


def _call(call: ToolCall, facts: WireFacts) -> dict[str, Any]:
    arguments = _sendable(call.function.arguments)
    if facts.json_arguments_only and not _is_json_object(arguments):
        arguments = msgspec.json.encode({MALFORMED: arguments}).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _sendable(text: str) -> str:
    """Return a text that UTF-8 can carry; a program's output may hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | dict[str, Any]:
    return choice if choice in _CHOICES else {"type": "function", "function": {"name": choice}}


def read_completion(completion: object, source: str = "the provider") -> ChatReply:
    """Return the reply that a chat completion holds.

    Args:
        completion: a ``ChatCompletion`` of the SDK, or the same as a mapping.
        source: who answered, for the error's text.

    Raises:
        ModelError: the answer has no choices, or is no completion at all.
    """
    body = _as_mapping(completion)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ModelError(f"{source} answered without any choice: {_excerpt(body or completion)}")
    choice = _as_mapping(cast("list[object]", choices)[0])
    message = _as_mapping(choice.get("message"))
    calls = _read_calls(message.get("tool_calls"))
    content = _text(message.get("content"))
    if content is None and not calls:
        content = _text(message.get("refusal")) or ""
    return ChatReply(
        message=Message(role="assistant", content=content, tool_calls=calls),
        model=str(body.get("model") or "unknown"),
        usage=_read_usage(body.get("usage")),
        finish_reason=str(choice.get("finish_reason") or ("tool_calls" if calls else "stop")),
    )


class _Named(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Named]


_models = msgspec.json.Decoder(_Models)


def model_names(content: bytes) -> list[str] | None:
    """Return the names in an answer that lists models, or None when it is no such answer."""
    try:
        return [model.id for model in _models.decode(content).data]
    except msgspec.DecodeError:
        return None


def _as_mapping(value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    dump = getattr(value, "model_dump", None)
    # Without warnings: providers put things into fields that the SDK's types do not foresee.
    return cast("Mapping[str, Any]", dump(warnings=False)) if callable(dump) else _NOTHING


def _excerpt(value: object) -> str:
    text = msgspec.json.encode(value, enc_hook=repr).decode()
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."


def _text(content: object) -> str | None:
    """Return a content as text; some providers send a list of parts."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [_as_mapping(part).get("text") for part in cast("list[object]", content)]
        return "".join(part for part in parts if isinstance(part, str))
    return str(content)


def _read_calls(calls: object) -> tuple[ToolCall, ...]:
    found: dict[str, ToolCall] = {}
    for item in cast("list[object]", calls) if isinstance(calls, list) else ():
        call = _as_mapping(item)
        function = _as_mapping(call.get("function"))
        call_id = str(call.get("id") or "")
        if not call_id or call_id in found:
            # Some providers leave the id out or repeat it; the answers could not be told apart.
            call_id = f"call_{new_instance_id()}"
        arguments = _read_arguments(function.get("arguments"))
        named = FunctionCall(name=str(function.get("name") or ""), arguments=arguments)
        found[call_id] = ToolCall(id=call_id, function=named)
    return tuple(found.values())


def _read_arguments(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments if arguments.strip() else "{}"
    return "{}" if arguments is None else msgspec.json.encode(arguments).decode()


def _read_usage(usage: object) -> Usage:
    counts = _as_mapping(usage)
    return Usage(
        input_tokens=_count(counts.get("prompt_tokens")), output_tokens=_count(counts.get("completion_tokens"))
    )


def _count(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
