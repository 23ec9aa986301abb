"""Sailors as processes, and the books that are kept on them."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import msgspec
from tests.chaos.harness import Records, read_records, runs_by_key
from tests.misfortunes.sailor import BOOKINGS, Voyage, runtime_of

from perdure.base.events import ExecutionCompleted, Status
from perdure.ports.history_store import InstanceQuery, InstanceRecord

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 40.0
"""Seconds after which a condition that has not come true fails its test."""


def until(condition: Callable[[], Any], what: str = "", patience: float = PATIENCE) -> Any:
    """Return the first true value of a condition."""
    give_up_at = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"it did not come true within {patience} s: {what}"
        time.sleep(0.005)


def let_pass(seconds: float) -> None:
    """Let time pass, where its passing is what is tested."""
    time.sleep(seconds)


class Sailor:
    """A running sailor; it is killed at the end of the block if it still lives.

    Attributes:
        lines: what it has said so far.
    """

    def __init__(self, voyage: Voyage, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.misfortunes.sailor", msgspec.json.encode(voyage).decode()]
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        self.lines: list[str] = []
        self._errors: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**(environment or os.environ), **paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        streams = ((self.process.stdout, self.lines), (self.process.stderr, self._errors))
        self._ears = [threading.Thread(target=self._listen, args=stream, daemon=True) for stream in streams]
        for ear in self._ears:
            ear.start()

    @staticmethod
    def _listen(stream: Any, heard: list[str]) -> None:
        for line in stream:
            heard.append(line.rstrip("\n"))  # noqa: PERF401 - one by one: others read it meanwhile

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def stop_between_commits(self, store: Path) -> None:
        """Stop it while it does not hold the store's write lock."""

        def stopped() -> bool:
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)
            with closing(sqlite3.connect(store, isolation_level=None, timeout=0.05)) as connection:
                with suppress(sqlite3.OperationalError):
                    connection.execute("BEGIN IMMEDIATE")
                if connection.in_transaction:
                    return True
            self.process.send_signal(signal.SIGCONT)
            return False

        until(stopped, "a moment between two commits")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait for its end, and for all that it said."""
        code = self.process.wait(PATIENCE)
        for ear in self._ears:
            ear.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def finish(self) -> None:
        """Require that it comes to a good end."""
        assert self.end() == 0, self.log[-2000:]
        assert "finished" in self.lines

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return "\n".join(self._errors)

    def told(self, word: str) -> list[str]:
        """Return what followed a word in the lines that it said."""
        return [line.partition(" ")[2] for line in list(self.lines) if line.partition(" ")[0] == word]

    def hear(self, word: str, count: int = 1) -> list[str]:
        """Wait until it has said a word so many times."""
        until(lambda: len(self.told(word)) >= count or self.process.poll() is not None, word)
        assert len(self.told(word)) >= count, self.log[-2000:]
        return self.told(word)


def bookings(ledger: Path) -> Counter[str]:
    """Return how often each booking has been made so far."""
    return runs_by_key(ledger)


def facts_of(store: Path) -> dict[str, InstanceRecord]:
    """Return how all runs of a store stand."""

    async def look() -> dict[str, InstanceRecord]:
        async with runtime_of(Voyage(store=str(store), ledger="", name=""), worker=False) as runtime:
            records = await runtime.store.instances(InstanceQuery(limit=100_000))
            return {record.instance_id: record for record in records}

    return asyncio.run(look())


def ended_in(records: Records) -> set[str]:
    """Return the runs whose end is recorded."""
    return {run for run, rows in records.histories.items() if isinstance(rows[-1].events[-1], ExecutionCompleted)}


def require_complete(store: Path, ledger: Path, runs: set[str]) -> Records:
    """Require that the store holds just these runs, each completed, with every booking recorded once and made."""
    records = read_records(store)
    assert set(records.histories) == runs
    for rows in records.histories.values():
        assert [row.seq for row in rows] == list(range(len(rows)))
        last = rows[-1].events[-1]
        assert isinstance(last, ExecutionCompleted)
        assert last.status is Status.COMPLETED
    assert len(records.completed_keys) == BOOKINGS * len(runs)
    assert set(bookings(ledger)) == records.completed_keys
    return records


def require_once(ledger: Path) -> None:
    """Require that nothing was booked twice, as it must be where no process died."""
    twice = {key: number for key, number in bookings(ledger).items() if number > 1}
    assert not twice
