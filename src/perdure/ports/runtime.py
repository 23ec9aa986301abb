"""The contract of a runtime: what executes instances, wherever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from perdure.base.events import HistoryRow
from perdure.ports.history_store import InstanceRecord


class Runtime(Protocol):
    """Starts instances, sends them events, tells how they stand.

    Whatever is accepted is durable before the call returns.
    """

    async def start(
        self,
        workflow: Callable[..., Any] | str,
        input: Any = None,  # noqa: A002 - the name that Dapr programs use
        *,
        instance_id: str | None = None,
    ) -> str:
        """Start an instance and return its id; the same id with the same input attaches to the run that exists.

        Raises:
            InstanceExistsError: the id belongs to a run of something else.
            NotSerializableError: the input is not data.
        """
        ...

    async def wait(self, instance_id: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait for an instance to finish and return its result.

        Raises:
            InstanceNotFoundError: no such instance.
            RunFailedError: it failed or was terminated.
            TimeoutError: it has not finished within ``timeout`` seconds; it goes on.
        """
        ...

    async def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to an instance.

        Raises:
            InstanceNotFoundError: no such instance.
            InstanceError: it has finished.
        """
        ...

    async def terminate(self, instance_id: str, reason: str = "", *, recursive: bool = True) -> None:
        """End an instance from outside, with the child workflows that it called unless told otherwise.

        One that has finished stays as it is.

        Raises:
            InstanceNotFoundError: no such instance.
        """
        ...

    async def suspend(self, instance_id: str, reason: str = "") -> None:
        """Hold an instance: activities that run are finished, and nothing further takes effect until it is resumed.

        Raises:
            InstanceNotFoundError: no such instance.
            InstanceError: it has finished.
        """
        ...

    async def resume(self, instance_id: str, reason: str = "") -> None:
        """Let a suspended instance go on, or try a stalled one again, for example after its code was restored.

        Raises:
            InstanceNotFoundError: no such instance.
            InstanceError: it has finished.
        """
        ...

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """Return how an instance stands, or None."""
        ...

    async def history(self, instance_id: str) -> list[HistoryRow]:
        """Return the whole history of an instance.

        Raises:
            InstanceNotFoundError: no such instance.
        """
        ...
