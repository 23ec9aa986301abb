"""What is added from elsewhere, found, and deleted: restored, listed and purged instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.base.codec import Encoded, encode
from perdure.base.errors import StoreCorruptError
from perdure.base.events import ExecutionStarted, Status, TaskCompleted, TaskScheduled, encode_events
from perdure.ports.history_store import (
    HistoryStore,
    InstanceQuery,
    Lease,
    NewInstance,
    Park,
    Restored,
)
from perdure.testing.conformance.history import kit


def _restored(instance_id: str, **others: Any) -> Restored:
    rows = [
        (0, kit.T0 - 50.25, encode_events([kit.STARTED])),
        (1, kit.T0 - 40.125, encode_events([TaskScheduled(id=0, name="a")])),
    ]
    given: dict[str, Any] = {
        "new": kit.new(instance_id),
        "rows": rows,
        "park": Park(status=Status.RUNNING, due=kit.T0 + 5, waits='{"why":1}'),
        **others,
    }
    return Restored(**given)


async def _is_missing(store: HistoryStore, addresses: Mapping[str, bytes] | set[str]) -> bool:
    """Whether none of some content is there any more."""
    for address in addresses:
        try:
            await store.blobs([address])
        except StoreCorruptError:
            continue
        return False
    return True


async def _with_content(store: HistoryStore, lease: Lease, instance_id: str, value: object) -> tuple[int, Encoded]:
    """Start an instance whose second row holds a large value, and end it; return its key and the value."""
    encoded = encode(value)
    key = await kit.started(store, instance_id, lease)
    event = TaskCompleted(task_id=0, result=encoded.raw)
    episode = kit.episode(key, 1, event, blobs=encoded.blobs, links=encoded.links, park=kit.COMPLETED)
    await kit.append(store, lease, episode)
    return key, encoded


class Keeping(kit.Suite):
    """What is added from elsewhere, found, and deleted."""

    @kit.on_open_store
    async def test_a_restored_instance_is_as_it_was_given(self, store: HistoryStore) -> None:
        """Rows to the last digit, its inbox, and how it stands; it goes on from there."""
        lease = await store.join("one", kit.APP)
        new = msgspec.structs.replace(kit.new("again"), parent="p", attributes={"a": 1})
        assert await store.restore([_restored("again", new=new, custom_status='"x"', inbox=(kit.raised("e"),))])
        record = await kit.record(store, "again")
        assert (record.status, record.due, record.waits) == (Status.RUNNING, 0, '{"why":1}')
        assert (record.parent, record.attributes, record.custom_status) == ("p", {"a": 1}, '"x"')
        assert [(row.seq, row.at) for row in (await store.load([record.key]))[record.key]] == [
            (0, kit.T0 - 50.25),
            (1, kit.T0 - 40.125),
        ]
        claimed = await kit.claim(store, lease)
        assert [(one.next_seq, [signal.event for signal in one.signals]) for one in claimed] == [(2, [kit.raised("e")])]
        await kit.append(store, lease, kit.episode(record.key, 2))

    @kit.on_open_store
    async def test_a_restored_instance_without_inbox_is_due_when_it_says(self, store: HistoryStore) -> None:
        """It belongs to nobody."""
        lease = await store.join("one", kit.APP)
        await store.restore([_restored("timer")])
        assert (await kit.record(store, "timer")).owner is None
        assert await store.next_due(lease, [kit.WORKFLOW]) == kit.T0 + 5

    @kit.on_open_store
    async def test_a_restored_instance_may_have_ended(self, store: HistoryStore) -> None:
        """It is due never, and shows when it ended."""
        lease = await store.join("one", kit.APP)
        ended = _restored("ended", park=Park(status=Status.FAILED), finished_at=kit.T0 - 1)
        assert await store.restore([ended])
        record = await kit.record(store, "ended")
        assert (record.status, record.finished_at, record.due) == (Status.FAILED, kit.T0 - 1, None)
        assert await store.signal("ended", kit.raised("late")) is Status.FAILED
        assert await store.next_due(lease, [kit.WORKFLOW]) is None

    @kit.on_open_store
    async def test_a_restored_instance_may_have_generations(self, store: HistoryStore) -> None:
        """Its very first row, and those of the last one."""
        rows = [
            (seq, kit.T0 + seq, encode_events([ExecutionStarted(name=kit.WORKFLOW, generation=seq)]))
            for seq in (0, 7, 8)
        ]
        assert await store.restore([_restored("renewed", rows=rows, base=7)])
        key = (await kit.record(store, "renewed")).key
        assert [row.seq for row in (await store.load([key]))[key]] == [7, 8]
        assert await store.rows(key) == rows

    @kit.on_open_store
    async def test_several_instances_are_restored_together_or_not_at_all(self, store: HistoryStore) -> None:
        """One id that is taken, and nothing is changed."""
        await store.start(kit.new("taken"))
        assert not await store.restore([_restored("first"), _restored("taken")])
        assert await store.find("first") is None
        assert await store.restore([_restored("first"), _restored("second")])
        assert len(await store.find_all(["first", "second"])) == 2

    @kit.on_open_store
    async def test_rows_and_inbox_are_read_as_they_are_stored(self, store: HistoryStore) -> None:
        """Of an unknown instance there is nothing."""
        key = await kit.started(store, "one")
        await store.signal("one", kit.raised("a"))
        await store.signal("one", kit.raised("b"))
        assert await store.rows(key) == [(0, kit.T0, encode_events([kit.STARTED]))]
        assert await store.waiting(key) == [kit.raised("a"), kit.raised("b")]
        assert await store.rows(10_000) == []
        assert await store.waiting(10_000) == []

    @kit.on_open_store
    async def test_purged_instances_are_gone_and_the_others_stay(self, store: HistoryStore) -> None:
        """Only those that have ended go; a number is never given again."""
        lease = await store.join("one", kit.APP)
        runs = await kit.started(store, "runs", lease)
        waits = await kit.parked(store, "waits", lease)
        ended = await kit.parked(store, "ended", lease, kit.COMPLETED)
        assert await store.purge([runs, waits, ended, 10_000]) == 1
        assert await store.purge([ended]) == 0
        assert set(await store.find_all(["runs", "waits", "ended"])) == {"runs", "waits"}
        assert await store.load([ended]) == {ended: []}
        assert await store.signal("ended", kit.raised("late")) is None
        assert await kit.started(store, "ended") > ended
        assert (await store.check())["instances"] == {"RUNNING": 3}

    @kit.on_open_store
    async def test_a_purged_instance_no_longer_lists_its_attributes_or_its_children(self, store: HistoryStore) -> None:
        """Another one with its id begins with a clean slate."""
        lease = await store.join("one", kit.APP)
        new = msgspec.structs.replace(kit.new("one", lease), parent="p", attributes={"a": 1})
        key = (await store.start(new)).key
        await kit.append(store, lease, kit.episode(key, 1, park=kit.COMPLETED))
        await store.purge([key])
        await store.start(kit.new("one"))
        assert (await kit.record(store, "one")).attributes == {}
        assert await store.instances(InstanceQuery(attributes={"a": 1})) == []
        assert await store.instances(InstanceQuery(parent="p")) == []

    @kit.on_open_store
    async def test_content_that_another_instance_refers_to_outlives_a_purge(self, store: HistoryStore) -> None:
        """Values, nested ones, and conversations."""
        lease = await store.join("one", kit.APP)
        value = [kit.said("hello " * 300, "talk"), ["x" * 5000, "y" * 5000]]
        first, encoded = await _with_content(store, lease, "first", value)
        second, _ = await _with_content(store, lease, "second", value)
        key = kit.said("hello " * 300, "talk").key
        assert await store.purge([first]) == 1
        assert await store.blobs(list(encoded.blobs)) == encoded.blobs
        assert len(await store.conversation(key)) == 1
        assert await store.purge([second]) == 1

    @kit.on_open_store
    async def test_a_fork_keeps_the_content_of_its_source(self, store: HistoryStore) -> None:
        """Though the source is purged, and though none of it came with the fork."""
        lease = await store.join("one", kit.APP)
        large = ["x" * 5000, ["y" * 5000], *(f"{n} " * 100 for n in range(200))]
        source, encoded = await _with_content(store, lease, "source", [kit.said("hi " * 900, "talk"), large])
        rows = await store.rows(source)
        fork = _restored("fork", rows=rows, source=source)
        assert await store.restore([fork])
        await store.purge([source])
        assert await store.blobs(list(encoded.blobs)) == encoded.blobs
        assert len(await store.conversation(kit.said("hi " * 900, "talk").key)) == 1

    @kit.on_open_store
    async def test_the_longest_ended_expire_first(self, store: HistoryStore) -> None:
        """Of one app, one workflow in whichever version, some statuses, before a moment, so many at most."""
        lease = await store.join("one", kit.APP)

        async def ends(name: str, at: int, status: Status = Status.COMPLETED, **others: Any) -> int:
            new: NewInstance = msgspec.structs.replace(kit.new(name, lease), **others)
            key = (await store.start(new)).key
            episode = kit.episode(key, 1, park=Park(status=status))
            await kit.append(store, lease, msgspec.structs.replace(episode, at=kit.T0 + at))
            return key

        keys = [await ends(f"n{at}", at) for at in (3, 1, 2)]
        versioned = await ends("versioned", 4, workflow="conformance@2")
        failed = await ends("failed", 5, Status.FAILED)
        await ends("foreign", 1, app_id="other")
        await ends("another", 1, workflow="conformance2")
        await kit.started(store, "runs", lease)

        async def expired(until: float, limit: int = 9, status: Status = Status.COMPLETED) -> list[int]:
            return await store.expired(
                app_id="suite", workflow=kit.WORKFLOW, status=[status], until=kit.T0 + until, limit=limit
            )

        assert await expired(9) == [keys[1], keys[2], keys[0], versioned]
        assert await expired(9, 2) == [keys[1], keys[2]]
        assert await expired(2) == [keys[1]]
        assert await expired(9, status=Status.FAILED) == [failed]
        everything = await store.expired(app_id="suite", workflow=None, status=list(Status), until=kit.T0 + 9, limit=9)
        assert len(everything) == 6

    @kit.on_open_store
    async def test_instances_are_listed_by_every_condition(self, store: HistoryStore) -> None:
        """Each by itself, and all together."""
        lease = await store.join("one", kit.APP)
        wanted = msgspec.structs.replace(
            kit.new("wanted", lease, at=kit.T0 + 5, workflow="flow@2"), parent="p", attributes={"a": "x", "n": 1}
        )
        key = (await store.start(wanted)).key
        await kit.append(store, lease, msgspec.structs.replace(kit.episode(key, 1, park=kit.COMPLETED), at=kit.T0 + 7))
        other = msgspec.structs.replace(kit.new("other", at=kit.T0 + 1), app_id="else", attributes={"a": "x", "n": 1.0})
        await store.start(other)
        later = msgspec.structs.replace(kit.new("later", at=kit.T0 + 9), due=kit.T0 + 99, attributes={"n": True})
        await store.start(later)
        conditions: dict[str, Any] = {
            "status": (Status.COMPLETED,),
            "workflow": "flow",
            "app_id": "suite",
            "parent": "p",
            "created_from": kit.T0 + 5,
            "created_until": kit.T0 + 9,
            "finished_until": kit.T0 + 8,
            "attributes": {"a": "x", "n": 1},
        }
        both = {
            "app_id": {"wanted", "later"},
            "created_from": {"wanted", "later"},
            "created_until": {"wanted", "other"},
        }
        for name, value in conditions.items():
            query = InstanceQuery(**{name: value})
            assert {one.instance_id for one in await store.instances(query)} == both.get(name, {"wanted"}), name
        assert [one.instance_id for one in await store.instances(InstanceQuery(**conditions))] == ["wanted"]
        for name, value in (("finished_until", kit.T0 + 7), ("created_until", kit.T0 + 5), ("workflow", "flo")):
            changed: dict[str, Any] = {**conditions, name: value}
            assert await store.instances(InstanceQuery(**changed)) == [], name
        assert [one.instance_id for one in await store.instances(InstanceQuery(status=(Status.PENDING,)))] == ["later"]


class Reclaiming(kit.Suite):
    """What a store on a disk gives back; one that lives as long as its process need not."""

    @kit.on_open_store
    async def test_content_that_nobody_refers_to_is_deleted_with_the_last_who_did(self, store: HistoryStore) -> None:
        """Values, what is nested in them, conversations and the texts of their messages."""
        lease = await store.join("one", kit.APP)
        talk = kit.said("hello " * 300, "talk")
        value = [talk, ["x" * 5000, "y" * 5000], *(f"{n} " * 100 for n in range(200))]
        keys = [(await _with_content(store, lease, name, value))[0] for name in ("first", "second")]
        encoded = encode([kit.said("hello " * 300, "talk"), *value[1:]])
        await store.purge(keys[:1])
        assert not await _is_missing(store, encoded.blobs)
        await store.purge(keys[1:])
        assert await _is_missing(store, encoded.blobs)
        await kit.is_refused(store.conversation(talk.key), StoreCorruptError)
