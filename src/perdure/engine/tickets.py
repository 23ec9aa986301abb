"""Attempts of activities that wait for their turn, and what they and their tickets say of each other. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from perdure.base.codec import decode, encode
from perdure.base.events import Action, AnyEvent, EventRaised, TaskCompleted, TaskFailed, TaskScheduled, encode_event
from perdure.base.limits import Limits
from perdure.engine.engine_events import GRANTED
from perdure.engine.replay import Decisions, Execution
from perdure.ports.tickets import AttemptTicket, Queue, Ticket


def claim_of(execution: Execution, scheduled: TaskScheduled, app_id: str, limits: Limits | None) -> AttemptTicket:
    """Return the ticket that an attempt takes.

    Args:
        execution: whose attempt it is.
        scheduled: the attempt.
        app_id: the app that runs it.
        limits: of its activity, as this process knows them.
    """
    assert scheduled.admission is not None
    told = {"tasks": [scheduled.id], "generation": execution.generation}
    ticket = Ticket(
        queue=Queue(app_id, "activity", scheduled.name),
        limits=limits,
        key=scheduled.admission.key,
        priority=scheduled.admission.priority,
    )
    return AttemptTicket(scheduled.id, ticket, encode_event(EventRaised(name=GRANTED, input=encode(told).raw)))


def granted_in(execution: Execution, events: Iterable[AnyEvent]) -> list[TaskScheduled]:
    """Return the waiting attempts whose turn has come according to some events."""
    granted = {
        task
        for event in events
        if isinstance(event, EventRaised) and event.name == GRANTED
        for task in tasks_of(decode(event.input), execution.generation)
    }
    if not granted:
        return []
    return [one for one in execution.pending_activities() if one.id in granted and one.id in execution.queued]


def tasks_of(granted: Mapping[str, Any], generation: int) -> list[int]:
    """Return the attempts that a grant names, none when it is one of an earlier generation."""
    tasks: list[int] = granted["tasks"]
    return tasks if granted["generation"] == generation else []


def limited_among(execution: Execution, actions: Iterable[Action]) -> list[TaskScheduled]:
    """Return the attempts among some decisions that wait for their turn; a call that was cancelled at once does not."""
    scheduled = (action for action in actions if isinstance(action, TaskScheduled))
    return [one for one in scheduled if one.admission is not None and execution.is_pending(one.id)]


def given_back(decisions: Decisions, tickets: Collection[int]) -> tuple[int, ...]:
    """Return the attempts among those with tickets that need theirs no more."""
    settled = {event.task_id for event in decisions.events if isinstance(event, TaskCompleted | TaskFailed)}
    return tuple(task for task in tickets if task in settled or task in decisions.cancelled)


def without_ticket(execution: Execution, tickets: Collection[int]) -> list[TaskScheduled]:
    """Return the waiting attempts of a recovered instance that have no ticket, as in a fork."""
    return [one for one in execution.pending_activities() if one.id in execution.queued and one.id not in tickets]
