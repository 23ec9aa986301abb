"""What a workflow function may do, and nothing else: everything here is recorded and replayed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

from perdure.base.events import RetryPolicy
from perdure.engine.open_work import Convert
from perdure.engine.replay import Execution
from perdure.engine.tasks import Deadline, Task, WhenAll, WhenAny

T = TypeVar("T")

Callee = tuple[str, Convert | None]
"""An activity's registered name, and what turns its stored result into what its return annotation says."""


def _seconds(duration: float | dt.timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, dt.timedelta) else float(duration)


class WorkflowContext:
    """The first argument of every workflow function.

    Await what its methods return (or yield it, in a generator workflow); anything else that waits would be lost in a
    crash and is refused.
    """

    __slots__ = ("_callee", "_execution")

    def __init__(self, execution: Execution, callee: Callable[[Callable[..., Any] | str], Callee]) -> None:
        self._execution = execution
        self._callee = callee

    @property
    def instance_id(self) -> str:
        """The id of this run."""
        return self._execution.instance_id

    @property
    def is_replaying(self) -> bool:
        """Whether the function is being brought back to where its history ends."""
        return self._execution.replaying

    @property
    def current_utc_datetime(self) -> dt.datetime:
        """The run's own clock, in UTC: the same on every replay."""
        return dt.datetime.fromtimestamp(self._execution.now, dt.UTC)

    @overload
    def call_activity(
        self,
        activity: Callable[..., Awaitable[T]],
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        timeout: float | dt.timedelta | None = ...,
    ) -> Task[T]: ...
    @overload
    def call_activity(
        self,
        activity: Callable[..., T],
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        timeout: float | dt.timedelta | None = ...,
    ) -> Task[T]: ...
    @overload
    def call_activity(
        self,
        activity: str,
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        timeout: float | dt.timedelta | None = ...,
    ) -> Task[Any]: ...
    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = None,  # noqa: A002 - the name that Dapr programs use
        retry_policy: RetryPolicy | None = None,
        timeout: float | dt.timedelta | None = None,
    ) -> Task[Any]:
        """Call an activity: a function with effects, run once and recorded.

        Args:
            activity: the function, or its registered name.
            input: its one input; must be data.
            retry_policy: how often a failure is tried again; None means not at all. It is recorded with the call.
            timeout: seconds (or a timedelta) that one attempt may take; None for no limit.

        Returns:
            a task of the activity's result. Awaiting it raises ActivityFailedError when the activity failed for good.

        Raises:
            NotSerializableError: the input is not data.
        """
        name, convert = self._callee(activity)
        seconds = None if timeout is None else _seconds(timeout)
        return self._execution.call_activity(name, input, retry=retry_policy, timeout=seconds, convert=convert)

    def create_timer(self, fire_at: float | dt.timedelta | dt.datetime) -> Task[None]:
        """Wait durably.

        Args:
            fire_at: seconds from now, a timedelta from now, or an aware datetime.
        """
        if isinstance(fire_at, dt.datetime):
            aware = fire_at if fire_at.tzinfo is not None else fire_at.replace(tzinfo=dt.UTC)
            return self._execution.create_timer(aware.timestamp() - self._execution.now)
        return self._execution.create_timer(_seconds(fire_at))

    def wait_for_external_event(self, name: str, *, timeout: float | dt.timedelta | None = None) -> Task[Any]:
        """Wait for an event that somebody outside raises; one that came before counts.

        Args:
            name: the event's name; upper and lower case are the same.
            timeout: seconds (or a timedelta) to wait at most; then awaiting raises TimeoutError.
        """
        event = self._execution.wait_for_event(name)
        if timeout is None or event.done:
            return event
        timer = self._execution.create_timer(_seconds(timeout))

        def forget(loser: Task[Any]) -> None:
            if loser is event:
                self._execution.forget_waiter(name, event)
            else:
                self._execution.forget_timer(timer)

        return Deadline(event, timer, f"no event {name!r} within {_seconds(timeout):g} s", forget)

    def when_all(self, tasks: Sequence[Task[T]]) -> Task[list[T]]:
        """Wait for all tasks; the result is the list of theirs, in order. The first failure fails it at once."""
        return WhenAll(tasks)

    def when_any(self, tasks: Sequence[Task[Any]]) -> Task[Task[Any]]:
        """Wait for the first task to finish; the result is that task. The others go on."""
        return WhenAny(tasks)
