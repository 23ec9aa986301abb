"""A chat model that answers from a script: for tests, demonstrations and benchmarks, the same on every run.

Which reply comes next is read from the conversation and never counted, so a resumed conversation goes on where it
stopped, and many conversations share one model.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from perdure.base.errors import ScriptExhaustedError, UsageError
from perdure.base.messages import FunctionCall, Message, ToolCall, Usage
from perdure.ports.chat_model import ChatReply, ChatRequest

if TYPE_CHECKING:
    import os

ScriptedReply = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | ChatReply | Exception
"""A text; ``{"tool": name, "arguments": {...}}`` or a list of those; a whole reply; an error to raise."""

ReplyFunction = Callable[[ChatRequest], ScriptedReply | Awaitable[ScriptedReply]]
"""Answers a request, at once or awaited."""

_KEPT_CALLS = 10_000
_KEYS = frozenset({"tool", "arguments"})
_EXPECTED = "a text, a mapping with 'tool' and 'arguments', or a list of such mappings"


class ScriptedModel:
    """Answers from a list of replies, or by a function.

    From a list it takes the reply at the turn's number: how many assistant messages follow the last user message.
    The same turn gets the same reply, however often it is asked; an error in a list is therefore raised again on
    every retry, and a function is the way to fail once.

    Args:
        replies: the replies of one run in order, or a function from the request to a reply.
        delay: seconds to wait before each answer.

    Raises:
        UsageError: an entry is no reply, or the delay is no number of seconds.
    """

    def __init__(self, replies: Sequence[ScriptedReply] | ReplyFunction, *, delay: float = 0.0) -> None:
        self._function: ReplyFunction | None = None
        self._path = ""
        self._replies: list[ScriptedReply] = []
        if callable(replies):
            self._function = replies
        else:
            self._replies = _checked(replies, "replies")
        self._delay = _checked_delay(delay, "delay")
        self._calls: deque[ChatRequest] = deque(maxlen=_KEPT_CALLS)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ScriptedModel:
        """Return a model that answers from a YAML or JSON file.

        The file holds a list of replies, or a mapping with ``replies`` and ``delay`` (seconds).

        Raises:
            UsageError: the file cannot be read, or an entry is no reply.
        """
        from perdure.llm.script_file import read_script  # noqa: PLC0415 - only where files are used

        script = read_script(path)
        model = cls([])
        model._path = script.path
        model._replies = _checked(script.replies, script.path, reference="reply")
        model._delay = _checked_delay(script.delay, f"{script.path}: delay")
        return model

    @property
    def provider(self) -> str:
        """The word "scripted"."""
        return "scripted"

    @property
    def model(self) -> str:
        """The word "scripted"."""
        return "scripted"

    @property
    def calls(self) -> list[ChatRequest]:
        """The requests that were answered, the oldest first; of very many, the last 10,000."""
        return list(self._calls)

    def __repr__(self) -> str:
        script = self._function if self._function is not None else _count(len(self._replies))
        return f"ScriptedModel({script})"

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with the reply that the script holds for this turn.

        Raises:
            ScriptExhaustedError: the script has no reply for this turn.
            Exception: whatever the script says.
        """
        if self._delay:
            await asyncio.sleep(self._delay)
        turn = turn_of(request)
        reply = self._reply_at(turn) if self._function is None else self._function(request)
        if inspect.isawaitable(reply):
            reply = await reply
        self._calls.append(request)
        if isinstance(reply, Exception):
            raise reply.with_traceback(None)
        if isinstance(reply, ChatReply):
            return reply
        return _chat_reply(_checked([reply], "the function's reply")[0], turn, request)

    def _reply_at(self, turn: int) -> ScriptedReply:
        if turn < len(self._replies):
            return self._replies[turn]
        script = f"the script {self._path}" if self._path else "the script"
        raise ScriptExhaustedError(
            f"{script} has {_count(len(self._replies))}, and the conversation asks for number {turn + 1}: "
            "add replies, or make the last one a text so that the run ends there."
        )


def _count(replies: int) -> str:
    return f"{replies} {'reply' if replies == 1 else 'replies'}"


def turn_of(request: ChatRequest) -> int:
    """Return how many assistant messages follow the last user message."""
    turn = 0
    for message in reversed(request.messages):
        if message.role == "user":
            break
        turn += message.role == "assistant"
    return turn


def approximate_usage(request: ChatRequest, answer: Message) -> Usage:
    """Return a count of tokens that is the same on every run: four characters are taken for one."""
    asked = sum(_length(message) for message in request.messages)
    return Usage(input_tokens=asked // 4, output_tokens=_length(answer) // 4)


def _length(message: Message) -> int:
    calls = sum(len(call.function.name) + len(call.function.arguments) for call in message.tool_calls)
    return len(message.content or "") + calls


def _chat_reply(reply: ScriptedReply, turn: int, request: ChatRequest) -> ChatReply:
    if isinstance(reply, str):
        message = Message(role="assistant", content=reply)
    else:
        specs = cast("Sequence[Mapping[str, Any]]", [reply] if isinstance(reply, Mapping) else reply)
        calls = tuple(_tool_call(spec, f"call_{turn}_{index}") for index, spec in enumerate(specs))
        message = Message(role="assistant", tool_calls=calls)
    return ChatReply(
        message=message,
        model="scripted",
        usage=approximate_usage(request, message),
        finish_reason="tool_calls" if message.tool_calls else "stop",
    )


def _tool_call(spec: Mapping[str, Any], call_id: str) -> ToolCall:
    arguments = spec.get("arguments", {})
    # A text stands for itself, so that a script can also write what is not JSON.
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return ToolCall(id=call_id, function=FunctionCall(name=spec["tool"], arguments=text))


def _checked(replies: object, where: str, reference: str = "entry") -> list[ScriptedReply]:
    if isinstance(replies, (str, bytes, Mapping)) or not isinstance(replies, Sequence):
        raise UsageError(f"{where}: expected a list of replies (or a function), not {_kind(replies)}")
    found = list(cast("Sequence[object]", replies))
    for number, reply in enumerate(found, start=1):
        problem = _problem(reply)
        if problem:
            raise UsageError(f"{where}: {reference} {number}: {problem}; expected {_EXPECTED}")
    return cast("list[ScriptedReply]", found)


def _problem(reply: object) -> str | None:
    """Return what is wrong with an entry, or None."""
    if isinstance(reply, (str, ChatReply, Exception)):
        return None
    if isinstance(reply, Mapping):
        return _spec_problem(cast("Mapping[object, object]", reply))
    if isinstance(reply, Sequence) and not isinstance(reply, (bytes, bytearray)) and reply:
        specs = cast("Sequence[object]", reply)
        problems = (_problem(spec) if isinstance(spec, Mapping) else _kind(spec) for spec in specs)
        return next((problem for problem in problems if problem), None)
    return _kind(reply)


def _spec_problem(spec: Mapping[object, object]) -> str | None:
    strange = [repr(key) for key in spec if key not in _KEYS]
    if strange:
        return f"unknown key {', '.join(strange)}"
    if not isinstance(spec.get("tool"), str) or not spec["tool"]:
        return "'tool' is not the name of a tool"
    arguments = spec.get("arguments", {})
    if not isinstance(arguments, (Mapping, str)):
        return f"'arguments' is {_kind(arguments)}"
    try:
        msgspec.json.encode(arguments)
    except (TypeError, ValueError) as error:
        return f"'arguments' cannot be written as JSON ({error})"
    return None


def _kind(value: object) -> str:
    return "an empty list" if value == [] else f"{value!r:.60} ({type(value).__name__})"


def _checked_delay(delay: object, where: str) -> float:
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay < float("inf"):
        raise UsageError(f"{where}: expected seconds, a number from 0, not {_kind(delay)}")
    return float(delay)
