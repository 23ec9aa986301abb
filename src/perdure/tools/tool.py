"""``@tool``: a function, a method or any documented callable as something that a model can call."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

from perdure.base.errors import UsageError
from perdure.base.ids import sanitized_name
from perdure.ports.chat_model import ToolDefinition
from perdure.ports.toolset import OnCrash, Tool
from perdure.tools.signature import docstring_of, function_of, name_of, signature_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from perdure.tools.arguments import Arguments
    from perdure.tools.docstring import Documentation

P = ParamSpec("P")
Rest = ParamSpec("Rest")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _Blueprint:
    """What a tool and all its bound copies share; the schema is read on first use."""

    def __init__(
        self,
        function: Callable[..., object],
        name: str | None,
        description: str | None,
        args_model: type[BaseModel] | None,
    ) -> None:
        self.function = function
        self.name = _checked_name(function, name)
        self.docstring = docstring_of(function) or ""
        self.description = description
        self.args_model = args_model
        self.is_method = False
        if not (description or self.docstring):
            raise UsageError(
                f"tool {self.name!r} has no docstring, so a model cannot know what it is for. Write one under its "
                "`def`, or give description=."
            )

    @functools.cached_property
    def documentation(self) -> Documentation:
        from perdure.tools.docstring import read_docstring  # noqa: PLC0415 - on first use, as below

        return read_docstring(self.docstring)

    @functools.cached_property
    def arguments(self) -> Arguments:
        # Here, not above: pydantic costs more than the rest of the import, and many programs never need it.
        from perdure.tools.arguments import Arguments  # noqa: PLC0415

        signature = signature_of(self.function, method=self.is_method)
        return Arguments(self.name, signature, self.args_model, self.documentation.parameters)

    @functools.cached_property
    def definition(self) -> ToolDefinition:
        description = self.description or self.documentation.description
        return ToolDefinition(name=self.name, description=description, parameters=self.arguments.schema)


class FunctionTool(Generic[P, R_co]):
    """A Python callable as a tool; calling it calls the callable.

    In a class body it behaves as a method does: ``instance.search`` is the tool bound to that instance.
    """

    def __init__(
        self,
        function: Callable[P, R_co],
        *,
        name: str | None = None,
        description: str | None = None,
        args_model: type[BaseModel] | None = None,
        on_crash: OnCrash = "retry",
        timeout: float | None = None,
    ) -> None:
        """Make a tool; see :func:`tool`."""
        if not callable(function):
            raise UsageError(
                f"{function!r} is not a tool: give a function with a docstring, or decorate one with @tool."
            )
        self._blueprint = _Blueprint(function, name, description, args_model)
        self._function = function
        self._is_bound = False
        self.on_crash: OnCrash = _checked_on_crash(self._blueprint.name, on_crash)
        self.timeout: float | None = _checked_timeout(self._blueprint.name, timeout)
        functools.update_wrapper(self, function, updated=())

    def __set_name__(self, owner: type, name: str) -> None:
        # A tool made elsewhere and only stored on the class is no method: its function's name says so.
        home, _, _ = str(getattr(self._function, "__qualname__", "")).rpartition(".")
        self._blueprint.is_method = not isinstance(self._function, staticmethod) and home == owner.__qualname__

    @overload
    def __get__(self, instance: None, owner: type) -> FunctionTool[P, R_co]: ...

    @overload
    def __get__(
        self: FunctionTool[Concatenate[Any, Rest], R_co], instance: object, owner: type | None = None
    ) -> FunctionTool[Rest, R_co]: ...

    def __get__(self, instance: object, owner: type | None = None) -> FunctionTool[Any, R_co]:
        return self if instance is None else self.bind(instance)

    def bind(self, instance: object) -> FunctionTool[..., R_co]:
        """Return this tool as a method of an instance; a tool that is no method is returned as it is."""
        if not self._blueprint.is_method or self._is_bound:
            return self
        bound = cast("FunctionTool[..., R_co]", copy.copy(self))
        bound._function = types.MethodType(self._function, instance)
        bound._is_bound = True
        functools.update_wrapper(bound, bound._function, updated=())
        return bound

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, as if it were no tool."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._blueprint.name!r}>"

    @property
    def name(self) -> str:
        """The name that the model calls; known without reading the schema."""
        return self._blueprint.name

    @property
    def definition(self) -> ToolDefinition:
        """Name, description and JSON schema of the arguments.

        Raises:
            UsageError: a parameter has no JSON schema; the text names the remedy.
        """
        return self._blueprint.definition

    @property
    def is_async(self) -> bool:
        """Whether :meth:`invoke` returns an awaitable; otherwise it blocks and belongs on a thread."""
        return inspect.iscoroutinefunction(self._function) or inspect.iscoroutinefunction(function_of(self._function))

    def validate(self, arguments: str) -> dict[str, Any]:
        """Return the arguments by parameter as plain data, from the JSON text that the model wrote.

        Empty text counts as no arguments; a lone ``{"kwargs": {...}}`` is unwrapped unless the tool has such a
        parameter; a null where the type allows none counts as not given when there is a default.

        Raises:
            ToolError: not JSON, not an object, or against the schema; one line per field tells the model what to mend.
        """
        return self._blueprint.arguments.read(arguments)

    def invoke(self, arguments: dict[str, Any]) -> Any:
        """Call the function with what :meth:`validate` returned, in the types that it declares.

        Raises:
            ToolError: the arguments are not what :meth:`validate` returns.
            UsageError: it is a method, and not bound to an instance.
            Exception: whatever the function raises.
        """
        if self._blueprint.is_method and not self._is_bound:
            raise UsageError(
                f"tool {self.name!r} is a method: take it from an instance (instance.{self.name}), not from the class."
            )
        bound = self._blueprint.arguments.bind(arguments)
        call = cast("Callable[..., object]", self._function)
        return call(*bound.args, **bound.kwargs)


@runtime_checkable
class _AnyTool(Tool, Protocol):
    """What every tool has, whoever made it."""


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    function: None = None,
    /,
    *,
    args_model: type[BaseModel] | None = None,
    name: str | None = None,
    description: str | None = None,
    on_crash: OnCrash = "retry",
    timeout: float | None = None,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    args_model: type[BaseModel] | None = None,
    name: str | None = None,
    description: str | None = None,
    on_crash: OnCrash = "retry",
    timeout: float | None = None,
) -> FunctionTool[P, R] | Callable[[Callable[P, R]], FunctionTool[P, R]]:
    """Make a function, sync or async, or a method a tool; ``@tool`` and ``@tool(...)`` both work.

    The schema comes from the signature and the docstring: untyped parameters are strings, and Google, NumPy and reST
    sections describe the parameters one by one.

    Args:
        function: what to call.
        args_model: a pydantic model that declares the arguments instead of the signature.
        name: what the model calls it; by default the function's name.
        description: what it does and when to use it; by default the docstring.
        on_crash: what a crash in the middle of a call means: "retry" (call again), "ask" (a human decides) or a
            function that finds out.
        timeout: seconds that one call may take; by default no limit.

    Raises:
        UsageError: no docstring, or an option that means nothing; the text names the remedy.
    """

    def decorate(function: Callable[P, R]) -> FunctionTool[P, R]:
        return FunctionTool(
            function, name=name, description=description, args_model=args_model, on_crash=on_crash, timeout=timeout
        )

    return decorate if function is None else decorate(function)


def as_tool(candidate: Tool | Callable[..., object]) -> Tool:
    """Return a tool as it is, and a documented callable as a tool.

    Raises:
        UsageError: neither a tool nor a documented callable.
    """
    if isinstance(candidate, FunctionTool):
        return cast("FunctionTool[..., object]", candidate)
    if isinstance(candidate, _AnyTool):
        return candidate
    return FunctionTool(candidate)  # pyright: ignore[reportArgumentType] - what is left is no Tool


def _checked_name(function: Callable[..., object], name: str | None) -> str:
    try:
        return sanitized_name(name or name_of(function))
    except ValueError as error:
        raise UsageError(f"tool: {error}, or give name=") from error


def _checked_on_crash(tool_name: str, on_crash: OnCrash) -> OnCrash:
    if on_crash in ("retry", "ask") or callable(on_crash):
        return on_crash
    raise UsageError(
        f"tool {tool_name!r}: on_crash is {on_crash!r}; write 'retry' (call again), 'ask' (a human decides) or a "
        "function that takes the interrupted call and returns interrupted.completed(result), .retry() or .ask()."
    )


def _checked_timeout(tool_name: str, timeout: float | None) -> float | None:
    if timeout is None or (isinstance(timeout, (int, float)) and timeout > 0):
        return timeout
    raise UsageError(f"tool {tool_name!r}: timeout is {timeout!r}; write a number of seconds above 0, or None.")
