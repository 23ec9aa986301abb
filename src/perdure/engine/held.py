"""An instance in the hands of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from perdure.base.codec import NOTHING, ConversationKey, Link, Reference, Resolved
from perdure.base.events import AnyEvent, TaskCompleted, TaskFailed, TaskScheduled
from perdure.engine.activity import Outcome
from perdure.engine.code import Retention, Workflow
from perdure.engine.replay import Execution
from perdure.engine.signals import News
from perdure.engine.values import merged
from perdure.ports.history_store import Changes, Signal

_NOT_FROM_THE_INBOX: list[int | None] = [None]
"""What most episodes begin with: one outcome of an activity."""

NO_TASKS: frozenset[int] = frozenset()
"""Shared by all instances that have nothing limited."""


class Turnout(msgspec.Struct, frozen=True, gc=False):
    """What waits for an instance's next episode, taken together.

    Attributes:
        events: in the order in which they came.
        resolved: what decoding them needs.
        links: conversation links that they refer to.
        positions: where each of them is in the inbox; None for what did not come through it.
    """

    events: list[AnyEvent]
    resolved: Resolved
    links: list[Link]
    positions: list[int | None]

    @property
    def consumed(self) -> tuple[int, ...]:
        """The inbox positions that an episode of these events takes over."""
        if self.positions == _NOT_FROM_THE_INBOX:
            return ()
        return tuple(position for position in self.positions if position is not None)


def with_outcomes(turnout: Turnout, outcomes: list[Outcome]) -> Turnout:
    """Return a turnout to which the outcomes of attempts were added."""
    resolved, links = turnout.resolved, list(turnout.links)
    for outcome in outcomes:
        resolved = merged(resolved, outcome.resolved)
        links.extend(outcome.links)
    events = [*turnout.events, *(outcome.event for outcome in outcomes)]
    return Turnout(events, resolved, links, [*turnout.positions, *(None for _ in outcomes)])


def with_note(turnout: Turnout, note: AnyEvent) -> Turnout:
    """Return a turnout that begins with a note of the engine's own."""
    return Turnout([note, *turnout.events], turnout.resolved, turnout.links, [None, *turnout.positions])


class Held:
    """What a worker keeps in memory of one instance that it owns.

    Attributes:
        key: the store's number of the instance.
        instance_id: its id.
        workflow: its function.
        kept_under: the key of the workflow that the store keeps it under.
        new_key: the key that the store is to keep it under from the next episode on, or None for as before.
        execution: the function in progress; None while it is put away and activities still run.
        next_seq: number of the next history row.
        generation: counts the generations that it has seen here.
        seen: the highest inbox position that the store has told of.
        last_signal: the highest inbox position that was put into an episode.
        busy: whether an episode is on its way to the store, or a history on its way from it.
        running: the activities in flight, by attempt id.
        interrupted: attempts that were begun again after a crash, until the history says so.
        to_start: attempts that begin once the current episode is durable.
        to_queue: attempts that take a ticket with the next episode, though they were decided before.
        tickets: the attempts that have a ticket.
        admitted: the attempts whose ticket was granted at once, which the history does not tell.
        timer: the armed wake-up for the next timer.
    """

    __slots__ = (
        "_blobs",
        "_conversations",
        "_events",
        "_links",
        "_positions",
        "admitted",
        "busy",
        "execution",
        "generation",
        "instance_id",
        "interrupted",
        "kept_under",
        "key",
        "last_signal",
        "new_key",
        "next_seq",
        "running",
        "seen",
        "tickets",
        "timer",
        "to_queue",
        "to_start",
        "workflow",
    )

    def __init__(self, key: int, instance_id: str, workflow: Workflow, next_seq: int, kept_under: str) -> None:
        self.key = key
        self.instance_id = instance_id
        self.workflow = workflow
        self.keep_under(kept_under)
        self.execution: Execution | None = None
        self.next_seq = next_seq
        self.generation = 0
        self.seen = 0
        self.last_signal = 0
        self.busy = False
        self.running: dict[int, asyncio.Task[None]] = {}
        self.interrupted: list[int] = []
        self.to_start: list[TaskScheduled] = []
        self.to_queue: list[TaskScheduled] = []
        self.tickets: frozenset[int] = NO_TASKS
        self.admitted: frozenset[int] = NO_TASKS
        self.timer: asyncio.TimerHandle | None = None
        self._events: list[AnyEvent] = []
        self._blobs: dict[str, bytes] = {}
        self._conversations: dict[ConversationKey, Reference] = {}
        self._links: list[Link] = []
        self._positions: list[int | None] = []

    @property
    def has_news(self) -> bool:
        """Whether events wait for the next episode."""
        return bool(self._events)

    def enqueue(self, event: AnyEvent, resolved: Resolved = NOTHING, links: tuple[Link, ...] = ()) -> None:
        """Add an event to the next episode."""
        self._events.append(event)
        self._positions.append(None)
        if resolved is not NOTHING:
            self._blobs.update(resolved.blobs)
            self._conversations.update(resolved.conversations)
        if links:
            self._links.extend(links)

    def see(self, signals: Sequence[Signal]) -> None:
        """Take note of what the store tells of the inbox, oldest first."""
        if signals:
            self.seen = max(self.seen, signals[-1].position)

    def take_in(self, news: News) -> None:
        """Put signals that this instance has not seen yet into its next episode."""
        for signal, event in zip(news.signals, news.events, strict=True):
            if signal.position > self.last_signal:
                self.last_signal = signal.position
                self._positions.append(signal.position)
                self._events.append(event)
        self._blobs.update(news.resolved.blobs)
        self._conversations.update(news.resolved.conversations)

    def turn_out(self) -> Turnout:
        """Return what waits for the next episode, and forget it here."""
        resolved = Resolved(self._blobs, self._conversations) if self._blobs or self._conversations else NOTHING
        taken = Turnout(self._events, resolved, self._links, self._positions)
        self._events, self._positions = [], []
        if resolved is not NOTHING or self._links:
            self._blobs, self._conversations, self._links = {}, {}, []
        return taken

    def keep_under(self, key: str) -> None:
        """Take note of what the store keeps the instance under, and whether that has to change."""
        self.kept_under = key
        own = self.workflow.keys[0]
        self.new_key = None if key == own else own

    def put_back(self, turnout: Turnout, taken: int) -> Turnout:
        """Keep for the next generation what came after the end of this one; return the turnout without it.

        What answers calls of this generation concerns no other one, and goes with it.
        """
        later = [
            (event, position)
            for event, position in zip(turnout.events[taken:], turnout.positions[taken:], strict=True)
            if position is not None and not isinstance(event, TaskCompleted | TaskFailed)
        ]
        if not later:
            return turnout
        kept = {position for _, position in later}
        self._events[:0] = [event for event, _ in later]
        self._positions[:0] = [position for _, position in later]
        self._blobs.update(turnout.resolved.blobs)
        positions = [position for position in turnout.positions if position not in kept]
        return Turnout(turnout.events[:taken], turnout.resolved, turnout.links, positions)

    def renew(self) -> None:
        """Forget all that belongs to a generation that has ended, outcomes that came meanwhile included."""
        self.abandon()
        self.generation += 1
        self.to_start.clear()
        self.interrupted.clear()
        self.tickets = self.admitted = NO_TASKS
        waiting = zip(self._events, self._positions, strict=True)
        outside = [(event, position) for event, position in waiting if position is not None]
        self._events = [event for event, _ in outside]
        self._positions = [position for _, position in outside]

    @property
    def is_of_other_code(self) -> bool:
        """Whether it has gone on with code that this workflow does not follow."""
        return self.kept_under not in self.workflow.keys and self.next_seq > 1

    def note_tickets(self, changes: Changes, granted: Sequence[int]) -> None:
        """Take note of the tickets that an episode took and gave back, and of those that were granted at once."""
        if changes.tickets or changes.gives_back:
            taken = frozenset(one.task for one in changes.tickets)
            self.tickets = (self.tickets | taken) - frozenset(changes.gives_back)
            self.admitted = self.admitted - frozenset(changes.gives_back)
        if granted:
            self.admit(granted)
        if self.to_queue:
            self.to_start.extend(one for one in self.to_queue if one.id in granted)
            self.to_queue = []

    def admit(self, tasks: Sequence[int]) -> None:
        """Take note of attempts that got their turn without an event in the history."""
        if tasks:
            self.admitted = self.admitted | frozenset(tasks)
            if self.execution is not None:
                self.execution.queued.difference_update(tasks)

    def runs_any(self, execution: Execution) -> bool:
        """Whether an activity runs here whose outcome matters."""
        return bool(self.running) and any(execution.is_pending(task_id) for task_id in self.running)

    def cancel(self, task_ids: Iterable[int]) -> None:
        """Stop activities that run here and whose outcome no longer matters."""
        for task_id in task_ids:
            task = self.running.pop(task_id, None)
            if task is not None:
                task.cancel()

    def disarm(self) -> None:
        """Forget the armed wake-up."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def abandon(self) -> None:
        """Stop everything that runs for this instance here; the store knows what is to be done again."""
        self.disarm()
        self.cancel(list(self.running))
        if self.execution is not None:
            self.execution.close()
            self.execution = None


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works.

    Attributes:
        threads: plain functions that may run at the same time.
        warm: waiting instances kept in memory, so that waking them needs no replay.
        max_running: instances in hand at the same time; further ones wait in the store.
        poll: seconds between two looks for what other processes did; None for 1 where the store tells of that by
            itself, so that a look finds only what a lost hint was about, and 0.1 where it does not.
        reap: seconds between two looks for dead workers.
        drain: seconds that running activities are given when the worker stops.
        gc_threshold: allocations between two runs of the interpreter's garbage collector, which with thousands of
            instances in memory takes a quarter of the time at the default of 700; None leaves the setting alone.
        switch_interval: seconds after which the interpreter lets another thread run; the store's thread waits for the
            busy event loop after each statement, at the default of 0.005 for longer than the disk takes. A lower
            setting of the program's own is left alone, and so is any when this is None.
        retention: how long instances of workflows that declare nothing are kept after their end.
        sweep: seconds between two looks for instances that need not be kept any longer.
        put_away: put every function away after each step; a test mode that must change nothing but speed.
    """

    threads: int = 32
    warm: int = 1000
    max_running: int = 10_000
    poll: float | None = None
    reap: float = 0.5
    drain: float = 10.0
    gc_threshold: int | None = 20_000
    switch_interval: float | None = 0.0002
    retention: Retention = Retention()
    sweep: float = 600.0
    put_away: bool = False
