"""Every error that Perdure raises.

```
Exception
└── PerdureError                      catch this one to catch them all
    ├── UsageError                    the program is wrong; the message names the remedy
    │   ├── WorkflowAwaitError        a workflow awaited something that is not durable
    │   ├── NotSerializableError      a value cannot be stored as data
    │   ├── SettingError              an environment variable says what cannot be used
    │   └── MissingExtraError         an optional package is not installed
    ├── InstanceError
    │   ├── InstanceNotFoundError
    │   ├── InstanceExistsError       the id is taken by a run of something else
    │   ├── BacklogFullError          as many runs wait for their turn as the workflow's limits allow
    │   └── RunFailedError            the awaited run failed or was terminated
    ├── ActivityFailedError           inside a workflow: an activity failed for good
    ├── ChildWorkflowFailedError      inside a workflow: a child workflow failed for good
    ├── TaskCancelledError            inside a workflow: what was awaited was cancelled by the workflow itself
    ├── NonDeterminismError           the code no longer agrees with the recorded history
    ├── StoreError
    │   ├── StoreLockedError          another process holds the write lock
    │   ├── StoreFullError            the disk is full
    │   ├── StoreValueTooLargeError   a value is larger than the store takes
    │   ├── StoreReadOnlyError        the file or its folder cannot be written
    │   ├── StoreCorruptError         the file is not a (whole) Perdure database
    │   ├── StoreVersionError         a newer Perdure wrote the file
    │   ├── StoreUnavailableError     any other I/O failure
    │   └── StaleLeaseError           the lease was taken over: this commit is refused
    ├── AgentError                    an agent's run cannot go on
    ├── ToolError                     a tool call could not be made; the model is told
    └── ModelError                    a chat model could not answer
        ├── ScriptExhaustedError      a scripted model has no further reply
        └── ModelUnavailableError     overloaded, rate-limited or out of reach: worth a retry
BaseException
└── Evicted                           unwinds a workflow function that is put away; never catch it
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.base.events import Failure


class PerdureError(Exception):
    """Base of every error of Perdure."""


class UsageError(PerdureError):
    """The calling program is wrong; the message says what to write instead."""

    non_retryable = True


class WorkflowAwaitError(UsageError):
    """A workflow function awaited or yielded something that does not come from its context."""

    def __init__(self, awaited: object) -> None:
        self.awaited = awaited
        super().__init__(
            f"a workflow awaited {awaited!r}, which is lost in a crash. Inside a workflow await only what its "
            "context returns: ctx.call_activity(...) for I/O, ctx.create_timer(seconds) for sleeping, "
            "ctx.when_all([...]) for asyncio.gather, ctx.wait_for_external_event(name) for a signal."
        )


class NotSerializableError(UsageError):
    """A value cannot be stored as data.

    Args:
        where: what was being stored, such as ``"the result of activity 'pay'"``.
        value: the offending value.
    """

    def __init__(self, where: str, value: object) -> None:
        self.where, self.value = where, value
        super().__init__(
            f"{where} holds a {type(value).__module__}.{type(value).__qualname__}, which cannot be stored as data. "
            "Return plain values (str, int, float, bool, None, list, dict, tuple, set, bytes, datetime, Decimal, "
            "UUID), a dataclass or a pydantic model."
        )


class SettingError(UsageError):
    """An environment variable says what cannot be used.

    Args:
        variable: its name.
        value: what it says.
        problem: why that cannot be used, and what to write instead.
    """

    def __init__(self, variable: str, value: str, problem: str) -> None:
        self.variable, self.value, self.problem = variable, value, problem
        super().__init__(f"the environment variable {variable} is {value!r}: {problem}")


class MissingExtraError(UsageError):
    """An optional package is needed and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra
        super().__init__(f"{feature} needs an optional package: pip install 'perdure[{extra}]'")


class InstanceError(PerdureError):
    """Something is wrong with one workflow instance."""

    def __init__(self, instance_id: str, message: str) -> None:
        self.instance_id = instance_id
        super().__init__(message)


class InstanceNotFoundError(InstanceError):
    """No instance has this id in the store."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id, f"no instance {instance_id!r} in this store; `perdure runs list` shows all")


class InstanceExistsError(InstanceError):
    """The instance id is already used by another app or workflow, or with another input."""

    def __init__(self, instance_id: str, detail: str) -> None:
        super().__init__(
            instance_id,
            f"instance id {instance_id!r} is taken: {detail}. Choose another id, or start it with the same app, "
            "workflow and input to attach to the run that exists.",
        )


class BacklogFullError(InstanceError):
    """A start was refused: as many instances of the workflow wait for their turn as its limits allow.

    Attributes:
        workflow: its name.
        backlog: how many may wait.
    """

    def __init__(self, instance_id: str, workflow: str, backlog: int) -> None:
        self.workflow, self.backlog = workflow, backlog
        super().__init__(
            instance_id,
            f"instance {instance_id!r} was not started: the backlog of workflow {workflow!r} is full, its "
            f"Limits(backlog={backlog}) lets no more wait for their turn. Start it again later, run more at a time, or "
            "allow more to wait.",
        )


class RunFailedError(InstanceError):
    """The run that was waited for did not complete."""

    def __init__(self, instance_id: str, status: str, failure: Failure | None) -> None:
        self.status, self.failure = status, failure
        cause = f": {failure.error_type}: {failure.message}" if failure else ""
        super().__init__(instance_id, f"instance {instance_id!r} {status.lower()}{cause}")


class ActivityFailedError(PerdureError):
    """An activity failed for good: its retries are used up, or its error is not worth a retry."""

    def __init__(self, activity: str, failure: Failure) -> None:
        self.activity, self.failure = activity, failure
        super().__init__(f"activity {activity!r} failed: {failure.error_type}: {failure.message}")


class ChildWorkflowFailedError(PerdureError):
    """A child workflow failed for good, was terminated, or could not be started."""

    def __init__(self, workflow: str, instance_id: str, failure: Failure) -> None:
        self.workflow, self.instance_id, self.failure = workflow, instance_id, failure
        super().__init__(f"child workflow {workflow!r} ({instance_id}) failed: {failure.error_type}: {failure.message}")


class TaskCancelledError(PerdureError):
    """A task that the workflow has cancelled was awaited."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} was cancelled by the workflow; await it before it is cancelled, or not at all")


class NonDeterminismError(PerdureError):
    """The workflow's code asks for something else than its history recorded.

    Attributes:
        recorded: what the history holds at this place.
        requested: what the code asked for on replay.
        row: number of the history row where they part, once a replay has found it.
    """

    row: int | None = None

    def __init__(self, instance_id: str, recorded: str, requested: str) -> None:
        self.instance_id, self.recorded, self.requested = instance_id, recorded, requested
        super().__init__(
            f"instance {instance_id!r}: the workflow's code changed under a run in flight.\n"
            f"  recorded:  {recorded}\n  requested: {requested}\n"
            "Restore the code that began this run, or give the new behaviour a new workflow name."
        )


class StoreError(PerdureError):
    """The history store could not do what was asked; nothing that was acknowledged is lost."""

    def __init__(self, store: str, message: str) -> None:
        self.store = store
        super().__init__(f"{store}: {message}")


class StoreLockedError(StoreError):
    """Another process holds the store's write lock for longer than the busy timeout."""


class StoreFullError(StoreError):
    """The disk that holds the store is full."""


class StoreValueTooLargeError(StoreError):
    """A value is larger than the store takes; trying again does not help."""

    non_retryable = True


class StoreReadOnlyError(StoreError):
    """The store's file or folder cannot be written."""


class StoreCorruptError(StoreError):
    """The file is not a Perdure database, or it is damaged."""


class StoreVersionError(StoreError):
    """The file was written by a newer version of Perdure."""


class StoreUnavailableError(StoreError):
    """The store failed for another reason of input and output."""


class StaleLeaseError(StoreError):
    """The lease is no longer valid: another worker took over, so this commit is refused."""


class AgentError(PerdureError):
    """An agent's run cannot go on."""


class ToolError(PerdureError):
    """A tool call could not be made; its text is given to the model as the tool's answer."""


class ModelError(PerdureError):
    """A chat model could not answer, and asking again would not help."""

    non_retryable = True


class ScriptExhaustedError(ModelError):
    """A scripted model has no reply for this turn of the conversation."""


class ModelUnavailableError(ModelError):
    """A chat model is overloaded, rate-limited or out of reach.

    Attributes:
        retry_after: seconds that the provider asks to wait, or None when it does not say.
    """

    non_retryable = False

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Evicted(BaseException):
    """Unwinds a workflow function that is being put away.

    A BaseException so that ``except Exception`` in workflow code lets it pass.
    """
