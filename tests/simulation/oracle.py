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
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
    decode_events,
)
from perdure.engine.activity import ActivityContext
from perdure.engine.engine_events import ANSWERED
from perdure.ports.history_store import Claimed, Episode, Lease, NewInstance, Started
from perdure.ports.toolset import OnCrash

Attempt = tuple[str, int]
"""An attempt of an activity call: the call's idempotency key, and which attempt it is."""


class Run(NamedTuple):
    """A beginning of an attempt: under which lease, and whether that had ended already."""

    token: int
    stale: bool


class Oracle:
    """The books of one simulation.

    Args:
        world: told of every broken promise.

    Attributes:
        accepted: the events that each instance's inbox took, encoded, in order, by instance id.
        ends: how each instance ended, by instance id.
        created: the ids of the instances that were accepted.
    """

    def __init__(self, world: World) -> None:
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.ends: dict[str, ExecutionCompleted] = {}
        self.created: dict[str, NewInstance] = {}
        self._world = world
        self._ids: dict[int, str] = {}
        self._rows: dict[int, int] = {}
        self._owners: dict[int, int] = {}
        self._ended: set[int] = set()
        self._attempts: dict[tuple[int, int], Attempt] = {}
        self._timers: dict[tuple[int, int], float] = {}
        self._recorded: set[Attempt] = set()
        self._begun: dict[Attempt, list[Run]] = defaultdict(list)
        self._told_to_retry: dict[Attempt, int] = defaultdict(int)

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

    # -- the store

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
        self._owners = {key: token for key, token in self._owners.items() if token not in self._ended}

    def _saw_start(self, life: str, args: tuple[NewInstance], started: Started) -> None:
        new = args[0]
        if not started.created:
            return
        if new.instance_id in self.created:
            self._world.blame(f"{new.instance_id} was accepted twice")
        self.created[new.instance_id] = new
        self._ids[started.key] = new.instance_id
        self._rows[started.key] = 1
        if new.lease is not None:
            self._take(life, new.lease, started.key)

    def _saw_claim(self, life: str, args: tuple[Lease], claimed: list[Claimed]) -> None:
        for instance in claimed:
            self._take(life, args[0], instance.key)

    def _take(self, life: str, lease: Lease, key: int) -> None:
        if lease.token in self._ended:
            self._world.blame(f"{life} was given {self._ids[key]} although its lease has ended")
        if key in self._owners:
            self._world.blame(f"{life} was given {self._ids[key]}, which lease {self._owners[key]} owns")
        self._owners[key] = lease.token

    def _saw_release(self, life: str, args: tuple[Lease, int], _: None) -> None:
        self._require_owner(life, args[0], args[1])
        self._owners.pop(args[1], None)

    def _require_owner(self, life: str, lease: Lease, key: int) -> None:
        if lease.token in self._ended:
            self._world.blame(f"{life} changed {self._ids[key]} although its lease has ended")
        elif self._owners.get(key) != lease.token:
            self._world.blame(f"{life} changed {self._ids[key]}, which it does not own")

    def _saw_append(self, life: str, args: tuple[Lease, Episode], _: None) -> None:
        lease, episode = args
        self._require_owner(life, lease, episode.key)
        if episode.seq != self._rows[episode.key]:
            self._world.blame(
                f"row {episode.seq} of {self._ids[episode.key]} follows row {self._rows[episode.key] - 1}"
            )
        self._rows[episode.key] = episode.seq + 1
        for event in decode_events(episode.events):
            self._enter(episode, self._ids[episode.key], event)
        if episode.park is not None:
            self._owners.pop(episode.key, None)

    def _enter(self, episode: Episode, instance_id: str, event: AnyEvent) -> None:
        match event:
            case TaskScheduled(id=task):
                self._attempts[episode.key, task] = (f"{instance_id}/{event.call_id}", event.attempt)
            case TaskCompleted(task_id=task) | TaskFailed(task_id=task):
                self._record(self._attempts[episode.key, task])
            case TimerCreated(id=timer, fire_at=at):
                self._timers[episode.key, timer] = at
            case TimerFired(timer_id=timer):
                if episode.at < self._timers[episode.key, timer]:
                    self._world.blame(f"timer {timer} of {instance_id} fired before its time")
            case ExecutionCompleted():
                self._end(instance_id, event)
            case EventRaised(name=name) if name == ANSWERED:
                answer = decode(event.input)
                if answer["decision"] == "retry":
                    self._told_to_retry[self._attempts[episode.key, answer["task"]]] += 1

    def _record(self, attempt: Attempt) -> None:
        if attempt in self._recorded:
            self._world.blame(f"attempt {attempt[1]} of {attempt[0]} has two outcomes")
        self._recorded.add(attempt)

    def _end(self, instance_id: str, event: ExecutionCompleted) -> None:
        if instance_id in self.ends:
            self._world.blame(f"{instance_id} ended twice")
        self.ends[instance_id] = event

    def _saw_signal(self, life: str, args: tuple[Any, ...], status: Any) -> None:
        if status is not None and not status.finished:
            self.accepted[args[0]].append(args[1])

    def has_taken(self, instance_id: str, mark: str) -> bool:
        """Whether an event that holds this text is in the books of an instance."""
        return any(mark in text for text in self.accepted[instance_id])
