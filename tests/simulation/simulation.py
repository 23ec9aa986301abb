"""One seed's simulation, from its beginning to the verdict."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from tests.simulation.client import Answer, Clash, Outside, Raise, Resume, Start, Suspend, Terminate, Wait
from tests.simulation.corpus import Case, Event, fill_registry, random_cases
from tests.simulation.faults import MISFORTUNE_SECONDS, plan_faults
from tests.simulation.oracle import Oracle
from tests.simulation.process import SimulatedProcess
from tests.simulation.store import Connection, StoreNode, Weather
from tests.simulation.verdict import is_quiet, judge
from tests.simulation.world import SpinError, World

from perdure.base.events import Status
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.code import Retention
from perdure.engine.held import WorkerOptions
from perdure.ports.history_store import InstanceQuery, InstanceRecord
from perdure.runtime import embedded

_SETTLING_SECONDS = 300.0
_LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class Parts:
    """What a simulation is made of; a test of the simulation itself puts a broken part in.

    Attributes:
        memory: the class of the store.
        connection: the class of a process's way to it.
    """

    memory: type[MemoryHistoryStore] = MemoryHistoryStore
    connection: type[Connection] = Connection


SOUND = Parts()


@dataclass(frozen=True)
class Outcome:
    """What became of one seed.

    Attributes:
        seed: the seed.
        violations: what the engine did wrong; empty when it kept all its promises.
        trace: what happened, when that was asked for.
        callbacks: how much ran.
        seconds: virtual seconds that passed.
    """

    seed: int
    violations: list[str]
    trace: list[str] = field(default_factory=list)
    callbacks: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        broken = "\n".join(f"  {violation}" for violation in self.violations)
        return f"seed {self.seed}:\n{broken}\n  again: python -m tests.simulation --seed {self.seed} --trace"

    @property
    def digest(self) -> str:
        """The trace in 32 digits: equal digests are equal runs."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=16).hexdigest()


def simulate(seed: int, *, tracing: bool = False, parts: Parts = SOUND) -> Outcome:
    """Run one seed."""
    world = World(seed, tracing=tracing)
    ids = random.Random(f"execution ids of {seed}")
    with (
        _errors_of_the_engine(world),
        mock.patch.object(embedded, "new_execution_id", side_effect=lambda: f"{ids.getrandbits(64):016x}"),
    ):
        simulation = Simulation(world, parts)
        try:
            simulation.run()
        except SpinError as error:
            world.blame(str(error))
        finally:
            simulation.bury()
    return Outcome(seed, world.violations, world.trace or [], world.callbacks, world.now)


class Simulation:
    """The processes, the store, the cases and the misfortunes of one seed."""

    def __init__(self, world: World, parts: Parts) -> None:
        chance = world.random
        self.world = world
        self.oracle = Oracle(world)
        weather = Weather(chance, chance.choice((0.0, 0.002, 0.02, 0.1)), chance.choice((0.0, 0.0, 0.02, 0.1)))
        self.node = StoreNode(world, parts.memory(), weather, self.oracle, parts.connection)
        self.cases: list[Case] = random_cases(chance)
        self.sent: dict[str, list[Event]] = {}
        options = _random_options(chance)
        workers = chance.randint(1, 3)
        self.processes = [
            SimulatedProcess(world, self.node, f"w{number + 1}", options, executes=True) for number in range(workers)
        ]
        if chance.random() < 0.5:
            self.processes.append(SimulatedProcess(world, self.node, "client", options, executes=False))
        self.outside = Outside(world, self.oracle, self.processes)

    def run(self) -> None:
        """Let everything happen, then judge."""
        for process in self.processes:
            fill_registry(process, self.cases, self.oracle)
            process.skew = self.world.random.choice((0.0, 0.0, -2.0, 0.3))
            self.world.after(self.world.random.random(), process.begin)
        for case in self.cases:
            self._plan(case)
        plan_faults(self.world, self.node, self.processes)
        self.world.run_until(MISFORTUNE_SECONDS)
        self._heal()
        self._settle()
        if not self.world.violations:
            judge(self.world, self.oracle, self.node, self.cases, self.sent)

    def bury(self) -> None:
        """Unwind what is left in memory."""
        for process in self.processes:
            process.life = None
            for life in process.lives:
                life.bury()

    def _plan(self, case: Case) -> None:
        chance, plan = self.world.random, self.outside.plan
        begin = chance.uniform(0.0, 5.0)
        plan(begin, Start(case, chance.choice((None, None, None, 0.5, 4.0))))
        if chance.random() < 0.3:
            plan(begin + chance.random() * chance.choice((0.01, 5.0)), Start(case))
        if chance.random() < 0.1:
            plan(begin + chance.uniform(0.0, 5.0), Clash(case))
        sent = self.sent[case.instance_id] = case.events(chance)
        for name, data in sent:
            plan(begin + chance.uniform(0.0, 12.0), Raise(case.instance_id, name, data))
        for action, share in ((Terminate, 0.06), (Suspend, 0.1), (Resume, 0.1), (Wait, 0.3)):
            if chance.random() < share:
                plan(begin + chance.uniform(0.0, 15.0), action(case.instance_id))
        if chance.random() < 0.3:
            plan(begin + chance.uniform(3.0, 15.0), Answer(case.instance_id, retry=chance.random() < 0.5))

    def _heal(self) -> None:
        """End all misfortune: the store answers, the clocks are right, every process runs or is about to."""
        self.world.note("WORLD", "all is well from now on")
        self.node.weather.calm_down()
        for process in self.processes:
            process.skew = 0.0
            if process.life is not None:
                process.life.go_on()

    def _settle(self) -> None:
        """Wait until every instance has ended, or waits for an event that nobody sent."""
        deadline = self.world.now + _SETTLING_SECONDS
        while self.world.now < deadline and not self.world.violations:
            self.world.run_until(self.world.now + _LOOK_SECONDS)
            records: list[InstanceRecord] = self.node.look("instances", InstanceQuery(limit=1_000))
            moving = [record for record in records if not record.status.finished and not is_quiet(record)]
            if not moving and self.outside.open == 0:
                return
            for record in moving:
                self._help(record)

    def _help(self, record: InstanceRecord) -> None:
        """Do what an instance waits for people to do."""
        if record.status is Status.SUSPENDED:
            self.outside.plan(self.world.now, Resume(record.instance_id))
        elif record.waits is not None and "asks" in json.loads(record.waits):
            retry = self.world.random.random() < 0.5
            self.outside.plan(self.world.now, Answer(record.instance_id, retry=retry))


def _random_options(chance: random.Random) -> WorkerOptions:
    return WorkerOptions(
        threads=1,
        warm=chance.choice((0, 1, 1000)),
        max_running=chance.choice((1, 2, 10_000, 10_000)),
        poll=chance.choice((0.5, 2.0, 5.0)),
        reap=chance.choice((0.5, 2.0)),
        drain=chance.choice((0.0, 0.5, 10.0)),
        gc_threshold=None,
        retention=Retention(completed=None),
        put_away=chance.random() < 0.3,
    )


@contextmanager
def _errors_of_the_engine(world: World) -> Iterator[None]:
    """Take the engine's log for the length of a simulation: an exception in it is a broken promise."""
    log = logging.getLogger("perdure")
    handler = _Listener(world)
    before = log.level, log.propagate
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


class _Listener(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> Any:
        if record.exc_info is not None:
            self._world.blame(f"the engine reports: {record.getMessage()}: {record.exc_info[1]!r}")
