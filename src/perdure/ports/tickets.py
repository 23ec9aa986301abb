"""Tickets: how instances and activities wait for their turn under a limit, across all processes of an app.

Rules of the state, which every history store keeps and the conformance suite checks:

* A ticket is taken with the start or the episode that needs it, and is granted, in the order of
  :class:`~perdure.base.line.Line`, by whichever transaction makes room: a start, an episode, a claim, a declaration.
* An instance's own ticket is held until the instance ends. Until it is granted the instance is PENDING and due only
  when somebody ends it. An activity's ticket is held until its attempt's outcome is recorded, the call is cancelled, or
  the instance ends or continues as new.
* Tickets belong to instances, not to workers: a worker's death changes nothing about them.
* The limits of a queue are what a worker declared last, or until then what came with its first ticket.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from perdure.base.limits import Limits


class Queue(msgspec.Struct, frozen=True, gc=False):
    """What is limited.

    Attributes:
        app_id: the app.
        kind: whether it is a workflow or an activity.
        name: its registered name; of a workflow, without a version.
    """

    app_id: str
    kind: Literal["workflow", "activity"]
    name: str


class Ticket(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A place in a queue.

    Attributes:
        queue: the queue.
        limits: its limits as far as the taker knows, for a queue that the store does not know yet; None: if the store
            knows no such queue either, nothing is limited.
        key: what shares a limit of its own and is served in turn with others, such as a tenant.
        priority: higher is first.
    """

    queue: Queue
    limits: Limits | None = None
    key: str = ""
    priority: int = 0


class AttemptTicket(msgspec.Struct, frozen=True, gc=False):
    """An attempt of an activity that waits for its turn.

    Attributes:
        task: the attempt's id.
        ticket: its place.
        granted: the encoded event that the instance's inbox gets when the ticket is granted later than at once.
    """

    task: int
    ticket: Ticket
    granted: str
