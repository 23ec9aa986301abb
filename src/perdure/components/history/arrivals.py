"""What stores say about tickets: those to take, and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.base.ids import split_key
from perdure.base.limits import Limits
from perdure.base.line import Answer
from perdure.ports.history_store import NewInstance
from perdure.ports.tickets import Queue, Ticket

INSTANCE = -1
"""Stands for the instance itself where tickets of its attempts have the attempt's id."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A ticket to take.

    Attributes:
        ticket: its place.
        instance: whose it is.
        task: the attempt, or :data:`INSTANCE`.
        granted: the encoded event that tells of a later grant, or None.
        may_be_refused: whether the backlog counts.
        begins_at: when it is to stand in line; None for at once.
    """

    ticket: Ticket
    instance: int
    task: int = INSTANCE
    granted: str | None = None
    may_be_refused: bool = False
    begins_at: float | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of tickets in a transaction.

    Attributes:
        answers: to the arrivals, in their order; None where nothing is limited.
        backlogs: of the arrivals that were refused, by their place among them.
        woken: whether others got their turn.
        begun: the app and the workflow of instances among them.
        next_grant: when the next one gets its turn, if that is a matter of time.
    """

    answers: Sequence[Answer | None] = ()
    backlogs: Mapping[int, int] = {}
    woken: bool = False
    begun: Collection[tuple[str, str]] = ()
    next_grant: float | None = None


class InLine(msgspec.Struct, frozen=True, gc=False):
    """How a ticket waits.

    Attributes:
        queue: where.
        limits: what holds there.
        task: the attempt, or :data:`INSTANCE`.
        until: when the rate lets the next one in, if that is what it waits for.
        ahead: how many are before it, as far as one can tell now.
    """

    queue: Queue
    limits: Limits
    task: int
    until: float | None
    ahead: int


def arrival_of(new: NewInstance, key: int, *, may_be_refused: bool) -> Arrival:
    """Return the ticket that a new instance takes, by what the store knows when it brings none."""
    return Arrival(
        new.ticket or Ticket(queue=Queue(new.app_id, "workflow", split_key(new.workflow)[0])),
        key,
        may_be_refused=may_be_refused,
        begins_at=new.due if new.due is not None and new.due > new.at else None,
    )


def ahead_of(own: int, priority: int, others: Iterable[tuple[int, int]]) -> int:
    """Return about how many are let in before a ticket.

    Args:
        own: tickets of its key before it.
        priority: its own.
        others: how many wait under each other key, and the priority of the first of these.
    """
    ahead = own
    for waiting, first in others:
        if first >= priority:
            ahead += waiting if first > priority else min(waiting, own + 1)
    return ahead


def with_places(waits: str | None, lines: Sequence[InLine]) -> str | None:
    """Return what an instance waits for, with its places in line as they are now.

    Args:
        waits: what its last episode said, as JSON text, or None.
        lines: its tickets that wait, the first of each queue.
    """
    if not lines:
        return waits
    said: dict[str, Any] = {} if waits is None else msgspec.json.decode(waits)
    activities = {line.queue.name: line for line in lines if line.task != INSTANCE}
    for line in lines:
        if line.task == INSTANCE:
            said["limit"] = {"workflow": line.queue.name, **_facts(line)}
    for calls in said.get("queued", ()):
        found = activities.get(calls["activity"])
        calls.update({} if found is None else _facts(found))
    return msgspec.json.encode(said).decode()


def _facts(line: InLine) -> dict[str, Any]:
    limits = msgspec.to_builtins(line.limits)
    until = {} if line.until is None else {"until": line.until}
    return {**{name: value for name, value in limits.items() if name != "backlog"}, **until, "ahead": line.ahead}
