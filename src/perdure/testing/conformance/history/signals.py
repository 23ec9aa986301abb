"""Inboxes."""

from __future__ import annotations

from perdure.base.events import (
    EventRaised,
    Status,
)
from perdure.ports.history_store import (
    HistoryStore,
    Park,
)
from perdure.testing.conformance.history import kit


class Signals(kit.Suite):
    """Inboxes."""

    @kit.on_open_store
    async def test_a_signal_wakes_an_instance_that_waits(self, store: HistoryStore) -> None:
        """Whatever it waited for, it is due at once."""
        lease = await store.join("one", kit.APP)
        for name, due in (("signal", None), ("timer", kit.T0 + 60)):
            await kit.parked(store, name, lease, Park(status=Status.RUNNING, due=due))
            assert await store.signal(name, kit.raised("wake up")) is Status.RUNNING
        assert await store.next_due(lease, [kit.WORKFLOW]) == 0
        assert {one.instance_id for one in await kit.claim(store, lease, now=0)} == {"signal", "timer"}

    @kit.on_open_store
    async def test_a_signal_to_an_owned_instance_is_in_its_owners_inbox(self, store: HistoryStore) -> None:
        """Each owner sees the signals of its own instances, the oldest first across all of them."""
        mine, other = await store.join("mine", kit.APP), await store.join("other", kit.APP)
        one, two = await kit.started(store, "one", mine), await kit.started(store, "two", mine)
        await kit.started(store, "foreign", other)
        for name in ("two", "one", "foreign", "two"):
            await store.signal(name, kit.raised("x"))
        assert [signal.key for signal in await store.inbox(mine)] == [two, one, two]
        assert len(await store.inbox(other)) == 1

    @kit.on_open_store
    async def test_a_consumed_signal_is_gone(self, store: HistoryStore) -> None:
        """It leaves the inbox with the episode that took it over, the others stay."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "one", lease)
        for name in ("a", "b"):
            await store.signal("one", kit.raised(name))
        first, second = await store.inbox(lease)
        await kit.append(store, lease, kit.episode(key, 1, EventRaised(name="a"), consumed=(first.position,)))
        assert await store.inbox(lease) == [second]

    @kit.on_open_store
    async def test_a_signal_to_a_finished_instance_is_dropped(self, store: HistoryStore) -> None:
        """The answer is its status, and nothing changes."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "done", lease, kit.COMPLETED)
        before = await store.find("done")
        assert await store.signal("done", kit.raised("too late")) is Status.COMPLETED
        assert await store.find("done") == before
        assert await store.next_due(lease, [kit.WORKFLOW]) is None
