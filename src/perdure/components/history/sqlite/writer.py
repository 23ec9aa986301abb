"""The one thread that writes: it commits together whatever was submitted while it was busy.

A submission that is alone, on a disk that answers faster than a thread wakes up, is committed on the spot: the detour
over the thread would take longer than the flush. The first sign of company or of a slow disk ends that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from perdure.base.errors import StoreLockedError, StoreUnavailableError
from perdure.components.history.sqlite.doubts import Doubts
from perdure.components.history.sqlite.errors import concerns_all, translated
from perdure.components.history.sqlite.group import Outcome, Submission, commit_group
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.turns import holder

Batch = list[tuple[Submission, Callable[[Outcome], None]]]
Settled = list[tuple[Callable[[Outcome], None], Outcome]]
PIECE = 256
"""Submissions that go over to the thread in one piece at most."""

QUICK_SECONDS = 0.0005
"""A commit that usually takes less than this may be made on the event loop."""

LONELY_COMMITS = 3
"""So many commits of a single submission in a row show that there is no company to wait for."""

MAX_GROUP = 4096
"""Submissions in one transaction at most, so that no commit keeps the others waiting for long."""


class Writer:
    """Commits submissions in the order in which they came, as few transactions as possible.

    Args:
        connection: used by the writer alone; it does not wait for locks by itself.
        store: name of the store, for errors.
        database: its file.
        tidings: told of what each commit brings to other processes.
        busy_timeout: seconds that the thread waits for another process's write lock; the event loop never does.
        guard: called before each commit, with the seconds that it may wait for another process's write lock; what it
            raises refuses the commit.
        idle: called in the thread about every ``idle_every`` seconds, whether there is work or not.
        idle_every: seconds between two calls of ``idle``.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        store: str,
        database: Path,
        *,
        tidings: Tidings,
        busy_timeout: float,
        guard: Callable[[float], None],
        idle: Callable[[sqlite3.Connection], None],
        idle_every: float,
    ) -> None:
        self._connection = connection
        self._store = store
        self._database = database
        self._tidings = tidings
        self._busy_timeout = busy_timeout
        self._guard = guard
        self._idle = idle
        self._idle_every = idle_every
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._pending: Batch = []
        self._closed = False
        self._using = threading.Lock()
        self._doubts = Doubts()
        self._handed_over = 0
        self._lonely = 0
        self._usual_seconds = 2 * QUICK_SECONDS
        self._thread = threading.Thread(target=self._work, name="perdure-writer", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission, done: Callable[[Outcome], None]) -> None:
        """Add a submission to the next group; ``done`` gets its outcome in the event loop, an exception included."""
        if self._closed:
            raise StoreUnavailableError(self._store, "the store is closed")
        if not self._pending:
            # At the end of a turn of the loop, so that what the turn submits goes over in one piece.
            self._loop.call_soon(self._hand_over)
        self._pending.append((submission, done))
        if len(self._pending) >= PIECE:
            # A long turn: the thread may begin with this much while the loop goes on.
            self._hand_over()

    def request(self, submission: Submission) -> asyncio.Future[Any]:
        """Submit, and return a future of the outcome."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.submit(submission, settle)
        return future

    async def close(self) -> None:
        """Commit what was submitted, then end the thread."""
        # First, so that an answer given meanwhile cannot add what nobody would commit.
        self._closed = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)

    def _hand_over(self) -> None:
        if not self._pending:
            return
        batch, self._pending = self._pending, []
        self._lonely = self._lonely + 1 if len(batch) == 1 else 0
        if self._handed_over == 0 and self._lonely > LONELY_COMMITS and self._commit_here(batch):
            return
        self._handed_over += 1
        self._queue.put(batch)

    def _commit_here(self, batch: Batch) -> bool:
        """Commit on the event loop if that is quick; return whether it was done."""
        if self._usual_seconds > QUICK_SECONDS or not self._using.acquire(blocking=False):
            return False
        try:
            outcomes = self._outcomes(batch, patience=0.0)
        finally:
            self._using.release()
        if isinstance(outcomes[0][1], StoreLockedError):
            # Nothing was committed: the thread may wait for the lock, the event loop may not.
            return False
        self._settle(outcomes, 0)
        return True

    def _work(self) -> None:
        while True:
            try:
                batch = self._queue.get(timeout=self._idle_every)
            except Empty:
                self._renew()
                continue
            if batch is None:
                return
            pieces, last = self._gather(batch)
            with self._using:
                for begin in range(0, len(batch), MAX_GROUP):
                    outcomes = self._outcomes(batch[begin : begin + MAX_GROUP], self._busy_timeout)
                    self._deliver(outcomes, pieces if begin + MAX_GROUP >= len(batch) else 0)
            if last:
                return
            self._renew()

    def _renew(self) -> None:
        with self._using:
            self._idle(self._connection)

    def _gather(self, batch: Batch) -> tuple[int, bool]:
        """Add to the batch whatever else waits; return how many pieces it was, and whether the end was among them."""
        pieces = 1
        while len(batch) < MAX_GROUP:
            try:
                more = self._queue.get_nowait()
            except Empty:
                return pieces, False
            if more is None:
                return pieces, True
            batch.extend(more)
            pieces += 1
        return pieces, False

    def _outcomes(self, batch: Batch, patience: float) -> Settled:
        """Commit a batch and return what is to be told to whom."""
        began = time.perf_counter()
        submissions = [submission for submission, _ in batch]
        try:
            self._guard(patience)
            outcomes = commit_group(self._connection, self._store, submissions, self._tidings, patience=patience)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait for it
            self._tidings.forget()
            if len(batch) > 1 and not concerns_all(error):
                # One submission contradicts the store or is too much for it: it must not take the others down.
                return [settled for item in batch for settled in self._outcomes([item], patience)]
            outcomes = [self._outcome_of_failure(submissions, error, patience)] * len(batch)
        else:
            self._tidings.tell()
            self._doubts.note_success(submissions)
        if len(batch) == 1:
            self._usual_seconds += (time.perf_counter() - began - self._usual_seconds) / 4
        return [(done, outcome) for (_, done), outcome in zip(batch, outcomes, strict=True)]

    def _outcome_of_failure(self, submissions: list[Submission], error: Exception, patience: float) -> Outcome:
        """Return what to tell those whose commit failed."""
        self._doubts.note_failure(submissions, error)
        if isinstance(error, sqlite3.IntegrityError):
            try:
                if self._doubts.resolves(self._connection, submissions[0]):
                    return None
            except sqlite3.Error as unreadable:
                error = unreadable
        told = translated(self._store, error) if isinstance(error, sqlite3.Error | OverflowError) else error
        if patience and isinstance(told, StoreLockedError):
            # Who it is that the others wait for, and what can be done about it.
            who = holder(self._database)
            return told if who is None else StoreLockedError(self._store, who)
        return told

    def _deliver(self, outcomes: Settled, pieces: int) -> None:
        # A closed loop belongs to a program that has ended: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, outcomes, pieces)

    def _settle(self, outcomes: Settled, pieces: int) -> None:
        self._handed_over -= pieces
        for done, outcome in outcomes:
            try:
                done(outcome)
            except Exception as error:  # noqa: BLE001 - one listener must not cost the others their answers
                self._loop.call_exception_handler(
                    {"message": "an answer of the store was not taken", "exception": error}
                )
