"""What an episode changes beyond its own history row: children, events for others, what people see. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from perdure.base.events import (
    AnyEvent,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    Failure,
    Parent,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskScheduled,
    encode_event,
    encode_events,
)
from perdure.base.ids import split_key
from perdure.base.limits import Limits
from perdure.engine.code import Workflow
from perdure.engine.engine_events import TERMINATE
from perdure.engine.replay import Decisions, Execution
from perdure.engine.rules import ticket_of
from perdure.engine.tickets import claim_of, given_back, limited_among
from perdure.ports.history_store import Changes, ChildStart, Lease, NewInstance, Sending
from perdure.ports.tickets import AttemptTicket


class Surroundings(Protocol):
    """What has to be known around an instance to start its children."""

    @property
    def app_id(self) -> str:
        """The app of the worker."""
        ...

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """What the worker can execute."""
        ...

    def limits_of(self, activity: str) -> Limits | None:
        """Return the limits of an activity as this process knows them."""
        ...

    def lease_for(self, started: int) -> Lease | None:
        """Return the lease that one more child starts under, after so many; None to leave it to others."""
        ...


def changes_of(
    execution: Execution,
    decisions: Decisions,
    around: Surroundings,
    workflow: str | None,
    *,
    tickets: Collection[int] = (),
    to_queue: Sequence[TaskScheduled] = (),
) -> Changes | None:
    """Return what an episode changes beyond its row, or None.

    Args:
        execution: the function that decided.
        decisions: what it decided, and what led to it.
        around: what children start with.
        workflow: the key that the instance is kept under from now on, or None for as before.
        tickets: the attempts that have a ticket.
        to_queue: attempts that take one though they were decided before.
    """
    limited = tickets or to_queue or execution.queued
    for event in decisions.events:
        if type(event) in _HANDLERS:
            break
    else:
        if not (limited or execution.continued or workflow or decisions.custom_status or decisions.attributes):
            return None
    writer = _Writer(execution, decisions, around)
    for event in decisions.events:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(writer, event)
    if limited and not execution.ended:
        writer.note_tickets(tickets, to_queue)
    if not (writer.touched or workflow or decisions.custom_status or decisions.attributes):
        return None
    return Changes(
        starts=tuple(writer.starts),
        sends=tuple(writer.sends),
        to_children=writer.to_children,
        renews=execution.continued is not None,
        workflow=workflow,
        status=writer.status,
        custom_status=decisions.custom_status,
        attributes=decisions.attributes or {},
        tickets=tuple(writer.tickets),
        gives_back=writer.gives_back,
    )


class _Writer:
    def __init__(self, execution: Execution, decisions: Decisions, around: Surroundings) -> None:
        self.touched = execution.continued is not None
        self.starts: list[ChildStart] = []
        self.sends: list[Sending] = []
        self.to_children: str | None = None
        self.status: Status | None = None
        self.tickets: list[AttemptTicket] = []
        self.gives_back: tuple[int, ...] = ()
        self._execution = execution
        self._decisions = decisions
        self._around = around
        self._leased = 0

    def note_tickets(self, tickets: Collection[int], to_queue: Iterable[TaskScheduled]) -> None:
        """Let attempts take their tickets, and give those back that are needed no more."""
        execution, around = self._execution, self._around
        for scheduled in (*limited_among(execution, self._decisions.actions), *to_queue):
            self.tickets.append(claim_of(execution, scheduled, around.app_id, around.limits_of(scheduled.name)))
        self.gives_back = given_back(self._decisions, tickets)
        self.touched = self.touched or bool(self.tickets or self.gives_back)

    def start_child(self, event: SubOrchestrationInstanceCreated) -> None:
        self.touched = True
        execution, around = self._execution, self._around
        app_id = event.app_id or around.app_id
        code = around.workflows.get(event.name) if app_id == around.app_id else None
        key = event.name if code is None else code.keys[0]
        lease = None if code is None else around.lease_for(self._leased)
        self._leased += lease is not None
        parent = (
            None
            if event.detached
            else Parent(instance_id=execution.instance_id, task_id=event.id, generation=execution.generation)
        )
        name, version = split_key(key)
        rules = None if code is None else code.rules
        started = ExecutionStarted(
            name=name,
            input=execution.input_of(event),
            version=version,
            parent=parent,
            execution_id=execution.execution_id_for(event),
            admission=event.admission,
        )
        new = NewInstance(
            instance_id=event.instance_id,
            app_id=app_id,
            workflow=key,
            at=execution.now,
            events=encode_events([started]),
            lease=lease,
            parent=None if event.detached else execution.instance_id,
            ticket=None if event.admission is None else ticket_of(app_id, name, event.admission, rules),
        )
        if event.detached:
            self.starts.append(ChildStart(new=new))
            return
        taken = f"the instance id {event.instance_id!r} is taken; choose another one for the child workflow"
        crowded = f"the backlog of workflow {name!r} is full; start it again later, run more at a time, or allow more"
        self.starts.append(
            ChildStart(
                new=new,
                refused=self._refusal(event, "InstanceExistsError", taken, non_retryable=True),
                crowded=self._refusal(event, "BacklogFullError", crowded),
            )
        )

    def _refusal(
        self,
        event: SubOrchestrationInstanceCreated,
        error_type: str,
        message: str,
        *,
        non_retryable: bool = False,
    ) -> str:
        failure = Failure(error_type=error_type, message=message, non_retryable=non_retryable)
        failed = SubOrchestrationInstanceFailed(
            task_id=event.id, failure=failure, generation=self._execution.generation
        )
        return encode_event(failed)

    def send(self, event: EventSent) -> None:
        self.touched = True
        sent: AnyEvent = EventRaised(name=event.name, input=event.input)
        if event.name == TERMINATE:
            sent = ExecutionTerminated(reason=f"cancelled by {self._execution.instance_id}")
        self.sends.append(Sending(event.instance_id, encode_event(sent)))

    def suspended(self, _: ExecutionSuspended) -> None:
        self.touched, self.status = True, Status.SUSPENDED

    def resumed(self, _: ExecutionResumed) -> None:
        self.touched, self.status = True, Status.RUNNING

    def terminated(self, event: ExecutionTerminated) -> None:
        if event.recurse:
            self.touched = True
            self.to_children = encode_event(
                ExecutionTerminated(reason=event.reason or f"{self._execution.instance_id} was terminated")
            )

    def completed(self, event: ExecutionCompleted) -> None:
        parent = self._execution.parent
        if parent is None:
            return
        self.touched = True
        told: AnyEvent
        if event.status is Status.COMPLETED:
            told = SubOrchestrationInstanceCompleted(
                task_id=parent.task_id,
                result=event.result,
                generation=parent.generation,
                instance_id=self._execution.instance_id,
            )
        else:
            failure = event.failure or Failure(error_type=event.status, message="")
            if event.status is Status.TERMINATED:
                failure = msgspec.structs.replace(failure, non_retryable=True)
            told = SubOrchestrationInstanceFailed(
                task_id=parent.task_id,
                failure=failure,
                generation=parent.generation,
                instance_id=self._execution.instance_id,
            )
        self.sends.append(Sending(parent.instance_id, encode_event(told)))


_HANDLERS: dict[type, Callable[[_Writer, Any], None]] = {
    SubOrchestrationInstanceCreated: _Writer.start_child,
    EventSent: _Writer.send,
    ExecutionSuspended: _Writer.suspended,
    ExecutionResumed: _Writer.resumed,
    ExecutionTerminated: _Writer.terminated,
    ExecutionCompleted: _Writer.completed,
}


def next_generation(execution: Execution, workflow: Workflow) -> list[AnyEvent]:
    """Return the first row of an instance's next generation, which goes on with the given code."""
    end = execution.continued
    assert end is not None
    started = ExecutionStarted(
        name=workflow.name,
        input=end.input,
        version=split_key(workflow.keys[0])[1],
        generation=execution.generation + 1,
        parent=execution.parent,
        execution_id=execution.execution_id,
    )
    # What was carried over first: nothing that the new function asks for may stand between it and the start.
    return [*end.carried, started]
