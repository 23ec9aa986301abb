"""Waits for the end of runs: told at once by this process's worker, otherwise by looking at the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from perdure.base.codec import Resolved
from perdure.base.errors import InstanceNotFoundError, StoreUnavailableError
from perdure.base.events import ExecutionCompleted
from perdure.engine.values import resolve
from perdure.ports.history_store import HistoryStore, InstanceRecord

End = tuple[ExecutionCompleted, Resolved]
"""How a run ended, with what decoding its result needs."""

_LOOK_AGAIN = 0.2
"""Seconds between two looks for runs that end in another process."""


class Ends:
    """The futures of those who wait, by instance id; one query serves all of them.

    Args:
        store: where runs that end elsewhere are found.
        is_here: whether this process has a run in hand, and will settle it by itself.
    """

    def __init__(self, store: HistoryStore, is_here: Callable[[str], bool]) -> None:
        self._store = store
        self._is_here = is_here
        self._futures: dict[str, list[asyncio.Future[End]]] = {}
        self._fresh = asyncio.Event()
        self._unasked: dict[str, None] = {}
        self._seen_version = -1
        self._looked_at = 0.0
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
                del self._futures[instance_id]

    def settle(self, instance_id: str, end: End) -> None:
        """Tell those who wait for a run how it ended."""
        for future in self._futures.pop(instance_id, ()):
            if not future.done():
                future.set_result(end)

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
                    await self._settle_finished(asked)
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait
                for instance_id in asked or list(self._futures):
                    self._fail(instance_id, error)
            # Not wait_for: before Python 3.12 it loses a cancellation that comes in the turn in which the time is up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._fresh.wait()

    async def _worth_asking(self) -> list[str]:
        """Return the runs that may have ended elsewhere: after a change of the store all, otherwise the new ones."""
        version = await self._store.version()
        now = asyncio.get_running_loop().time()
        chosen = list(self._unasked)
        if version != self._seen_version and now - self._looked_at >= _LOOK_AGAIN:
            # Not more often, however many begin to wait: this look costs as much as there are of them.
            chosen = list(self._futures)
            self._seen_version, self._looked_at = version, now
        self._unasked.clear()
        return [instance_id for instance_id in chosen if not self._is_here(instance_id)]

    async def _settle_finished(self, asked: list[str]) -> None:
        records = await self._store.find_all(asked)
        for instance_id in asked:
            record = records.get(instance_id)
            if record is None:
                self._fail(instance_id, InstanceNotFoundError(instance_id))
            elif record.status.finished and instance_id in self._futures:
                self.settle(instance_id, await stored_end(self._store, record))

    def _fail(self, instance_id: str, error: Exception) -> None:
        for future in self._futures.pop(instance_id, ()):
            if not future.done():
                future.set_exception(error)


async def stored_end(store: HistoryStore, record: InstanceRecord) -> End:
    """Return how a finished run ended, from its history."""
    rows = (await store.load([record.key]))[record.key]
    end = rows[-1].events[-1]
    assert isinstance(end, ExecutionCompleted)
    return end, await resolve(store, [end.result])
