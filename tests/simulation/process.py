"""A simulated process: the real runtime on a loop of its own, which can die, stand still, and read a wrong clock."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tests.simulation.loop import SimulatedLoop
from tests.simulation.world import EPOCH, World

from perdure.base.errors import StoreError, StoreUnavailableError
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

if TYPE_CHECKING:
    from tests.simulation.store import Connection, StoreNode

_OPEN_AGAIN = 0.4
_FUSE_SECONDS = 3.0


class Errand(Protocol):
    """Something from outside that a process does with its runtime, and that its death may cut off."""

    async def run(self, life: Life) -> None:
        """Do it."""
        ...

    def cut_off(self) -> None:
        """The process died before this was done."""
        ...


@dataclass
class SimulatedProcess:
    """A process that is started again whenever it ends.

    Attributes:
        name: short, for the trace.
        executes: whether its runtime has a worker; without one it is a client only.
        skew: how many seconds its clock is ahead.
        life: its present life, or None between two.
        lives: all of them.
    """

    world: World
    node: StoreNode
    name: str
    options: WorkerOptions
    executes: bool
    registry: Registry = field(default_factory=Registry)
    skew: float = 0.0
    life: Life | None = None
    lives: list[Life] = field(default_factory=list)

    def now(self) -> float:
        """Return what its clock shows, which makes this a clock of the engine."""
        return EPOCH + self.world.now + self.skew

    def begin(self) -> None:
        """Start it, unless it runs."""
        if self.life is None:
            self.life = Life(self, len(self.lives) + 1)
            self.lives.append(self.life)

    def ended(self) -> None:
        """Take note that its life is over; another one begins soon."""
        self.life = None
        self.world.after(self.world.random.uniform(0.05, 3.0), self.begin)


class Life:
    """One life of a process, from its start to its end.

    Attributes:
        name: the process's name with the number of this life.
        alive: False once it was killed or has left; then nothing of it has any effect any more.
        still: whether it stands still, as after SIGSTOP.
        runtime: its runtime while that is open.
        store: its way to the store.
    """

    def __init__(self, process: SimulatedProcess, number: int) -> None:
        self.process = process
        self.world = process.world
        self.name = f"{process.name}.{number}"
        self.alive = True
        self.still = False
        self.runtime: EmbeddedRuntime | None = None
        self.loop = SimulatedLoop(self.world, self._note_failure)
        self.store: Connection = process.node.connect(self)
        self._latest: EmbeddedRuntime | None = None
        self._leaving = asyncio.Event()
        self._errands: dict[Errand, None] = {}
        self._fuse: int | None = None
        self._spark: Callable[[], None] | None = None
        self.world.note(self.name, "begins")
        self.world.actors.append(self)
        self.loop.create_task(self._live())

    @property
    def open_runtime(self) -> EmbeddedRuntime:
        """Its runtime.

        Raises:
            StoreUnavailableError: it is not open yet, or not any more.
        """
        if self.runtime is None:
            raise StoreUnavailableError(self.name, "the runtime is not open")
        return self.runtime

    # -- its turn

    @property
    def runs(self) -> bool:
        return self.alive and not self.still

    def next_timer(self) -> float | None:
        return self.loop.next_timer()

    def wake(self) -> None:
        self.loop.wake()

    def turn(self) -> int:
        if not self.loop.is_ready:
            return 0
        if self._fuse is None:
            return self.loop.run_ready(sys.maxsize)
        ran = self.loop.run_ready(self._fuse)
        self._fuse -= ran
        if self._fuse == 0:
            self._burn()
        return ran

    def light(self, callbacks: int, spark: Callable[[], None]) -> None:
        """Let something happen to it after so many callbacks, or after a few seconds when there are not as many."""
        if self._fuse is None:
            self._fuse, self._spark = callbacks, spark
            self.world.after(_FUSE_SECONDS, self._burn)

    def _burn(self) -> None:
        spark, self._fuse, self._spark = self._spark, None, None
        if spark is not None and self.alive:
            spark()

    # -- what it does

    async def _live(self) -> None:
        runtime = await self._open()
        self.runtime = runtime
        await self._leaving.wait()
        self.runtime = None
        try:
            await runtime.close()
        except StoreError:
            # A store that cannot take a farewell finds the process gone.
            self.world.note(self.name, "leaves without a farewell")
        self._end("has left")

    async def _open(self) -> EmbeddedRuntime:
        while True:
            self._latest = EmbeddedRuntime(
                self.store,  # type: ignore[arg-type]  # it has whatever the port has
                registry=self.process.registry,
                options=self.process.options,
                clock=self.process,
                worker=self.process.executes,
            )
            try:
                await self._latest.open()
                return self._latest
            except StoreError:
                await asyncio.sleep(_OPEN_AGAIN)

    def run(self, errand: Errand) -> None:
        """Do something from outside with the runtime."""
        self._errands[errand] = None
        self.loop.create_task(self._run(errand))

    async def _run(self, errand: Errand) -> None:
        try:
            await errand.run(self)
        finally:
            # In the same turn: a crash in the next one must not take it for unfinished.
            self._errands.pop(errand, None)

    def leave(self) -> None:
        """Ask it to end in good order, as a deployment does."""
        if self.runtime is not None:
            self.world.note(self.name, "is asked to leave")
            self._leaving.set()

    # -- what happens to it

    def crash(self) -> None:
        """End it at once, as SIGKILL does: nothing of it runs any more, not even a clean-up."""
        if self.alive:
            self._end("crashes")

    def stand_still(self, seconds: float) -> None:
        """Stop it for some virtual seconds, as SIGSTOP and SIGCONT do."""
        if self.runs:
            self.world.note(self.name, f"stands still for {seconds:.3f} s")
            self.still = True
            self.world.after(seconds, self.go_on)

    def go_on(self) -> None:
        """Let it run again."""
        if self.still:
            self.still = False
            self.loop.wake()
            self.world.note(self.name, "goes on")

    def _end(self, how: str) -> None:
        self.world.note(self.name, how)
        self.alive = False
        self.runtime = None
        self.world.actors.remove(self)
        self.process.node.lost(self)
        errands, self._errands = self._errands, {}
        for errand in errands:
            errand.cut_off()
        self.process.ended()

    def _note_failure(self, context: dict[str, Any]) -> None:
        if self.alive:
            self.world.blame(f"{self.name}: {context['message']}: {context.get('exception')!r}")

    def bury(self) -> None:
        """Let go of what its memory held, after everything was judged."""
        self.alive = self.still = False
        self.store.cut_at = 0.0
        worker = self._latest._worker if self._latest is not None else None
        if worker is not None:
            self.loop.create_task(worker.forget())
        self.loop.unwind()
