"""``@task``: an activity whose body is a prompt, and whose return annotation says what a chat model answers."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import msgspec

from perdure.base.codec import decode, encode
from perdure.base.errors import ModelError, UsageError
from perdure.base.messages import Message
from perdure.engine.activity import current_activity
from perdure.llm.resolve import resolve_model
from perdure.ports.chat_model import ChatModel, ChatRequest
from perdure.prompt.templates import TemplateFormat, render
from perdure.workflows.decorators import activity

F = TypeVar("F", bound=Callable[..., Any])

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@overload
def task(function: F) -> F: ...
@overload
def task(
    *, llm: str | ChatModel | None = None, prompt: str | None = None, name: str | None = None, repairs: int = 2
) -> Callable[[F], F]: ...
def task(
    function: F | None = None,
    *,
    llm: str | ChatModel | None = None,
    prompt: str | None = None,
    name: str | None = None,
    repairs: int = 2,
) -> F | Callable[[F], F]:
    """Register an activity that a chat model carries out.

    The function has no body but a docstring: the prompt, a template over its parameters, written with ``{{ name }}``
    (Jinja) or with ``{name}``. Call it with its parameters as one object, ``ctx.call_activity(outline, input={"topic":
    "tea"})``, or with the value itself when it has one parameter. Annotated to return ``str`` or nothing it gives the
    answer's text; annotated with anything else (a pydantic model, a dataclass, a list of them, an enum, a number) the
    model is asked for JSON of that shape, and is shown what does not fit.

    Args:
        function: the function, when the decorator is used bare.
        llm: the model, or a text such as ``"openai:gpt-5"``; None for what ``PERDURE_MODEL`` says.
        prompt: the template, instead of the docstring.
        name: the name that histories keep; the function's own by default.
        repairs: how often the model may try again when its answer does not fit, in one attempt of the activity.

    Raises:
        UsageError: there is no prompt, or the name belongs to another function.
    """

    def register(decorated: F) -> F:
        worker = _Prompted(decorated, prompt or inspect.getdoc(decorated) or "", llm, repairs)
        return typing.cast("F", activity(name=name or decorated.__name__)(worker.as_function()))

    return register if function is None else register(function)


class _Prompted:
    """A function whose body is a prompt."""

    def __init__(self, function: Callable[..., Any], prompt: str, llm: str | ChatModel | None, repairs: int) -> None:
        if not prompt.strip():
            raise UsageError(f"task {function.__name__!r} has no prompt; write it as the docstring, or as prompt=...")
        self._function = function
        self._prompt = prompt
        self._llm = llm
        self._repairs = repairs
        self._signature = inspect.signature(function)
        self._returns = typing.get_type_hints(function).get("return", str)

    def as_function(self) -> Callable[..., Any]:
        """Return the activity function: of one input, with the name and the return annotation of the original."""

        async def run(given: Any = None, **named: Any) -> Any:
            return await self._answer(self._variables(given, named))

        original = self._function
        run.__name__, run.__qualname__, run.__module__ = original.__name__, original.__qualname__, original.__module__
        run.__doc__ = original.__doc__
        run.__annotations__ = {"return": self._returns}
        return run

    def _variables(self, given: Any, named: Mapping[str, Any]) -> dict[str, Any]:
        parameters = list(self._signature.parameters)
        if named:
            arguments = dict(named)
        elif isinstance(given, Mapping) and set(given) <= set(parameters):
            arguments = dict(typing.cast("Mapping[str, Any]", given))
        elif given is None and not parameters:
            arguments = {}
        else:
            arguments = dict.fromkeys(parameters[:1], given)
        try:
            bound = self._signature.bind(**arguments)
        except TypeError as error:
            raise UsageError(
                f"task {self._function.__name__!r} takes {', '.join(parameters) or 'no input'}: {error}"
            ) from None
        bound.apply_defaults()
        return bound.arguments

    async def _answer(self, variables: Mapping[str, Any]) -> Any:
        model = resolve_model(self._llm)
        wants_text = self._returns in (str, type(None), Any)
        question = render(self._prompt, _plain(variables), _format_of(self._prompt))
        messages = [Message(role="user", content=question if wants_text else f"{question}\n\n{self._shape()}")]
        key = current_activity().idempotency_key if _inside_activity() else None
        for left in range(self._repairs, -1, -1):
            reply = await model.complete(ChatRequest(messages=messages, idempotency_key=key))
            text = reply.message.content or ""
            if wants_text:
                return text
            try:
                return self._adapter().validate_json(_json_in(text))
            except ValueError as error:
                if left == 0:
                    raise ModelError(
                        f"the answer does not fit {self._returns}: {error}\nThe answer was: {text}"
                    ) from None
                complaint = f"That does not fit: {error}\nAnswer again, with the JSON alone."
                messages = [*messages, reply.message, Message(role="user", content=complaint)]
        raise AssertionError("unreachable: the last try returns or raises")

    def _shape(self) -> str:
        schema = msgspec.json.encode(self._adapter().json_schema()).decode()
        return f"Answer with JSON alone, of this schema:\n{schema}"

    def _adapter(self) -> Any:
        from pydantic import TypeAdapter  # noqa: PLC0415 - costs too much at import for programs without tasks

        return TypeAdapter(self._returns)


def _inside_activity() -> bool:
    try:
        current_activity()
    except UsageError:
        return False
    return True


def _plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    # As they would come back from a history: a template sees the same data however the task was called.
    encoded = encode(dict(variables), "the input of a task")
    return typing.cast("dict[str, Any]", decode(encoded.raw, encoded.resolved))


def _format_of(prompt: str) -> TemplateFormat:
    return "jinja2" if "{{" in prompt or "{%" in prompt else "f-string"


def _json_in(text: str) -> str:
    fenced = _FENCED.search(text)
    return fenced[1] if fenced else text
