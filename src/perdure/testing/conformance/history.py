"""The conformance suite of history stores: one test for each rule of the port.

Inherit :class:`HistoryStoreConformance` in a class whose name begins with ``Test`` and override ``make_store``; pytest
collects the rest. The suite needs nothing but a store: no mocks, no clock but the times that it passes itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from perdure.base.codec import Encoded, Link, Resolved, blob_references, encode
from perdure.base.conversation import Conversation
from perdure.base.errors import StaleLeaseError, StoreCorruptError
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    HistoryRow,
    Status,
    TaskCompleted,
    TaskScheduled,
    encode_event,
    encode_events,
)
from perdure.base.ids import digest
from perdure.base.messages import Message
from perdure.ports.history_store import (
    Claimed,
    Episode,
    HistoryStore,
    InstanceRecord,
    Lease,
    NewInstance,
    Park,
    Started,
)

WORKFLOW = "conformance"
T0 = 1_700_000_000.123457
"""When instances of the suite start: more digits than a careless store keeps."""

_STARTED = ExecutionStarted(name=WORKFLOW)
_WAITING = Park(status=Status.RUNNING, waits='{"event":"approval"}')
_COMPLETED = Park(status=Status.COMPLETED)


def _on_open_store(
    scenario: Callable[[Any, HistoryStore], Coroutine[Any, Any, None]],
) -> Callable[[Any, Path], None]:
    """Turn a coroutine over an open store into a test method that pytest can call."""

    def test(self: HistoryStoreConformance, tmp_path: Path) -> None:
        async def run() -> None:
            store = self.make_store(tmp_path)
            await store.open()
            try:
                await scenario(self, store)
            finally:
                await store.close()

        asyncio.run(run())

    # Not functools.wraps: pytest would look for the coroutine's own parameters.
    test.__name__, test.__qualname__, test.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
    return test


def _new(instance_id: str, lease: Lease | None = None, *, at: float = T0, workflow: str = WORKFLOW) -> NewInstance:
    events = encode_events([ExecutionStarted(name=workflow)])
    return NewInstance(instance_id=instance_id, app_id="suite", workflow=workflow, at=at, events=events, lease=lease)


def _episode(key: int, seq: int, *events: AnyEvent, park: Park | None = None, **others: Any) -> Episode:
    return Episode(key=key, seq=seq, at=T0 + seq, events=encode_events(events), park=park, **others)


def _raised(name: str) -> str:
    return encode_event(EventRaised(name=name))


async def _append(store: HistoryStore, lease: Lease, episode: Episode) -> None:
    """Append and wait for the answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()

    def done(error: Exception | None) -> None:
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    store.append(lease, episode, done)
    await answer


async def _started(store: HistoryStore, instance_id: str, lease: Lease | None = None, **others: Any) -> int:
    return (await store.start(_new(instance_id, lease, **others))).key


async def _parked(store: HistoryStore, instance_id: str, lease: Lease, park: Park = _WAITING) -> int:
    key = await _started(store, instance_id, lease)
    await _append(store, lease, _episode(key, 1, park=park))
    return key


async def _record(store: HistoryStore, instance_id: str) -> InstanceRecord:
    record = await store.find(instance_id)
    assert record is not None
    return record


async def _claim(store: HistoryStore, lease: Lease, *, now: float = T0, limit: int = 100) -> list[Claimed]:
    return await store.claim(lease, [WORKFLOW], now, limit)


async def _is_refused(work: Coroutine[Any, Any, object], error: type[Exception]) -> None:
    try:
        await work
    except error:
        return
    raise AssertionError(f"accepted, where a {error.__name__} is due")


def _said(text: str, root: str, parent: Conversation | None = None) -> Conversation:
    return (parent or Conversation(root)).append(Message(role="user", content=text))


class HistoryStoreConformance:
    """The rules that every history store keeps; inherit it to prove an adapter.

    Attributes:
        patience: seconds after which a store must have noticed that a worker is dead.
    """

    patience: float = 30.0

    def make_store(self, folder: Path) -> HistoryStore:
        """Return a new, empty store, not open yet; it may keep what it needs in ``folder``."""
        raise NotImplementedError

    def reopen(self, store: HistoryStore) -> HistoryStore:
        """Return a store, not open yet, over what another one keeps.

        It stands for another process, after the first or beside it. Override it unless one object can be opened
        twice and closed twice, and keeps everything meanwhile.
        """
        return store

    # -- instances

    @_on_open_store
    async def test_a_started_instance_is_found_as_it_was_given(self, store: HistoryStore) -> None:
        """A start creates an instance that runs, is due at its start and has one history row."""
        started = await store.start(_new("order-1"))
        assert started == Started(key=started.key, created=True, workflow=WORKFLOW, events=encode_events([_STARTED]))
        assert await _record(store, "order-1") == InstanceRecord(
            key=started.key,
            instance_id="order-1",
            app_id="suite",
            workflow=WORKFLOW,
            status=Status.RUNNING,
            created_at=T0,
            due=T0,
        )
        assert await store.load([started.key]) == {started.key: [HistoryRow(0, T0, (_STARTED,))]}

    @_on_open_store
    async def test_an_unknown_instance_is_not_found(self, store: HistoryStore) -> None:
        """What does not exist is None or left out, never an error."""
        assert await store.find("nobody") is None
        assert await store.find_all(["nobody"]) == {}
        assert await store.find_all([]) == {}
        assert await store.signal("nobody", _raised("hello")) is None

    @_on_open_store
    async def test_a_start_with_an_existing_id_changes_nothing(self, store: HistoryStore) -> None:
        """The second start returns the first row, and leaves the instance as it was."""
        lease = await store.join("one")
        first = await store.start(_new("twice"))
        before = await store.find("twice")
        second = await store.start(_new("twice", lease, at=T0 + 9, workflow="another"))
        assert second == Started(key=first.key, created=False, workflow=WORKFLOW, events=first.events)
        assert await store.find("twice") == before
        assert len((await store.load([first.key]))[first.key]) == 1

    @_on_open_store
    async def test_of_concurrent_starts_with_one_id_exactly_one_creates(self, store: HistoryStore) -> None:
        """However many submit the same id at once, there is one instance."""
        answers = await asyncio.gather(*(store.start(_new("race", at=T0 + n)) for n in range(20)))
        assert [answer.created for answer in answers].count(True) == 1
        assert len({answer.key for answer in answers}) == 1
        assert len({answer.events for answer in answers}) == 1

    @_on_open_store
    async def test_many_instances_are_found_by_id(self, store: HistoryStore) -> None:
        """find_all returns exactly those that exist."""
        for name in ("a", "b", "c"):
            await store.start(_new(name))
        found = await store.find_all(["a", "c", "nobody"])
        assert {name: record.instance_id for name, record in found.items()} == {"a": "a", "c": "c"}

    @_on_open_store
    async def test_instances_are_listed_newest_first_in_pages(self, store: HistoryStore) -> None:
        """``before`` is the key of the last one of the page before."""
        for number in range(5):
            await store.start(_new(f"n{number}"))
        first = await store.instances(limit=2)
        second = await store.instances(limit=2, before=first[-1].key)
        third = await store.instances(limit=2, before=second[-1].key)
        assert [one.instance_id for one in (*first, *second, *third)] == ["n4", "n3", "n2", "n1", "n0"]
        assert await store.instances(before=third[-1].key) == []

    @_on_open_store
    async def test_instances_are_listed_by_status_and_workflow(self, store: HistoryStore) -> None:
        """Both filters hold together."""
        lease = await store.join("one")
        await _parked(store, "done", lease, _COMPLETED)
        await store.start(_new("running"))
        await store.start(_new("other", workflow="other"))

        async def ids(**filters: Any) -> list[str]:
            return [one.instance_id for one in await store.instances(**filters)]

        assert await ids(status=Status.COMPLETED) == ["done"]
        assert await ids(workflow="other") == ["other"]
        assert await ids(status=Status.RUNNING, workflow=WORKFLOW) == ["running"]

    @_on_open_store
    async def test_the_version_changes_with_every_change(self, store: HistoryStore) -> None:
        """Whoever watches the number misses nothing."""
        seen = [await store.version()]
        await store.start(_new("watched"))
        seen.append(await store.version())
        await store.signal("watched", _raised("hello"))
        seen.append(await store.version())
        lease = await store.join("one")
        await _claim(store, lease)
        seen.append(await store.version())
        assert len(set(seen)) == len(seen)

    @_on_open_store
    async def test_a_sound_store_passes_its_own_check(self, store: HistoryStore) -> None:
        """check() counts the instances by status."""
        await store.start(_new("counted"))
        assert (await store.check())["instances"] == {"RUNNING": 1}

    # -- histories

    @_on_open_store
    async def test_episodes_are_read_back_in_order_and_to_the_last_digit(self, store: HistoryStore) -> None:
        """Workflow code replays from what load() returns: times and events are exactly those that were appended."""
        lease = await store.join("one")
        key = await _started(store, "exact", lease)
        times = [1_753_958_400.1234567, 0.1 + 0.2, 1e-9, 1_700_000_000.0]
        events = TaskScheduled(id=0, name='näme \N{SNOWMAN} \0 "$text"', input=encode([1, "x"]).raw)
        for seq, at in enumerate(times, 1):
            await _append(store, lease, Episode(key=key, seq=seq, at=at, events=encode_events([events])))
        rows = (await store.load([key]))[key]
        assert [row.seq for row in rows] == [0, 1, 2, 3, 4]
        assert [row.at for row in rows] == [T0, *times]
        assert rows[1].events == (events,)

    @_on_open_store
    async def test_histories_of_several_instances_are_loaded_together(self, store: HistoryStore) -> None:
        """Each key has its own rows; an unknown one has none."""
        lease = await store.join("one")
        one, two = await _started(store, "one", lease), await _started(store, "two", lease)
        await _append(store, lease, _episode(one, 1, TaskCompleted(task_id=0)))
        histories = await store.load([one, two, 10_000])
        assert {key: len(rows) for key, rows in histories.items()} == {one: 2, two: 1, 10_000: 0}

    @_on_open_store
    async def test_an_episode_is_never_acknowledged_inside_the_call(self, store: HistoryStore) -> None:
        """``done`` comes in a later turn of the event loop, in the order of submission."""
        lease = await store.join("one")
        key = await _started(store, "ordered", lease)
        answers: list[int] = []
        all_answered = asyncio.Event()

        def note(number: int, error: Exception | None) -> None:
            assert error is None
            answers.append(number)
            if number == 50:
                all_answered.set()

        for seq in range(1, 51):
            store.append(lease, _episode(key, seq), lambda error, seq=seq: note(seq, error))  # type: ignore[misc]
        assert answers == []
        await asyncio.wait_for(all_answered.wait(), self.patience)
        assert answers == list(range(1, 51))
        assert len((await store.load([key]))[key]) == 51

    @_on_open_store
    async def test_a_second_episode_with_the_same_number_is_refused(self, store: HistoryStore) -> None:
        """The first one stays as it is, and goes on being the history."""
        lease = await store.join("one")
        key = await _started(store, "fork", lease)
        await _append(store, lease, _episode(key, 1, TaskCompleted(task_id=1)))
        await _is_refused(_append(store, lease, _episode(key, 1, TaskCompleted(task_id=2))), StaleLeaseError)
        await _append(store, lease, _episode(key, 2))
        rows = (await store.load([key]))[key]
        assert [row.events for row in rows] == [(_STARTED,), (TaskCompleted(task_id=1),), ()]

    @_on_open_store
    async def test_a_refused_change_takes_no_other_down(self, store: HistoryStore) -> None:
        """What was submitted in the same moment as a refused start, episode or release is durable all the same."""
        lease = await store.join("one")
        gone = await store.join("gone")
        await store.leave(gone)
        keys = [await _started(store, f"n{n}", lease) for n in range(3)]
        answers = await asyncio.gather(
            _append(store, lease, _episode(keys[0], 1)),
            _append(store, gone, _episode(keys[1], 1)),
            store.start(_new("refused", gone)),
            store.release(gone, keys[1], due=None, waits=None, stalled=False),
            _claim(store, gone),
            _append(store, lease, _episode(keys[0], 1)),
            store.start(_new("accepted")),
            store.signal("n1", _raised("hello")),
            _append(store, lease, _episode(keys[2], 1)),
            return_exceptions=True,
        )
        refused = [isinstance(answer, StaleLeaseError) for answer in answers]
        assert refused == [False, True, True, True, True, True, False, False, False]
        assert [len(rows) for rows in (await store.load(keys)).values()] == [2, 1, 2]
        assert await store.find("refused") is None
        assert await store.find("accepted") is not None

    # -- content

    @_on_open_store
    async def test_blobs_of_starts_episodes_and_signals_are_read_back(self, store: HistoryStore) -> None:
        """Content is kept by digest, whatever it came with, compressible or not."""
        lease = await store.join("one")
        contents = [b"in the start" * 100, bytes(range(256)), b""]
        blobs = {digest(content): content for content in contents}
        addresses = list(blobs)
        start = _new("blobs", lease)
        key = (await store.start(_with_blobs(start, {addresses[0]: contents[0]}))).key
        await _append(store, lease, _episode(key, 1, blobs={addresses[1]: contents[1]}))
        await store.signal("blobs", _raised("hello"), {addresses[2]: contents[2]})
        assert await store.blobs(addresses) == blobs
        assert await store.blobs([]) == {}

    @_on_open_store
    async def test_writing_a_blob_again_changes_nothing(self, store: HistoryStore) -> None:
        """The first content of a digest stays."""
        lease = await store.join("one")
        key = await _started(store, "again", lease)
        address = digest(b"first")
        await _append(store, lease, _episode(key, 1, blobs={address: b"first"}))
        await _append(store, lease, _episode(key, 2, blobs={address: b"second"}))
        assert await store.blobs([address]) == {address: b"first"}

    @_on_open_store
    async def test_a_missing_or_wrong_blob_is_damage(self, store: HistoryStore) -> None:
        """Nobody is given content that is not what its digest says."""
        await _is_refused(store.blobs([digest(b"never written")]), StoreCorruptError)
        wrong = digest(b"right")
        await store.start(_with_blobs(_new("wrong"), {wrong: b"something else"}))
        await _is_refused(store.blobs([wrong]), StoreCorruptError)

    @_on_open_store
    async def test_a_conversation_is_read_back_from_its_links(self, store: HistoryStore) -> None:
        """Two branches share their beginning; each is read back whole."""
        lease = await store.join("one")
        key = await _started(store, "talk", lease)
        shared = _said("hello", "talk")
        left, right = _said("left " * 200, "talk", shared), _said("right", "talk", shared)
        for seq, encoded in enumerate((encode(left), encode(right)), 1):
            await _append(store, lease, _episode(key, seq, links=encoded.links, blobs=encoded.blobs))
        for branch in (shared, left, right):
            links = await store.conversation(branch.key)
            resolved = Resolved(await store.blobs(_text_references(links)))
            assert Conversation.from_links("talk", links, resolved).messages() == branch.messages()
        assert await store.conversation(("talk", 0, "")) == []

    @_on_open_store
    async def test_writing_a_link_again_changes_nothing(self, store: HistoryStore) -> None:
        """A link's key is its content."""
        lease = await store.join("one")
        key = await _started(store, "talk", lease)
        encoded: Encoded = encode(_said("hello", "talk"))
        for seq in (1, 2):
            await _append(store, lease, _episode(key, seq, links=encoded.links))
        assert await store.conversation(next(iter(encoded.conversations))) == list(encoded.links)

    @_on_open_store
    async def test_a_conversation_without_a_link_is_damage(self, store: HistoryStore) -> None:
        """A gap is reported, never skipped."""
        lease = await store.join("one")
        key = await _started(store, "talk", lease)
        whole = _said("third", "talk", _said("second", "talk", _said("first", "talk")))
        links = encode(whole).links
        await _append(store, lease, _episode(key, 1, links=[links[0], links[2]]))
        await _is_refused(store.conversation(whole.key), StoreCorruptError)

    # -- owning and parking

    @_on_open_store
    async def test_a_start_that_names_a_lease_gives_it_the_instance(self, store: HistoryStore) -> None:
        """It is owned at once, and nobody else can claim it."""
        mine, other = await store.join("mine"), await store.join("other")
        await _started(store, "owned", mine)
        assert (await _record(store, "owned")).owner == "mine"
        assert await _claim(store, other) == []
        assert await store.next_due([WORKFLOW]) is None

    @_on_open_store
    async def test_a_parked_instance_waits_for_its_due_time(self, store: HistoryStore) -> None:
        """It belongs to nobody, shows what it waits for, and cannot be claimed before it is due."""
        lease = await store.join("one")
        await _parked(store, "timer", lease, Park(status=Status.RUNNING, due=T0 + 60, waits='{"timer":1}'))
        record = await _record(store, "timer")
        assert (record.owner, record.due, record.waits) == (None, T0 + 60, '{"timer":1}')
        assert await store.next_due([WORKFLOW]) == T0 + 60
        assert await _claim(store, lease, now=T0 + 59) == []
        assert [one.next_seq for one in await _claim(store, lease, now=T0 + 60)] == [2]

    @_on_open_store
    async def test_an_instance_that_waits_for_a_signal_is_never_due(self, store: HistoryStore) -> None:
        """Without a due time only a signal brings it back."""
        lease = await store.join("one")
        await _parked(store, "approval", lease)
        assert await store.next_due([WORKFLOW]) is None
        assert await _claim(store, lease, now=T0 * 2) == []

    @_on_open_store
    async def test_parking_with_signals_left_is_due_at_once(self, store: HistoryStore) -> None:
        """A signal that the last episode did not take over is not slept over."""
        lease = await store.join("one")
        key = await _started(store, "late", lease)
        await store.signal("late", _raised("first"))
        await store.signal("late", _raised("second"))
        first = (await store.inbox(lease))[0]
        park = Park(status=Status.RUNNING, due=T0 + 60)
        await _append(store, lease, _episode(key, 1, consumed=(first.position,), park=park))
        assert (await _record(store, "late")).due == 0
        assert [[signal.event for signal in one.signals] for one in await _claim(store, lease, now=0)] == [
            [_raised("second")]
        ]

    @_on_open_store
    async def test_a_finished_instance_is_nobodys_and_never_due(self, store: HistoryStore) -> None:
        """It shows how and when it ended; its inbox is cleared."""
        lease = await store.join("one")
        key = await _started(store, "end", lease)
        await store.signal("end", _raised("unread"))
        await _append(store, lease, _episode(key, 1, park=Park(status=Status.FAILED)))
        record = await _record(store, "end")
        assert (record.status, record.finished_at) == (Status.FAILED, T0 + 1)
        assert (record.owner, record.due, record.waits) == (None, None, None)
        assert await _claim(store, lease, now=T0 * 2) == []
        assert await store.inbox(lease) == []

    @_on_open_store
    async def test_a_released_instance_is_due_when_it_says(self, store: HistoryStore) -> None:
        """Giving back adds nothing to the history."""
        lease = await store.join("one")
        key = await _started(store, "back", lease)
        await store.release(lease, key, due=T0 + 5, waits='{"why":1}', stalled=False)
        record = await _record(store, "back")
        assert (record.owner, record.due, record.waits) == (None, T0 + 5, '{"why":1}')
        assert [one.next_seq for one in await _claim(store, lease, now=T0 + 5)] == [1]

    @_on_open_store
    async def test_a_released_instance_with_signals_is_due_at_once(self, store: HistoryStore) -> None:
        """Its inbox is a reason to go on, unless it is stalled."""
        lease = await store.join("one")
        key = await _started(store, "back", lease)
        await store.signal("back", _raised("hello"))
        await store.release(lease, key, due=None, waits=None, stalled=False)
        assert (await _record(store, "back")).due == 0

    @_on_open_store
    async def test_a_stalled_instance_waits_for_a_further_signal(self, store: HistoryStore) -> None:
        """What is in its inbox already does not wake it: it would stall again, for ever."""
        lease = await store.join("one")
        key = await _started(store, "stalled", lease)
        await store.signal("stalled", _raised("old"))
        await store.release(lease, key, due=None, waits='{"stalled":"x"}', stalled=True)
        assert await _claim(store, lease, now=T0 * 2) == []
        await store.signal("stalled", _raised("new"))
        claimed = await _claim(store, lease, now=0)
        assert [signal.event for signal in claimed[0].signals] == [_raised("old"), _raised("new")]

    @_on_open_store
    async def test_only_its_owner_releases_an_instance(self, store: HistoryStore) -> None:
        """A release by anybody else is refused, and changes nothing."""
        mine, other = await store.join("mine"), await store.join("other")
        key = await _started(store, "owned", mine)
        await _is_refused(store.release(other, key, due=0, waits=None, stalled=False), StaleLeaseError)
        assert (await _record(store, "owned")).owner == "mine"

    # -- claiming

    @_on_open_store
    async def test_claims_take_the_longest_due_first_up_to_the_limit(self, store: HistoryStore) -> None:
        """Each instance is given once."""
        for name, at in (("third", T0 + 3), ("first", T0 + 1), ("second", T0 + 2), ("future", T0 + 99)):
            await store.start(_new(name, at=at))
        lease = await store.join("one")
        assert await store.next_due([WORKFLOW]) == T0 + 1
        assert [one.instance_id for one in await _claim(store, lease, now=T0 + 9, limit=2)] == ["first", "second"]
        assert [one.instance_id for one in await _claim(store, lease, now=T0 + 9, limit=2)] == ["third"]
        assert await store.next_due([WORKFLOW]) == T0 + 99

    @_on_open_store
    async def test_only_the_named_workflows_are_claimed(self, store: HistoryStore) -> None:
        """A worker never gets what it cannot execute."""
        await store.start(_new("mine"))
        await store.start(_new("foreign", workflow="foreign"))
        lease = await store.join("one")
        assert await store.claim(lease, [], T0, 9) == []
        assert await store.next_due([]) is None
        claimed = await store.claim(lease, [WORKFLOW, "unheard-of"], T0, 9)
        assert [(one.instance_id, one.workflow) for one in claimed] == [("mine", WORKFLOW)]

    @_on_open_store
    async def test_a_claim_brings_the_inbox_along(self, store: HistoryStore) -> None:
        """Oldest first, with growing positions."""
        key = await _started(store, "waiting")
        for name in ("a", "b", "c"):
            await store.signal("waiting", _raised(name))
        claimed = (await _claim(store, await store.join("one")))[0]
        assert [(signal.key, signal.event) for signal in claimed.signals] == [(key, _raised(name)) for name in "abc"]
        positions = [signal.position for signal in claimed.signals]
        assert positions == sorted(set(positions))

    @_on_open_store
    async def test_concurrent_claims_never_share_an_instance(self, store: HistoryStore) -> None:
        """Two workers over the same state, one owner each."""
        other = self.reopen(store)
        await other.open()
        try:
            for number in range(40):
                await store.start(_new(f"n{number}"))
            leases = await store.join("here"), await other.join("there")
            batches = await asyncio.gather(
                *(
                    _claim(place, lease, limit=5)
                    for _ in range(5)
                    for place, lease in zip((store, other), leases, strict=True)
                )
            )
            keys = [one.key for batch in batches for one in batch]
            assert len(keys) == len(set(keys)) == 40
        finally:
            await other.close()

    # -- signals

    @_on_open_store
    async def test_a_signal_wakes_an_instance_that_waits(self, store: HistoryStore) -> None:
        """Whatever it waited for, it is due at once."""
        lease = await store.join("one")
        for name, due in (("signal", None), ("timer", T0 + 60)):
            await _parked(store, name, lease, Park(status=Status.RUNNING, due=due))
            assert await store.signal(name, _raised("wake up")) is Status.RUNNING
        assert await store.next_due([WORKFLOW]) == 0
        assert {one.instance_id for one in await _claim(store, lease, now=0)} == {"signal", "timer"}

    @_on_open_store
    async def test_a_signal_to_an_owned_instance_is_in_its_owners_inbox(self, store: HistoryStore) -> None:
        """Each owner sees the signals of its own instances, the oldest first across all of them."""
        mine, other = await store.join("mine"), await store.join("other")
        one, two = await _started(store, "one", mine), await _started(store, "two", mine)
        await _started(store, "foreign", other)
        for name in ("two", "one", "foreign", "two"):
            await store.signal(name, _raised("x"))
        assert [signal.key for signal in await store.inbox(mine)] == [two, one, two]
        assert len(await store.inbox(other)) == 1

    @_on_open_store
    async def test_a_consumed_signal_is_gone(self, store: HistoryStore) -> None:
        """It leaves the inbox with the episode that took it over, the others stay."""
        lease = await store.join("one")
        key = await _started(store, "one", lease)
        for name in ("a", "b"):
            await store.signal("one", _raised(name))
        first, second = await store.inbox(lease)
        await _append(store, lease, _episode(key, 1, EventRaised(name="a"), consumed=(first.position,)))
        assert await store.inbox(lease) == [second]

    @_on_open_store
    async def test_a_signal_to_a_finished_instance_is_dropped(self, store: HistoryStore) -> None:
        """The answer is its status, and nothing changes."""
        lease = await store.join("one")
        await _parked(store, "done", lease, _COMPLETED)
        before = await store.find("done")
        assert await store.signal("done", _raised("too late")) is Status.COMPLETED
        assert await store.find("done") == before
        assert await store.next_due([WORKFLOW]) is None

    # -- leases

    @_on_open_store
    async def test_every_lease_has_a_higher_token(self, store: HistoryStore) -> None:
        """Also after all others have left: tokens are never used again."""
        first = await store.join("first")
        await store.leave(first)
        second = await store.join("second")
        assert (first.worker, second.worker) == ("first", "second")
        assert second.token > first.token

    @_on_open_store
    async def test_leaving_sets_instances_free_at_once(self, store: HistoryStore) -> None:
        """It is no recovery: nobody died."""
        lease = await store.join("leaving")
        key = await _started(store, "left", lease)
        await _append(store, lease, _episode(key, 1))
        await store.leave(lease)
        record = await _record(store, "left")
        assert (record.owner, record.recoveries) == (None, 0)
        claimed = await _claim(store, await store.join("next"))
        assert [(one.key, one.next_seq) for one in claimed] == [(key, 2)]

    @_on_open_store
    async def test_everything_under_an_ended_lease_is_refused(self, store: HistoryStore) -> None:
        """Nothing is changed by it."""
        lease = await store.join("ended")
        key = await _started(store, "fenced", lease)
        await store.leave(lease)
        before = await store.find("fenced")
        await _is_refused(_append(store, lease, _episode(key, 1, park=_COMPLETED)), StaleLeaseError)
        await _is_refused(store.start(_new("another", lease)), StaleLeaseError)
        await _is_refused(_claim(store, lease), StaleLeaseError)
        await _is_refused(store.release(lease, key, due=None, waits=None, stalled=True), StaleLeaseError)
        assert await store.find("fenced") == before
        assert await store.find("another") is None
        assert len((await store.load([key]))[key]) == 1

    @_on_open_store
    async def test_the_living_are_not_reaped(self, store: HistoryStore) -> None:
        """A lease that its store keeps alive stays."""
        lease = await store.join("alive")
        await _started(store, "kept", lease)
        other = self.reopen(store)
        await other.open()
        try:
            assert await other.reap() == 0
        finally:
            await other.close()
        assert (await _record(store, "kept")).owner == "alive"

    # -- across processes

    def test_what_a_dead_worker_owned_is_reaped_once(self, tmp_path: Path) -> None:
        """A store that was closed without leaving is that of a dead worker: each instance counts one recovery."""

        async def run() -> None:
            first = self.make_store(tmp_path)
            await first.open()
            lease = await first.join("dead")
            keys = [await _started(first, name, lease) for name in ("a", "b")]
            await first.close()
            second = self.reopen(first)
            await second.open()
            try:
                assert await self._reaped(second) == 2
                assert await second.reap() == 0
                records = await second.find_all(["a", "b"])
                assert [(one.owner, one.recoveries) for one in records.values()] == [(None, 1)] * 2
                await _is_refused(_append(second, lease, _episode(keys[0], 1)), StaleLeaseError)
                assert {one.key for one in await _claim(second, await second.join("next"))} == set(keys)
            finally:
                await second.close()

        asyncio.run(run())

    def test_everything_acknowledged_is_there_after_reopening(self, tmp_path: Path) -> None:
        """Instances, histories, inboxes, blobs and links, and numbers that go on where they were."""

        async def before() -> tuple[HistoryStore, Lease, int]:
            store = self.make_store(tmp_path)
            await store.open()
            lease = await store.join("one")
            key = await _started(store, "kept", lease)
            encoded = encode([_said("hello", "kept"), "x" * 2000])
            await _append(store, lease, _episode(key, 1, blobs=encoded.blobs, links=encoded.links, park=_WAITING))
            await store.signal("kept", _raised("hello"))
            await store.leave(lease)
            await store.close()
            await store.close()
            return store, lease, key

        async def after(store: HistoryStore, lease: Lease, key: int) -> None:
            await store.open()
            try:
                next_lease = await store.join("two")
                assert next_lease.token > lease.token
                claimed = await _claim(store, next_lease)
                assert [(one.key, one.next_seq, len(one.signals)) for one in claimed] == [(key, 2, 1)]
                assert [row.seq for row in (await store.load([key]))[key]] == [0, 1]
                assert len(await store.blobs([digest(b"x" * 2000)])) == 1
                assert len(await store.conversation(_said("hello", "kept").key)) == 1
                assert await _started(store, "later") > key
            finally:
                await store.close()

        store, lease, key = asyncio.run(before())
        asyncio.run(after(self.reopen(store), lease, key))

    @_on_open_store
    async def test_another_process_sees_changes_and_their_version(self, store: HistoryStore) -> None:
        """What is acknowledged here is visible there."""
        other = self.reopen(store)
        await other.open()
        try:
            seen = await other.version()
            await store.start(_new("news"))
            assert await other.version() != seen
            assert await other.find("news") is not None
            assert await other.signal("news", _raised("hello")) is Status.RUNNING
        finally:
            await other.close()

    async def _reaped(self, store: HistoryStore) -> int:
        """Reap until something was freed: a store may know the dead by their silence alone."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.patience
        while loop.time() < give_up_at:
            freed = await store.reap()
            if freed:
                return freed
            await asyncio.sleep(0.05)
        raise AssertionError(f"no dead worker was noticed within {self.patience} s")


def _with_blobs(new: NewInstance, blobs: dict[str, bytes]) -> NewInstance:
    return NewInstance(
        instance_id=new.instance_id,
        app_id=new.app_id,
        workflow=new.workflow,
        at=new.at,
        events=new.events,
        blobs=blobs,
        lease=new.lease,
    )


def _text_references(links: Sequence[Link]) -> set[str]:
    return set().union(*(blob_references(link.message) for link in links))
