"""The simulation can fail: each of these breaks one promise of the store or of the engine, and some seed notices."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.simulation.simulation import SOUND, Parts, simulate
from tests.simulation.store import Connection

from perdure.base.errors import StaleLeaseError, StoreError
from perdure.base.events import TaskScheduled
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.held import Held
from perdure.engine.replay import Execution
from perdure.engine.scheduler import Scheduler
from perdure.engine.worker import Worker

SEEDS = 300
"""A broken promise that so many seeds do not notice is one that the simulation does not watch."""


def assert_noticed(wanted: str, parts: Parts = SOUND) -> None:
    """Run seeds until one blames what was broken, in these words."""
    other: list[str] = []
    for seed in range(SEEDS):
        violations = simulate(seed, parts=parts).violations
        if any(wanted in violation for violation in violations):
            return
        other.extend(violations)
    raise AssertionError(f"{SEEDS} seeds have not noticed {wanted!r}, only {other[:5]}")


# -- a store that breaks its contract


class Unfenced(MemoryHistoryStore):
    """Takes commits under a lease that has ended, as long as the row fits."""

    def _owned_by(self, lease: Any, key: int) -> Any:
        return self._instances[key - 1]

    def _disown(self, instance: Any, due: float | None) -> None:
        self._owned.setdefault(instance.owner, set())
        super()._disown(instance, due)


class Forgetful(MemoryHistoryStore):
    """Acknowledges every seventh event and does not keep it."""

    async def signal(self, instance_id: str, event: str, *more: Any) -> Any:
        status = await super().signal(instance_id, event, *more)
        if self._last_position % 7 == 0 and instance_id in self._by_id:
            self._by_id[instance_id].inbox.pop(self._last_position, None)
        return status


class Repeating(MemoryHistoryStore):
    """Leaves the events that an episode took over in the inbox."""

    def _append(self, lease: Any, episode: Any) -> Any:
        inbox = dict(self._instances[episode.key - 1].inbox)
        started = super()._append(lease, episode)
        if episode.park is None or not episode.park.status.finished:
            self._instances[episode.key - 1].inbox.update(inbox)
        return started


class Sharing(MemoryHistoryStore):
    """Gives an instance that has an owner to the next one that asks."""

    async def claim(self, lease: Any, *more: Any) -> Any:
        for instance in self._instances:
            if instance.owner not in (None, lease.token):
                self._disown(instance, 0.0)
        return await super().claim(lease, *more)


class Unreapable(MemoryHistoryStore):
    """Never finds out that a worker is dead."""

    async def reap(self) -> int:
        return 0


class Eager(MemoryHistoryStore):
    """Lets an instance begin at once whose start was put off."""

    async def start(self, new: Any) -> Any:
        return await super().start(msgspec.structs.replace(new, due=None))


class Silent(MemoryHistoryStore):
    """Does not deliver what an episode sends to other instances, such as the end of a child workflow."""

    def _change(self, instance: Any, seq: int, changes: Any) -> Any:
        return super()._change(instance, seq, msgspec.structs.replace(changes, sends=()))


class Deaf(MemoryHistoryStore):
    """Does not make an instance due when an event arrives for it."""

    async def signal(self, instance_id: str, event: str, *more: Any) -> Any:
        instance = self._by_id.get(instance_id)
        due = None if instance is None else instance.due
        status = await super().signal(instance_id, event, *more)
        if instance is not None and instance.owner is None:
            instance.due = due
        return status


@pytest.mark.parametrize(
    ("store", "wanted"),
    [
        (Unfenced, "although its lease has ended"),
        (Forgetful, "its history has"),
        (Repeating, "its history has"),
        (Sharing, "which lease"),
        (Unreapable, "it does not move"),
        (Eager, "begins before its time"),
        (Silent, "which have ended"),
        (Deaf, "its history has"),
    ],
)
def test_a_store_that_breaks_its_contract_is_noticed(store: type[MemoryHistoryStore], wanted: str) -> None:
    assert_noticed(wanted, Parts(memory=store))


class Hasty(Connection):
    """Answers a commit before it is durable; now and then the commit is lost afterwards."""

    def append(self, lease: Any, episode: Any, done: Any) -> None:
        self._life.loop.call_soon(done, None)
        if self._world.random.random() < 0.95:
            self.send("append", (lease, episode), {}, lambda _, __: None)


class Mute(Connection):
    """Loses the answer to a commit now and then."""

    def append(self, lease: Any, episode: Any, done: Any) -> None:
        lost = self._world.random.random() < 0.02
        super().append(lease, episode, (lambda _: None) if lost else done)


@pytest.mark.parametrize(
    ("connection", "wanted"),
    [(Hasty, "although nothing cut its first run off"), (Hasty, "it does not move"), (Mute, "it does not move")],
)
def test_a_way_to_the_store_that_lies_is_noticed(connection: type[Connection], wanted: str) -> None:
    assert_noticed(wanted, Parts(connection=connection))


# -- an engine that breaks its promises


def test_activities_that_begin_before_they_are_recorded_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Worker._append

    def begin_first(self: Worker, held: Held, episode: Any, decisions: Any) -> None:
        for action in decisions.actions:
            if type(action) is TaskScheduled:
                self._start(held, action, None, interrupted=False)
        decisions.actions.clear()
        append(self, held, episode, decisions)

    monkeypatch.setattr(Worker, "_append", begin_first)
    assert_noticed("is not told that it was interrupted")


def test_interrupted_activities_that_nobody_begins_again_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_start_interrupted", lambda *_: None)
    assert_noticed("it does not move")


def test_interrupted_activities_that_are_not_told_so_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Worker._start

    def start_as_new(self: Worker, *given: Any, interrupted: bool) -> None:
        start(self, *given, interrupted=False)

    monkeypatch.setattr(Worker, "_start", start_as_new)
    assert_noticed("is not told that it was interrupted")


def test_timers_that_fire_too_early_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    due_timers = Execution.due_timers
    monkeypatch.setattr(Execution, "due_timers", lambda self, now: due_timers(self, now + 0.7))
    assert_noticed("fired before its time")


def test_a_replay_that_gives_other_results_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Execution._decode

    def lose_while_replaying(self: Execution, raw: Any) -> Any:
        return None if self.replaying and len(bytes(raw)) == 1 else decode(self, raw)

    monkeypatch.setattr(Execution, "_decode", lose_while_replaying)
    assert_noticed("its result")


def test_a_scheduler_that_forgets_a_timer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "note_due", lambda self, due: None)

    async def blind(self: Scheduler) -> None:
        while True:
            try:
                await self._round()
            except StaleLeaseError:
                self._lease_lost = True
            except StoreError:
                pass
            self._planned = None
            await self._pause()

    monkeypatch.setattr(Scheduler, "run", blind)
    assert_noticed("it does not move")
