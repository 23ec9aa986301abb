"""What a workflow's context may ask for: each request becomes a decision, in the order of asking. Pure."""

from __future__ import annotations

import math
import random
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from perdure.base.codec import ConversationKey, Encoded, Link, Reference, encode
from perdure.base.errors import TaskCancelledError, UsageError
from perdure.base.events import (
    Action,
    Admission,
    Called,
    EventRaised,
    EventSent,
    ExecutionStarted,
    RetryPolicy,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
    TimerCreated,
)
from perdure.base.ids import execution_id_of_call, require_text, require_usable_id
from perdure.engine.engine_events import CANCELLED, ENGINE_EVENT, FORKED, PATCHED, TERMINATE
from perdure.engine.open_work import Call, Convert, OpenWork
from perdure.engine.tasks import Task

_NAMESPACE = uuid.UUID("7c0d9b1e-6f0a-5e0c-9b3c-2a1d5f4e8b77")

Attribute = str | int | float | bool
"""What a custom attribute may hold."""


class Requests(OpenWork):
    """The decisions of one instance's code.

    Attributes:
        instance_id: the instance's id.
        now: the workflow's own clock: when the current episode happened, in seconds since the epoch.
        replaying: whether recorded history is being replayed.
        evicted: whether the function is being unwound, so that what it still asks for is nobody's any more.
        custom_status: what the code last set, encoded as JSON; None while it has set nothing.
        attributes: those that the code set since the last episode.
        execution_id: tells the run apart from others that have its instance id; empty when none can.
        seed: what identifiers and random numbers are made of.
    """

    __slots__ = (
        "_blobs",
        "_cancelled",
        "_conversations",
        "_identifiers",
        "_key_prefix",
        "_links",
        "_next_id",
        "_next_input",
        "_notes",
        "_patches",
        "_random",
        "_recorded_patches",
        "_requested",
        "attributes",
        "custom_status",
        "evicted",
        "execution_id",
        "instance_id",
        "now",
        "replaying",
        "seed",
    )

    def __init__(self, instance_id: str) -> None:
        super().__init__()
        self.instance_id = instance_id
        self.now = 0.0
        self.replaying = False
        self.evicted = False
        self.custom_status: str | None = None
        self.attributes: dict[str, Attribute] = {}
        self.execution_id = ""
        self.seed = instance_id
        self._next_id = 0
        self._identifiers = 0
        self._key_prefix = f"{instance_id}/"
        self._random: random.Random | None = None
        self._next_input: tuple[Encoded, bool] | None = None
        self._requested: list[Action] = []
        self._notes: list[EventRaised] = []
        self._cancelled: list[int] = []
        self._patches: dict[str, bool] = {}
        self._recorded_patches: frozenset[str] = frozenset()
        self._blobs: dict[str, bytes] = {}
        self._links: list[Link] = []
        self._conversations: dict[ConversationKey, Reference] = {}

    def call_activity(
        self,
        name: str,
        argument: Any,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        convert: Convert | None = None,
        admission: Admission | None = None,
    ) -> Task[Any]:
        """Decide to call an activity.

        Args:
            name: its registered name.
            argument: its input; must be data.
            retry: recorded with the call.
            timeout: seconds that one attempt may take.
            convert: turns the plain result into what the code expects, such as a model.
            admission: how each attempt waits for its turn; None when nothing limits it.

        Raises:
            NotSerializableError: the argument is not data.
            UsageError: the timeout is no positive number, or the policy no RetryPolicy.
        """
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise UsageError(f"the timeout of activity {name!r} is {timeout}; use a positive number, or None")
        if retry is not None:
            _require_policy(retry)
        if self.evicted:
            return _unreachable()
        encoded = self._keep(encode(argument, f"the input of activity {name!r}"))
        scheduled = TaskScheduled(
            id=self._new_id(), name=name, input=encoded.raw, retry=retry, timeout=timeout, admission=admission
        )
        call = Call(scheduled, self.now, convert)
        self._calls[scheduled.id] = call
        if admission is not None:
            self.queued.add(scheduled.id)
        self._requested.append(scheduled)
        return call.task

    def call_child(
        self,
        name: str,
        argument: Any,
        *,
        instance_id: str | None = None,
        app_id: str | None = None,
        retry: RetryPolicy | None = None,
        convert: Convert | None = None,
        detached: bool = False,
        admission: Admission | None = None,
    ) -> tuple[str, Task[Any]]:
        """Decide to call a child workflow.

        Args:
            name: its registered name.
            argument: its input; must be data.
            instance_id: its id; None makes one of this instance's id and the number of the call.
            app_id: the app that executes it; None for this instance's own.
            retry: recorded with the call; each attempt is another instance.
            convert: turns the plain result into what the code expects, such as a model.
            detached: start it, and be told nothing of its end; its task is finished at once.
            admission: how it waits for its turn; None when nothing is known to limit it.

        Returns:
            the child's id, and the task of its result.

        Raises:
            NotSerializableError: the argument is not data.
            UsageError: the id is no usable one.
        """
        if instance_id is not None:
            require_usable_id(instance_id)
        if retry is not None:
            _require_policy(retry)
        if self.evicted:
            return "", _unreachable()
        encoded = self._keep(encode(argument, f"the input of child workflow {name!r}"))
        number = self._new_id()
        created = SubOrchestrationInstanceCreated(
            id=number,
            name=name,
            instance_id=instance_id or self.child_id(number),
            input=encoded.raw,
            app_id=app_id,
            detached=detached,
            retry=retry,
            admission=admission,
        )
        self._requested.append(created)
        call = Call(created, self.now, convert)
        if detached:
            call.task.resolve(None)
        else:
            self._children[number] = call
        return created.instance_id, call.task

    def key_of(self, call: Called) -> str:
        """Return the idempotency key of a call: no other call of any run or generation has it."""
        first = call.id if call.retry_of is None else call.retry_of
        return f"{self._key_prefix}{first}"

    def child_id(self, number: int) -> str:
        """Return the id of the child workflow that a decision calls, unless the code chose one."""
        generation = f":{self.generation}" if self.generation else ""
        return f"{self.instance_id}{generation}:{number:04x}"

    def execution_id_for(self, call: SubOrchestrationInstanceCreated) -> str:
        """Return the execution id of the child workflow that a decision calls; empty when its instance id is unique."""
        if not self.execution_id and call.instance_id == self.child_id(call.id):
            return ""
        return execution_id_of_call(self.instance_id, self.execution_id, self.generation, call.id)

    def send_event(self, instance_id: str, name: str, data: Any) -> None:
        """Decide to send an event to another instance; one that does not exist or has ended does not get it.

        Raises:
            NotSerializableError: the data is not data.
            UsageError: the name is one of the engine's own, or the id is no usable one.
        """
        require_users_event(name)
        require_usable_id(instance_id)
        if not self.evicted:
            encoded = self._keep(encode(data, f"the data of event {name!r}", references=False))
            self._request_sending(instance_id, name, encoded.raw)

    def _request_sending(self, instance_id: str, name: str, data: msgspec.Raw) -> None:
        self._requested.append(EventSent(id=self._new_id(), instance_id=instance_id, name=name, input=data))

    def create_timer(self, seconds: float) -> Task[None]:
        """Decide to wait for some seconds of the wall clock.

        Raises:
            UsageError: the number is not finite.
        """
        if not math.isfinite(seconds):
            raise UsageError(f"a timer cannot wait {seconds} seconds; to wait for ever, wait for an external event")
        if self.evicted:
            return _unreachable()
        created = TimerCreated(id=self._new_id(), fire_at=self.now + max(0.0, seconds))
        task: Task[None] = Task("timer", created.id)
        self._timers[created.id] = (created.fire_at, task)
        self._requested.append(created)
        return task

    def wait_for_event(self, name: str) -> Task[Any]:
        """Wait for an external event; one that came earlier and was not read yet completes the task at once.

        Raises:
            UsageError: the name is one of the engine's own.
        """
        require_users_event(name)
        if self.evicted:
            return _unreachable()
        key = name.casefold()
        task: Task[Any] = Task(f"event {name!r}", key)
        unread = self._unread.get(key)
        if unread:
            task.resolve(unread.popleft().value)
        else:
            self._waiters.setdefault(key, deque()).append(task)
        return task

    def cancel(self, tasks: Iterable[Task[Any]]) -> None:
        """Stop waiting for tasks: an activity's outcome no longer matters, a child workflow is terminated.

        A cancelled task fails with TaskCancelledError; one that has finished stays as it is.
        """
        if self.evicted:
            return
        for task in tasks:
            if not isinstance(task, Task):
                raise UsageError(
                    f"cancel takes what the context's methods return, not {task!r:.80}; pass the task itself"
                )
            if task.done:
                continue
            # At first itself: one that is made of others must not take the first cancelled one for a winner.
            source = task.source
            task.reject(TaskCancelledError(task.reason or "a task"))
            if isinstance(source, list):
                self.cancel(source)
            else:
                self._withdraw(task, source)

    def _withdraw(self, task: Task[Any], source: object) -> None:
        match source:
            case Call() as call:
                if not self._drop_call(call):
                    return
                if isinstance(call.current, SubOrchestrationInstanceCreated):
                    if call.backoff is None:
                        self._request_sending(call.current.instance_id, TERMINATE, encode(None).raw)
                else:
                    self._cancelled.append(call.current.id)
                    self._note(CANCELLED, call.first.id)
            case int() as timer:
                self._timers.pop(timer, None)
            case str() as event:
                waiters = self._waiters.get(event)
                if waiters and task in waiters:
                    waiters.remove(task)
            case _:
                return

    def continue_as_new(self, argument: Any, *, carry_events: bool) -> None:
        """Decide that this generation ends when the function returns, and the next one begins with another input.

        Raises:
            NotSerializableError: the argument is not data.
        """
        if not self.evicted:
            encoded = self._keep(encode(argument, "the input of the next generation"))
            self._next_input = encoded, carry_events

    def set_custom_status(self, status: Any) -> None:
        """Let everybody who looks at the instance see some data.

        Raises:
            NotSerializableError: the status is not data.
        """
        if self.evicted:
            return
        encoded = encode(status, "the custom status", references=False)
        if encoded.blobs:
            raise UsageError("the custom status is longer than a few kilobytes; keep it short, results hold the rest")
        self.custom_status = bytes(encoded.raw).decode()

    def set_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Set custom attributes, by which instances are found.

        Raises:
            UsageError: a name or a value is of another kind.
        """
        usable = usable_attributes(attributes)
        if not self.evicted:
            self.attributes.update(usable)

    def is_patched(self, patch: str) -> bool:
        """Whether this run goes the way of a patch: one that came to this place for the first time after it does."""
        known = self._patches.get(patch)
        if known is None:
            known = not self.replaying or patch in self._recorded_patches
            self._patches[patch] = known
            if not self.replaying:
                self._note(PATCHED, patch)
        return known

    def new_uuid(self) -> uuid.UUID:
        """Return an identifier that is the same on every replay, and another one at every call."""
        self._identifiers += 1
        return uuid.uuid5(_NAMESPACE, f"{self.seed}/{self.generation}/{self._identifiers}")

    def random(self) -> random.Random:
        """Return the run's own source of numbers, the same on every replay; of no use for secrets."""
        if self._random is None:
            self._random = random.Random(f"{self.seed}/{self.generation}")  # noqa: S311 - as it says
        return self._random

    def _note_engine_event(self, name: str, value: Any) -> None:
        if name == FORKED:
            self.seed, self._random = value, None
        else:
            super()._note_engine_event(name, value)

    def _note(self, name: str, value: Any) -> None:
        if not self.replaying and not self.evicted:
            self._notes.append(EventRaised(name=name, input=encode(value).raw))

    def _new_id(self) -> int:
        number = self._next_id
        self._next_id += 1
        return number

    def _keep(self, encoded: Encoded) -> Encoded:
        if encoded.blobs:
            self._blobs.update(encoded.blobs)
        if encoded.links:
            self._links.extend(encoded.links)
        if encoded.conversations:
            self._conversations.update(encoded.conversations)
        return encoded

    def _forget_beside(self) -> None:
        if self._blobs or self._conversations:
            self._blobs, self._links, self._conversations = {}, [], {}


def key_prefix(instance_id: str, started: ExecutionStarted) -> str:
    """Return what the idempotency keys of a generation of a run begin with: no other one's do."""
    execution = f"{started.execution_id}/" if started.execution_id else ""
    generation = f"{started.generation}/" if started.generation else ""
    return f"{instance_id}/{execution}{generation}"


def seed_of(instance_id: str, execution_id: str) -> str:
    """Return what the identifiers of a run are made of."""
    return f"{instance_id}/{execution_id}" if execution_id else instance_id


def usable_attributes(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Return custom attributes that were found to be usable.

    Raises:
        UsageError: a name is empty or longer than 64 characters, or a value is no text (of at most 256 characters),
            number or truth value.
    """
    if not isinstance(attributes, Mapping):
        raise UsageError(f"attributes is {attributes!r:.80}; use a mapping of names to values")
    for name, value in attributes.items():
        if not isinstance(name, str) or not 0 < len(name) <= 64:
            raise UsageError(f"the attribute name {name!r:.80} is unusable; use 1 to 64 characters")
        if not isinstance(value, str | int | float | bool) or (isinstance(value, str) and len(value) > 256):
            raise UsageError(
                f"attribute {name!r} is {value!r:.80}; use a text of at most 256 characters, a number or a truth value"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"attribute {name!r} is {value}; use a finite number")
    return dict(attributes)


def require_users_event(name: str) -> None:
    """Refuse what cannot be the name of an external event.

    Raises:
        UsageError: it is no text, or one of the engine's own.
    """
    require_text("the event's name", name)
    if name.startswith(ENGINE_EVENT):
        raise UsageError(f"event names that begin with {ENGINE_EVENT!r} are the engine's own; choose another one")


def _require_policy(retry: object) -> None:
    if not isinstance(retry, RetryPolicy):
        raise UsageError(f"retry_policy is {retry!r:.80}; use a RetryPolicy, or None")


def _unreachable() -> Task[Any]:
    # What a function that is being unwound still asks for. Raising here instead would let a loop that catches
    # everything spin for ever; a task that never finishes takes it to a wait, where it ends.
    return Task("nothing: the function is being put away")
