"""A second process with the same store, driven line by line over its standard input and output."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perdure.base.errors import StoreError
from perdure.base.events import ExecutionStarted, encode_events
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import Episode, HistoryStore, Lease, NewInstance

ROOT = Path(__file__).resolve().parents[3]


def new_instance(instance_id: str, lease: Lease | None = None) -> NewInstance:
    events = encode_events([ExecutionStarted(name="flow")])
    return NewInstance(instance_id=instance_id, app_id="test", workflow="flow", at=1.0, events=events, lease=lease)


async def append(store: HistoryStore, lease: Lease, episode: Episode) -> None:
    answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    store.append(lease, episode, answer.set_result)
    error = await answer
    if error is not None:
        raise error


Work = Callable[[SQLiteHistoryStore], Coroutine[Any, Any, Any]]


async def _nothing(store: SQLiteHistoryStore) -> None:
    return


def with_store(path: Path, work: Work = _nothing, **options: Any) -> Any:
    """Open the store, do something with it, close it; return what that returned."""

    async def run() -> Any:
        store = SQLiteHistoryStore(path, **options)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


class Child:
    """A running process of this module; it is killed at the end of the block if it still lives."""

    def __init__(self, role: str, path: Path, *arguments: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.components.history.child", role, str(path), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _own(store: SQLiteHistoryStore) -> None:
    """Own an instance; whenever told to, add the same episode to its history and say how that went."""
    lease = await store.join("child", "test")
    key = (await store.start(new_instance("owned", lease))).key
    _say("owning")
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            await append(store, lease, Episode(key=key, seq=1, at=2.0, events="[]"))
            _say("accepted")
        except StoreError as error:
            _say(type(error).__name__)


async def _write(store: SQLiteHistoryStore) -> None:
    """Add to a history for ever; say the number of each row once it is acknowledged."""
    lease = await store.join("child", "test")
    key = (await store.start(new_instance("written", lease))).key
    seq = 0
    while True:
        seq += 1
        await append(store, lease, Episode(key=key, seq=seq, at=2.0, events="[]"))
        _say(seq)


async def _watch(store: SQLiteHistoryStore) -> None:
    """Wait for the end of an instance for ever."""
    store.listen(lambda _: None)
    await store.watch(["watched"])
    _say("watching")
    await asyncio.Event().wait()


async def _open(path: str) -> None:
    """Open the store when told to, and say how that went."""
    _say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    store = SQLiteHistoryStore(path)
    try:
        await store.open()
        await store.start(new_instance(f"by-{os.getpid()}"))
        await store.close()
        _say("opened")
    except StoreError as error:
        _say(repr(error))


def _lock(path: str) -> None:
    """Hold the write lock until told to let go."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    _say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()
    _say("unlocked")


async def _with_store(role: str, path: str, lease_seconds: float) -> None:
    store = SQLiteHistoryStore(path, lease_seconds=lease_seconds)
    await store.open()
    await {"own": _own, "write": _write, "watch": _watch}[role](store)


def main(role: str, path: str, lease_seconds: str = "60") -> None:
    if role == "lock":
        _lock(path)
    elif role == "open":
        asyncio.run(_open(path))
    else:
        asyncio.run(_with_store(role, path, float(lease_seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
