"""Waits for the end of runs: told at once by this process's worker, by the store's news, or by looking at the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence

from perdure.base.codec import Resolved
from perdure.base.errors import InstanceNotFoundError, StoreCorruptError, StoreError, StoreUnavailableError
from perdure.base.events import ExecutionCompleted, HistoryRow
from perdure.engine.values import resolve
from perdure.ports.history_store import HistoryStore, InstanceRecord

End = tuple[ExecutionCompleted, Resolved]
"""How a run ended, with what decoding its result needs."""

_LOOK_AGAIN = 0.2
"""Seconds between two looks for runs that end in another process, where the store does not tell of their ends."""

_LOOK_AGAIN_UNTOLD = 1.0
"""Seconds between two such looks where it does: for what a lost hint was about."""

_REST = 4
"""A look at all runs is followed by a rest of so many times its duration, however many ends are told of."""


class Ends:
    """The futures of those who wait, by instance id; one query serves all of them.

    Args:
        store: where runs that end elsewhere are found.
        is_here: whether this process has a run in hand, and will settle it by itself.
        listens: begins to listen to the store's news if need be; returns whether there are any.
    """

    def __init__(self, store: HistoryStore, is_here: Callable[[str], bool], listens: Callable[[], bool]) -> None:
        self._store = store
        self._is_here = is_here
        self._listens = listens
        self._futures: dict[str, list[asyncio.Future[End]]] = {}
        self._fresh = asyncio.Event()
        self._unasked: dict[str, None] = {}
        self._watched: set[str] = set()
        self._told = False
        self._seen_version = -1
        self._looked_at = 0.0
        self._rests_until = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def of(self, instance_id: str) -> End:
        """Return how a run ended, once it has.

        Raises:
            InstanceNotFoundError: no such instance.
            StoreError: the store cannot be read.
        """
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        waiting = self._futures.setdefault(instance_id, [])
        waiting.append(future)
        self._unasked[instance_id] = None
        if not self._is_here(instance_id):
            self._fresh.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            return await future
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._futures.get(instance_id) is waiting:
                self._forget(instance_id)

    def settle(self, instance_id: str, end: End) -> None:
        """Tell those who wait for a run how it ended."""
        for future in self._forget(instance_id):
            if not future.done():
                future.set_result(end)

    def note_gone(self, instance_id: str) -> None:
        """Take note that a run left this process's hands, so that it may go on, and end, elsewhere."""
        if instance_id in self._futures and instance_id not in self._watched:
            self._unasked[instance_id] = None
            self._fresh.set()

    def note_news(self) -> None:
        """Take note that one of the runs that are watched has ended."""
        self._told = True
        self._fresh.set()

    async def close(self) -> None:
        """Stop looking; whoever still waits is told so."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for waiting in self._futures.values():
            for future in waiting:
                if not future.done():
                    why = "the runtime was closed while somebody waited; the run goes on when it is opened again"
                    future.set_exception(StoreUnavailableError(self._store.name, why))
        # A turn of the loop for those who waited, which may be its last one.
        await asyncio.sleep(0)

    async def _look(self) -> None:
        while self._futures:
            self._fresh.clear()
            asked: list[str] = []
            try:
                asked = await self._worth_asking()
                if asked:
                    await self._ask(asked)
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait
                for instance_id in asked or list(self._futures):
                    self._fail(instance_id, error)
            # Not wait_for: before Python 3.12 it loses a cancellation that comes in the turn in which the time is up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._fresh.wait()

    def _pause(self) -> float:
        if self._told:
            return max(0.0, self._rests_until - asyncio.get_running_loop().time())
        return self._patience()

    def _patience(self) -> float:
        return _LOOK_AGAIN_UNTOLD if self._listens() else _LOOK_AGAIN

    async def _worth_asking(self) -> list[str]:
        """Return the runs that may have ended elsewhere: all when there is a reason, otherwise the new ones."""
        # In the order of asking, which no hash decides.
        chosen = self._unasked
        if await self._is_reason_to_ask_for_all():
            chosen = {**self._unasked, **dict.fromkeys(self._futures)}
        self._unasked = {}
        return [
            instance_id for instance_id in chosen if instance_id in self._futures and not self._is_here(instance_id)
        ]

    async def _is_reason_to_ask_for_all(self) -> bool:
        # Not at any moment, however much is told: this look costs as much as there are runs.
        now = asyncio.get_running_loop().time()
        if self._told:
            if now < self._rests_until:
                return False
            self._told = False
            return True
        if now - self._looked_at < self._patience():
            return False
        version = await self._store.version()
        if version == self._seen_version:
            return False
        self._looked_at, self._seen_version = now, version
        return True

    async def _ask(self, asked: Collection[str]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        records = await self._store.find_all(asked)
        await self._settle_finished(asked, records)
        running = [name for name in asked if name in self._futures and name not in self._watched]
        if running and self._listens():
            # Only a hint is lost when the store cannot take this now: the next look asks again.
            with contextlib.suppress(StoreError):
                records = await self._store.watch(running)
                self._watched.update(name for name in running if name in self._futures)
                await self._settle_finished(running, records)
        ended = loop.time()
        self._rests_until = max(self._rests_until, ended + _REST * (ended - began))

    async def _settle_finished(self, asked: Collection[str], records: Mapping[str, InstanceRecord]) -> None:
        finished: list[InstanceRecord] = []
        for instance_id in asked:
            record = records.get(instance_id)
            if record is None:
                self._fail(instance_id, InstanceNotFoundError(instance_id))
            elif record.status.finished and instance_id in self._futures:
                finished.append(record)
        if finished:
            await self._settle_ends(finished)

    async def _settle_ends(self, finished: Sequence[InstanceRecord]) -> None:
        try:
            histories = await self._store.load([record.key for record in finished])
            for record in finished:
                self.settle(record.instance_id, await _end(self._store, histories[record.key]))
        except StoreCorruptError as error:
            if len(finished) == 1:
                self._fail(finished[0].instance_id, error)
                return
            # One damaged run is no reason to fail those who wait for the others.
            for record in finished:
                await self._settle_ends([record])

    def _fail(self, instance_id: str, error: Exception) -> None:
        for future in self._forget(instance_id):
            if not future.done():
                future.set_exception(error)

    def _forget(self, instance_id: str) -> list[asyncio.Future[End]]:
        self._watched.discard(instance_id)
        return self._futures.pop(instance_id, [])


async def _end(store: HistoryStore, rows: list[HistoryRow]) -> End:
    end = rows[-1].events[-1]
    assert isinstance(end, ExecutionCompleted)
    return end, await resolve(store, [end.result])
