"""Watches every call that takes effect and every activity that begins, and knows by itself what is allowed.

It keeps its own books of leases, owners, outcomes and accepted events, so that a store or an engine that breaks a rule
cannot vouch for itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.simulation.world import World

from perdure.base.codec import decode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
    decode_event,
    decode_events,
    encode_event,
    ends_instance,
)
from perdure.engine.activity import ActivityContext
from perdure.engine.engine_events import ANSWERED, ENGINE_EVENT
from perdure.ports.history_store import Changes, Claimed, Episode, Lease, NewInstance, Results, Started
from perdure.ports.toolset import OnCrash

Attempt = tuple[str, int]
"""An attempt of an activity call: the call's idempotency key, and which attempt it is."""


class Run(NamedTuple):
    """A beginning of an attempt: under which lease, and whether that had ended already."""

    token: int
    stale: bool


class Book:
    """What the oracle knows of one instance.

    Attributes:
        new: how it was accepted.
        generation: how often it has continued as new.
        next_seq: number of the row that comes next.
        owner: token of the lease that owns it, or None.
        begun: whether a worker took it up.
        accepted: the events that its inbox took, encoded, in order.
        taken: the events from outside that its rows took over, encoded, in order.
        consumed: how many events its rows took out of the inbox.
        end: how it ended, or None.
    """

    def __init__(self, new: NewInstance) -> None:
        self.new = new
        self.execution_id = next(
            event.execution_id for event in decode_events(new.events) if isinstance(event, ExecutionStarted)
        )
        self.generation = 0
        self.next_seq = 1
        self.owner: int | None = None
        self.begun = False
        self.accepted: list[str] = []
        self.taken: list[str] = []
        self.consumed = 0
        self.end: ExecutionCompleted | None = None
        self.attempts: dict[int, Attempt] = {}
        self.timers: dict[int, float] = {}

    def key_of(self, scheduled: TaskScheduled) -> str:
        """Return the idempotency key that an attempt must see."""
        execution = f"{self.execution_id}/" if self.execution_id else ""
        generation = f"{self.generation}/" if self.generation else ""
        return f"{self.new.instance_id}/{execution}{generation}{scheduled.call_id}"


LIMITED = {"add_in_turn": 2}
"""How many attempts of a limited activity may run at the same time."""


class Oracle:
    """The books of one simulation.

    Args:
        world: told of every broken promise.

    Attributes:
        books: what is known of each accepted instance, by its id.
    """

    def __init__(self, world: World) -> None:
        self.books: dict[str, Book] = {}
        self._world = world
        self._by_key: dict[int, Book] = {}
        self._ended: set[int] = set()
        self._recorded: set[Attempt] = set()
        self._begun: dict[Attempt, list[Run]] = defaultdict(list)
        self._told_to_retry: dict[Attempt, int] = defaultdict(int)
        self._inside: dict[str, dict[Attempt, Book]] = defaultdict(dict)

    def end_of(self, instance_id: str) -> ExecutionCompleted | None:
        """Return how an instance ended, or None."""
        book = self.books.get(instance_id)
        return None if book is None else book.end

    def has_taken(self, instance_id: str, mark: str) -> bool:
        """Whether an event that holds this text is in the books of an instance."""
        return any(mark in text for text in self.books[instance_id].accepted)

    # -- activities

    def began(self, token: int, call: ActivityContext, on_crash: OnCrash) -> None:
        """An activity begins in a process whose lease has this token.

        A process whose lease has ended without its knowledge is told at its next commit; until then it may repeat what
        another process does, and no engine can prevent that: its commits are refused, and keys make its effects one.
        """
        attempt = (call.idempotency_key, call.attempt)
        before = self._begun[attempt]
        stale = token in self._ended
        if not stale:
            self._judge_beginning(attempt, before, call, on_crash)
        before.append(Run(token, stale))
        if call.activity in LIMITED and not stale:
            self._judge_turn(attempt, call)

    def _judge_turn(self, attempt: Attempt, call: ActivityContext) -> None:
        """Require that no more attempts of a limited activity are in than its limit says; each is until its outcome."""
        inside = self._inside[call.activity]
        inside[attempt] = self.books[call.instance_id]
        for other, book in list(inside.items()):
            living = any(run.token not in self._ended for run in self._begun[other])
            if other in self._recorded or book.end is not None or not living:
                del inside[other]
        if len(inside) > LIMITED[call.activity]:
            self._world.blame(f"{len(inside)} attempts of {call.activity} run at the same time: {list(inside)}")

    def _judge_beginning(
        self, attempt: Attempt, before: Sequence[Run], call: ActivityContext, on_crash: OnCrash
    ) -> None:
        what = f"{call.activity} {attempt[0]} attempt {attempt[1]}"
        if attempt in self._recorded:
            self._world.blame(f"{what} begins again although its outcome is recorded")
        if any(run.token not in self._ended for run in before):
            self._world.blame(f"{what} begins again although nothing cut its first run off")
        if on_crash == "ask" and sum(not run.stale for run in before) > self._told_to_retry[attempt]:
            self._world.blame(f"{what} begins again although nobody has said so")
        if on_crash == "retry" and not call.interrupted and any(not run.stale for run in before):
            self._world.blame(f"{what} begins again and is not told that it was interrupted")

    # -- leases and owners

    def lease_ended(self, token: int) -> None:
        """A lease is over: nothing may be committed under it any more."""
        self._ended.add(token)

    def saw(self, life: str, method: str, args: tuple[Any, ...], result: Any) -> None:
        """A call has taken effect."""
        handler = getattr(self, f"_saw_{method}", None)
        if handler is not None:
            handler(life, args, result)

    def _saw_leave(self, life: str, args: tuple[Lease], _: None) -> None:
        self._ended.add(args[0].token)
        self._free_the_dead()

    def _saw_reap(self, life: str, args: tuple[()], _: int) -> None:
        self._free_the_dead()

    def _free_the_dead(self) -> None:
        for book in self.books.values():
            if book.owner in self._ended:
                book.owner = None

    def _saw_claim(self, life: str, args: tuple[Any, ...], claimed: list[Claimed]) -> None:
        lease, _, now, *_ = args
        for instance in claimed:
            book = self._by_key[instance.key]
            self._take(life, lease, book)
            # Its end does not wait for its time; and what a worker that died took up in time is free for one whose
            # clock is behind.
            early = book.new.due is not None and now < book.new.due and not any(map(ends_instance, book.accepted))
            if early and not book.begun:
                self._world.blame(f"{book.new.instance_id} begins before its time")
            book.begun = True

    def _take(self, life: str, lease: Lease, book: Book) -> None:
        if lease.token in self._ended:
            self._world.blame(f"{life} was given {book.new.instance_id} although its lease has ended")
        if book.owner is not None:
            self._world.blame(f"{life} was given {book.new.instance_id}, which lease {book.owner} owns")
        book.owner = lease.token

    def _saw_release(self, life: str, args: tuple[Lease, int], _: None) -> None:
        book = self._by_key[args[1]]
        self._require_owner(life, args[0], book)
        book.owner = None

    def _require_owner(self, life: str, lease: Lease, book: Book) -> None:
        if lease.token in self._ended:
            self._world.blame(f"{life} changed {book.new.instance_id} although its lease has ended")
        elif book.owner != lease.token:
            self._world.blame(f"{life} changed {book.new.instance_id}, which it does not own")

    # -- starts and events

    def _saw_start(self, life: str, args: tuple[NewInstance], started: Started) -> None:
        if started.created:
            self._open_book(life, args[0], started)

    def _open_book(self, life: str, new: NewInstance, started: Started) -> None:
        if new.instance_id in self.books:
            self._world.blame(f"{new.instance_id} was accepted twice")
        book = self.books[new.instance_id] = self._by_key[started.key] = Book(new)
        if new.lease is not None and not started.waits:
            self._take(life, new.lease, book)

    def _saw_signal(self, life: str, args: tuple[Any, ...], status: Any) -> None:
        if status is not None and not status.finished:
            self.books[args[0]].accepted.append(args[1])

    # -- episodes

    def saw_grant(self, key: int, event: str) -> None:
        """An attempt that waited got its turn."""
        self._by_key[key].accepted.append(event)

    def _saw_append(self, life: str, args: tuple[Lease, Episode], results: Results | None) -> None:
        lease, episode = args
        book = self._by_key[episode.key]
        self._require_owner(life, lease, book)
        if episode.seq != book.next_seq:
            self._world.blame(f"row {episode.seq} of {book.new.instance_id} follows row {book.next_seq - 1}")
        book.next_seq = episode.seq + 1
        if episode.changes is not None and episode.changes.renews:
            self._renew(book, episode)
        for event in decode_events(episode.events):
            self._enter(book, episode, event)
        book.consumed += len(episode.consumed)
        if episode.changes is not None:
            self._change(life, book, episode.changes, () if results is None else results.started)
        granted = () if results is None else results.granted
        if episode.park is not None and not (episode.park.unless_granted and granted):
            book.owner = None

    def _renew(self, book: Book, episode: Episode) -> None:
        # The first row of a generation repeats what nobody has read and says nothing of what else arrived.
        arrived = book.accepted[book.consumed : book.consumed + len(episode.consumed)]
        book.taken.extend(text for text in arrived if is_from_outside(decode_event(text)))
        book.attempts.clear()
        book.timers.clear()

    def _change(self, life: str, book: Book, changes: Changes, started: Sequence[Started]) -> None:
        for start, outcome in zip(changes.starts, started, strict=True):
            if outcome.created:
                self._open_book(life, start.new, outcome)
            elif start.refused is not None:
                book.accepted.append(start.refused)
        for send in changes.sends:
            self._send(self.books.get(send.instance_id), send.event)
        if changes.to_children is not None:
            for child in self.books.values():
                if child.new.parent == book.new.instance_id:
                    self._send(child, changes.to_children)

    def _send(self, book: Book | None, event: str) -> None:
        if book is not None and book.end is None:
            book.accepted.append(event)

    def _enter(self, book: Book, episode: Episode, event: AnyEvent) -> None:
        if is_from_outside(event) and not (episode.changes is not None and episode.changes.renews):
            book.taken.append(encode_event(event))
        match event:
            case ExecutionStarted(generation=generation):
                book.generation = generation
            case TaskScheduled(id=task):
                book.attempts[task] = (book.key_of(event), event.attempt)
            case TaskCompleted(task_id=task) | TaskFailed(task_id=task):
                self._record(book.attempts[task])
            case TimerCreated(id=timer, fire_at=at):
                book.timers[timer] = at
            case TimerFired(timer_id=timer):
                if episode.at < book.timers[timer]:
                    self._world.blame(f"timer {timer} of {book.new.instance_id} fired before its time")
            case ExecutionCompleted():
                self._end(book, event)
            case EventRaised(name=name) if name == ANSWERED:
                answer = decode(event.input)
                if answer["decision"] == "retry":
                    self._told_to_retry[book.attempts[answer["task"]]] += 1
            case _:
                pass

    def _record(self, attempt: Attempt) -> None:
        if attempt in self._recorded:
            self._world.blame(f"attempt {attempt[1]} of {attempt[0]} has two outcomes")
        self._recorded.add(attempt)

    def _end(self, book: Book, event: ExecutionCompleted) -> None:
        if book.end is not None:
            self._world.blame(f"{book.new.instance_id} ended twice")
        book.end = event


def is_from_outside(event: AnyEvent) -> bool:
    """Whether an event reached an instance from outside the engine, and so must be in its history."""
    if isinstance(event, EventRaised):
        return event.name == ANSWERED or not event.name.startswith(ENGINE_EVENT)
    return isinstance(event, ExecutionTerminated)
