"""What a model reads: of a tool's result, of a tool that failed, of a tool that does not exist."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, TypeGuard

import msgspec

_MCP_KEYS = frozenset({"content", "isError", "structuredContent", "meta", "_meta"})


def as_text(result: object) -> str:
    """Return a tool's result as the model reads it; never raises.

    Strings stay as they are. None, booleans, numbers, lists, sets, dicts, dataclasses, structs and pydantic models
    become JSON, letters of all scripts kept. The result of an MCP tool becomes its text, after ``Error:`` when it
    says so. Everything else becomes what ``str`` makes of it.
    """
    try:
        text = _text(_plain(result))
    except Exception:  # noqa: BLE001 - objects of the user's may raise anything while they are read
        text = _last_resort(result)
    return sendable(text)


def error_text(tool_name: str, error: BaseException) -> str:
    """Return what the model reads when a tool raised: the tool, the kind of error and its message."""
    message = _last_resort(error)
    reason = f": {message}" if message else ""
    return sendable(f"Error executing tool '{tool_name}': {type(error).__name__}{reason}")


def unknown_tool_text(name: str, known: Iterable[str]) -> str:
    """Return what the model reads when it called a tool that does not exist, with the tools that do."""
    names = ", ".join(known)
    hint = f"The tools that exist are: {names}." if names else "There are no tools: answer without one."
    return sendable(f"Error executing tool '{name}': AgentToolExecutorError: Tool '{name}' not found. {hint}")


def sendable(text: str) -> str:
    """Return a text whose lone surrogates, which no wire carries, are written out as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _text(plain: object) -> str:
    if isinstance(plain, str):
        return plain
    return _mcp_text(plain) if _is_mcp_result(plain) else _json(plain)


def _plain(value: Any) -> object:
    """Return what JSON has for the outermost layer of a value, and its text where JSON has nothing."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, (bool, int, float, dict, list, tuple)):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        # In an order that is the same in every process.
        return sorted((_plain(item) for item in value), key=_json)
    return _fields(value)


def _fields(value: Any) -> object:
    if isinstance(value, type):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return value.model_dump(mode="json", by_alias=True)
    return str(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _last_resort(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - even __str__ may raise
        return f"<{type(value).__name__}>"


def _is_mcp_result(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a dict is an MCP ``CallToolResult`` and nothing else: a dict that merely resembles one must stay."""
    if not isinstance(value, dict) or not isinstance(value.get("isError"), bool) or not value.keys() <= _MCP_KEYS:
        return False
    content = value.get("content")
    return isinstance(content, list) and all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in content
    )


def _mcp_text(result: Mapping[str, Any]) -> str:
    blocks: Collection[Mapping[str, Any]] = result["content"]
    if not blocks and result.get("structuredContent") is not None:
        text = _json(result["structuredContent"])
    else:
        text = "\n".join(_block_text(block) for block in blocks)
    return f"Error: {text}" if result["isError"] else text


def _block_text(block: Mapping[str, Any]) -> str:
    """Return the text of one block; a picture or a sound, which text cannot carry, is named."""
    resource = block.get("resource")
    for holder in (block, resource if isinstance(resource, dict) else {}):
        for key in ("text", "uri"):
            if isinstance(holder.get(key), str):
                return str(holder[key])
    return f"[{block['type']}]"
