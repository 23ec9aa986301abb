"""What a workflow function may do, and nothing else: everything here is recorded and replayed."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, overload

from perdure.base.errors import UsageError
from perdure.base.events import Admission, RetryPolicy
from perdure.base.ids import agent_workflow_name
from perdure.engine.open_work import Convert
from perdure.engine.requests import Requests
from perdure.engine.rules import Key, Rules, admission
from perdure.engine.tasks import Deadline, Task, WhenAll, WhenAny

T = TypeVar("T")

Callee = tuple[str, Convert | None, Rules | None]
"""A registered name, what turns a stored result into what the function's return annotation says, and the limits."""


class Code(Protocol):
    """What a context has to know of the code around the workflow."""

    def callee(self, activity: Callable[..., Any] | str) -> Callee:
        """Return how to call an activity."""
        ...

    def child(self, workflow: Callable[..., Any] | str, app_id: str | None) -> Callee:
        """Return how to call a workflow; ``app_id`` is the app that executes it, None for the caller's own."""
        ...


def _seconds(field: str, duration: float | dt.timedelta) -> float:
    if isinstance(duration, dt.timedelta):
        return duration.total_seconds()
    if not isinstance(duration, int | float):
        raise UsageError(f"{field} is {duration!r:.80}; use seconds or a timedelta")
    return float(duration)


class WorkflowContext:
    """The first argument of every workflow function.

    Await what its methods return (or yield it, in a generator workflow); anything else that waits would be lost in a
    crash and is refused.
    """

    __slots__ = ("_code", "_execution")

    def __init__(self, execution: Requests, code: Code) -> None:
        self._execution = execution
        self._code = code

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
        key: Key | None = ...,
        priority: int | None = ...,
    ) -> Task[T]: ...
    @overload
    def call_activity(
        self,
        activity: Callable[..., T],
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        timeout: float | dt.timedelta | None = ...,
        key: Key | None = ...,
        priority: int | None = ...,
    ) -> Task[T]: ...
    @overload
    def call_activity(
        self,
        activity: str,
        *,
        input: Any = ...,
        retry_policy: RetryPolicy | None = ...,
        timeout: float | dt.timedelta | None = ...,
        key: Key | None = ...,
        priority: int | None = ...,
    ) -> Task[Any]: ...
    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = None,  # noqa: A002 - the name that Dapr programs use
        retry_policy: RetryPolicy | None = None,
        timeout: float | dt.timedelta | None = None,
        key: Key | None = None,
        priority: int | None = None,
    ) -> Task[Any]:
        """Call an activity: a function with effects, run once and recorded.

        Args:
            activity: the function, or its registered name.
            input: its one input; must be data.
            retry_policy: how often a failure is tried again; None means not at all. It is recorded with the call.
            timeout: seconds (or a timedelta) that one attempt may take; None for no limit.
            key: of a limited activity: what this call counts for; None for what the activity declares.
            priority: of a limited activity: higher goes first; None for what the activity declares.

        Returns:
            a task of the activity's result. Awaiting it raises ActivityFailedError when the activity failed for good.

        Raises:
            NotSerializableError: the input is not data.
            UsageError: the key or the priority is unusable.
        """
        name, convert, rules = self._code.callee(activity)
        seconds = None if timeout is None else _seconds("timeout", timeout)
        admission = None
        if rules is not None:
            admission = self._admission(f"activity {name!r}", rules, input, key, priority)
        return self._execution.call_activity(
            name, input, retry=retry_policy, timeout=seconds, convert=convert, admission=admission
        )

    def _admission(
        self, what: str, rules: Rules | None, given: Any, key: Key | None, priority: int | None
    ) -> Admission | None:
        # What is recorded counts, whatever the code of today would say.
        return None if self._execution.replaying else admission(what, rules, given, key, priority)

    def call_child_workflow(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,  # noqa: A002 - the name that Dapr programs use
        instance_id: str | None = None,
        app_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        key: Key | None = None,
        priority: int | None = None,
    ) -> Task[Any]:
        """Call another workflow, which has a history of its own.

        Args:
            workflow: the function, or its registered name.
            input: its input; must be data.
            instance_id: its id; by default made of this run's id and the number of the call.
            app_id: the app whose workers execute it; by default this run's own.
            retry_policy: how often a failure is tried again, each time as another instance; None means not at all.
            key: of a limited workflow: what the child counts for; None for what the workflow declares.
            priority: of a limited workflow: higher goes first; None for what the workflow declares.

        Returns:
            a task of the child's result. Awaiting it raises ChildWorkflowFailedError when the child failed for good,
            was terminated, its id is taken, or the backlog of its workflow is full.

        Raises:
            NotSerializableError: the input is not data.
            UsageError: the id, the key or the priority is unusable.
        """
        name, convert, rules = self._code.child(workflow, app_id)
        _, task = self._execution.call_child(
            name,
            input,
            instance_id=instance_id,
            app_id=app_id,
            retry=retry_policy,
            convert=convert,
            admission=self._admission(f"workflow {name!r}", rules, input, key, priority),
        )
        return task

    def start_workflow(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,  # noqa: A002 - as above
        instance_id: str | None = None,
        app_id: str | None = None,
        key: Key | None = None,
        priority: int | None = None,
    ) -> str:
        """Start another workflow that goes its own way; return its id. It exists once this step is recorded.

        A limited one waits for its turn, however many do so: nobody would be told of a full backlog.

        Raises:
            NotSerializableError: the input is not data.
            UsageError: the id, the key or the priority is unusable.
        """
        name, _, rules = self._code.child(workflow, app_id)
        waits = self._admission(f"workflow {name!r}", rules, input, key, priority)
        child, _ = self._execution.call_child(
            name, input, instance_id=instance_id, app_id=app_id, detached=True, admission=waits
        )
        return child

    def call_agent(
        self,
        agent: str,
        task: str | dict[str, Any],
        *,
        app_id: str | None = None,
        instance_id: str | None = None,
    ) -> Task[Any]:
        """Let an agent work on a task, as a child workflow (api.md, ``call_agent``).

        Args:
            agent: the agent's name, or the name of its workflow.
            task: what it is to do, or a whole payload.
            app_id: the app that hosts it; by default this run's own.
            instance_id: the id of its run.

        Returns:
            a task of the agent's final message.
        """
        payload = task if isinstance(task, dict) else {"task": task}
        return self.call_child_workflow(
            agent_workflow_name(agent), input=payload, app_id=app_id, instance_id=instance_id
        )

    def send_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to another run once this step is recorded; one that is not there does not get it.

        Raises:
            NotSerializableError: the data is not data.
            UsageError: the name or the id is unusable.
        """
        self._execution.send_event(instance_id, name, data)

    def create_timer(self, fire_at: float | dt.timedelta | dt.datetime) -> Task[None]:
        """Wait durably.

        Args:
            fire_at: seconds from now, a timedelta from now, or a datetime; one without time zone is in UTC.
        """
        if isinstance(fire_at, dt.datetime):
            aware = fire_at if fire_at.tzinfo is not None else fire_at.replace(tzinfo=dt.UTC)
            return self._execution.create_timer(aware.timestamp() - self._execution.now)
        return self._execution.create_timer(_seconds("fire_at", fire_at))

    def wait_for_external_event(self, name: str, *, timeout: float | dt.timedelta | None = None) -> Task[Any]:
        """Wait for an event that somebody outside raises; one that came before counts.

        Args:
            name: the event's name; upper and lower case are the same.
            timeout: seconds (or a timedelta) to wait at most; then awaiting raises TimeoutError.
        """
        seconds = None if timeout is None else _seconds("timeout", timeout)
        event = self._execution.wait_for_event(name)
        if seconds is None or event.done:
            return event
        timer = self._execution.create_timer(seconds)
        message = f"no event {name!r} within {seconds:g} s"
        return Deadline(event, timer, message, lambda loser: self._execution.cancel([loser]))

    def when_all(self, tasks: Sequence[Task[T]], *, return_exceptions: bool = False) -> Task[list[T]]:
        """Wait for all tasks; the result is the list of theirs, in order.

        Args:
            tasks: what the context's methods returned.
            return_exceptions: wait for every task, and let an error stand in the place of its result. Otherwise the
                first failure fails it at once, and the other tasks go on.
        """
        return WhenAll(tasks, collect=return_exceptions)

    def when_any(self, tasks: Sequence[Task[Any]], *, cancel_losers: bool = False) -> Task[Task[Any]]:
        """Wait for the first task to finish; the result is that task.

        Args:
            tasks: what the context's methods returned.
            cancel_losers: cancel those that have not finished then; otherwise they go on.
        """
        return WhenAny(tasks, self._execution.cancel if cancel_losers else None)

    def cancel(self, *tasks: Task[Any]) -> None:
        """Cancel tasks: an async activity is cancelled where it runs, a plain one is no longer waited for, a child
        workflow is terminated, a timer or an event no longer waited for. Those that have finished stay as they are.
        """
        self._execution.cancel(tasks)

    def continue_as_new(
        self,
        new_input: Any = None,
        *,
        save_events: bool = True,
    ) -> None:
        """Begin again with another input and an empty history, once the function returns; its result is ignored.

        Args:
            new_input: the input of the next generation; must be data.
            save_events: keep the events that came and were not read. (Dapr's own default is to drop them.)
        """
        self._execution.continue_as_new(new_input, carry_events=save_events)

    def set_custom_status(self, status: Any) -> None:
        """Let everybody who looks at the run see some data, such as how far it has come.

        Raises:
            NotSerializableError: the status is not data.
        """
        self._execution.set_custom_status(status)

    def set_attributes(self, **attributes: str | float | bool) -> None:
        """Set custom attributes, by which runs are found.

        Raises:
            UsageError: a value is no text of at most 256 characters, number or truth value.
        """
        self._execution.set_attributes(attributes)

    def is_patched(self, patch: str) -> bool:
        """Whether this run goes the new way at a place where the code was changed.

        True for every run that comes to this place for the first time under the new code, false for those that had
        passed it before; the answer stays the same for the rest of the run.

        Args:
            patch: a name for the change, never used again for another one.
        """
        return self._execution.is_patched(patch)

    def new_uuid(self) -> uuid.UUID:
        """Return a new identifier, the same on every replay."""
        return self._execution.new_uuid()

    uuid4 = new_uuid

    @property
    def random(self) -> random.Random:
        """The run's own source of random numbers, the same on every replay; of no use for secrets."""
        return self._execution.random()

    @property
    def generation(self) -> int:
        """How often the run has continued as new."""
        return self._execution.generation
