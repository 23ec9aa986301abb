"""Worker processes over one store: they say what they execute, and are stopped, killed and let go on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from tests.runtime.harness import PATIENCE, ROOT, until

from perdure.base.faults import CrashPoint, arm
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.activity import current_activity
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

NEVER = 3600.0
"""Seconds between two looks of a process that is to rely on being told."""


class Place:
    """A store with what its worker processes say.

    Args:
        folder: where all that is.
    """

    def __init__(self, folder: Path) -> None:
        self.database = folder / "perdure.db"
        self.log = folder / "effects.log"
        self.gate = folder / "gate"

    def runtime(self, app_id: str = "default", **store: float) -> EmbeddedRuntime:
        """Return a runtime that only starts, signals and waits."""
        history = SQLiteHistoryStore(self.database, **store)
        return EmbeddedRuntime(history, app_id=app_id, registry=Registry(), worker=False)

    def effects(self, instance_id: str | None = None) -> list[list[str]]:
        """Return the activities that began: instance, app and process id."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [line.split() for line in lines]
        return [effect for effect in found if instance_id in (None, effect[0])]

    async def begun(self, instance_id: str, worker: Worker) -> None:
        """Wait until a worker process has begun an activity of an instance."""
        await until(lambda: any(effect[2] == str(worker.pid) for effect in self.effects(instance_id)))

    def leases(self) -> dict[int, str]:
        """Return the living leases: worker names by token."""
        with closing(sqlite3.connect(self.database)) as connection:
            return dict(connection.execute("SELECT token, name FROM worker"))


class Worker:
    """A process that executes the instances of an app; killed at the end of the block if it still lives."""

    def __init__(
        self, place: Place, app_id: str = "default", *, lease_seconds: float = 10.0, poll: float = 0.1
    ) -> None:
        self.errors = place.database.with_name(f"errors-{app_id}-{os.urandom(3).hex()}")
        command = [sys.executable, "-m", "tests.runtime.workers", str(place.database.parent), app_id]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        with self.errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, str(lease_seconds), str(poll)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self._process.pid
        assert self.hear() == "ready", self.errors.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def leave(self) -> None:
        """Let the process close its runtime."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def stop_between_commits(self, place: Place) -> None:
        """Stop the process while it does not hold the write lock; renewing its lease is a commit, too."""
        async with asyncio.timeout(PATIENCE):
            while True:
                os.kill(self.pid, signal.SIGSTOP)
                os.waitpid(self.pid, os.WUNTRACED)
                with _write_lock(place.database) as is_free:
                    if is_free:
                        return
                self.go_on()
                await asyncio.sleep(0.01)

    async def stops_inside_a_commit(self) -> None:
        """Let the process stop within its next write transaction, and wait until it has."""
        await self.will_stop_at("store.in_transaction")
        await self.has_stopped()

    async def will_stop_at(self, point: CrashPoint) -> None:
        """Let the process stop when it passes a point for the next time."""
        self.tell(point)
        assert await asyncio.to_thread(self.hear) == "armed"

    async def has_stopped(self) -> None:
        """Wait until the process has stopped."""
        await asyncio.to_thread(os.waitpid, self.pid, os.WUNTRACED)


@contextmanager
def _write_lock(database: Path) -> Iterator[bool]:
    with closing(sqlite3.connect(database, isolation_level=None, timeout=0.05)) as connection:
        with suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
        yield connection.in_transaction


# -- inside the process


async def gated(value: int) -> int:
    """Leave a line, then wait until the gate is open."""
    place, app_id = Place(Path(sys.argv[1])), sys.argv[2]
    file = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{current_activity().instance_id} {app_id} {os.getpid()}\n".encode())
    os.close(file)
    while not place.gate.exists():
        await asyncio.sleep(0.005)
    return value


async def one_step(ctx, value):
    return await ctx.call_activity(gated, input=value)


async def one_event(ctx, name):
    return await ctx.call_activity(gated, input=await ctx.wait_for_external_event(name))


async def _work(folder: Path, app_id: str, lease_seconds: float, poll: float) -> None:
    registry = Registry()
    for function in (one_step, one_event):
        registry.add_workflow(function)
    store = SQLiteHistoryStore(Place(folder).database, lease_seconds=lease_seconds, busy_timeout=0.2)
    options = WorkerOptions(poll=poll, reap=0.1, drain=0.1)
    async with EmbeddedRuntime(store, app_id=app_id, registry=registry, options=options):
        print("ready", flush=True)
        while point := await asyncio.to_thread(sys.stdin.readline):
            named = cast("CrashPoint", point.strip())
            arm(named, action=_stop_here if named == "store.in_transaction" else _stop_outside_of_commits)
            print("armed", flush=True)


def _stop_here() -> None:
    # At this thread, which so cannot go on until the others have stopped.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _stop_outside_of_commits() -> None:
    # The writer may be about to renew the lease: a process stopped in there would keep all others waiting.
    free = False
    while not free:
        with _write_lock(Place(Path(sys.argv[1])).database) as free:
            pass
    _stop_here()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_work(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
