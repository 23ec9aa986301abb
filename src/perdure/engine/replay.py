"""The pure core: history in, decisions out.

An :class:`Execution` drives one workflow function. Recorded rows are replayed into it, new events are applied to it,
and it answers with the actions that the function decided. It does no I/O, reads no clock and mints no randomness:
the same rows and events give the same actions, always.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from perdure.base.backoff import next_attempt_at
from perdure.base.codec import NOTHING, Link, Resolved, decode, encode
from perdure.base.errors import (
    ActivityFailedError,
    ChildWorkflowFailedError,
    Evicted,
    NonDeterminismError,
    PerdureError,
    WorkflowAwaitError,
)
from perdure.base.events import (
    Action,
    AnyEvent,
    Called,
    ContinueAsNew,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    Failure,
    HistoryRow,
    Parent,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
    describe,
)
from perdure.engine.code import Steps, Workflow
from perdure.engine.engine_events import ENGINE_EVENT, FORKED, NOTES, PATCHED
from perdure.engine.failures import failure_of
from perdure.engine.open_work import Call, Unread
from perdure.engine.requests import Attribute, Requests, key_prefix, seed_of
from perdure.engine.tasks import Task

replaying_now: contextvars.ContextVar[bool] = contextvars.ContextVar("perdure_replaying", default=False)
"""Whether workflow code is being brought back to where its history ends, for loggers."""


class Decisions(msgspec.Struct, gc=False):
    """What one episode adds to a history.

    Attributes:
        events: what happened and what was decided, in order of effect.
        actions: the decisions among them.
        blobs: content that the actions refer to.
        links: conversation links that the actions refer to.
        resolved: what decoding the actions' inputs in this process needs.
        taken: how many of the new events were looked at: the others came after the end of the function.
        custom_status: what the code set in this episode, as JSON; None when it set nothing else than before.
        attributes: those that the code set in this episode.
        cancelled: attempts of activities that no longer matter.
    """

    events: list[AnyEvent]
    actions: list[Action]
    blobs: dict[str, bytes]
    links: list[Link]
    resolved: Resolved
    taken: int = 0
    custom_status: str | None = None
    attributes: dict[str, Attribute] | None = None
    cancelled: Sequence[int] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to record."""
        return not self.events and self.custom_status is None and not self.attributes


class Execution(Requests):
    """One instance's workflow function in the course of its history.

    Args:
        workflow: the function.
        instance_id: the instance's id.

    Attributes:
        completed: the end of the instance, once decided.
        continued: the end of this generation of the instance, once decided.
        ended: whether the function has ended, for good or to continue as new.
        parent: who called the instance, and is told of its end.
    """

    __slots__ = (
        "_answered",
        "_replayed_attributes",
        "_resolved",
        "_status_known",
        "_steps",
        "completed",
        "continued",
        "ended",
        "parent",
        "workflow",
    )

    def __init__(self, workflow: Workflow, instance_id: str) -> None:
        super().__init__(instance_id)
        self.workflow = workflow
        self.completed: ExecutionCompleted | None = None
        self.continued: ContinueAsNew | None = None
        self.ended = False
        self.parent: Parent | None = None
        self._steps: Steps | None = None
        self._answered = 0
        self._replayed_attributes = _NO_ATTRIBUTES
        self._resolved = NOTHING
        self._status_known: str | None = None

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
        quiet = replaying_now.set(self.replaying)
        place = 0
        try:
            for place, row in enumerate(rows):
                self.now = row.at
                # What the row of acceptance leads to is recorded in the row after it.
                self._recorded_patches = _patches_in(row if place else rows[min(1, len(rows) - 1)])
                for event in row.events:
                    self._replay_one(event)
            self._require_the_end()
        except NonDeterminismError as error:
            error.row = rows[place].seq
            self.close()
            raise
        finally:
            replaying_now.reset(quiet)
            if self.replaying:
                # What the beginning of a new run sets and cancels is recorded with its first episode.
                self._status_known = self.custom_status
                self._replayed_attributes, self.attributes = self.attributes, {}
                self._cancelled = []
            self.replaying = False
            self._resolved = NOTHING

    def advance(self, now: float, incoming: Iterable[AnyEvent], resolved: Resolved | None = None) -> Decisions:
        """Apply new events at a time; return the row they make with the decisions that follow."""
        if resolved is not None:
            self._resolved = resolved
        self.now = now
        events: list[AnyEvent] = []
        actions: list[Action] = []
        taken = 0
        self._collect(events, actions)
        for event in incoming:
            if self.ended:
                break
            taken += 1
            if not self._expects(event):
                continue
            events.append(event)
            self._apply(event)
            self._collect(events, actions)
        beside = NOTHING
        if self._blobs or self._conversations:
            beside = Resolved(self._blobs, self._conversations)
        decisions = Decisions(events, actions, self._blobs, self._links, beside, taken)
        if self.custom_status != self._status_known:
            decisions.custom_status = self._status_known = self.custom_status
        if self.attributes:
            decisions.attributes, self.attributes = self.attributes, {}
        if self._cancelled:
            decisions.cancelled, self._cancelled = self._cancelled, []
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
        if isinstance(event, EventRaised) and event.name in NOTES:
            return
        if not isinstance(event, Action):
            if self._requested or not self._expects(event):
                raise NonDeterminismError(self.instance_id, describe(event), describe(self._next_requested()))
            self._apply(event)
            return
        requested = self._next_requested()
        if requested is None or not _agree(event, requested):
            raise NonDeterminismError(self.instance_id, describe(event), describe(requested))
        if isinstance(event, Called) and isinstance(requested, Called):
            self._compare_references(event, requested)
        self._adopt(event)

    def _next_requested(self) -> Action | None:
        """Take the oldest of the requests that no recorded decision has answered."""
        if not self._requested:
            return None
        requested = self._requested[self._answered]
        self._answered += 1
        if self._answered == len(self._requested):
            self._requested, self._answered = [], 0
        return requested

    def _compare_references(self, recorded: Called, requested: Called) -> None:
        """Store conversations anew that the code of today writes otherwise than the one that recorded them."""
        if self._conversations and bytes(recorded.input) != bytes(requested.input):
            for conversation in self._conversations.values():
                conversation.forget_stored()

    def _require_the_end(self) -> None:
        if self._requested and self.replaying:
            raise NonDeterminismError(self.instance_id, describe(None), describe(self._next_requested()))

    def _note_admission(self, recorded: Called) -> None:
        if isinstance(recorded, TaskScheduled):
            self.queued.discard(recorded.id)
            if recorded.admission is not None:
                self.queued.add(recorded.id)

    def _adopt(self, recorded: Action) -> None:
        """Let what is recorded stand in for what the code of today would have asked: policies, times, inputs."""
        match recorded:
            case TaskScheduled() | SubOrchestrationInstanceCreated():
                # One that was cancelled at once is not open any more.
                call = (self._calls if isinstance(recorded, TaskScheduled) else self._children).get(recorded.id)
                if call is not None:
                    call.adopt(recorded)
                    self._note_admission(recorded)
            case TimerCreated(id=timer_id, fire_at=fire_at):
                if timer_id in self._timers:
                    self._timers[timer_id] = (fire_at, self._timers[timer_id][1])
                elif timer_id in self._backoffs:
                    self._backoffs[timer_id] = (fire_at, self._backoffs[timer_id][1])
            case ExecutionCompleted():
                self.completed, self.ended = recorded, True
            case _:
                pass
        self._forget_beside()

    # -- applying one event

    def _apply(self, event: AnyEvent) -> None:
        if self.suspended is not None and not self._concerns_suspended(event):
            if self._held_back is None:
                self._held_back = deque()
            self._held_back.append((event, self._resolved))
            return
        _HANDLERS[type(event)](self, event)
        if self._waiting_on is not None and self._waiting_on.done:
            self._run()

    def _concerns_suspended(self, event: AnyEvent) -> bool:
        if isinstance(event, EventRaised):
            return event.name.startswith(ENGINE_EVENT)
        return isinstance(event, ExecutionSuspended | ExecutionResumed | ExecutionTerminated)

    def _suspend(self, event: ExecutionSuspended) -> None:
        self.suspended = event.reason

    def _resume(self, _: ExecutionResumed) -> None:
        self.suspended = None
        resolved = self._resolved
        while self._held_back and not self.ended:
            event, self._resolved = self._held_back.popleft()
            if self._expects(event):
                self._apply(event)
        self._resolved = resolved

    def _started(self, event: ExecutionStarted) -> None:
        self.parent = event.parent
        self.execution_id = event.execution_id
        self.seed = event.seed or seed_of(self.instance_id, event.execution_id)
        self.generation = event.generation
        self._key_prefix = key_prefix(self.instance_id, event)
        try:
            self._steps = self.workflow.begin(self, self._decode(event.input))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - an error of the workflow's code is the run's outcome
            self._fail(error)
            return
        self._run()

    def _task_completed(self, event: TaskCompleted) -> None:
        self.asked.discard(event.task_id)
        self.queued.discard(event.task_id)
        self._resolve(self._calls.pop(event.task_id), event.result)

    def _child_completed(self, event: SubOrchestrationInstanceCompleted) -> None:
        self._resolve(self._children.pop(event.task_id), event.result)

    def _resolve(self, call: Call, result: msgspec.Raw) -> None:
        try:
            value = self._decode(result)
            call.task.resolve(call.convert(value) if call.convert is not None else value)
        except Exception as error:  # noqa: BLE001 - a result that does not fit is the awaiting code's to handle
            call.task.reject(error)

    def _task_failed(self, event: TaskFailed) -> None:
        call = self._calls.pop(event.task_id)
        self.asked.discard(event.task_id)
        self.queued.discard(event.task_id)
        if not self._try_again(call, event.failure):
            call.task.reject(ActivityFailedError(call.first.name, event.failure))

    def _child_failed(self, event: SubOrchestrationInstanceFailed) -> None:
        call = self._children.pop(event.task_id)
        assert isinstance(call.current, SubOrchestrationInstanceCreated)
        if not self._try_again(call, event.failure):
            call.task.reject(ChildWorkflowFailedError(call.first.name, call.current.instance_id, event.failure))

    def _try_again(self, call: Call, failure: Failure) -> bool:
        at = next_attempt_at(call.first.retry, failure, call.current.attempt, call.first_at, self.now)
        if at is None:
            return False
        created = TimerCreated(id=self._new_id(), fire_at=at, retry_of=call.first.id)
        call.backoff = created.id
        self._backoffs[created.id] = (at, call)
        self._requested.append(created)
        return True

    def _timer_fired(self, event: TimerFired) -> None:
        timer = self._timers.pop(event.timer_id, None)
        if timer is not None:
            timer[1].resolve(None)
            return
        _, call = self._backoffs.pop(event.timer_id)
        call.backoff = None
        call.current = self._next_attempt(call.first, call.current.attempt + 1)
        table = self._calls if isinstance(call.current, TaskScheduled) else self._children
        table[call.current.id] = call
        if isinstance(call.current, TaskScheduled) and call.current.admission is not None:
            self.queued.add(call.current.id)
        self._requested.append(call.current)

    def _next_attempt(self, first: Called, attempt: int) -> Called:
        number = self._new_id()
        if isinstance(first, TaskScheduled):
            return TaskScheduled(
                id=number,
                name=first.name,
                timeout=first.timeout,
                attempt=attempt,
                retry_of=first.id,
                admission=first.admission,
            )
        chosen = first.instance_id != self.child_id(first.id)
        return SubOrchestrationInstanceCreated(
            id=number,
            name=first.name,
            instance_id=f"{first.instance_id}-{attempt}" if chosen else self.child_id(number),
            app_id=first.app_id,
            attempt=attempt,
            retry_of=first.id,
            admission=first.admission,
        )

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
            self._events_seen += 1
            self._unread.setdefault(key, deque()).append(Unread(self._events_seen, event, value))

    def _note_engine_event(self, name: str, value: Any) -> None:
        super()._note_engine_event(name, value)
        if name == FORKED:
            # The other run has gone on since: a fork begins with what its code had set by then, told anew.
            self._status_known = None
            self.attributes = {**self._replayed_attributes, **self.attributes}

    def _terminated(self, event: ExecutionTerminated) -> None:
        failure = Failure(error_type="Terminated", message=event.reason)
        self.close()
        self._drop_everything()
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
        if self._next_input is not None:
            encoded, carry = self._next_input
            self._finish(ContinueAsNew(input=encoded.raw, carried=self.unread_events() if carry else ()))
            return
        try:
            encoded = self._keep(encode(value, f"the result of workflow {self.workflow.name!r}"))
        except PerdureError as error:
            self._fail(error)
            return
        self._finish(ExecutionCompleted(status=Status.COMPLETED, result=encoded.raw))

    def _fail(self, error: BaseException) -> None:
        self._finish(ExecutionCompleted(status=Status.FAILED, failure=failure_of(error)))

    def _finish(self, end: ExecutionCompleted | ContinueAsNew) -> None:
        self._steps = None
        self._waiting_on = None
        self.ended = True
        if isinstance(end, ContinueAsNew):
            self.continued = end
        else:
            self.completed = end
        self._requested.append(end)

    # -- small parts

    def _collect(self, events: list[AnyEvent], actions: list[Action]) -> None:
        if self._notes:
            events.extend(self._notes)
            self._notes = []
        if not self._requested:
            return
        events.extend(self._requested)
        actions.extend(self._requested)
        self._requested = []

    def _decode(self, raw: msgspec.Raw) -> Any:
        return decode(raw, self._resolved)


def _rejected(error: BaseException) -> Task[Any]:
    task: Task[Any] = Task()
    task.reject(error)
    return task


def _agree(recorded: Action, requested: Action) -> bool:
    match recorded, requested:
        case TaskScheduled(), TaskScheduled():
            return (recorded.id, recorded.name, recorded.retry_of) == (requested.id, requested.name, requested.retry_of)
        case SubOrchestrationInstanceCreated(), SubOrchestrationInstanceCreated():
            return (recorded.id, recorded.name, recorded.retry_of, recorded.detached) == (
                requested.id,
                requested.name,
                requested.retry_of,
                requested.detached,
            )
        case EventSent(), EventSent():
            # Not to whom: a fork has another id, of which ids of others are made.
            return (recorded.id, recorded.name) == (requested.id, requested.name)
        case TimerCreated(), TimerCreated():
            return (recorded.id, recorded.retry_of) == (requested.id, requested.retry_of)
        case ExecutionCompleted(), ExecutionCompleted():
            return recorded.status == requested.status
        case _:
            return False


def _patches_in(row: HistoryRow) -> frozenset[str]:
    return frozenset(decode(e.input) for e in row.events if isinstance(e, EventRaised) and e.name == PATCHED)


_NO_ATTRIBUTES: dict[str, Attribute] = {}
_BEGIN: Task[None] = Task()
_BEGIN.resolve(None)

_HANDLERS: dict[type, Callable[[Execution, Any], None]] = {
    ExecutionStarted: Execution._started,
    TaskCompleted: Execution._task_completed,
    TaskFailed: Execution._task_failed,
    TimerFired: Execution._timer_fired,
    SubOrchestrationInstanceCompleted: Execution._child_completed,
    SubOrchestrationInstanceFailed: Execution._child_failed,
    EventRaised: Execution._event_raised,
    ExecutionSuspended: Execution._suspend,
    ExecutionResumed: Execution._resume,
    ExecutionTerminated: Execution._terminated,
}
