"""What episodes change beyond their own rows: children, events for others, generations, what people see."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.base.codec import encode
from perdure.base.errors import StaleLeaseError
from perdure.base.events import ExecutionStarted, ExecutionTerminated, Status, encode_event, encode_events
from perdure.ports.history_store import Changes, ChildStart, HistoryStore, NewInstance, Park, Sending
from perdure.testing.conformance.history import kit

_REFUSED = kit.raised("refused")
_END = encode_event(ExecutionTerminated(reason="over"))


def _child(instance_id: str, parent: str | None = "parent", **others: Any) -> NewInstance:
    return msgspec.structs.replace(kit.new(instance_id), parent=parent, **others)


def _starts(*children: NewInstance) -> Changes:
    return Changes(starts=tuple(ChildStart(new=child, refused=_REFUSED) for child in children))


class ChangesOfEpisodes(kit.Suite):
    """What episodes change beyond their own rows."""

    @kit.on_open_store
    async def test_children_begin_with_the_episode_that_called_them(self, store: HistoryStore) -> None:
        """The answer says how each fared, in order; a child that names a lease belongs to it."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        mine, other = _child("mine", lease=lease), _child("other", app_id="elsewhere")
        outcomes = await kit.append(store, lease, kit.episode(key, 1, changes=_starts(mine, other)))
        assert [one.created for one in outcomes] == [True, True]
        records = await store.find_all(["mine", "other"])
        assert [(one.owner, one.parent, one.app_id) for one in (records["mine"], records["other"])] == [
            ("one", "parent", "suite"),
            (None, "parent", "elsewhere"),
        ]
        assert [one.key for one in outcomes] == [records["mine"].key, records["other"].key]
        assert await kit.claim(store, lease) == []
        elsewhere = await store.join("two", "elsewhere")
        assert [one.instance_id for one in await kit.claim(store, elsewhere)] == ["other"]

    @kit.on_open_store
    async def test_a_child_whose_id_is_taken_is_refused_in_its_callers_inbox(self, store: HistoryStore) -> None:
        """The others of the same episode begin; the instance that has the id stays as it is."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        await store.start(kit.new("taken"))
        before = await store.find("taken")
        called = [_child("first"), _child("taken"), _child("parent"), _child("first")]
        outcomes = await kit.append(store, lease, kit.episode(key, 1, changes=_starts(*called)))
        assert [one.created for one in outcomes] == [True, False, False, False]
        assert [signal.event for signal in await store.inbox(lease)] == [_REFUSED] * 3
        assert await store.find("taken") == before

    @kit.on_open_store
    async def test_a_detached_start_whose_id_is_taken_tells_nobody(self, store: HistoryStore) -> None:
        """Without a refusal there is nothing to put into the inbox."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        changes = Changes(starts=(ChildStart(new=_child("parent", None)),))
        outcomes = await kit.append(store, lease, kit.episode(key, 1, changes=changes))
        assert [one.created for one in outcomes] == [False]
        assert await store.inbox(lease) == []

    @kit.on_open_store
    async def test_a_refusal_makes_a_caller_that_parks_due_at_once(self, store: HistoryStore) -> None:
        """What an episode puts into its own instance's inbox is not slept over."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        await kit.append(store, lease, kit.episode(key, 1, changes=_starts(_child("parent")), park=kit.WAITING))
        assert (await kit.record(store, "parent")).due == 0
        claimed = await kit.claim(store, lease, now=0)
        assert [signal.event for signal in claimed[0].signals] == [_REFUSED]

    @kit.on_open_store
    async def test_events_for_others_are_in_their_inboxes(self, store: HistoryStore) -> None:
        """In order, and they wake who waits; for nobody and for one that has ended they are dropped."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "sender", lease)
        await kit.parked(store, "waits", lease)
        await kit.parked(store, "ended", lease, kit.COMPLETED)
        await kit.started(store, "owned", lease)
        sends = [
            Sending(name, kit.raised(f"{n}")) for n, name in enumerate(("waits", "ended", "none", "owned", "waits"))
        ]
        await kit.append(store, lease, kit.episode(key, 1, changes=Changes(sends=tuple(sends))))
        assert [signal.event for signal in await store.inbox(lease)] == [kit.raised("3")]
        claimed = await kit.claim(store, lease, now=0)
        assert [[signal.event for signal in one.signals] for one in claimed] == [[kit.raised("0"), kit.raised("4")]]

    @kit.on_open_store
    async def test_a_child_can_be_sent_an_event_by_the_episode_that_calls_it(self, store: HistoryStore) -> None:
        """It exists before the events are sent."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        changes = msgspec.structs.replace(_starts(_child("child")), sends=(Sending("child", kit.raised("hello")),))
        await kit.append(store, lease, kit.episode(key, 1, changes=changes))
        assert [len(one.signals) for one in await kit.claim(store, lease)] == [1]

    @kit.on_open_store
    async def test_an_event_for_all_children_reaches_those_that_have_not_ended(self, store: HistoryStore) -> None:
        """Those called in the same episode included, their own children and other instances not."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        called = [_child("running", lease=lease), _child("ended", lease=lease), _child("later", due=kit.T0 + 99)]
        outcomes = await kit.append(store, lease, kit.episode(key, 1, changes=_starts(*called)))
        await kit.append(store, lease, kit.episode(outcomes[1].key, 1, park=kit.COMPLETED))
        grandchild = _child("grandchild", "running", lease=lease)
        await kit.append(store, lease, kit.episode(outcomes[0].key, 1, changes=_starts(grandchild)))
        ending = msgspec.structs.replace(_starts(_child("new")), to_children=_END)
        park = Park(status=Status.TERMINATED)
        await kit.append(store, lease, kit.episode(key, 2, changes=ending, park=park))
        assert [signal.key for signal in await store.inbox(lease)] == [outcomes[0].key]
        claimed = await kit.claim(store, lease)
        assert sorted((one.instance_id, len(one.signals)) for one in claimed) == [("later", 1), ("new", 1)]

    @kit.on_open_store
    async def test_a_refused_episode_changes_nothing_elsewhere(self, store: HistoryStore) -> None:
        """No child, no event, no status."""
        lease, gone = await store.join("one", kit.APP), await store.join("gone", kit.APP)
        key = await kit.started(store, "parent", gone)
        await kit.started(store, "other", lease)
        await store.leave(gone)
        before = await store.find("parent")
        changes = Changes(
            starts=(ChildStart(new=_child("child")),),
            sends=(Sending("other", kit.raised("hello")),),
            custom_status='"x"',
            attributes={"a": 1},
        )
        refused = kit.append(store, gone, kit.episode(key, 1, changes=changes))
        await kit.is_refused(refused, StaleLeaseError)
        assert await store.find("child") is None
        assert await store.inbox(lease) == []
        assert await store.find("parent") == before

    @kit.on_open_store
    async def test_a_new_generation_leaves_the_very_first_row_and_its_own(self, store: HistoryStore) -> None:
        """load() returns the generation alone; rows go on being numbered."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "eternal", lease)
        started = [ExecutionStarted(name=kit.WORKFLOW, generation=n) for n in range(4)]
        await kit.append(store, lease, kit.episode(key, 1))
        await kit.append(store, lease, kit.episode(key, 2, started[1], changes=Changes(renews=True)))
        await kit.append(store, lease, kit.episode(key, 3))
        assert [row.seq for row in (await store.load([key]))[key]] == [2, 3]
        await kit.append(store, lease, kit.episode(key, 4, started[2], changes=Changes(renews=True)))
        await kit.append(store, lease, kit.episode(key, 5, started[3], changes=Changes(renews=True)))
        assert [row.events for row in (await store.load([key]))[key]] == [(started[3],)]
        assert [(seq, at) for seq, at, _ in await store.rows(key)] == [(0, kit.T0), (5, kit.T0 + 5)]
        await store.release(lease, key, due=kit.T0, waits=None, stalled=False)
        assert [one.next_seq for one in await kit.claim(store, lease)] == [6]

    @kit.on_open_store
    async def test_what_people_see_is_set_and_stays(self, store: HistoryStore) -> None:
        """Status, custom status and attributes; what an episode does not name is as before."""
        lease = await store.join("one", kit.APP)
        new = msgspec.structs.replace(kit.new("shown", lease), attributes={"from": "start", "size": 1})
        key = (await store.start(new)).key
        changes = Changes(status=Status.SUSPENDED, custom_status='{"step":1}', attributes={"size": 2.5, "new": True})
        await kit.append(store, lease, kit.episode(key, 1, changes=changes))
        await kit.append(store, lease, kit.episode(key, 2, changes=Changes(attributes={"new": False})))
        record = await kit.record(store, "shown")
        assert (record.status, record.owner, record.custom_status) == (Status.SUSPENDED, "one", '{"step":1}')
        assert record.attributes == {"from": "start", "size": 2.5, "new": False}
        await kit.append(store, lease, kit.episode(key, 3, changes=Changes(custom_status="null"), park=kit.COMPLETED))
        record = await kit.record(store, "shown")
        assert (record.status, record.custom_status) == (Status.COMPLETED, "null")

    @kit.on_open_store
    async def test_an_instance_can_be_kept_under_another_workflow(self, store: HistoryStore) -> None:
        """From then on it is claimed under that one only."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "moved", lease)
        changes = Changes(workflow="conformance@2")
        await kit.append(store, lease, kit.episode(key, 1, changes=changes, park=Park(status=Status.RUNNING, due=0)))
        assert await kit.claim(store, lease) == []
        claimed = await store.claim(lease, ["conformance@2"], kit.T0, 9)
        assert [(one.instance_id, one.workflow) for one in claimed] == [("moved", "conformance@2")]

    @kit.on_open_store
    async def test_content_that_came_with_an_episode_is_there_for_its_children(self, store: HistoryStore) -> None:
        """For as long as they are, whatever becomes of the caller, and however deep it is nested."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        encoded = encode([f"{n} " * 1000 for n in range(40)])
        events = encode_events([ExecutionStarted(name=kit.WORKFLOW, input=encoded.raw)])
        changes = _starts(_child("child", events=events))
        await kit.append(store, lease, kit.episode(key, 1, blobs=encoded.blobs, changes=changes, park=kit.COMPLETED))
        assert await store.purge([key]) == 1
        assert await store.blobs(list(encoded.blobs)) == encoded.blobs

    @kit.on_open_store
    async def test_an_instance_that_is_put_off_is_pending_until_it_is_claimed(self, store: HistoryStore) -> None:
        """Its first row is of the time at which it begins; one in the past begins when it is accepted."""
        lease = await store.join("one", kit.APP)
        for name, due in (("later", kit.T0 + 60), ("past", kit.T0 - 60)):
            await store.start(msgspec.structs.replace(kit.new(name), due=due))
        records = await store.find_all(["later", "past"])
        later, past = records["later"], records["past"]
        assert (later.status, later.due, later.created_at) == (Status.PENDING, kit.T0 + 60, kit.T0)
        assert (past.status, past.due) == (Status.RUNNING, kit.T0)
        histories = await store.load([later.key, past.key])
        assert [histories[one.key][0].at for one in (later, past)] == [kit.T0 + 60, kit.T0]
        assert [one.instance_id for one in await kit.claim(store, lease, now=kit.T0 + 59)] == ["past"]
        assert [one.instance_id for one in await kit.claim(store, lease, now=kit.T0 + 60)] == ["later"]
        assert (await kit.record(store, "later")).status is Status.RUNNING

    @kit.on_open_store
    async def test_a_signal_does_not_wake_a_pending_instance_unless_it_is_its_end(self, store: HistoryStore) -> None:
        """It waits in the inbox, whoever sent it."""
        lease = await store.join("one", kit.APP)
        await store.start(msgspec.structs.replace(kit.new("later"), due=kit.T0 + 60))
        key = await kit.started(store, "sender", lease)
        assert await store.signal("later", kit.raised("first")) is Status.PENDING
        sends = (Sending("later", kit.raised("second")),)
        await kit.append(store, lease, kit.episode(key, 1, changes=Changes(sends=sends)))
        assert await kit.claim(store, lease, now=kit.T0 + 59) == []
        await store.signal("later", _END)
        claimed = await kit.claim(store, lease, now=0)
        assert [signal.event for signal in claimed[0].signals] == [kit.raised("first"), kit.raised("second"), _END]

    @kit.on_open_store
    async def test_a_start_that_replaces_takes_the_place_of_one_that_has_ended(self, store: HistoryStore) -> None:
        """With its descendants that have ended; one that has not stays, and nothing is changed."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "parent", lease)
        called = [_child("ended", lease=lease), _child("runs", lease=lease)]
        outcomes = await kit.append(store, lease, kit.episode(key, 1, changes=_starts(*called)))
        ended = outcomes[0].key
        grandchild = _starts(_child("grandchild", "ended", lease=lease))
        (below,) = await kit.append(store, lease, kit.episode(ended, 1, changes=grandchild, park=kit.COMPLETED))
        await kit.append(store, lease, kit.episode(below.key, 1, park=kit.COMPLETED))
        replacing = msgspec.structs.replace(kit.new("parent", at=kit.T0 + 9), replaces=True)
        refused = await store.start(replacing)
        assert (refused.created, refused.key, refused.status) == (False, key, Status.RUNNING)
        await kit.append(store, lease, kit.episode(key, 2, park=kit.COMPLETED))
        accepted = await store.start(replacing)
        assert accepted.created
        assert accepted.key > below.key
        assert {one.instance_id for one in await store.instances()} == {"parent", "runs"}
        assert await store.load([key]) == {key: []}

    @kit.on_open_store
    async def test_of_concurrent_replacing_starts_one_creates(self, store: HistoryStore) -> None:
        """The others find the one that did."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "race", lease, kit.COMPLETED)
        replacing = [msgspec.structs.replace(kit.new("race", at=kit.T0 + n), replaces=True) for n in range(10)]
        answers = await kit.together(store.start(new) for new in replacing)
        assert [answer.created for answer in answers].count(True) == 1
        assert len({answer.key for answer in answers}) == 1
