"""Limits: who waits for a turn, and who gets it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import msgspec

from perdure.base.errors import BacklogFullError, StoreCorruptError
from perdure.base.events import ExecutionTerminated, Status, encode_event
from perdure.base.ids import digest
from perdure.base.limits import Limits, Rate
from perdure.ports.history_store import (
    Changes,
    ChildStart,
    Claimed,
    HistoryStore,
    Lease,
    NewInstance,
    Park,
    Restored,
    Results,
    Sending,
    Started,
)
from perdure.ports.tickets import AttemptTicket, Queue, Ticket
from perdure.testing.conformance.history import kit

WORKFLOW = Queue(kit.APP, "workflow", kit.WORKFLOW)
ACTIVITY = Queue(kit.APP, "activity", "pay")
ONE = Limits(concurrency=1)
END = encode_event(ExecutionTerminated())


def new(name: str, limits: Limits | None = ONE, key: str = "", priority: int = 0, **others: object) -> NewInstance:
    """Return an instance that takes a ticket."""
    ticket = Ticket(queue=WORKFLOW, limits=limits, key=key, priority=priority)
    return msgspec.structs.replace(kit.new(name), ticket=ticket, **others)


def attempt(task: int, limits: Limits = ONE, key: str = "", priority: int = 0) -> AttemptTicket:
    """Return an attempt that takes a ticket."""
    ticket = Ticket(queue=ACTIVITY, limits=limits, key=key, priority=priority)
    return AttemptTicket(task, ticket, kit.raised(f"turn of {task}"))


async def calls(
    store: HistoryStore, lease: Lease, key: int, seq: int, *tickets: AttemptTicket, park: bool = False
) -> Results:
    """Let an instance call limited activities."""
    parked = Park(status=Status.RUNNING, waits='{"queued":[{"activity":"pay","calls":1}]}', unless_granted=True)
    changes = Changes(tickets=tickets)
    return await kit.appended(store, lease, kit.episode(key, seq, changes=changes, park=parked if park else None))


async def ends(store: HistoryStore, lease: Lease, key: int, seq: int = 1, at: float | None = None) -> Results:
    """Let an instance end."""
    episode = kit.episode(key, seq, park=kit.COMPLETED)
    return await kit.appended(store, lease, episode if at is None else msgspec.structs.replace(episode, at=at))


async def begun(store: HistoryStore, lease: Lease, *, now: float = kit.T0) -> list[str]:
    """Claim what is due and return its ids."""
    return [one.instance_id for one in await kit.claim(store, lease, now=now)]


async def limit_of(store: HistoryStore, name: str) -> dict[str, object] | None:
    """Return what limit an instance waits for."""
    waits = (await kit.record(store, name)).waits
    return None if waits is None else msgspec.json.decode(waits)["limit"]


class Queues(kit.Suite):
    """Limits: who waits for a turn, and who gets it."""

    @kit.on_open_store
    async def test_a_start_beyond_the_limit_waits_and_says_so(self, store: HistoryStore) -> None:
        """It is PENDING, nobody's and not due, whatever lease was named."""
        lease = await store.join("one", kit.APP)
        first = await store.start(new("first", lease=lease))
        second = await store.start(new("second", lease=lease))
        assert (first.waits, second.waits, second.created) == (False, True, True)
        assert (await kit.record(store, "first")).owner == "one"
        record = await kit.record(store, "second")
        assert (record.status, record.owner, record.due) == (Status.PENDING, None, None)
        assert await limit_of(store, "second") == {"workflow": kit.WORKFLOW, "concurrency": 1, "ahead": 0}
        assert await store.next_due(lease, [kit.WORKFLOW]) is None
        assert await begun(store, lease, now=kit.T0 * 2) == []

    @kit.on_open_store
    async def test_the_end_of_one_lets_the_next_one_in(self, store: HistoryStore) -> None:
        """In the commit of the end, which says so; the first one waiting is due at once."""
        lease = await store.join("one", kit.APP)
        keys = [(await store.start(new(name, lease=lease))).key for name in ("a", "b", "c")]
        results = await ends(store, lease, keys[0])
        assert results.woken
        assert await begun(store, lease, now=kit.T0 + 1) == ["b"]
        record = await kit.record(store, "b")
        assert (record.status, record.owner, record.waits) == (Status.RUNNING, "one", None)
        assert (await limit_of(store, "c")) == {"workflow": kit.WORKFLOW, "concurrency": 1, "ahead": 0}
        await ends(store, lease, keys[1])
        assert await begun(store, lease, now=kit.T0 + 1) == ["c"]
        assert not (await ends(store, lease, keys[2])).woken
        assert not (await store.start(new("d"))).waits

    @kit.on_open_store
    async def test_the_higher_priority_is_first_then_each_key_in_turn(self, store: HistoryStore) -> None:
        """Within a key, the earlier one; a key with many waits for one with few."""
        lease = await store.join("one", kit.APP)
        running = (await store.start(new("running", lease=lease))).key
        for number in range(5):
            await store.start(new(f"a{number}", key="a"))
        for number in range(2):
            await store.start(new(f"b{number}", key="b"))
        await store.start(new("low", key="c", priority=-1))
        await store.start(new("high", key="a", priority=5))
        order: list[str] = []
        for _ in range(9):
            await ends(store, lease, running)
            (claimed,) = await kit.claim(store, lease, now=kit.T0 + 1)
            order.append(claimed.instance_id)
            running = claimed.key
        assert order == ["high", "b0", "a0", "b1", "a1", "a2", "a3", "a4", "low"]

    @kit.on_open_store
    async def test_a_key_has_a_limit_of_its_own(self, store: HistoryStore) -> None:
        """One that has reached it does not stand in the way of the others."""
        limits = Limits(concurrency=3, per_key=1)
        lease = await store.join("one", kit.APP)
        started = {name: await store.start(new(name, limits, key=name[0], lease=lease)) for name in ("a1", "a2", "b1")}
        assert [one.waits for one in started.values()] == [False, True, False]
        await ends(store, lease, started["b1"].key)
        assert await begun(store, lease, now=kit.T0 + 1) == []
        await ends(store, lease, started["a1"].key)
        assert await begun(store, lease, now=kit.T0 + 1) == ["a2"]

    @kit.on_open_store
    async def test_a_rate_lets_in_so_many_and_the_next_when_its_time_has_come(self, store: HistoryStore) -> None:
        """Until then the store says when that is; ends do not matter to it."""
        limits = Limits(rate=Rate(2, per=60.0))
        lease = await store.join("one", kit.APP)
        started = [await store.start(new(name, limits, lease=lease)) for name in ("a", "b", "c", "d")]
        assert [one.waits for one in started] == [False, False, True, True]
        results = await ends(store, lease, started[0].key)
        due = await store.next_due(lease, [kit.WORKFLOW])
        assert due is not None
        assert results.next_grant == due
        assert kit.T0 + 60 < due <= kit.T0 + 62
        assert await limit_of(store, "c") == {
            "workflow": kit.WORKFLOW, "rate": {"count": 2, "per": 60.0}, "until": due, "ahead": 0
        }  # fmt: skip
        assert await begun(store, lease, now=due - 0.001) == []
        assert await begun(store, lease, now=due) == ["c", "d"]

    @kit.on_open_store
    async def test_a_clock_that_was_put_back_delays_a_rate_by_one_period(self, store: HistoryStore) -> None:
        """It does not wait until the clock has come as far again."""
        limits = Limits(rate=Rate(1, per=60.0))
        lease = await store.join("one", kit.APP)
        for name in ("a", "b", "c"):
            await store.start(new(name, limits, lease=lease))
        assert await begun(store, lease, now=kit.T0 - 7200) == []
        due = await store.next_due(lease, [kit.WORKFLOW])
        assert due is not None
        assert due <= kit.T0 - 7200 + 61
        assert await begun(store, lease, now=due) == ["b"]

    @kit.on_open_store
    async def test_a_start_over_a_full_backlog_is_refused_and_leaves_nothing(self, store: HistoryStore) -> None:
        """The error names the workflow and the size; once there is room, the same start is accepted."""
        limits = Limits(concurrency=1, backlog=1)
        lease = await store.join("one", kit.APP)
        running = (await store.start(new("running", limits, lease=lease))).key
        await store.start(new("waiting", limits))
        content = b"x" * 2000
        third = new("refused", limits, blobs={digest(content): content})
        refusal = (await asyncio.gather(store.start(third), return_exceptions=True))[0]
        assert isinstance(refusal, BacklogFullError)
        assert (refusal.workflow, refusal.backlog) == (kit.WORKFLOW, 1)
        assert await store.find("refused") is None
        await kit.is_refused(store.blobs([digest(content)]), StoreCorruptError)
        await ends(store, lease, running)
        assert (await store.start(third)).waits

    @kit.on_open_store
    async def test_a_child_over_a_full_backlog_is_refused_to_its_caller(self, store: HistoryStore) -> None:
        """The caller's inbox gets the failure; a child of which nobody is told waits all the same."""
        limits = Limits(concurrency=1, backlog=0)
        lease = await store.join("one", kit.APP)
        await store.start(new("running", limits, lease=lease))
        caller = await kit.started(store, "caller", lease, workflow="caller")
        refused = ChildStart(new=new("refused", limits), crowded=kit.raised("crowded"))
        changes = Changes(starts=(refused, ChildStart(new=new("detached", limits))))
        results = await kit.appended(store, lease, kit.episode(caller, 1, changes=changes))
        assert [(one.created, one.waits) for one in results.started] == [(False, False), (True, True)]
        assert [signal.event for signal in await store.inbox(lease)] == [kit.raised("crowded")]
        assert await store.find("refused") is None

    @kit.on_open_store
    async def test_who_knows_no_limits_is_limited_by_those_that_the_store_knows(self, store: HistoryStore) -> None:
        """For example a program without the workflow's code."""
        await store.declare({WORKFLOW: ONE}, kit.T0)
        assert not (await store.start(kit.new("first"))).waits
        assert (await store.start(kit.new("second"))).waits
        assert not (await store.start(kit.new("another", workflow="another"))).waits

    @kit.on_open_store
    async def test_a_higher_limit_lets_in_at_once_and_a_lower_one_from_then_on(self, store: HistoryStore) -> None:
        """Those that are in stay in; without a limit everybody comes in."""
        lease = await store.join("one", kit.APP)
        for number in range(6):
            await store.start(new(f"{number}", key=str(number % 2)))
        await store.declare({WORKFLOW: Limits(concurrency=3)}, kit.T0)
        claimed = await kit.claim(store, lease)
        assert [one.instance_id for one in claimed] == ["0", "1", "2"]
        await store.declare({WORKFLOW: Limits(concurrency=2)}, kit.T0)
        await ends(store, lease, claimed[0].key)
        assert await begun(store, lease, now=kit.T0 + 1) == []
        await ends(store, lease, claimed[1].key)
        assert await begun(store, lease, now=kit.T0 + 1) == ["3"]
        await store.declare({WORKFLOW: Limits()}, kit.T0)
        assert await begun(store, lease) == ["4", "5"]
        assert not (await store.start(kit.new("unlimited"))).waits

    @kit.on_open_store
    async def test_a_changed_limit_of_a_key_counts_for_those_that_wait(self, store: HistoryStore) -> None:
        """A key that was full is not full any more, or the other way round."""
        lease = await store.join("one", kit.APP)
        for name in ("a1", "a2", "a3"):
            await store.start(new(name, Limits(per_key=1), key="a"))
        await store.declare({WORKFLOW: Limits(per_key=2)}, kit.T0)
        claimed = await kit.claim(store, lease)
        assert [one.instance_id for one in claimed] == ["a1", "a2"]
        await store.declare({WORKFLOW: Limits(per_key=1)}, kit.T0)
        await ends(store, lease, claimed[0].key)
        assert await begun(store, lease, now=kit.T0 + 1) == []

    @kit.on_open_store
    async def test_a_thousand_that_wait_come_in_when_the_limit_is_removed(self, store: HistoryStore) -> None:
        """However many there are, and under however many keys."""
        for number in range(1000):
            await store.start(new(f"{number}", key=str(number % 300)))
        await store.declare({WORKFLOW: Limits()}, kit.T0)
        lease = await store.join("one", kit.APP)
        assert len(await store.claim(lease, [kit.WORKFLOW], kit.T0, 2000)) == 1000

    @kit.on_open_store
    async def test_a_signal_does_not_begin_what_waits_for_its_turn(self, store: HistoryStore) -> None:
        """It is there when the turn comes; only what ends the instance makes it due before."""
        lease = await store.join("one", kit.APP)
        running = (await store.start(new("running", lease=lease))).key
        for name in ("told", "ended", "child"):
            await store.start(new(name, parent="running" if name == "child" else None))
            assert await store.signal(name, kit.raised("hello")) is Status.PENDING
        assert await begun(store, lease) == []
        await store.signal("ended", END)
        claimed = await kit.claim(store, lease)
        assert [(one.instance_id, len(one.signals)) for one in claimed] == [("ended", 2)]
        await ends(store, lease, claimed[0].key)
        assert await begun(store, lease) == []
        changes = Changes(to_children=END, sends=(Sending("told", END),))
        await kit.append(store, lease, kit.episode(running, 1, changes=changes))
        assert sorted(await begun(store, lease)) == ["child", "told"]

    @kit.on_open_store
    async def test_what_begins_later_waits_for_its_turn_from_then_on(self, store: HistoryStore) -> None:
        """Until then it is no part of the line, and the store says when it will be."""
        lease = await store.join("one", kit.APP)
        await store.start(new("later", due=kit.T0 + 60))
        assert not (await store.start(new("now", lease=lease))).waits
        await store.start(new("waiting"))
        assert await store.next_due(lease, [kit.WORKFLOW]) == kit.T0 + 60
        await store.signal("later", kit.raised("hello"))
        assert await begun(store, lease, now=kit.T0 + 59) == []
        assert await begun(store, lease, now=kit.T0 + 60) == []
        assert await store.next_due(lease, [kit.WORKFLOW]) is None
        assert (await limit_of(store, "later") or {})["ahead"] == 1
        await store.start(new("even later", due=kit.T0 + 90))
        await store.declare({WORKFLOW: Limits(concurrency=10)}, kit.T0 + 61)
        assert sorted(await begun(store, lease, now=kit.T0 + 61)) == ["later", "waiting"]
        assert await begun(store, lease, now=kit.T0 + 90) == ["even later"]

    @kit.on_open_store
    async def test_an_activity_within_the_limit_is_granted_with_its_episode(self, store: HistoryStore) -> None:
        """The next one is told through its instance's inbox, once the first is given back."""
        lease = await store.join("one", kit.APP)
        one, two = await kit.started(store, "one", lease), await kit.started(store, "two", lease)
        assert (await calls(store, lease, one, 1, attempt(0), attempt(1))).granted == (0,)
        assert (await calls(store, lease, two, 1, attempt(0))).granted == ()
        results = await kit.appended(store, lease, kit.episode(one, 2, changes=Changes(gives_back=(0,))))
        assert results.woken
        assert [(s.key, s.event) for s in await store.inbox(lease)] == [(one, kit.raised("turn of 1"))]
        assert (await ends(store, lease, one, 3)).woken
        assert [(s.key, s.event) for s in await store.inbox(lease)] == [(two, kit.raised("turn of 0"))]

    @kit.on_open_store
    async def test_an_instance_whose_attempts_all_wait_is_parked_and_a_grant_wakes_it(
        self, store: HistoryStore
    ) -> None:
        """It stays in hand when one of them was granted at once."""
        lease = await store.join("one", kit.APP)
        one, two = await kit.started(store, "one", lease), await kit.started(store, "two", lease)
        await calls(store, lease, one, 1, attempt(0), park=True)
        await calls(store, lease, two, 1, attempt(0), park=True)
        assert (await kit.record(store, "one")).owner == "one"
        record = await kit.record(store, "two")
        assert (record.owner, record.due, record.status) == (None, None, Status.RUNNING)
        assert msgspec.json.decode(record.waits or "") == {
            "queued": [{"activity": "pay", "calls": 1, "concurrency": 1, "ahead": 0}]
        }
        await kit.append(store, lease, kit.episode(one, 2, changes=Changes(gives_back=(0,))))
        claimed = await kit.claim(store, lease, now=0)
        assert [(c.instance_id, [s.event for s in c.signals], dict(c.tickets)) for c in claimed] == [
            ("two", [kit.raised("turn of 0")], {0: True})
        ]

    @kit.on_open_store
    async def test_a_claim_says_which_attempts_wait_and_which_are_granted(self, store: HistoryStore) -> None:
        """Also after the death of the worker, which changes nothing about them."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "one", lease)
        await calls(store, lease, key, 1, attempt(3), attempt(4))
        await store.leave(lease)
        lease = await store.join("two", kit.APP)
        (claimed,) = await kit.claim(store, lease)
        assert dict(claimed.tickets) == {3: True, 4: False}
        other = await kit.started(store, "other", lease)
        assert (await calls(store, lease, other, 1, attempt(0))).granted == ()

    @kit.on_open_store
    async def test_a_waiting_attempt_that_is_withdrawn_gives_its_place_up(self, store: HistoryStore) -> None:
        """The one behind it is next; what was given back twice, or never taken, changes nothing."""
        lease = await store.join("one", kit.APP)
        keys = [await kit.started(store, name, lease) for name in ("a", "b", "c")]
        for key in keys:
            await calls(store, lease, key, 1, attempt(0))
        results = await kit.appended(store, lease, kit.episode(keys[1], 2, changes=Changes(gives_back=(0, 7))))
        assert not results.woken
        await kit.append(store, lease, kit.episode(keys[1], 3, changes=Changes(gives_back=(0,))))
        await kit.append(store, lease, kit.episode(keys[0], 2, changes=Changes(gives_back=(0,))))
        assert [signal.key for signal in await store.inbox(lease)] == [keys[2]]

    @kit.on_open_store
    async def test_a_new_generation_needs_none_of_the_attempts_of_the_one_before(self, store: HistoryStore) -> None:
        """The instance's own ticket stays."""
        lease = await store.join("one", kit.APP)
        key = (await store.start(new("one", lease=lease))).key
        other = await kit.started(store, "other", lease, workflow="other")
        await calls(store, lease, key, 1, attempt(0))
        await calls(store, lease, other, 1, attempt(0))
        await kit.append(store, lease, kit.episode(key, 2, changes=Changes(renews=True)))
        assert [signal.key for signal in await store.inbox(lease)] == [other]
        assert (await store.start(new("two"))).waits
        assert (await calls(store, lease, key, 3, attempt(0))).granted == ()

    @kit.on_open_store
    async def test_a_refused_episode_takes_no_tickets(self, store: HistoryStore) -> None:
        """Nor does it give any back."""
        lease, other = await store.join("one", kit.APP), await store.join("two", kit.APP)
        key, two = await kit.started(store, "one", lease), await kit.started(store, "two", other)
        await calls(store, lease, key, 1, attempt(0))
        await store.leave(other)
        changes = Changes(tickets=(attempt(0),), gives_back=(0,))
        await kit.is_refused(kit.append(store, other, kit.episode(two, 1, changes=changes)), Exception)
        (claimed,) = await kit.claim(store, lease)
        assert (claimed.key, dict(claimed.tickets)) == (two, {})

    def test_tickets_are_there_after_reopening(self, tmp_path: Path) -> None:
        """With the order in which they stand, and what the rate has let in."""
        limits = Limits(concurrency=2, per_key=1, rate=Rate(3, per=600.0))

        async def before(store: HistoryStore) -> None:
            lease = await store.join("one", kit.APP)
            first = (await store.start(new("a1", limits, key="a", lease=lease))).key
            for name in ("a2", "a3", "b1", "b2"):
                await store.start(new(name, limits, key=name[0]))
            await ends(store, lease, first)
            await store.leave(lease)

        async def after(store: HistoryStore) -> None:
            lease = await store.join("two", kit.APP)
            claimed = await kit.claim(store, lease, now=kit.T0 + 1)
            assert [one.instance_id for one in claimed] == ["b1", "a2"]
            for one in claimed:
                await ends(store, lease, one.key)
            assert await begun(store, lease, now=kit.T0 + 300) == []
            assert sorted(await begun(store, lease, now=kit.T0 + 700)) == ["a3", "b2"]

        kit.in_two_lives(self, tmp_path, before, after)

    @kit.on_open_store
    async def test_two_processes_share_the_limit(self, store: HistoryStore) -> None:
        """What one gives back, the other one's instance gets."""
        other = self.reopen(store)
        await other.open()
        try:
            lease, others = await store.join("one", kit.APP), await other.join("two", kit.APP)
            key = (await store.start(new("one", lease=lease))).key
            assert (await other.start(new("two", lease=others))).waits
            await ends(store, lease, key)
            assert await begun(other, others, now=kit.T0 + 1) == ["two"]
        finally:
            await other.close()

    @kit.on_open_store
    async def test_a_restored_instance_waits_for_its_turn_unless_it_has_ended(self, store: HistoryStore) -> None:
        """No backlog refuses it."""
        limits = Limits(concurrency=1, backlog=0)
        lease = await store.join("one", kit.APP)
        running = (await store.start(new("running", limits, lease=lease))).key
        row = (0, kit.T0, kit.new("x").events)
        standing = {"ended": kit.COMPLETED, "fork": Park(status=Status.RUNNING, due=kit.T0)}
        assert await store.restore([Restored(new=new(n, limits), rows=[row], park=p) for n, p in standing.items()])
        assert await begun(store, lease) == []
        assert (await kit.record(store, "fork")).status is Status.PENDING
        assert (await kit.record(store, "ended")).status is Status.COMPLETED
        await ends(store, lease, running)
        assert await begun(store, lease, now=kit.T0 + 1) == ["fork"]

    @kit.on_open_store
    async def test_a_repeated_start_takes_no_second_ticket(self, store: HistoryStore) -> None:
        """Nor does one whose id is taken by a run that has ended."""
        limits = Limits(concurrency=2)
        lease = await store.join("one", kit.APP)
        key = (await store.start(new("same", limits, lease=lease))).key
        assert not (await store.start(new("same", limits))).created
        assert not (await store.start(new("second", limits, lease=lease))).waits
        await ends(store, lease, key)
        assert not (await store.start(new("same", limits))).created
        assert not (await store.start(new("same", limits, replaces=True))).waits
        assert (await store.start(new("third", limits))).waits

    @kit.on_open_store
    async def test_limits_hold_whatever_happens_in_whatever_order(self, store: HistoryStore) -> None:
        """Starts and ends at random: never more than allowed, nobody waits beside a free place."""
        chance = random.Random(7)  # noqa: S311 - a test's dice
        limits = Limits(concurrency=4, per_key=2)
        lease = await store.join("one", kit.APP)
        keys: dict[str, str] = {}
        running: dict[str, int] = {}
        waiting: list[str] = []
        for number in range(400):
            if running and (chance.random() < 0.45 or number > 300):
                name = chance.choice(list(running))
                await ends(store, lease, running.pop(name))
            else:
                name = f"{chance.choice('abc')}{number}"
                started = await store.start(_placed(name, limits, chance, lease))
                keys[name] = name[0]
                _note(started, name, running, waiting)
            for one in await kit.claim(store, lease, now=kit.T0 + 1):
                _begin(one, running, waiting)
            counts = Counter(keys[name] for name in running)
            assert len(running) <= 4
            assert max(counts.values(), default=0) <= 2
            assert len(running) == 4 or all(counts[keys[name]] == 2 for name in waiting)


def _placed(name: str, limits: Limits, chance: random.Random, lease: Lease) -> NewInstance:
    return new(name, limits, key=name[0], priority=chance.randrange(3), lease=lease)


def _note(started: Started, name: str, running: dict[str, int], waiting: list[str]) -> None:
    if started.waits:
        waiting.append(name)
    else:
        running[name] = started.key


def _begin(one: Claimed, running: dict[str, int], waiting: list[str]) -> None:
    waiting.remove(one.instance_id)
    running[one.instance_id] = one.key
