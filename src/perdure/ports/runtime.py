"""The contract of a runtime: what executes instances, wherever that is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from perdure.base.events import HistoryRow
from perdure.ports.history_store import EVERYTHING, InstanceQuery, InstanceRecord

Reuse = Literal["attach", "refuse", "ignore", "replace", "terminate"]
"""What a start does when its id is taken.

``attach``: nothing, when it is a run of the same workflow with the same input; otherwise it is refused. ``refuse``:
refuse. ``ignore``: nothing, whatever it is. ``replace``: a run that has ended makes way, one that has not is an error.
``terminate``: a run that has not ended is terminated, and makes way once its child workflows have ended too.
A run that makes way is purged with its child workflows.
"""


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
        start_at: float | dt.timedelta | dt.datetime | None = None,
        attributes: Mapping[str, str | float | bool] | None = None,
        reuse: Reuse = "attach",
        key: str | int | None = None,
        priority: int | None = None,
    ) -> str:
        """Start an instance and return its id.

        Args:
            workflow: the function, or its registered name.
            input: its input; must be data.
            instance_id: its id, of 1 to 256 characters; a new one by default.
            start_at: when to begin: seconds from now, a timedelta from now, or a datetime; until then it is PENDING.
            attributes: custom attributes, by which it is found.
            reuse: what to do when the id is taken.
            key: of a limited workflow: what this run counts for, such as a tenant; None for what the workflow declares.
            priority: of a limited workflow, from -1000 to 1000: higher goes first; None for what it declares.

        Raises:
            BacklogFullError: as many runs as its limits allow wait for their turn already.
            InstanceExistsError: the id is taken, and ``reuse`` does not allow that.
            NotSerializableError: the input is not data.
            UsageError: an argument is unusable.
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

    async def instances(self, query: InstanceQuery = EVERYTHING) -> list[InstanceRecord]:
        """Return instances, the newest first."""
        ...

    async def history(self, instance_id: str) -> list[HistoryRow]:
        """Return the whole history of an instance.

        Raises:
            InstanceNotFoundError: no such instance.
        """
        ...
