"""The events of an instance's history, and the rows that carry them.

Names and meaning are those of the durable-task protocol that Dapr and its SDKs speak, one to one. Values travel
inside events as tagged JSON that stays encoded (:class:`msgspec.Raw`) until somebody needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

import msgspec

NULL = msgspec.Raw(b"null")


class Status(StrEnum):
    """Where an instance stands, in the words of the durable-task protocol."""

    PENDING = "PENDING"
    """Accepted, and not begun: its start was put off, or it waits for its turn."""

    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TERMINATED = "TERMINATED"

    @property
    def finished(self) -> bool:
        """Whether an instance with this status will never move again."""
        return self in _FINISHED


_FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.TERMINATED})

UNFINISHED = (Status.PENDING, Status.RUNNING, Status.SUSPENDED)
"""The statuses of instances that are yet to end."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why something failed, as data.

    Attributes:
        error_type: the class name of the exception.
        message: its text.
        stack: its formatted traceback, empty when there is none.
        non_retryable: no retry policy applies.
        retry_after: seconds that the failing party asked to wait, at least, before the next attempt.
    """

    error_type: str
    message: str
    stack: str = ""
    non_retryable: bool = False
    retry_after: float | None = None


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How often a failed activity is tried again; recorded with the call, so that a change of code cannot disturb it.

    Attributes:
        max_attempts: calls in all, the first one included; at least 1.
        initial_backoff: seconds before the second attempt.
        max_backoff: no wait is longer than this many seconds.
        multiplier: each wait is this many times the one before; at least 1.
        total_timeout: no attempt begins later than this many seconds after the first; None for no limit.
        non_retryable: class names of errors that are never retried.
    """

    max_attempts: int = 1
    initial_backoff: float = 1.0
    max_backoff: float = 60.0
    multiplier: float = 2.0
    total_timeout: float | None = None
    non_retryable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that make no policy."""
        limits = {"max_attempts": 1, "initial_backoff": 0, "max_backoff": 0, "multiplier": 1}
        for field, least in limits.items():
            value = getattr(self, field)
            if not math.isfinite(value) or value < least:
                raise ValueError(f"RetryPolicy.{field} is {value}; use a number of at least {least}")
        limit = self.total_timeout
        if limit is not None and (not math.isfinite(limit) or limit <= 0):
            raise ValueError(f"RetryPolicy.total_timeout is {limit}; use a positive number or None")


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=True, gc=False):
    """Something that happened to an instance, or that its code decided."""


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How something that is limited waits for its turn; recorded, so that a change of code cannot disturb it.

    Attributes:
        key: what shares a limit of its own and is served in turn with others, such as a tenant.
        priority: higher is first.
    """

    key: str = ""
    priority: int = 0


class Parent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who called a child workflow.

    Attributes:
        instance_id: the calling instance.
        task_id: its decision, which the child's end completes.
        generation: how often the caller had continued as new when it called; its later generations do not know the
            call.
    """

    instance_id: str
    task_id: int
    generation: int = 0


class ExecutionStarted(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The instance was accepted, or continues as new.

    Attributes:
        name: the workflow's registered name.
        input: its input, encoded.
        version: the version of the workflow that it began with; empty for a workflow without versions.
        generation: how often the instance has continued as new.
        parent: who called it and is told of its end, or None.
        execution_id: tells the run apart from others that had or will have its instance id; empty when none can.
        seed: what identifiers and random numbers are made of; empty for the instance's own ids.
        admission: how it waits for its turn when its workflow is limited, or None.
    """

    name: str
    input: msgspec.Raw = NULL
    version: str = ""
    generation: int = 0
    parent: Parent | None = None
    execution_id: str = ""
    seed: str = ""
    admission: Admission | None = None


class TaskScheduled(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The code called an activity.

    Attributes:
        id: number of this decision within the instance, counted from 0.
        attempt: 1 for the first call, then one more for each retry.
        retry_of: id of the first call, whose input, policy and idempotency key this attempt shares.
        timeout: seconds that one attempt may take, or None.
        admission: how each attempt waits for its turn before it begins; None when it begins at once.
    """

    id: int
    name: str
    input: msgspec.Raw = NULL
    retry: RetryPolicy | None = None
    timeout: float | None = None
    attempt: int = 1
    retry_of: int | None = None
    admission: Admission | None = None

    @property
    def call_id(self) -> int:
        """The id that all attempts of this call share."""
        return self.id if self.retry_of is None else self.retry_of


class TaskCompleted(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """An activity returned."""

    task_id: int
    result: msgspec.Raw = NULL


class TaskFailed(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """An attempt of an activity raised, or ran out of time."""

    task_id: int
    failure: Failure


class SubOrchestrationInstanceCreated(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The code called a child workflow.

    Attributes:
        id: number of this decision within the instance.
        name: the child's registered name.
        instance_id: the child's id.
        app_id: the app that executes it; None for the caller's own.
        detached: nobody is told of its end.
        retry: the policy of the call, in its first attempt.
        attempt: 1 for the first call, then one more for each retry.
        retry_of: id of the first call.
        admission: how the child waits for its turn when its workflow is limited, or None.
    """

    id: int
    name: str
    instance_id: str
    input: msgspec.Raw = NULL
    app_id: str | None = None
    detached: bool = False
    retry: RetryPolicy | None = None
    attempt: int = 1
    retry_of: int | None = None
    admission: Admission | None = None


class SubOrchestrationInstanceCompleted(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """A child workflow returned.

    Attributes:
        task_id: the caller's decision.
        generation: the caller's when it called.
        instance_id: the child's; empty where it is not known.
    """

    task_id: int
    result: msgspec.Raw = NULL
    generation: int = 0
    instance_id: str = ""


class SubOrchestrationInstanceFailed(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """A child workflow failed, was terminated, or could not be started; attributes as above."""

    task_id: int
    failure: Failure
    generation: int = 0
    instance_id: str = ""


class EventSent(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The code sent an event to another instance."""

    id: int
    instance_id: str
    name: str
    input: msgspec.Raw = NULL


class TimerCreated(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The code asked to be woken at a time (seconds since the epoch); ``retry_of`` marks the wait before a retry."""

    id: int
    fire_at: float
    retry_of: int | None = None


class TimerFired(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The time of a timer has come."""

    timer_id: int


class EventRaised(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Somebody outside sent a named event."""

    name: str
    input: msgspec.Raw = NULL


class ExecutionSuspended(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Somebody outside held the instance: what reaches it from now on is kept, and takes effect when it is resumed."""

    reason: str = ""


class ExecutionResumed(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Somebody outside let the instance go on: a suspended one, or a stalled one that is to be tried again."""

    reason: str = ""


class ExecutionTerminated(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Somebody outside ended the instance, and with it, if ``recurse``, the child workflows that it called."""

    reason: str = ""
    recurse: bool = True


class ContinueAsNew(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The code ended this generation of the instance: it begins again with another input and an empty history.

    Attributes:
        input: the next generation's input.
        carried: the events that came and were not read, for the next generation.
    """

    input: msgspec.Raw = NULL
    carried: tuple[EventRaised, ...] = ()


class ExecutionCompleted(Event, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """The instance is finished."""

    status: Status
    result: msgspec.Raw = NULL
    failure: Failure | None = None


Incoming = (
    TaskCompleted
    | TaskFailed
    | TimerFired
    | SubOrchestrationInstanceCompleted
    | SubOrchestrationInstanceFailed
    | EventRaised
    | ExecutionStarted
    | ExecutionSuspended
    | ExecutionResumed
    | ExecutionTerminated
)
"""What reaches an instance from outside its code."""

Called = TaskScheduled | SubOrchestrationInstanceCreated
"""A call that is answered later: of an activity, or of a child workflow."""

Action = Called | TimerCreated | EventSent | ContinueAsNew | ExecutionCompleted
"""What an instance's code decides."""

AnyEvent = Incoming | Action


class HistoryRow(msgspec.Struct, frozen=True, gc=False):
    """One episode of an instance: what reached it, and what its code decided at once.

    Attributes:
        seq: number of the row within the instance, counted from 0.
        at: when the episode happened, in seconds since the epoch; the workflow's own clock.
        events: in the order in which they took effect.
    """

    seq: int
    at: float
    events: tuple[AnyEvent, ...]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[AnyEvent, ...])
_single = msgspec.json.Decoder(AnyEvent)


def encode_events(events: tuple[AnyEvent, ...] | list[AnyEvent]) -> str:
    """Return events as the JSON text that a store keeps."""
    return _encoder.encode(events).decode()


def decode_events(text: str | bytes) -> tuple[AnyEvent, ...]:
    """Return the events that :func:`encode_events` wrote."""
    events: tuple[AnyEvent, ...] = _decoder.decode(text)
    return events


def encode_event(event: AnyEvent) -> str:
    """Return one event as JSON text."""
    return _encoder.encode(event).decode()


def decode_event(text: str | bytes) -> AnyEvent:
    """Return one event from its JSON text."""
    event: AnyEvent = _single.decode(text)
    return event


def begins_generation(events: Iterable[AnyEvent]) -> bool:
    """Whether some row of a history is the first one of an instance, or of a generation of it."""
    return any(isinstance(event, ExecutionStarted) for event in events)


def ends_instance(text: str) -> bool:
    """Whether an encoded event is a termination from outside."""
    # As the encoder writes it: the tag first.
    return text.startswith('{"type":"ExecutionTerminated"')


def describe(event: AnyEvent | None) -> str:
    """Return one event as a person reads it, for error messages."""
    match event:
        case None:
            text = "nothing (the code asked for nothing here)"
        case TaskScheduled():
            text = f"call_activity {event.name!r} as #{event.id}{_attempt(event)}"
        case SubOrchestrationInstanceCreated():
            text = f"call_child_workflow {event.name!r} as #{event.id}{_attempt(event)}"
        case TimerCreated():
            text = f"create_timer as #{event.id}"
        case EventSent():
            text = f"send_event {event.name!r} as #{event.id}"
        case ExecutionCompleted():
            text = f"end of the workflow: {event.status}"
        case _:
            text = type(event).__name__
    return text


def _attempt(event: Called) -> str:
    return f" (attempt {event.attempt})" if event.attempt > 1 else ""
