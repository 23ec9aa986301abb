"""Names of workflows and activities: how a history finds its code again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from itertools import zip_longest
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar, overload

from perdure.base.errors import UsageError
from perdure.base.ids import VERSION_MARK, split_key, workflow_key
from perdure.base.limits import UNLIMITED, Limits
from perdure.engine.activity import Activity
from perdure.engine.code import Retention, Steps, Workflow
from perdure.engine.requests import Requests
from perdure.engine.rules import KeyOf, Priority, Rules, rules_of
from perdure.ports.tickets import Queue
from perdure.ports.toolset import OnCrash
from perdure.workflows.adapt import input_converter, one_input, result_converter, takes_argument
from perdure.workflows.context import Callee, WorkflowContext

F = TypeVar("F", bound=Callable[..., Any])

NAME_ATTRIBUTE = "__perdure_name__"
"""Where a decorated function keeps its registered name; a workflow, the key of its instances."""

_COMPARABLE = (str, bytes, int, float, MethodType)


def registered_name(function: Callable[..., Any]) -> str:
    """Return the name that a function has, or would get, in a registry.

    Raises:
        UsageError: it is a callable without a name.
    """
    name: str | None = getattr(function, NAME_ATTRIBUTE, None) or getattr(function, "__name__", None)
    if name is None:
        raise UsageError(f"{function!r} has no name of its own; wrap it in a function, which a history can find again")
    return name


class WorkflowDefinition:
    """A workflow function under its name; ``async def``, generator and plain functions alike.

    Attributes:
        name: its registered name.
        version: which version of the workflow it is; empty for one without versions.
        retention: how long its instances are kept after their end; None for the worker's own rule.
        rules: its limits, or None.
        keys: what instances that it executes are kept under: its own key first, then those of the versions that it
            follows.
        function: the function.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        registry: Registry,
        *,
        version: str,
        follows: Sequence[str],
        retention: Retention | None,
        rules: Rules | None,
    ) -> None:
        if inspect.isasyncgenfunction(function):
            raise UsageError(f"workflow {name!r} is async and yields; let it await what its context returns")
        self.name = name
        self.version = version
        self.retention = retention
        self.rules = rules
        self.keys = tuple(workflow_key(name, each) for each in (version, *follows))
        self.function = function
        self._registry = registry
        self._takes_argument = takes_argument(function)
        self._convert = input_converter(function)

    @property
    def newest(self) -> Workflow:
        """The version that instances begin with which are started by name."""
        return self._registry.workflows.get(self._registry.newest(self.name), self)

    def begin(self, execution: Requests, argument: Any) -> Steps:
        """Return the function's steps."""
        context = WorkflowContext(execution, self._registry)
        if self._convert is not None and argument is not None:
            argument = self._convert(argument)
        steps = self.function(context, argument) if self._takes_argument else self.function(context)
        if inspect.isgenerator(steps) or inspect.iscoroutine(steps):
            return steps  # type: ignore[return-value]  # a coroutine sends and throws as a generator does
        return _finished(steps)


def _finished(value: Any) -> Generator[Any, Any, Any]:
    yield from ()
    return value


class Registry:
    """Workflows and activities by name."""

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.activities: dict[str, Activity] = {}
        self._newest: dict[str, str] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._callees: dict[Callable[..., Any] | str, Callee] = {}

    def add_workflow(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        version: str = "",
        follows: Sequence[str] = (),
        latest: bool = True,
        retention: Retention | None = None,
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> str:
        """Register a workflow function and return the key that its instances are kept under.

        Args:
            function: the function.
            name: its name; the function's own by default.
            version: which version of the workflow it is.
            follows: versions whose unfinished instances this one takes over; ``""`` is the code without a version.
            latest: whether instances that are started by name begin with this version; of several, the last one.
            retention: how long instances are kept after their end; None for the worker's own rule.
            limits: how much of it goes on at a time; None for no limits.
            key: returns the key of an input.
            priority: of an input, or of all.

        Raises:
            UsageError: the name and version belong to another function, or cannot be a name; the limits do not fit.
        """
        chosen = name or registered_name(function)
        if name is None and not version:
            chosen, version = split_key(chosen)
        if VERSION_MARK in chosen or VERSION_MARK in version:
            raise UsageError(
                f"workflow {chosen!r} of version {version!r}: {VERSION_MARK!r} stands between a name and a version; "
                "leave it out of both"
            )
        full_name = workflow_key(chosen, version)
        rules = rules_of(f"workflow {full_name!r}", limits, key, priority, has_backlog=True)
        known = self._own(full_name)
        if known is not None:
            owner = getattr(known, "function", known)
            if not _same(owner, function):
                raise _taken("workflow", full_name, owner, function)
            return full_name
        definition = WorkflowDefinition(
            chosen, function, self, version=version, follows=follows, retention=retention, rules=rules
        )
        self.workflows[full_name] = definition
        if latest:
            self._newest[chosen] = full_name
        # Instances that were started by name where this code is not known begin with the newest version.
        lent = (*definition.keys[1:], chosen) if latest else definition.keys[1:]
        for lent_key in lent:
            if self._own(lent_key) is None:
                self.workflows[lent_key] = definition
        return full_name

    def _own(self, key: str) -> Workflow | None:
        """Return the workflow whose own key this is."""
        found = self.workflows.get(key)
        return found if found is not None and found.keys[0] == key else None

    def newest(self, workflow: str) -> str:
        """Return the key that an instance which is started by name is kept under."""
        return self._newest.get(workflow, workflow)

    def child(self, workflow: Callable[..., Any] | str, app_id: str | None) -> Callee:
        """Return how to call a workflow; a function of this app that is not registered yet is."""
        if isinstance(workflow, str):
            key = workflow if app_id is not None else self.newest(workflow)
            return key, None, None if app_id is not None else self.rules_of(key)
        if app_id is not None:
            return registered_name(workflow), result_converter(workflow), None
        key = self.add_workflow(workflow)
        return key, result_converter(workflow), self.rules_of(key)

    def rules_of(self, workflow: str) -> Rules | None:
        """Return the limits of a workflow, by the key of its instances, as far as its code is known here."""
        known = self.workflows.get(workflow)
        return None if known is None else known.rules

    def limits(self, app_id: str) -> dict[Queue, Limits]:
        """Return the limits of all workflows, by what their newest versions say, and of all activities."""
        found = {Queue(app_id, "activity", one.name): one.rules for one in self.activities.values()}
        found |= {Queue(app_id, "workflow", one.name): one.newest.rules for one in self.workflows.values()}
        return {queue: UNLIMITED if rules is None else rules.limits for queue, rules in found.items()}

    def add_activity(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        on_crash: OnCrash = "retry",
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> str:
        """Register an activity function and return its name.

        Raises:
            UsageError: the name belongs to another function, or the function or the limits do not fit.
        """
        chosen = name or registered_name(function)
        rules = rules_of(f"activity {chosen!r}", limits, key, priority, has_backlog=False)
        known = self._functions.get(chosen)
        if known is not None and not _same(known, function):
            raise _taken("activity", chosen, known, function)
        if known is None:
            self._functions[chosen] = function
            self.activities[chosen] = Activity(
                name=chosen,
                function=one_input(function, f"activity {chosen!r}"),
                is_async=inspect.iscoroutinefunction(function),
                on_crash=on_crash,
                rules=rules,
            )
        return chosen

    def callee(self, activity: Callable[..., Any] | str) -> Callee:
        """Return how to call an activity; a function that is not registered yet is."""
        known = self._callees.get(activity)
        if known is not None:
            return known
        if isinstance(activity, str):
            registered = self.activities.get(activity)
            return activity, None, None if registered is None else registered.rules
        name = self.add_activity(activity)
        found = name, result_converter(activity), self.activities[name].rules
        if self._functions[name] is activity:
            # Another one is of the same code and made anew each time, such as a function inside a workflow.
            self._callees[activity] = found
        return found

    # -- decorators

    @overload
    def workflow(self, function: F) -> F: ...
    @overload
    def workflow(
        self,
        *,
        name: str | None = None,
        version: str = "",
        follows: Sequence[str] = (),
        latest: bool = True,
        retention: Retention | None = None,
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> Callable[[F], F]: ...
    def workflow(
        self,
        function: F | None = None,
        *,
        name: str | None = None,
        version: str = "",
        follows: Sequence[str] = (),
        latest: bool = True,
        retention: Retention | None = None,
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> F | Callable[[F], F]:
        """Register a workflow function.

        The function takes a :class:`~perdure.WorkflowContext` and, when it has a second parameter, the run's input. It
        is ``async def`` and awaits what the context returns, or a generator that yields it (reference: dapr-ai-docs
        2.4, Deterministic Workflows).

        Args:
            function: the function, when the decorator is used bare.
            name: the name that histories keep; the function's own by default. Renaming the function later is safe when
                the name was given.
            version: which version of the workflow this is. A run is pinned to the version it began with.
            follows: versions whose unfinished runs this one takes over; ``""`` stands for the code without a version.
            latest: whether runs that are started by name begin with this version; of several, the last one registered.
            retention: how long runs are kept after their end; by default 30 days when they completed, for ever when
                they failed or were terminated.
            limits: how many runs go on at a time, for each key, and in a period, and how many may wait; see
                docs/queues.md. None for no limits.
            key: returns the key of a run's input, such as ``lambda order: order["tenant"]``.
            priority: of a run, or a function that returns it from the input: from -1000 to 1000, higher is first.

        Raises:
            UsageError: the name and version belong to another function, or the limits do not fit.
        """

        def register(decorated: F) -> F:
            setattr(decorated, NAME_ATTRIBUTE, workflow_key(name or decorated.__name__, version))
            self.add_workflow(
                decorated,
                name or decorated.__name__,
                version=version,
                follows=follows,
                latest=latest,
                retention=retention,
                limits=limits,
                key=key,
                priority=priority,
            )
            return decorated

        return register if function is None else register(function)

    @overload
    def activity(self, function: F) -> F: ...
    @overload
    def activity(
        self,
        *,
        name: str | None = None,
        on_crash: OnCrash = "retry",
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> Callable[[F], F]: ...
    def activity(
        self,
        function: F | None = None,
        *,
        name: str | None = None,
        on_crash: OnCrash = "retry",
        limits: Limits | None = None,
        key: KeyOf | None = None,
        priority: Priority = 0,
    ) -> F | Callable[[F], F]:
        """Register an activity: a function with effects, sync (run on a thread) or async (run on the loop).

        It takes one input or none; a first parameter named ``ctx`` or annotated :class:`~perdure.ActivityContext` gets
        the context of the call, with its idempotency key.

        Args:
            function: the function, when the decorator is used bare.
            name: the name that histories keep; the function's own by default.
            on_crash: what a crash in its middle means: ``"retry"`` runs it again, ``"ask"`` waits for a human
                (``perdure runs resume``), a function gets an :class:`~perdure.Interrupted` and decides.
            limits: how many calls run at a time, for each key, and in a period; see docs/queues.md. None for no limits.
            key: returns the key of a call's input.
            priority: of a call, or a function that returns it from the input: from -1000 to 1000, higher is first.

        Raises:
            UsageError: the name belongs to another function, the function wants more than one input, or the limits do
                not fit.
        """
        if not callable(on_crash) and on_crash not in {"retry", "ask"}:
            raise UsageError(f"on_crash is {on_crash!r}; use 'retry', 'ask' or a function that takes an Interrupted")

        def register(decorated: F) -> F:
            setattr(decorated, NAME_ATTRIBUTE, name or registered_name(decorated))
            self.add_activity(decorated, on_crash=on_crash, limits=limits, key=key, priority=priority)
            return decorated

        return register if function is None else register(function)


def _same(known: object, function: object, within: frozenset[tuple[int, int]] = frozenset()) -> bool:
    # A module imported twice (as a script and by name) gives two objects of the same code. The same code over other
    # values is another function: what a factory makes, a decorator's wrapper, a method of another object.
    pair = (id(known), id(function))
    if known is function or pair in within:
        return True
    if isinstance(known, FunctionType) and isinstance(function, FunctionType):
        captured = zip_longest(_captured(known), _captured(function))
        return known.__code__ == function.__code__ and all(_same(*both, within | {pair}) for both in captured)
    return type(known) is type(function) and isinstance(known, _COMPARABLE) and known == function


def _captured(function: FunctionType) -> list[object]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _taken(kind: str, name: str, known: object, function: object) -> UsageError:
    return UsageError(
        f"the {kind} name {name!r} belongs to {_place(known)}; give {_place(function)} another one with "
        f"@{kind}(name=...). Functions that are made anew (by a factory, inside a workflow) and differ in what they "
        "capture need a name each"
    )


def _place(function: object) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


default_registry = Registry()
"""Where the decorators register, and where a runtime looks unless told otherwise."""
