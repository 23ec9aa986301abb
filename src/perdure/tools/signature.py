"""What a callable says about itself: its name, its documentation and its parameters."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from types import SimpleNamespace

from perdure.base.errors import UsageError


def function_of(call: Callable[..., object]) -> Callable[..., object]:
    """Return the function behind a partial, a static method or an object with ``__call__``."""
    if isinstance(call, functools.partial):
        return function_of(call.func)
    if isinstance(call, staticmethod):
        return call.__func__
    return call if inspect.isroutine(call) else type(call).__call__


def name_of(call: Callable[..., object]) -> str:
    """Return the name that a callable goes by; objects with ``__call__`` go by their class."""
    own = getattr(call, "__name__", None)
    if isinstance(own, str):
        return own
    return name_of(call.func) if isinstance(call, functools.partial) else type(call).__name__


def docstring_of(call: Callable[..., object]) -> str | None:
    """Return a callable's docstring without its indentation, or None."""
    if isinstance(call, functools.partial):
        return docstring_of(call.func)
    return inspect.getdoc(call) or inspect.getdoc(function_of(call))


def signature_of(call: Callable[..., object], *, method: bool = False) -> inspect.Signature:
    """Return the parameters that a model can fill, their annotations resolved.

    Untyped parameters count as strings; ``*args`` cannot be filled by name and is left out.

    Args:
        call: the callable; for a method, the plain function of the class body.
        method: whether the first parameter is ``self``.

    Raises:
        UsageError: the callable does not tell its parameters, or an annotation names something unknown.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())[1 if method else 0 :]
        hints = _hints(call, parameters)
    except (NameError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise UsageError(
            f"tool {name_of(call)!r}: its parameters cannot be read: {error}. Annotate them with types that the "
            "module knows while it runs (imported outside `if TYPE_CHECKING:`, defined outside functions)."
        ) from error
    return inspect.Signature(
        [
            parameter.replace(annotation=hints.get(parameter.name, str))
            for parameter in parameters
            if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        ]
    )


def _hints(call: Callable[..., object], parameters: list[inspect.Parameter]) -> dict[str, object]:
    # Not get_type_hints of the function itself: a return type that cannot be resolved must not matter.
    written = {p.name: p.annotation for p in parameters if p.annotation is not inspect.Parameter.empty}
    namespace: dict[str, object] = getattr(inspect.unwrap(function_of(call)), "__globals__", {})
    return typing.get_type_hints(SimpleNamespace(__annotations__=written), namespace, include_extras=True)
