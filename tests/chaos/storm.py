"""The storm: worker processes of one app over one store, killed, stopped and let go on at random, under load."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.books import Books
from tests.chaos.fleet import APP, LEASE, LETTERS, Place, fleet_agent, work
from tests.chaos.harness import PATIENCE, killed, processes

from perdure.base.errors import StoreError
from perdure.base.events import Status
from perdure.ports.history_store import InstanceQuery
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

T = TypeVar("T")

WORKERS = 4
BESIDE = {"family": 12, "letters": 12, "alarms": 12, "held": 8}
"""Workflows that are open at the same time, beside the agents."""

_OPEN = (Status.PENDING, Status.RUNNING, Status.SUSPENDED)
_log = logging.getLogger("tests.chaos")


@dataclass
class Tally:
    """What has happened so far.

    Attributes:
        kills: processes that died of SIGKILL.
        stops: processes that were stopped by SIGSTOP.
        fenced: stops in which the process lost its lease.
        rejoined: processes that were let go on after that, and took a new lease.
        refused: outcomes that such processes came with too late.
        late: activities that such a process began for a call that was settled.
        finished: runs that ended with the right result.
        repeated: activities that ran again, without a recorded outcome.
        unanswered: calls that the store refused, and that were made again.
    """

    kills: int = 0
    stops: int = 0
    fenced: int = 0
    rejoined: int = 0
    refused: int = 0
    late: int = 0
    finished: int = 0
    repeated: int = 0
    unanswered: int = 0

    def __str__(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in vars(self).items())


class WorkerProcess:
    """One life of a worker process.

    Attributes:
        life: its number.
        taken: whether somebody stops it right now, and nobody else is to touch it.
    """

    def __init__(self, place: Place, life: int) -> None:
        self.life = life
        self.taken = False
        self._process: BaseProcess = processes().Process(target=work, args=(place.store.parent, life))
        self._process.start()

    def signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    async def end(self) -> int:
        await asyncio.to_thread(self._process.join, PATIENCE)
        assert self._process.exitcode is not None, f"life {self.life} does not end"
        return self._process.exitcode


class Wave:
    """One store under load and under fire.

    Args:
        folder: an empty one.
        agents: how many are open at the same time.
        first_life: number of the first process; no two of a soak have the same.
        tally: counts on.
        chance: decides what happens.
    """

    def __init__(self, folder: Path, *, agents: int, first_life: int, tally: Tally, chance: random.Random) -> None:
        self.place = Place(folder)
        self.books = Books(self.place)
        self.next_life = first_life
        self._agents = agents
        self._tally = tally
        self._random = chance
        self._workers: list[WorkerProcess] = []
        self._accepted: list[str] = []
        self._runtime = EmbeddedRuntime(
            self.place.history_store(busy_timeout=0.5), app_id=APP, registry=Registry(), worker=False
        )

    async def run(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Let the fleet work for some seconds under fire, and on until it is enough; then let all end, and judge it."""
        self._workers = [self._launch() for _ in range(WORKERS)]
        try:
            async with self._runtime:
                await self._under_fire(seconds, enough)
                await self._winds_up()
        finally:
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
        self._tally.late += len(self.books.late)
        self._tally.repeated += self.books.repeated

    async def _under_fire(self, seconds: float, enough: Callable[[], bool]) -> None:
        begin = time.monotonic()

        def goes_on() -> bool:
            return time.monotonic() - begin < seconds or not enough()

        lanes = [self._lane(self._agent, number, goes_on) for number in range(self._agents)]
        for name, size in BESIDE.items():
            lanes += [self._lane(getattr(self, f"_{name}"), number, goes_on) for number in range(size)]
        async with asyncio.TaskGroup() as group:
            for work_of_lane in lanes:
                group.create_task(work_of_lane)
            group.create_task(self._kill_some(goes_on))
            group.create_task(self._stop_some(goes_on))
            group.create_task(self._look_often(goes_on))

    async def _winds_up(self) -> None:
        own = self.place.accepted.read_text().splitlines()
        for name in own:
            await self._ends(name, name.rpartition("-")[2], self._is_paid)
        async with asyncio.timeout(PATIENCE):
            while await self._runtime.instances(InstanceQuery(status=_OPEN, limit=1)):
                await asyncio.sleep(0.05)
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        codes = [await worker.end() for worker in self._workers]
        assert codes == [0] * WORKERS, f"processes did not leave in peace: {codes}"
        self._workers.clear()
        # Whatever ended long ago may not have been touched since.
        self.books.ended.clear()
        await self._look()
        self.books.verdict([*self._accepted, *own])
        await self._runtime.store.check()
        self._judge_logs()

    def _judge_logs(self) -> None:
        for path in self.place.logs.iterdir():
            worst = [line for line in path.read_text().splitlines() if line.startswith(("ERROR", "CRITICAL"))]
            assert not worst, f"life {path.name} says: {worst[:3]}"

    # -- misfortunes

    def _launch(self) -> WorkerProcess:
        self.next_life += 1
        return WorkerProcess(self.place, self.next_life)

    async def _kill_some(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            await asyncio.sleep(self._random.uniform(0.3, 2.0))
            worker = self._free_worker(besides=0)
            if worker is not None:
                await self._kill(worker)

    async def _kill(self, worker: WorkerProcess) -> None:
        worker.signal(signal.SIGKILL)
        self.books.killed[worker.life] = time.monotonic()
        self._workers[self._workers.index(worker)] = self._launch()
        code = await worker.end()
        assert killed(code), f"life {worker.life} failed with exit code {code}"
        self._tally.kills += 1

    async def _stop_some(self, goes_on: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            while goes_on():
                await asyncio.sleep(self._random.uniform(0.3, 3.0))
                worker = self._free_worker(besides=1)
                if worker is not None:
                    worker.taken = True
                    group.create_task(self._stop(worker))

    def _free_worker(self, besides: int) -> WorkerProcess | None:
        free = [worker for worker in self._workers if not worker.taken]
        return self._random.choice(free) if len(free) > besides else None

    async def _stop(self, worker: WorkerProcess) -> None:
        """Stop a process for a moment, or for longer than its lease; then it goes on, or is killed where it stands."""
        token = await self._true(lambda: self.books.leases().get(worker.life))
        worker.signal(signal.SIGSTOP)
        self._tally.stops += 1
        if self._random.random() < 0.4:
            await asyncio.sleep(self._random.uniform(0.05, LEASE))
            worker.signal(signal.SIGCONT)
        elif await self._is_fenced(worker, token):
            await self._wake_fenced(worker, token)
        else:
            # It holds the write lock, perhaps: then nobody can say that it is gone.
            worker.signal(signal.SIGCONT)
        worker.taken = False

    async def _is_fenced(self, worker: WorkerProcess, token: int) -> bool:
        end = time.monotonic() + 3 * LEASE
        while time.monotonic() < end:
            if self.books.leases().get(worker.life) != token:
                return True
            await asyncio.sleep(0.05)
        return False

    async def _wake_fenced(self, worker: WorkerProcess, token: int) -> None:
        """Let a process go on that lost its lease: it begins anew under another, and what it comes with is refused."""
        self._tally.fenced += 1
        await self._look()
        cut_off = self.books.note_fenced(worker.life)
        # Long enough, at times, for others to take up and settle what it has in hand.
        await asyncio.sleep(self._random.uniform(0, LEASE))
        if self._random.random() < 0.2:
            await self._kill(worker)
            return
        worker.signal(signal.SIGCONT)
        await self._true(lambda: self.books.leases().get(worker.life, token) > token)
        self._tally.rejoined += 1
        await self._look()
        self._tally.refused += len(cut_off & self.books.effects.ended)

    async def _look_often(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            await asyncio.sleep(0.5)
            await self._look()
            for worker in self._workers:
                assert worker.exit_code is None, f"life {worker.life} failed with exit code {worker.exit_code}"

    async def _look(self) -> None:
        await self.books.look(self._runtime.store, lambda: [worker.life for worker in self._workers])

    async def _true(self, condition: Callable[[], T]) -> T:
        async with asyncio.timeout(PATIENCE):
            while not (value := condition()):
                await asyncio.sleep(0.05)
        return value

    # -- load

    async def _lane(
        self, body: Callable[[str, int], Awaitable[None]], number: int, goes_on: Callable[[], bool]
    ) -> None:
        """Run one instance after the other."""
        turn = 0
        while goes_on():
            kind = body.__name__.removeprefix("_")
            await body(f"{kind}-{number}-{turn}", 1000 * turn + number)
            turn += 1

    async def _agent(self, name: str, number: int) -> None:
        await self._start(fleet_agent().agent_workflow_name, {"task": str(number)}, name)
        await self._ends(name, number, self._is_paid)

    async def _family(self, name: str, number: int) -> None:
        await self._start("family", number, name)
        await self._ends(name, 3 * number + 9)

    async def _alarms(self, name: str, number: int) -> None:
        await self._start("alarms", number, name)
        await self._ends(name, [number + 4, "too late"])

    async def _letters(self, name: str, number: int) -> None:
        await self._start("letters", [], name)
        for letter in range(LETTERS):
            await asyncio.sleep(self._random.uniform(0, 1))
            await self._answered(self._runtime.raise_event, name, "letter", number + letter)
        await self._ends(name, [number + letter + 1 for letter in range(LETTERS)])

    async def _held(self, name: str, number: int) -> None:
        await self._start("held", number, name)
        await asyncio.sleep(self._random.uniform(0, 1))
        await self._answered(self._runtime.suspend, name)
        async with asyncio.timeout(PATIENCE):
            while (await self._answered(self._runtime.find, name)).status is not Status.SUSPENDED:
                await asyncio.sleep(0.1)
        await self._answered(self._runtime.raise_event, name, "last", 100)
        await asyncio.sleep(self._random.uniform(0, 1))
        await self._answered(self._runtime.resume, name)
        await self._ends(name, number + 104)

    async def _start(self, workflow: str, given: Any, name: str) -> None:
        await self._answered(lambda: self._runtime.start(workflow, given, instance_id=name))
        self._accepted.append(name)

    async def _ends(self, name: str, expected: Any, same: Callable[[Any, Any], bool] | None = None) -> None:
        result = await self._answered(self._runtime.wait, name, PATIENCE)
        right = result == expected if same is None else same(result, expected)
        assert right, f"{name} ended with {result!r}, not with {expected!r}"
        self._tally.finished += 1

    def _is_paid(self, result: Any, number: Any) -> bool:
        return bool(result["content"] == str(2 * int(number)))

    async def _answered(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Ask until the store answers: an error of its own says that nothing was changed."""
        while True:
            try:
                return await call(*arguments)
            except StoreError as error:
                _log.info("asked again: %s", error)
                self._tally.unanswered += 1
                await asyncio.sleep(0.05)
