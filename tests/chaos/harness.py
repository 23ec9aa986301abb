"""Processes that run workflows and die; what the store and the effects log say about them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from tests.shapes import ALL, REGISTRY, Shape, effects

from perdure.base.errors import InstanceError, RunFailedError
from perdure.base.events import ExecutionStarted, HistoryRow, TaskCompleted, TaskScheduled
from perdure.base.faults import CrashPoint, arm
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import InstanceQuery
from perdure.runtime.embedded import EmbeddedRuntime

PATIENCE = 60.0
PRELOAD = ["tests.chaos.harness", "tests.chaos.fleet", "perdure.llm.scripted"]

_BY_NAME = {shape.name: shape for shape in ALL}


def processes() -> ForkServerContext:
    """Return a context whose processes begin with everything imported, and are killed as any process is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class Life:
    """One life of a process; what it acknowledged is kept by the test, not by the process.

    Attributes:
        accepted: how many starts were acknowledged to the caller.
    """

    def __init__(self, body: Callable[..., None], *arguments: Any) -> None:
        context = processes()
        self._accepted = context.Value("i", 0)
        self._process = context.Process(target=body, args=(*arguments, self._accepted))
        self._process.start()

    @property
    def accepted(self) -> int:
        return self._accepted.value

    def end(self) -> int:
        """Wait for the end and return the exit code, negative for a signal."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, "the process neither finished nor died in time"
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join(PATIENCE)


def live(store: Path, log: Path, names: list[str], point: CrashPoint | None, passes: int, accepted: Any) -> None:
    """Run some shapes to their end, crashing at the n-th pass of a point, if one is given."""
    asyncio.run(_live(store, log, names, point, passes, accepted))


async def _live(store: Path, log: Path, names: list[str], point: CrashPoint | None, passes: int, accepted: Any) -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=REGISTRY) as runtime:
        if point is not None:
            arm(point, passes)
        await asyncio.gather(*(_one(runtime, log, _BY_NAME[name], accepted) for name in names))


async def _one(runtime: EmbeddedRuntime, log: Path, shape: Shape, accepted: Any) -> None:
    instance_id = await runtime.start(shape.workflow, shape.input(log), instance_id=shape.name)
    with accepted.get_lock():
        accepted.value += 1
    for name, data in shape.events:
        record = await runtime.find(instance_id)
        if record is not None and not record.status.finished:
            await _send(runtime, instance_id, name, data)
    try:
        result = await runtime.wait(instance_id, PATIENCE)
    except RunFailedError as failed:
        problem = str(failed)
    else:
        shape.check(result)
        problem = ""
    assert (shape.error or "") in problem, f"{shape.name}: {problem}"
    assert bool(problem) == bool(shape.error), f"{shape.name}: {problem}"
    for other in shape.children:
        with contextlib.suppress(RunFailedError):
            await runtime.wait(shape.name + other, PATIENCE)


async def _send(runtime: EmbeddedRuntime, instance_id: str, name: str, data: Any) -> None:
    try:
        await runtime.raise_event(instance_id, name, data)
    except InstanceError:
        # It finished between the look and the event.
        return


class Records:
    """What a store holds after a death."""

    def __init__(self, histories: dict[str, list[HistoryRow]]) -> None:
        self.histories = histories

    @property
    def completed_keys(self) -> set[str]:
        """The idempotency keys of all activities whose completion is recorded."""
        return {key for name, rows in self.histories.items() for key in completed_keys(name, rows)}


def completed_keys(instance_id: str, rows: Iterable[HistoryRow]) -> list[str]:
    """Return the idempotency keys of the activities whose completion a history records."""
    keys: dict[int, str] = {}
    found: list[str] = []
    generation = execution = ""
    for event in (event for row in rows for event in row.events):
        if isinstance(event, ExecutionStarted):
            execution = f"{event.execution_id}/" if event.execution_id else ""
            generation = f"{event.generation}/" if event.generation else ""
        elif isinstance(event, TaskScheduled):
            keys[event.id] = f"{instance_id}/{execution}{generation}{event.call_id}"
        elif isinstance(event, TaskCompleted):
            found.append(keys[event.task_id])
    return found


def read_records(store: Path) -> Records:
    """Return all histories of a store file."""
    return asyncio.run(_read_records(store))


async def _read_records(store: Path) -> Records:
    history = SQLiteHistoryStore(store)
    await history.open()
    try:
        records = await history.instances(InstanceQuery(limit=1_000_000))
        rows = await history.load([record.key for record in records])
        return Records({record.instance_id: rows[record.key] for record in records})
    finally:
        await history.close()


def runs_by_key(log: Path) -> Counter[str]:
    """Return how often each activity call has run so far, by its idempotency key."""
    return Counter(key for _, key, _ in effects(log))


def killed(exit_code: int) -> bool:
    """Whether a process died of SIGKILL."""
    return exit_code == -signal.SIGKILL
