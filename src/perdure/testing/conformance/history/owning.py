"""Who executes an instance, and when it is due."""

from __future__ import annotations

import asyncio

import msgspec

from perdure.base.errors import StaleLeaseError
from perdure.base.events import (
    Status,
)
from perdure.ports.history_store import (
    HistoryStore,
    Park,
)
from perdure.testing.conformance.history import kit


class Owning(kit.Suite):
    """Who executes an instance, and when it is due."""

    @kit.on_open_store
    async def test_a_start_that_names_a_lease_gives_it_the_instance(self, store: HistoryStore) -> None:
        """It is owned at once, and nobody else can claim it."""
        mine, other = await store.join("mine", kit.APP), await store.join("other", kit.APP)
        await kit.started(store, "owned", mine)
        assert (await kit.record(store, "owned")).owner == "mine"
        assert await kit.claim(store, other) == []
        assert await store.next_due(other, [kit.WORKFLOW]) is None

    @kit.on_open_store
    async def test_a_parked_instance_waits_for_its_due_time(self, store: HistoryStore) -> None:
        """It belongs to nobody, shows what it waits for, and cannot be claimed before it is due."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "timer", lease, Park(status=Status.RUNNING, due=kit.T0 + 60, waits='{"timer":1}'))
        record = await kit.record(store, "timer")
        assert (record.owner, record.due, record.waits) == (None, kit.T0 + 60, '{"timer":1}')
        assert await store.next_due(lease, [kit.WORKFLOW]) == kit.T0 + 60
        assert await kit.claim(store, lease, now=kit.T0 + 59) == []
        assert [one.next_seq for one in await kit.claim(store, lease, now=kit.T0 + 60)] == [2]

    @kit.on_open_store
    async def test_an_instance_that_waits_for_a_signal_is_never_due(self, store: HistoryStore) -> None:
        """Without a due time only a signal brings it back."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "approval", lease)
        assert await store.next_due(lease, [kit.WORKFLOW]) is None
        assert await kit.claim(store, lease, now=kit.T0 * 2) == []

    @kit.on_open_store
    async def test_parking_with_signals_left_is_due_at_once(self, store: HistoryStore) -> None:
        """A signal that the last episode did not take over is not slept over."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "late", lease)
        await store.signal("late", kit.raised("first"))
        await store.signal("late", kit.raised("second"))
        first = (await store.inbox(lease))[0]
        park = Park(status=Status.RUNNING, due=kit.T0 + 60)
        await kit.append(store, lease, kit.episode(key, 1, consumed=(first.position,), park=park))
        assert (await kit.record(store, "late")).due == 0
        assert [[signal.event for signal in one.signals] for one in await kit.claim(store, lease, now=0)] == [
            [kit.raised("second")]
        ]

    @kit.on_open_store
    async def test_a_finished_instance_is_nobodys_and_never_due(self, store: HistoryStore) -> None:
        """It shows how and when it ended; its inbox is cleared."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "end", lease)
        await store.signal("end", kit.raised("unread"))
        await kit.append(store, lease, kit.episode(key, 1, park=Park(status=Status.FAILED)))
        record = await kit.record(store, "end")
        assert (record.status, record.finished_at) == (Status.FAILED, kit.T0 + 1)
        assert (record.owner, record.due, record.waits) == (None, None, None)
        assert await kit.claim(store, lease, now=kit.T0 * 2) == []
        assert await store.inbox(lease) == []

    @kit.on_open_store
    async def test_a_released_instance_is_due_when_it_says(self, store: HistoryStore) -> None:
        """Giving back adds nothing to the history."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "back", lease)
        await store.release(lease, key, due=kit.T0 + 5, waits='{"why":1}', stalled=False)
        record = await kit.record(store, "back")
        assert (record.owner, record.due, record.waits) == (None, kit.T0 + 5, '{"why":1}')
        assert [one.next_seq for one in await kit.claim(store, lease, now=kit.T0 + 5)] == [1]

    @kit.on_open_store
    async def test_a_released_instance_with_signals_is_due_at_once(self, store: HistoryStore) -> None:
        """Its inbox is a reason to go on, unless it is stalled."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "back", lease)
        await store.signal("back", kit.raised("hello"))
        await store.release(lease, key, due=None, waits=None, stalled=False)
        assert (await kit.record(store, "back")).due == 0

    @kit.on_open_store
    async def test_a_stalled_instance_waits_for_a_further_signal(self, store: HistoryStore) -> None:
        """What is in its inbox already does not wake it: it would stall again, for ever."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "stalled", lease)
        await store.signal("stalled", kit.raised("old"))
        await store.release(lease, key, due=None, waits='{"stalled":"x"}', stalled=True)
        assert await kit.claim(store, lease, now=kit.T0 * 2) == []
        await store.signal("stalled", kit.raised("new"))
        claimed = await kit.claim(store, lease, now=0)
        assert [signal.event for signal in claimed[0].signals] == [kit.raised("old"), kit.raised("new")]

    @kit.on_open_store
    async def test_a_signal_that_came_unseen_wakes_a_stalled_instance(self, store: HistoryStore) -> None:
        """Between its claim and its release nobody may have looked."""
        lease = await store.join("one", kit.APP)
        await kit.started(store, "stalled")
        await store.signal("stalled", kit.raised("old"))
        (claimed,) = await kit.claim(store, lease)
        seen = claimed.signals[-1].position
        await store.release(lease, claimed.key, due=None, waits=None, stalled=True, seen=seen)
        assert await kit.claim(store, lease, now=kit.T0 * 2) == []
        await store.signal("stalled", kit.raised("further"))
        (claimed,) = await kit.claim(store, lease)
        await store.release(lease, claimed.key, due=None, waits=None, stalled=True, seen=seen)
        assert len(await kit.claim(store, lease, now=0)) == 1

    @kit.on_open_store
    async def test_a_release_may_say_where_the_instance_stands(self, store: HistoryStore) -> None:
        """Without a row of its own."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "held", lease)
        await store.release(lease, key, due=None, waits=None, stalled=True, status=Status.SUSPENDED)
        assert (await kit.record(store, "held")).status is Status.SUSPENDED
        assert len((await store.load([key]))[key]) == 1

    @kit.on_open_store
    async def test_only_its_owner_releases_an_instance(self, store: HistoryStore) -> None:
        """A release by anybody else is refused, and changes nothing."""
        mine, other = await store.join("mine", kit.APP), await store.join("other", kit.APP)
        key = await kit.started(store, "owned", mine)
        await kit.is_refused(store.release(other, key, due=0, waits=None, stalled=False), StaleLeaseError)
        assert (await kit.record(store, "owned")).owner == "mine"

    @kit.on_open_store
    async def test_claims_take_the_longest_due_first_up_to_the_limit(self, store: HistoryStore) -> None:
        """Each instance is given once."""
        for name, at in (("third", kit.T0 + 3), ("first", kit.T0 + 1), ("second", kit.T0 + 2), ("future", kit.T0 + 99)):
            await store.start(kit.new(name, at=at))
        lease = await store.join("one", kit.APP)
        assert await store.next_due(lease, [kit.WORKFLOW]) == kit.T0 + 1
        assert [one.instance_id for one in await kit.claim(store, lease, now=kit.T0 + 9, limit=2)] == [
            "first",
            "second",
        ]
        assert [one.instance_id for one in await kit.claim(store, lease, now=kit.T0 + 9, limit=2)] == ["third"]
        assert await store.next_due(lease, [kit.WORKFLOW]) == kit.T0 + 99

    @kit.on_open_store
    async def test_only_the_named_workflows_are_claimed(self, store: HistoryStore) -> None:
        """A worker never gets what it cannot execute."""
        await store.start(kit.new("mine"))
        await store.start(kit.new("foreign", workflow="foreign"))
        lease = await store.join("one", kit.APP)
        assert await store.claim(lease, [], kit.T0, 9) == []
        assert await store.next_due(lease, []) is None
        claimed = await store.claim(lease, [kit.WORKFLOW, "unheard-of"], kit.T0, 9)
        assert [(one.instance_id, one.workflow) for one in claimed] == [("mine", kit.WORKFLOW)]

    @kit.on_open_store
    async def test_a_worker_is_given_its_own_apps_instances_only(self, store: HistoryStore) -> None:
        """Two apps may have a workflow of the same name: each sees and executes its own runs."""
        shop, bank = await store.join("one", "shop"), await store.join("two", "bank")
        assert (shop.app_id, bank.app_id) == ("shop", "bank")
        for number, app_id in enumerate(("bank", "shop", "bank", "shop", "nobody's")):
            await store.start(kit.new(f"{app_id}-{number}", at=kit.T0 + number, app_id=app_id))
        assert await store.next_due(bank, [kit.WORKFLOW]) == kit.T0
        assert await store.next_due(shop, [kit.WORKFLOW]) == kit.T0 + 1
        assert [one.instance_id for one in await kit.claim(store, shop, now=kit.T0 + 9)] == ["shop-1", "shop-3"]
        assert await store.next_due(shop, [kit.WORKFLOW]) is None
        assert [one.instance_id for one in await kit.claim(store, bank, now=kit.T0 + 9)] == ["bank-0", "bank-2"]

    @kit.on_open_store
    async def test_a_signalled_instance_goes_to_its_own_app(self, store: HistoryStore) -> None:
        """Whoever sends the signal, and whichever app parked the instance last."""
        shop, bank = await store.join("one", "shop"), await store.join("two", "bank")
        await store.start(kit.new("shop-1", shop, app_id="shop"))
        record = await kit.record(store, "shop-1")
        await kit.append(store, shop, kit.episode(record.key, 1, park=kit.WAITING))
        await store.signal("shop-1", kit.raised("go"))
        assert await kit.claim(store, bank) == []
        assert [one.key for one in await kit.claim(store, shop)] == [record.key]

    @kit.on_open_store
    async def test_what_an_apps_worker_leaves_stays_with_the_app(self, store: HistoryStore) -> None:
        """Another app's worker is no heir."""
        shop, bank = await store.join("one", "shop"), await store.join("two", "bank")
        await store.start(kit.new("shop-1", shop, app_id="shop"))
        await store.leave(shop)
        assert await kit.claim(store, bank) == []
        assert len(await kit.claim(store, await store.join("heir", "shop"))) == 1

    @kit.on_open_store
    async def test_a_claim_brings_the_inbox_along(self, store: HistoryStore) -> None:
        """Oldest first, with growing positions."""
        key = await kit.started(store, "waiting")
        for name in ("a", "b", "c"):
            await store.signal("waiting", kit.raised(name))
        claimed = (await kit.claim(store, await store.join("one", kit.APP)))[0]
        assert [(signal.key, signal.event) for signal in claimed.signals] == [(key, kit.raised(name)) for name in "abc"]
        positions = [signal.position for signal in claimed.signals]
        assert positions == sorted(set(positions))

    @kit.on_open_store
    async def test_claims_of_several_workflows_take_the_longest_due_first(self, store: HistoryStore) -> None:
        """The order is that of the due times, across workflows."""
        names = ["a", "b", "c"]
        for number, name in enumerate(("b", "a", "c", "a", "b", "c")):
            await store.start(kit.new(f"{name}-{number}", at=kit.T0 + number, workflow=name))
        lease = await store.join("one", kit.APP)
        assert await store.next_due(lease, names) == kit.T0
        assert await store.next_due(lease, ["c"]) == kit.T0 + 2
        first = await store.claim(lease, names, kit.T0 + 9, 4)
        assert [one.instance_id for one in first] == ["b-0", "a-1", "c-2", "a-3"]
        rest = await store.claim(lease, names, kit.T0 + 4, 4)
        assert [one.instance_id for one in rest] == ["b-4"]

    @kit.on_open_store
    async def test_a_claim_for_a_family_leaves_all_others_alone(self, store: HistoryStore) -> None:
        """That instance, what it called, and what those called; of the lease's app and the named workflows."""
        lease, names = await store.join("one", kit.APP), [kit.WORKFLOW]
        await store.start(kit.new("neighbour", at=kit.T0 - 1))
        for name, parent in (("root", None), ("child", "root"), ("grandchild", "child"), ("stranger", "neighbour")):
            new = msgspec.structs.replace(kit.new(name, at=kit.T0 + len(name)), parent=parent)
            await store.start(new)
        await store.start(msgspec.structs.replace(kit.new("abroad", app_id="other"), parent="root"))
        await store.start(msgspec.structs.replace(kit.new("unknown", workflow="unknown"), parent="root"))
        assert await store.next_due(lease, names, "root") == kit.T0 + 4
        assert await store.next_due(lease, names, "nobody") is None
        assert await store.claim(lease, names, kit.T0 + 3, 9, "root") == []
        first = await store.claim(lease, names, kit.T0 + 9, 1, "root")
        rest = await store.claim(lease, names, kit.T0 + 99, 9, "root")
        assert [one.instance_id for one in (*first, *rest)] == ["root", "child", "grandchild"]
        assert await store.next_due(lease, names, "root") is None
        others = await store.claim(lease, names, kit.T0 + 99, 9)
        assert [one.instance_id for one in others] == ["neighbour", "stranger"]

    @kit.on_open_store
    async def test_concurrent_claims_never_share_an_instance(self, store: HistoryStore) -> None:
        """Two workers over the same state, one owner each."""
        other = self.reopen(store)
        await other.open()
        try:
            for number in range(40):
                await store.start(kit.new(f"n{number}"))
            leases = await store.join("here", kit.APP), await other.join("there", kit.APP)
            batches = await asyncio.gather(
                *(
                    kit.claim(place, lease, limit=5)
                    for _ in range(5)
                    for place, lease in zip((store, other), leases, strict=True)
                )
            )
            keys = [one.key for batch in batches for one in batch]
            assert len(keys) == len(set(keys)) == 40
        finally:
            await other.close()
