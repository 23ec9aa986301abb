"""What the tests of the suite are made of."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perdure.base.errors import RunFailedError
from perdure.base.events import AnyEvent, Status
from perdure.ports.history_store import InstanceQuery, InstanceRecord
from perdure.ports.runtime import Runtime
from perdure.workflows.registry import Registry

T = TypeVar("T")


class CapableRuntime(Runtime, Protocol):
    """A runtime with everything that the suite tests."""

    async def fork(
        self,
        instance_id: str,
        at: int | Sequence[int],
        *,
        output: Any = ...,
        input: Any = ...,  # noqa: A002 - the name that the port's calls use
        new_instance_id: str | None = None,
    ) -> str:
        """Let another instance go on from a call of this one; return its id."""
        ...

    async def purge(self, instance_id: str, *, recursive: bool = True) -> int:
        """Delete an instance that has ended; return how many instances were deleted."""
        ...

    async def purge_ended(
        self, *, older_than: float | dt.timedelta, status: Sequence[Status] = ..., workflow: str | None = None
    ) -> int:
        """Delete the instances of this app that ended longer ago than that; return how many these were."""
        ...


class Suite:
    """What a tested runtime brings along.

    Attributes:
        patience: seconds after which a condition that has not come true fails its test.
    """

    patience: float = 15.0

    def make_runtime(
        self, folder: Path, registry: Registry, *, app_id: str = "default", worker: bool = True
    ) -> AbstractAsyncContextManager[CapableRuntime]:
        """Return a runtime, not open yet, over what earlier runtimes of this folder keep.

        Args:
            folder: empty at the first call of a test.
            registry: the workflows and activities that it knows; may grow while it is open.
            app_id: the app that its instances belong to.
            worker: whether it executes instances; without, it only starts, signals and looks.
        """
        raise NotImplementedError

    async def until(self, condition: Callable[[], Awaitable[T]]) -> T:
        """Return the first true value of a condition."""
        async with asyncio.timeout(self.patience):
            while True:
                value = await condition()
                if value:
                    return value
                await asyncio.sleep(0.002)

    async def ended(self, runtime: Runtime, instance_id: str) -> InstanceRecord:
        """Return an instance once it has ended."""
        return await self.stands(runtime, instance_id, *(status for status in Status if status.finished))

    async def stands(self, runtime: Runtime, instance_id: str, *status: Status) -> InstanceRecord:
        """Return an instance once it has one of these statuses."""

        async def look() -> InstanceRecord | None:
            found = await runtime.find(instance_id)
            return found if found is not None and found.status in status else None

        record = await self.until(look)
        assert record is not None
        return record

    async def waiting(self, runtime: Runtime, instance_id: str, reason: str | None = None) -> dict[str, Any]:
        """Return what an instance waits for once it does nothing else.

        Args:
            runtime: any.
            instance_id: the instance.
            reason: a key that has to be among what it waits for; None for any.
        """

        async def look() -> dict[str, Any]:
            found = await runtime.find(instance_id)
            if found is None or found.owner is not None or found.due is not None or found.waits is None:
                return {}
            waits: dict[str, Any] = json.loads(found.waits)
            return waits if reason is None or reason in waits else {}

        return await self.until(look)

    async def failure(self, runtime: Runtime, instance_id: str) -> str:
        """Return why an instance failed or was terminated."""
        try:
            result = await runtime.wait(instance_id, self.patience)
        except RunFailedError as error:
            return str(error)
        raise AssertionError(f"completed with {result!r}, where a failure is due")


class Place:
    """The folder of a test, with the suite that opens runtimes over it."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self._suite, self._folder = suite, folder

    def runtime(
        self, registry: Registry, *, app_id: str = "default", worker: bool = True
    ) -> AbstractAsyncContextManager[CapableRuntime]:
        """Return one more runtime over the same histories."""
        return self._suite.make_runtime(self._folder, registry, app_id=app_id, worker=worker)


def scenario(
    test: Callable[[Any, Place], Coroutine[Any, Any, None]],
) -> Callable[[Any, Path], None]:
    """Turn a coroutine over a place into a test method that pytest can call."""

    def run(self: Suite, tmp_path: Path) -> None:
        asyncio.run(test(self, Place(self, tmp_path)))

    # Not functools.wraps: pytest would look for the coroutine's own parameters.
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


def registry(*workflows: Callable[..., Any], activities: Sequence[Callable[..., Any]] = ()) -> Registry:
    """Return a registry with these workflows and activities."""
    made = Registry()
    for workflow in workflows:
        made.add_workflow(workflow)
    for activity in activities:
        made.add_activity(activity)
    return made


async def is_refused(work: Coroutine[Any, Any, object], error: type[Exception], *words: str) -> None:
    """Require that some work is refused with an error that says certain words."""
    text = ""
    try:
        await work
    except error as refusal:
        text = str(refusal) or error.__name__
    assert text, f"accepted, where a {error.__name__} is due"
    missing = [word for word in words if word not in text]
    assert not missing, f"the error does not say {missing}: {text}"


async def events(runtime: Runtime, instance_id: str) -> list[AnyEvent]:
    """Return the events of an instance's history."""
    return [event for row in await runtime.history(instance_id) for event in row.events]


async def ids(runtime: Runtime, **conditions: Any) -> list[str]:
    """Return the ids of the instances that a query means, sorted."""
    return sorted(one.instance_id for one in await runtime.instances(InstanceQuery(**conditions)))


# -- workflows and activities that many tests use


async def echo(value: Any) -> Any:
    """An activity: return the input."""
    return value


async def endless(_: Any) -> None:
    """An activity: never return."""
    await asyncio.Event().wait()


async def refuse(reason: str) -> None:
    """An activity: fail."""
    raise PermissionError(reason)


async def patient(ctx: Any) -> Any:
    """A workflow: wait for the event ``wake`` and return its data."""
    return await ctx.wait_for_external_event("wake")


async def echoing(ctx: Any, value: Any) -> Any:
    """A workflow: return the input, by way of an activity."""
    return await ctx.call_activity(echo, input=value)
