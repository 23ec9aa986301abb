"""``@workflow`` and ``@activity``: name a function and register it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from perdure.base.errors import UsageError
from perdure.engine.retention import Retention
from perdure.ports.toolset import OnCrash
from perdure.workflows.registry import NAME_ATTRIBUTE, default_registry, registered_name, workflow_key

F = TypeVar("F", bound=Callable[..., Any])


@overload
def workflow(function: F) -> F: ...
@overload
def workflow(
    *,
    name: str | None = None,
    version: str = "",
    follows: Sequence[str] = (),
    latest: bool = True,
    retention: Retention | None = None,
) -> Callable[[F], F]: ...
def workflow(
    function: F | None = None,
    *,
    name: str | None = None,
    version: str = "",
    follows: Sequence[str] = (),
    latest: bool = True,
    retention: Retention | None = None,
) -> F | Callable[[F], F]:
    """Register a workflow function.

    The function takes a :class:`~perdure.WorkflowContext` and, when it has a second parameter, the run's input. It is
    ``async def`` and awaits what the context returns, or a generator that yields it (reference: dapr-ai-docs 2.4,
    Deterministic Workflows).

    Args:
        function: the function, when the decorator is used bare.
        name: the name that histories keep; the function's own by default. Renaming the function later is safe when
            the name was given.
        version: which version of the workflow this is. A run is pinned to the version it began with.
        follows: versions whose unfinished runs this one takes over; ``""`` stands for the code without a version.
        latest: whether runs that are started by name begin with this version; of several, the last one registered.
        retention: how long runs are kept after their end; by default 30 days when they completed, for ever when they
            failed or were terminated.

    Raises:
        UsageError: the name and version belong to another function.
    """

    def register(decorated: F) -> F:
        key = workflow_key(name or decorated.__name__, version)
        setattr(decorated, NAME_ATTRIBUTE, key)
        default_registry.add_workflow(
            decorated,
            name or decorated.__name__,
            version=version,
            follows=follows,
            latest=latest,
            retention=retention,
        )
        return decorated

    return register if function is None else register(function)


@overload
def activity(function: F) -> F: ...
@overload
def activity(*, name: str | None = None, on_crash: OnCrash = "retry") -> Callable[[F], F]: ...
def activity(
    function: F | None = None, *, name: str | None = None, on_crash: OnCrash = "retry"
) -> F | Callable[[F], F]:
    """Register an activity: a function with effects, sync (run on a thread) or async (run on the loop).

    It takes one input or none; a first parameter named ``ctx`` or annotated :class:`~perdure.ActivityContext` gets
    the context of the call, with its idempotency key.

    Args:
        function: the function, when the decorator is used bare.
        name: the name that histories keep; the function's own by default.
        on_crash: what a crash in its middle means: ``"retry"`` runs it again, ``"ask"`` waits for a human
            (``perdure runs resume``), a function gets an :class:`~perdure.Interrupted` and decides.

    Raises:
        UsageError: the name belongs to another function, or the function wants more than one input.
    """
    if not callable(on_crash) and on_crash not in {"retry", "ask"}:
        raise UsageError(f"on_crash is {on_crash!r}; use 'retry', 'ask' or a function that takes an Interrupted")

    def register(decorated: F) -> F:
        setattr(decorated, NAME_ATTRIBUTE, name or registered_name(decorated))
        default_registry.add_activity(decorated, on_crash=on_crash)
        return decorated

    return register if function is None else register(function)
