"""Fits plain functions to the one-input convention of activities and workflows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from perdure.base.errors import UsageError
from perdure.engine.activity import ActivityContext, current_activity


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        # Annotations that cannot be evaluated (names only a type checker imports) ask for no conversion.
        return {}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        hasattr(annotation, "model_validate") or dataclasses.is_dataclass(annotation)
    )


def converter(annotation: Any) -> Callable[[Any], Any] | None:
    """Return what turns plain data into an annotated model or dataclass, or None when nothing is to be done."""
    wanted = annotation
    if typing.get_origin(annotation) in {list, dict, tuple, set} or not isinstance(annotation, type):
        parts = typing.get_args(annotation)
        wanted = next((part for part in parts if _is_model(part)), None)
    if not _is_model(wanted):
        return None
    return functools.partial(_convert, annotation)


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - costs too much at import for programs without models

    return TypeAdapter(annotation)


def _convert(annotation: Any, value: Any) -> Any:
    return _adapter(annotation).validate_python(value)


@functools.lru_cache(maxsize=1024)
def result_converter(function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what turns a stored result into what the function's return annotation says, or None."""
    return converter(_hints(function).get("return"))


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in kinds]


def one_input(function: Callable[..., Any], what: str) -> Callable[[Any], Any]:
    """Return the function as one of a single input.

    A first parameter that is named ``ctx`` or annotated :class:`ActivityContext` gets the activity's context; a
    function without further parameter gets no input; a model annotation converts the input.

    Raises:
        UsageError: the function wants more than one input.
    """
    parameters = _positional(function)
    hints = _hints(function)
    wants_context = bool(parameters) and (
        hints.get(parameters[0].name) is ActivityContext or parameters[0].name in {"ctx", "_ctx"}
    )
    inputs = parameters[1:] if wants_context else parameters
    required = [parameter.name for parameter in inputs if parameter.default is inspect.Parameter.empty]
    if len(required) > 1:
        raise UsageError(
            f"{what} takes {len(required)} inputs ({', '.join(required)}); an activity takes one: pass a dict or a "
            "dataclass"
        )
    convert = converter(hints.get(inputs[0].name)) if inputs else None
    return _Fitted(function, wants_context=wants_context, takes_input=bool(inputs), convert=convert)


class _Fitted:
    """A function called with one input."""

    __slots__ = ("_convert", "_function", "_takes_input", "_wants_context")

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        wants_context: bool,
        takes_input: bool,
        convert: Callable[[Any], Any] | None,
    ) -> None:
        self._function = function
        self._wants_context = wants_context
        self._takes_input = takes_input
        self._convert = convert

    def __call__(self, argument: Any) -> Any:
        if self._convert is not None and argument is not None:
            argument = self._convert(argument)
        given = [argument] if self._takes_input else []
        if self._wants_context:
            return self._function(current_activity(), *given)
        return self._function(*given)


def takes_argument(function: Callable[..., Any]) -> bool:
    """Whether a workflow function wants an input after its context."""
    return len(_positional(function)) > 1


def input_converter(function: Callable[..., Any]) -> Callable[[Any], Any] | None:
    """Return what turns a workflow's stored input into what its second parameter's annotation says, or None."""
    parameters = _positional(function)
    return converter(_hints(function).get(parameters[1].name)) if len(parameters) > 1 else None
