"""What the runtime's tests share: both stores, both modes, bounded waits, a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.held import WorkerOptions
from perdure.ports.history_store import HistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
STORES = ("sqlite", "memory")
MODES = ("warm", "put-away")
PATIENCE = 15.0
"""Seconds after which a condition that has not come true fails its test."""


def call_of(key: str) -> str:
    """Return an idempotency key without the part that tells a run apart from others with its id."""
    return re.sub("/[0-9a-f]{16}/", "/", key)


class Place:
    """Somewhere that histories live; every call of :meth:`store` is another opening of the same data."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "history.db"
        self._memory: HistoryStore | None = None

    def store(self, **options: Any) -> HistoryStore:
        if self.kind == "sqlite":
            return SQLiteHistoryStore(self.path, **options)
        if self._memory is None:
            module = importlib.import_module("perdure.components.history.memory")
            self._memory = module.MemoryHistoryStore()
        return self._memory


def options(mode: str, **others: Any) -> WorkerOptions:
    given = {"poll": 0.01, "drain": 5.0, "put_away": mode == "put-away", **others}
    return WorkerOptions(**given)


async def until(condition: Callable[[], Any | Awaitable[Any]], patience: float = PATIENCE) -> Any:
    """Return the first true value of a condition."""
    async with asyncio.timeout(patience):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.002)


async def waits_of(runtime: EmbeddedRuntime, instance_id: str) -> dict[str, Any]:
    """Return what an instance waits for, or nothing while it is in somebody's hands."""
    record = await runtime.find(instance_id)
    assert record is not None
    return {} if record.owner is not None or record.waits is None else json.loads(record.waits)


class ManualClock:
    """A clock that stands still until it is turned."""

    def __init__(self, at: float = 1_700_000_000.123457) -> None:
        self.at = at

    def now(self) -> float:
        return self.at


def registry_of(*functions: Callable[..., Any], activities: tuple[Callable[..., Any], ...] = ()) -> Registry:
    """Return a registry with these workflows and activities."""
    registry = Registry()
    for function in functions:
        registry.add_workflow(function)
    for function in activities:
        registry.add_activity(function)
    return registry


class Child:
    """A process that runs a script and talks in lines; to be killed without warning."""

    def __init__(self, script: str, *arguments: object) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def line(self) -> str:
        """Return the next line that the process writes."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End the process as a power cut would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


async def crash(runtime: EmbeddedRuntime) -> None:
    """End a runtime as the death of its process would: what it owns stays its own until somebody finds it dead."""
    assert runtime._supply is not None
    assert runtime._worker is not None
    runtime._supply.cancel()
    await asyncio.gather(runtime._supply, return_exceptions=True)
    await runtime._worker.forget()
    runtime._worker.lease = None
    await runtime.close()


async def end_lease(place: Place, runtime: EmbeddedRuntime) -> None:
    """End a runtime's lease behind its back, as another runtime does that believes it dead."""
    assert runtime._worker is not None
    assert runtime._worker.lease is not None
    other = place.store()
    await other.open()
    await other.leave(runtime._worker.lease)
    await other.close()
