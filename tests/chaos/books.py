"""The books of a wave: what its processes did, what its store holds, and what both together must never say."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.chaos.fleet import MODEL_CALLS, TOOL_CALLS, Place
from tests.chaos.harness import completed_keys

from perdure.base.events import (
    AnyEvent,
    ExecutionCompleted,
    HistoryRow,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from perdure.ports.history_store import HistoryStore, InstanceQuery

_ALL = InstanceQuery(limit=1_000_000)
_RUN = re.compile(r"by-\d+\.\d+")


@dataclass(frozen=True)
class Run:
    """One run of an activity, as its process wrote it down.

    Attributes:
        name: unique; what the run returned carries it.
        life: the process.
        token: the lease under which the process believed to work.
        begun: when, in seconds of the clock that all processes share.
        instance_id: the instance that called.
        key: the idempotency key of the call.
        attempt: 1 for the first.
        activity: what ran.
    """

    name: str
    life: int
    token: int
    begun: float
    instance_id: str
    key: str
    attempt: int
    activity: str


class Effects:
    """What the processes wrote down, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self.runs: dict[str, Run] = {}
        self.ended: set[str] = set()
        self.refused: set[str] = set()
        self._folder = folder
        self._read: dict[Path, int] = defaultdict(int)

    def read(self) -> list[Run]:
        """Take in what is new, and return the runs that began."""
        begun: list[Run] = []
        for path in self._folder.iterdir():
            with path.open("rb") as file:
                file.seek(self._read[path])
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            for line in whole.decode().splitlines():
                self._take(line.split(" "), int(path.name), begun)
        return begun

    def _take(self, words: list[str], life: int, begun: list[Run]) -> None:
        match words:
            case ["begin", name, token, at, instance_id, key, attempt, activity]:
                run = Run(name, life, int(token), float(at), instance_id, key, int(attempt), activity)
                self.runs[name] = run
                begun.append(run)
            case ["end", name]:
                self.ended.add(name)
            case ["refused", name]:
                self.refused.add(name)
            case _:
                raise AssertionError(f"life {life} left a line that nobody understands: {words}")

    def of(self, life: int) -> set[str]:
        """Return the names of the runs of a process."""
        return {run.name for run in self.runs.values() if run.life == life}


@dataclass(frozen=True)
class Page:
    """What one history says.

    Attributes:
        results: the run that each recorded result is from, by the key of its call; None where nothing ran for it.
        producers: the runs whose outcome is recorded, be it a result or a failure.
        status: how it ended, or None.
    """

    results: dict[str, str | None]
    producers: set[str]
    status: Status | None


def page_of(instance_id: str, rows: list[HistoryRow]) -> Page:
    """Read one history; whatever could happen to it once has happened once at most, and in one order."""
    first = rows[0].seq
    assert [row.seq for row in rows] == list(range(first, first + len(rows))), f"{instance_id} has lost a row"
    events = [event for row in rows for event in row.events]
    outcomes = Counter(place for event in events for place in _settles(event))
    twice = [place for place, times in outcomes.items() if times > 1]
    assert not twice, f"{instance_id} records more than one outcome of {twice}"
    ends = [event for event in events if isinstance(event, ExecutionCompleted)]
    assert not ends or (len(ends) == 1 and events[-1] is ends[0]), f"{instance_id} went on after its end"
    producers = [_producer(event) for event in events]
    results = [run for run, event in zip(producers, events, strict=True) if isinstance(event, TaskCompleted)]
    by_key = dict(zip(completed_keys(instance_id, rows), results, strict=True))
    return Page(by_key, {run for run in producers if run is not None}, ends[0].status if ends else None)


def _settles(event: AnyEvent) -> Iterable[tuple[str, int]]:
    match event:
        case TaskCompleted() | TaskFailed():
            yield "activity", event.task_id
        case TimerFired():
            yield "timer", event.timer_id
        case SubOrchestrationInstanceCompleted() | SubOrchestrationInstanceFailed():
            yield "child", event.task_id
        case _:
            return


def _producer(event: AnyEvent) -> str | None:
    match event:
        case TaskCompleted():
            found = _RUN.search(bytes(event.result).decode())
        case TaskFailed():
            found = _RUN.search(event.failure.message)
        case _:
            found = None
    return None if found is None else found[0]


@dataclass
class Books:
    """What is known of a wave, and judged whenever somebody looks.

    Attributes:
        place: where the wave happens.
        effects: what its processes wrote down.
        recorded: the living leases when an activity's completion was first seen, by its idempotency key.
        producers: the runs whose outcome was seen in a history.
        fenced: runs that no history may tell of: they were in the hands of a process when it lost its lease.
        fenced_lives: the processes that were seen to have lost a lease.
        killed: when processes were killed, by life.
        late: runs that a process began, under a lease that it had lost, when their call was settled already.
        ended: how instances ended, by id.
    """

    place: Place
    effects: Effects = field(init=False)
    recorded: dict[str, set[int]] = field(default_factory=dict)
    producers: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    fenced_lives: set[int] = field(default_factory=set)
    killed: dict[int, float] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    ended: dict[str, Status] = field(default_factory=dict)
    _tokens: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.effects = Effects(self.place.effects)

    def leases(self) -> dict[int, int]:
        """Return the tokens of the living leases, by life."""
        with closing(sqlite3.connect(f"file:{self.place.store}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, token FROM worker ORDER BY token").fetchall()
        return {int(name.partition("@")[0].removeprefix("life-")): token for name, token in rows}

    async def look(self, store: HistoryStore, living: Callable[[], Iterable[int]]) -> None:
        """Compare the store with the effects, and with what was known before.

        Args:
            store: what to look into.
            living: returns the processes that nobody has killed.
        """
        records = [record for record in await store.instances(_ALL) if record.instance_id not in self.ended]
        histories = await store.load([record.key for record in records])
        # Everything from here on is younger than the histories, so what they record was recorded before it.
        leases = self.leases()
        self._note_lost_leases(leases, living())
        self._judge(self.effects.read())
        for record in records:
            self._take(record.instance_id, page_of(record.instance_id, histories[record.key]), set(leases.values()))
        stale = self.fenced & self.producers
        assert not stale, f"a process that had lost its lease recorded {[self.effects.runs[run] for run in stale]}"

    def _note_lost_leases(self, leases: dict[int, int], living: Iterable[int]) -> None:
        self.fenced_lives.update(
            life for life in living if life in self._tokens and leases.get(life) != self._tokens[life]
        )
        self._tokens.update(leases)

    def _judge(self, begun: Iterable[Run]) -> None:
        """Nothing runs again that was recorded, but for what a process begins that does not know that it is fenced."""
        for run in begun:
            if run.key in self.recorded:
                assert run.token not in self.recorded[run.key], f"it was recorded, and ran again: {run}"
                self.late.add(run.name)

    def _take(self, instance_id: str, page: Page, tokens: set[int]) -> None:
        for key, run in page.results.items():
            self.recorded.setdefault(key, tokens)
            assert run is None or self.effects.runs[run].key == key, f"{key} records what {run} returned"
        self.producers |= page.producers
        if page.status is not None:
            self.ended[instance_id] = page.status

    def note_fenced(self, life: int) -> set[str]:
        """Take note of a process that has lost its lease, and return its runs without outcome; look before that."""
        open_runs = self.effects.of(life) - self.producers
        self.fenced |= open_runs
        self.fenced_lives.add(life)
        return open_runs

    def verdict(self, accepted: Iterable[str]) -> None:
        """Judge a wave whose instances all have ended."""
        failed = {name: status for name, status in self.ended.items() if status is not Status.COMPLETED}
        assert not failed, f"these did not complete: {failed}"
        lost = [name for name in accepted if name not in self.ended]
        assert not lost, f"these were accepted and are gone: {lost}"
        agents = [name for name in self.ended if name.startswith("agent")]
        calls = Counter(key.partition("/")[0] for key in self.recorded)
        assert {calls[name] for name in agents} == {MODEL_CALLS + TOOL_CALLS}
        payments = Counter(path.name.partition("%2F")[0] for path in self.place.payments.iterdir())
        assert payments == Counter(agents), "an agent has not paid once"
        for name in self.effects.refused:
            self._judge_refused(self.effects.runs[name])

    def _judge_refused(self, second: Run) -> None:
        """Only beside a process that has lost its lease is a payment made anew that was booked already."""
        runs = sorted((run for run in self.effects.runs.values() if run.key == second.key), key=lambda run: run.begun)
        lives = {run.life for run in runs}
        # One that lost its lease and was killed before anybody looked: another one had its call while it lived.
        beside = any(
            one.life != other.life and self.killed.get(one.life, math.inf) > other.begun
            for one, other in pairwise(runs)
        )
        assert lives & self.fenced_lives or beside, f"it paid again, and had not looked whether it had paid: {runs}"

    @property
    def repeated(self) -> int:
        """How many runs repeated one that a death or a lost lease had cut off."""
        return len(self.effects.runs) - len({(run.key, run.attempt) for run in self.effects.runs.values()})
