"""Workers, alive and dead, in one process and in several."""

from __future__ import annotations

import asyncio
from pathlib import Path

from perdure.base.codec import encode
from perdure.base.errors import StaleLeaseError
from perdure.base.events import (
    Status,
)
from perdure.base.ids import digest
from perdure.ports.history_store import (
    HistoryStore,
    Lease,
)
from perdure.testing.conformance.history import kit


class Leases(kit.Suite):
    """Workers, alive and dead, in one process and in several."""

    @kit.on_open_store
    async def test_every_lease_has_a_higher_token(self, store: HistoryStore) -> None:
        """Also after all others have left: tokens are never used again."""
        first = await store.join("first", kit.APP)
        await store.leave(first)
        second = await store.join("second", kit.APP)
        assert (first.worker, second.worker) == ("first", "second")
        assert second.token > first.token

    @kit.on_open_store
    async def test_apps_work_until_their_last_worker_leaves(self, store: HistoryStore) -> None:
        """However many there are, and whatever they are called."""
        first, second = await store.join("first", "shop"), await store.join("second", "shop")
        third = await store.join("third", "mill")
        assert await store.working_apps() == {"shop", "mill"}
        await store.leave(first)
        await store.leave(third)
        assert await store.working_apps() == {"shop"}
        await store.leave(second)
        assert await store.working_apps() == set()

    @kit.on_open_store
    async def test_leaving_sets_instances_free_at_once(self, store: HistoryStore) -> None:
        """It is no recovery: nobody died."""
        lease = await store.join("leaving", kit.APP)
        key = await kit.started(store, "left", lease)
        await kit.append(store, lease, kit.episode(key, 1))
        await store.leave(lease)
        record = await kit.record(store, "left")
        assert (record.owner, record.recoveries) == (None, 0)
        claimed = await kit.claim(store, await store.join("next", kit.APP))
        assert [(one.key, one.next_seq) for one in claimed] == [(key, 2)]

    @kit.on_open_store
    async def test_what_is_set_free_is_due_whatever_the_clock_says(self, store: HistoryStore) -> None:
        """Also when the clock went back meanwhile, so that its start is in the future."""
        lease = await store.join("leaving", kit.APP)
        key = await kit.started(store, "left", lease)
        await store.leave(lease)
        next_lease = await store.join("next", kit.APP)
        assert [one.key for one in await kit.claim(store, next_lease, now=kit.T0 - 3600)] == [key]

    @kit.on_open_store
    async def test_everything_under_an_ended_lease_is_refused(self, store: HistoryStore) -> None:
        """Nothing is changed by it."""
        lease = await store.join("ended", kit.APP)
        key = await kit.started(store, "fenced", lease)
        await store.leave(lease)
        before = await store.find("fenced")
        await kit.is_refused(kit.append(store, lease, kit.episode(key, 1, park=kit.COMPLETED)), StaleLeaseError)
        await kit.is_refused(store.start(kit.new("another", lease)), StaleLeaseError)
        await kit.is_refused(kit.claim(store, lease), StaleLeaseError)
        await kit.is_refused(store.inbox(lease), StaleLeaseError)
        await kit.is_refused(store.release(lease, key, due=None, waits=None, stalled=True), StaleLeaseError)
        assert await store.find("fenced") == before
        assert await store.find("another") is None
        assert len((await store.load([key]))[key]) == 1

    @kit.on_open_store
    async def test_a_lease_is_kept_until_it_is_left(self, store: HistoryStore) -> None:
        """Each lease by itself."""
        first, second = await store.join("first", kit.APP), await store.join("second", kit.APP)
        assert store.is_kept(first)
        await store.leave(first)
        assert not store.is_kept(first)
        assert store.is_kept(second)

    @kit.on_open_store
    async def test_the_living_are_not_reaped(self, store: HistoryStore) -> None:
        """A lease that its store keeps alive stays."""
        lease = await store.join("alive", kit.APP)
        await kit.started(store, "kept", lease)
        other = self.reopen(store)
        await other.open()
        try:
            assert await other.reap() == 0
        finally:
            await other.close()
        assert (await kit.record(store, "kept")).owner == "alive"

    def test_what_a_dead_worker_owned_is_reaped_once(self, tmp_path: Path) -> None:
        """A store that was closed without leaving is that of a dead worker: each instance counts one recovery."""

        async def run() -> None:
            first = self.make_store(tmp_path)
            await first.open()
            lease = await first.join("dead", kit.APP)
            keys = [await kit.started(first, name, lease) for name in ("a", "b")]
            await first.close()
            second = self.reopen(first)
            await second.open()
            try:
                assert await self.reaped(second) == 2
                assert await second.reap() == 0
                records = await second.find_all(["a", "b"])
                assert [(one.owner, one.recoveries) for one in records.values()] == [(None, 1)] * 2
                await kit.is_refused(kit.append(second, lease, kit.episode(keys[0], 1)), StaleLeaseError)
                assert {one.key for one in await kit.claim(second, await second.join("next", kit.APP))} == set(keys)
            finally:
                await second.close()

        asyncio.run(run())

    def test_everything_acknowledged_is_there_after_reopening(self, tmp_path: Path) -> None:
        """Instances, histories, inboxes, blobs and links, and numbers that go on where they were."""

        async def before() -> tuple[HistoryStore, Lease, int]:
            store = self.make_store(tmp_path)
            await store.open()
            lease = await store.join("one", kit.APP)
            key = await kit.started(store, "kept", lease)
            encoded = encode([kit.said("hello", "kept"), "x" * 2000])
            await kit.append(
                store, lease, kit.episode(key, 1, blobs=encoded.blobs, links=encoded.links, park=kit.WAITING)
            )
            await store.signal("kept", kit.raised("hello"))
            await store.leave(lease)
            await store.close()
            await store.close()
            return store, lease, key

        async def after(store: HistoryStore, lease: Lease, key: int) -> None:
            await store.open()
            try:
                next_lease = await store.join("two", kit.APP)
                assert next_lease.token > lease.token
                claimed = await kit.claim(store, next_lease)
                assert [(one.key, one.next_seq, len(one.signals)) for one in claimed] == [(key, 2, 1)]
                assert [row.seq for row in (await store.load([key]))[key]] == [0, 1]
                assert len(await store.blobs([digest(b"x" * 2000)])) == 1
                assert len(await store.conversation(kit.said("hello", "kept").key)) == 1
                assert await kit.started(store, "later") > key
            finally:
                await store.close()

        store, lease, key = asyncio.run(before())
        asyncio.run(after(self.reopen(store), lease, key))

    @kit.on_open_store
    async def test_another_process_sees_changes_and_their_version(self, store: HistoryStore) -> None:
        """What is acknowledged here is visible there."""
        other = self.reopen(store)
        await other.open()
        try:
            seen = await other.version()
            await store.start(kit.new("news"))
            assert await other.version() != seen
            assert await other.find("news") is not None
            assert await other.signal("news", kit.raised("hello")) is Status.RUNNING
        finally:
            await other.close()
