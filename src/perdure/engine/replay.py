"""The pure core: history in, decisions out.

An :class:`Execution` drives one workflow function. Recorded rows are replayed into it, new events are applied to it,
and it answers with the actions that the function decided. It does no I/O, reads no clock and mints no randomness:
the same rows and events give the same actions, always.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from perdure.base.backoff import next_attempt_at
from perdure.base.codec import NOTHING, ConversationKey, Encoded, Link, Reference, Resolved, decode, encode
from perdure.base.errors import (
    ActivityFailedError,
    Evicted,
    NonDeterminismError,
    PerdureError,
    UsageError,
    WorkflowAwaitError,
)
from perdure.base.events import (
    Action,
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    Failure,
    HistoryRow,
    RetryPolicy,
    Status,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
    describe,
)
from perdure.engine.engine_events import ENGINE_EVENT
from perdure.engine.failures import failure_of
from perdure.engine.open_work import Call, Convert, OpenWork
from perdure.engine.tasks import Task

Steps = Generator[Any, Any, Any]


class Workflow(Protocol):
    """A workflow function as the engine sees it."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    def begin(self, execution: Execution, argument: Any) -> Steps:
        """Return the function's steps: a generator, or a coroutine, which sends and throws alike."""
        ...


class Decisions(msgspec.Struct, gc=False):
    """What one episode adds to a history.

    Attributes:
        events: what happened and what was decided, in order of effect.
        actions: the decisions among them.
        blobs: content that the actions refer to.
        links: conversation links that the actions refer to.
        resolved: what decoding the actions' inputs in this process needs.
    """

    events: list[AnyEvent]
    actions: list[Action]
    blobs: dict[str, bytes]
    links: list[Link]
    resolved: Resolved


class Execution(OpenWork):
    """One instance's workflow function in the course of its history.

    Args:
        workflow: the function.
        instance_id: the instance's id.

    Attributes:
        now: the workflow's own clock: when the current episode happened, in seconds since the epoch.
        replaying: whether recorded history is being replayed.
        completed: the end of the instance, once decided.
    """

    __slots__ = (
        "_blobs",
        "_conversations",
        "_links",
        "_next_id",
        "_requested",
        "_resolved",
        "_steps",
        "completed",
        "evicted",
        "instance_id",
        "now",
        "replaying",
        "workflow",
    )

    def __init__(self, workflow: Workflow, instance_id: str) -> None:
        super().__init__()
        self.workflow = workflow
        self.instance_id = instance_id
        self.now = 0.0
        self.replaying = False
        self.completed: ExecutionCompleted | None = None
        self.evicted = False
        self._steps: Steps | None = None
        self._next_id = 0
        self._requested: deque[Action] = deque()
        self._blobs: dict[str, bytes] = {}
        self._links: list[Link] = []
        self._conversations: dict[ConversationKey, Reference] = {}
        self._resolved = NOTHING

    # -- what the workflow's context asks for

    def call_activity(
        self,
        name: str,
        argument: Any,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        convert: Convert | None = None,
    ) -> Task[Any]:
        """Decide to call an activity.

        Args:
            name: its registered name.
            argument: its input; must be data.
            retry: recorded with the call.
            timeout: seconds that one attempt may take.
            convert: turns the plain result into what the code expects, such as a model.

        Raises:
            NotSerializableError: the argument is not data.
            UsageError: the timeout is no positive number.
        """
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise UsageError(f"the timeout of activity {name!r} is {timeout}; use a positive number, or None")
        if self.evicted:
            return _unreachable()
        encoded = self._keep(encode(argument, f"the input of activity {name!r}"))
        scheduled = TaskScheduled(id=self._new_id(), name=name, input=encoded.raw, retry=retry, timeout=timeout)
        call = Call(scheduled, self.now, convert)
        self._calls[scheduled.id] = call
        self._requested.append(scheduled)
        return call.task

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
        task: Task[None] = Task("timer")
        self._timers[created.id] = (created.fire_at, task)
        self._requested.append(created)
        return task

    def wait_for_event(self, name: str) -> Task[Any]:
        """Wait for an external event; one that came earlier and was not read yet completes the task at once.

        Raises:
            UsageError: the name is one of the engine's own.
        """
        if name.startswith(ENGINE_EVENT):
            raise UsageError(f"event names that begin with {ENGINE_EVENT!r} are the engine's own; choose another one")
        if self.evicted:
            return _unreachable()
        key = name.casefold()
        task: Task[Any] = Task(f"event {name!r}")
        unread = self._unread.get(key)
        if unread:
            task.resolve(unread.popleft())
        else:
            self._waiters.setdefault(key, deque()).append(task)
        return task

    def forget_waiter(self, name: str, task: Task[Any]) -> None:
        """Stop a task from taking the next event of this name."""
        waiters = self._waiters.get(name.casefold())
        if waiters and task in waiters:
            waiters.remove(task)

    def forget_timer(self, task: Task[None]) -> None:
        """Stop waiting for a timer that nobody needs any more."""
        for timer_id, (_, timer_task) in self._timers.items():
            if timer_task is task:
                del self._timers[timer_id]
                return

    # -- what the worker feeds in

    def replay(self, rows: Sequence[HistoryRow], resolved: Resolved) -> None:
        """Bring the function to where its history ends.

        Args:
            rows: the whole history.
            resolved: the content of every reference in what reached the instance.

        Raises:
            NonDeterminismError: the code does not decide what is recorded.
        """
        self._resolved = resolved
        # The row of acceptance holds no decisions: the first ones come with the first episode. Until that is
        # recorded, the function's beginning runs for the first time.
        self.replaying = len(rows) > 1
        try:
            for row in rows:
                self.now = row.at
                for event in row.events:
                    self._replay_one(event)
            self._require_the_end()
        except NonDeterminismError:
            self.close()
            raise
        finally:
            self.replaying = False
            self._resolved = NOTHING

    def advance(self, now: float, incoming: Iterable[AnyEvent], resolved: Resolved | None = None) -> Decisions:
        """Apply new events at a time; return the row they make with the decisions that follow."""
        if resolved is not None:
            self._resolved = resolved
        self.now = now
        events: list[AnyEvent] = []
        actions: list[Action] = []
        self._collect(events, actions)
        for event in incoming:
            if self.completed is not None:
                break
            if not self._expects(event):
                continue
            events.append(event)
            self._apply(event)
            self._collect(events, actions)
        resolved_inputs = NOTHING
        if self._blobs or self._conversations:
            resolved_inputs = Resolved(self._blobs, self._conversations)
        decisions = Decisions(events, actions, self._blobs, self._links, resolved_inputs)
        self._forget_beside()
        self._resolved = NOTHING
        return decisions

    def close(self) -> None:
        """Put the function away: unwind it without letting it decide anything more."""
        self.evicted = True
        steps, self._steps = self._steps, None
        if steps is None:
            return
        try:
            steps.throw(Evicted())
        except (Evicted, StopIteration):
            return
        except BaseException:  # noqa: BLE001 - whatever a clean-up raises here concerns nobody: the run goes on elsewhere
            return
        try:
            steps.close()
        except BaseException:  # noqa: BLE001 - as above
            return

    # -- replaying

    def _replay_one(self, event: AnyEvent) -> None:
        if not isinstance(event, Action):
            if self._requested or not self._expects(event):
                requested = self._requested[0] if self._requested else None
                raise NonDeterminismError(self.instance_id, describe(event), describe(requested))
            self._apply(event)
            return
        requested = self._requested.popleft() if self._requested else None
        if requested is None or not _agree(event, requested):
            raise NonDeterminismError(self.instance_id, describe(event), describe(requested))
        if isinstance(event, TaskScheduled) and isinstance(requested, TaskScheduled):
            self._compare_references(event, requested)
        self._adopt(event)

    def _compare_references(self, recorded: TaskScheduled, requested: TaskScheduled) -> None:
        """Store conversations anew that the code of today writes otherwise than the one that recorded them."""
        if self._conversations and bytes(recorded.input) != bytes(requested.input):
            for conversation in self._conversations.values():
                conversation.forget_stored()

    def _require_the_end(self) -> None:
        if self._requested and self.replaying:
            raise NonDeterminismError(self.instance_id, describe(None), describe(self._requested[0]))

    def _adopt(self, recorded: Action) -> None:
        """Let what is recorded stand in for what the code of today would have asked: policies, times, inputs."""
        match recorded:
            case TaskScheduled():
                self._calls[recorded.id].adopt(recorded)
            case TimerCreated(id=timer_id, fire_at=fire_at):
                if timer_id in self._timers:
                    self._timers[timer_id] = (fire_at, self._timers[timer_id][1])
                elif timer_id in self._backoffs:
                    self._backoffs[timer_id] = (fire_at, self._backoffs[timer_id][1])
            case ExecutionCompleted():
                self.completed = recorded
        self._forget_beside()

    # -- applying one event

    def _apply(self, event: AnyEvent) -> None:
        _HANDLERS[type(event)](self, event)
        if self._waiting_on is not None and self._waiting_on.done:
            self._run()

    def _started(self, event: ExecutionStarted) -> None:
        try:
            self._steps = self.workflow.begin(self, self._decode(event.input))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - an error of the workflow's code is the run's outcome
            self._fail(error)
            return
        self._run()

    def _task_completed(self, event: TaskCompleted) -> None:
        call = self._calls.pop(event.task_id)
        self.asked.discard(event.task_id)
        try:
            value = self._decode(event.result)
            call.task.resolve(call.convert(value) if call.convert is not None else value)
        except Exception as error:  # noqa: BLE001 - a result that does not fit is the awaiting code's to handle
            call.task.reject(error)

    def _task_failed(self, event: TaskFailed) -> None:
        call = self._calls.pop(event.task_id)
        self.asked.discard(event.task_id)
        attempt = call.current.attempt
        at = next_attempt_at(call.first.retry, event.failure, attempt, call.first_at, self.now)
        if at is None:
            call.task.reject(ActivityFailedError(call.first.name, event.failure))
            return
        created = TimerCreated(id=self._new_id(), fire_at=at, retry_of=call.first.id)
        self._backoffs[created.id] = (at, call)
        self._requested.append(created)

    def _timer_fired(self, event: TimerFired) -> None:
        timer = self._timers.pop(event.timer_id, None)
        if timer is not None:
            timer[1].resolve(None)
            return
        _, call = self._backoffs.pop(event.timer_id)
        call.current = TaskScheduled(
            id=self._new_id(),
            name=call.first.name,
            timeout=call.first.timeout,
            attempt=call.current.attempt + 1,
            retry_of=call.first.id,
        )
        self._calls[call.current.id] = call
        self._requested.append(call.current)

    def _event_raised(self, event: EventRaised) -> None:
        value = self._decode(event.input)
        if event.name.startswith(ENGINE_EVENT):
            self._note_engine_event(event.name, value)
            return
        key = event.name.casefold()
        waiters = self._waiters.get(key)
        if waiters:
            waiters.popleft().resolve(value)
        else:
            self._unread.setdefault(key, deque()).append(value)

    def _terminated(self, event: ExecutionTerminated) -> None:
        failure = Failure(error_type="Terminated", message=event.reason)
        self.close()
        self._calls.clear()
        self._finish(ExecutionCompleted(status=Status.TERMINATED, failure=failure))

    # -- running the function

    def _run(self) -> None:
        """Run the function until it waits for something unfinished, or ends."""
        assert self._steps is not None
        steps = self._steps
        awaited: Any = self._waiting_on or _BEGIN
        self._waiting_on = None
        while True:
            if not isinstance(awaited, Task):
                awaited = _rejected(WorkflowAwaitError(awaited))
            elif not awaited.done:
                self._waiting_on = awaited
                return
            error = awaited.error()
            try:
                awaited = steps.send(awaited.result()) if error is None else steps.throw(error)
            except StopIteration as stop:
                self._complete(stop.value)
                return
            except KeyboardInterrupt:
                raise
            except BaseException as raised:  # noqa: BLE001 - as above, SystemExit and CancelledError included
                self._fail(raised)
                return

    def _complete(self, value: Any) -> None:
        try:
            encoded = self._keep(encode(value, f"the result of workflow {self.workflow.name!r}"))
        except PerdureError as error:
            self._fail(error)
            return
        self._finish(ExecutionCompleted(status=Status.COMPLETED, result=encoded.raw))

    def _fail(self, error: BaseException) -> None:
        self._finish(ExecutionCompleted(status=Status.FAILED, failure=failure_of(error)))

    def _finish(self, completed: ExecutionCompleted) -> None:
        self._steps = None
        self._waiting_on = None
        self.completed = completed
        self._requested.append(completed)

    # -- small parts

    def _collect(self, events: list[AnyEvent], actions: list[Action]) -> None:
        if not self._requested:
            return
        events.extend(self._requested)
        actions.extend(self._requested)
        self._requested.clear()

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

    def _decode(self, raw: msgspec.Raw) -> Any:
        return decode(raw, self._resolved)


def _rejected(error: BaseException) -> Task[Any]:
    task: Task[Any] = Task()
    task.reject(error)
    return task


def _unreachable() -> Task[Any]:
    # What a function that is being unwound still asks for. Raising here instead would let a loop that catches
    # everything spin for ever; a task that never finishes takes it to a wait, where it ends.
    return Task("nothing: the function is being put away")


def _agree(recorded: Action, requested: Action) -> bool:
    match recorded, requested:
        case TaskScheduled(), TaskScheduled():
            return (recorded.id, recorded.name, recorded.retry_of) == (requested.id, requested.name, requested.retry_of)
        case TimerCreated(), TimerCreated():
            return (recorded.id, recorded.retry_of) == (requested.id, requested.retry_of)
        case ExecutionCompleted(), ExecutionCompleted():
            return recorded.status == requested.status
        case _:
            return False


_BEGIN: Task[None] = Task()
_BEGIN.resolve(None)

_HANDLERS: dict[type, Callable[[Execution, Any], None]] = {
    ExecutionStarted: Execution._started,
    TaskCompleted: Execution._task_completed,
    TaskFailed: Execution._task_failed,
    TimerFired: Execution._timer_fired,
    EventRaised: Execution._event_raised,
    ExecutionTerminated: Execution._terminated,
}
