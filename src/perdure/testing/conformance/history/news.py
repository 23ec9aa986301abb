"""What listeners are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from perdure.base.events import Status
from perdure.ports.history_store import HistoryStore, News
from perdure.testing.conformance.history import kit


class Listener:
    """Collects what a store tells.

    Args:
        store: open.
        patience: seconds after which news that have not come fail a test.
    """

    def __init__(self, store: HistoryStore, patience: float) -> None:
        self.store = store
        self._patience = patience
        self._heard = News(0)
        self._told = asyncio.Event()
        self.stop = store.listen(self._hear)

    def _hear(self, news: News) -> None:
        self._heard |= news
        self._told.set()

    async def hears(self, news: News) -> None:
        """Wait until some news came, then forget all that came."""
        async with asyncio.timeout(self._patience):
            while news not in self._heard:
                self._told.clear()
                await self._told.wait()
        self._heard = News(0)


class Telling(kit.Suite):
    """What listeners are told; a store that cannot tell has nothing to prove."""

    @asynccontextmanager
    async def _listening(self, store: HistoryStore) -> AsyncGenerator[Listener | None]:
        """Listen as another process does."""
        other = self.reopen(store)
        await other.open()
        try:
            listener = Listener(other, self.patience)
            yield listener if listener.stop is not None else None
        finally:
            await other.close()

    @kit.on_open_store
    async def test_workers_of_the_app_are_told_of_an_instance_that_nobody_owns(self, store: HistoryStore) -> None:
        """Whoever accepted it."""
        async with self._listening(store) as listener:
            if listener is not None:
                lease = await listener.store.join("there", kit.APP)
                await store.start(kit.new("news"))
                await listener.hears(News.WORK)
                assert len(await kit.claim(listener.store, lease)) == 1

    @kit.on_open_store
    async def test_workers_of_the_app_are_told_of_a_signal_that_wakes_an_instance(self, store: HistoryStore) -> None:
        """It belongs to nobody, so that anyone may take it up."""
        async with self._listening(store) as listener:
            if listener is not None:
                lease = await listener.store.join("there", kit.APP)
                await kit.parked(listener.store, "waiting", lease)
                await store.signal("waiting", kit.raised("go"))
                await listener.hears(News.WORK)
                assert len(await kit.claim(listener.store, lease)) == 1

    @kit.on_open_store
    async def test_the_owner_is_told_of_a_signal(self, store: HistoryStore) -> None:
        """It is in the inbox of an instance in his hands."""
        async with self._listening(store) as listener:
            if listener is not None:
                lease = await listener.store.join("there", kit.APP)
                await kit.started(listener.store, "owned", lease)
                await store.signal("owned", kit.raised("go"))
                await listener.hears(News.WORK)
                assert len(await listener.store.inbox(lease)) == 1

    @kit.on_open_store
    async def test_workers_of_the_app_are_told_when_another_one_leaves_something(self, store: HistoryStore) -> None:
        """What it owned is free."""
        async with self._listening(store) as listener:
            if listener is not None:
                leaving = await store.join("leaving", kit.APP)
                await kit.started(store, "left", leaving)
                await listener.store.join("there", kit.APP)
                await store.leave(leaving)
                await listener.hears(News.WORK)

    @kit.on_open_store
    async def test_who_watches_an_instance_is_told_of_its_end(self, store: HistoryStore) -> None:
        """He need not have a worker."""
        async with self._listening(store) as listener:
            if listener is not None:
                lease = await store.join("here", kit.APP)
                key = await kit.started(store, "watched", lease)
                watched = await listener.store.watch(["watched", "nobody"])
                assert [(name, record.status) for name, record in watched.items()] == [("watched", Status.RUNNING)]
                await kit.append(store, lease, kit.episode(key, 1, park=kit.COMPLETED))
                await listener.hears(News.ENDS)

    @kit.on_open_store
    async def test_watching_shows_what_has_ended_already(self, store: HistoryStore) -> None:
        """So that no end falls between a look and the watching."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "ended", lease, kit.COMPLETED)
        assert (await store.watch(["ended"]))["ended"].status is Status.COMPLETED
        assert await store.watch([]) == {}

    @kit.on_open_store
    async def test_who_has_stopped_listening_is_told_nothing(self, store: HistoryStore) -> None:
        """Others still are."""
        async with self._listening(store) as deaf, self._listening(store) as listener:
            if deaf is not None and deaf.stop is not None and listener is not None:
                deaf.stop()
                await listener.store.join("there", kit.APP)
                await store.start(kit.new("news"))
                await listener.hears(News.WORK)
                assert deaf._heard == News(0)
