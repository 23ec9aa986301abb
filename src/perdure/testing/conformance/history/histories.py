"""Episodes, and the content that they refer to."""

from __future__ import annotations

import asyncio

from perdure.base.codec import Encoded, Resolved, encode
from perdure.base.conversation import Conversation
from perdure.base.errors import StaleLeaseError, StoreCorruptError
from perdure.base.events import (
    TaskCompleted,
    TaskScheduled,
    encode_events,
)
from perdure.base.ids import digest
from perdure.ports.history_store import (
    Episode,
    HistoryStore,
)
from perdure.testing.conformance.history import kit


class Histories(kit.Suite):
    """Episodes, and the content that they refer to."""

    @kit.on_open_store
    async def test_episodes_are_read_back_in_order_and_to_the_last_digit(self, store: HistoryStore) -> None:
        """Workflow code replays from what load() returns: times and events are exactly those that were appended."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "exact", lease)
        times = [1_753_958_400.1234567, 0.1 + 0.2, 1e-9, 1_700_000_000.0]
        events = TaskScheduled(id=0, name='näme \N{SNOWMAN} \0 "$text"', input=encode([1, "x"]).raw)
        for seq, at in enumerate(times, 1):
            await kit.append(store, lease, Episode(key=key, seq=seq, at=at, events=encode_events([events])))
        rows = (await store.load([key]))[key]
        assert [row.seq for row in rows] == [0, 1, 2, 3, 4]
        assert [row.at for row in rows] == [kit.T0, *times]
        assert rows[1].events == (events,)

    @kit.on_open_store
    async def test_histories_of_several_instances_are_loaded_together(self, store: HistoryStore) -> None:
        """Each key has its own rows; an unknown one has none."""
        lease = await store.join("one", kit.APP)
        one, two = await kit.started(store, "one", lease), await kit.started(store, "two", lease)
        await kit.append(store, lease, kit.episode(one, 1, TaskCompleted(task_id=0)))
        histories = await store.load([one, two, 10_000])
        assert {key: len(rows) for key, rows in histories.items()} == {one: 2, two: 1, 10_000: 0}

    @kit.on_open_store
    async def test_an_episode_is_never_acknowledged_inside_the_call(self, store: HistoryStore) -> None:
        """``done`` comes in a later turn of the event loop, in the order of submission."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "ordered", lease)
        answers: list[int] = []
        all_answered = asyncio.Event()

        def note(number: int, error: Exception | None) -> None:
            assert error is None
            answers.append(number)
            if number == 50:
                all_answered.set()

        for seq in range(1, 51):
            store.append(lease, kit.episode(key, seq), lambda error, seq=seq: note(seq, error))  # type: ignore[misc]
        assert answers == []
        await asyncio.wait_for(all_answered.wait(), self.patience)
        assert answers == list(range(1, 51))
        assert len((await store.load([key]))[key]) == 51

    @kit.on_open_store
    async def test_a_second_episode_with_the_same_number_is_refused(self, store: HistoryStore) -> None:
        """The first one stays as it is, and goes on being the history."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "fork", lease)
        await kit.append(store, lease, kit.episode(key, 1, TaskCompleted(task_id=1)))
        await kit.is_refused(kit.append(store, lease, kit.episode(key, 1, TaskCompleted(task_id=2))), StaleLeaseError)
        await kit.append(store, lease, kit.episode(key, 2))
        rows = (await store.load([key]))[key]
        assert [row.events for row in rows] == [(kit.STARTED,), (TaskCompleted(task_id=1),), ()]

    @kit.on_open_store
    async def test_a_refused_change_takes_no_other_down(self, store: HistoryStore) -> None:
        """What was submitted in the same moment as a refused start, episode or release is durable all the same."""
        lease = await store.join("one", kit.APP)
        gone = await store.join("gone", kit.APP)
        await store.leave(gone)
        keys = [await kit.started(store, f"n{n}", lease) for n in range(3)]
        answers = await asyncio.gather(
            kit.append(store, lease, kit.episode(keys[0], 1)),
            kit.append(store, gone, kit.episode(keys[1], 1)),
            store.start(kit.new("refused", gone)),
            store.release(gone, keys[1], due=None, waits=None, stalled=False),
            kit.claim(store, gone),
            kit.append(store, lease, kit.episode(keys[0], 1)),
            store.start(kit.new("accepted")),
            store.signal("n1", kit.raised("hello")),
            kit.append(store, lease, kit.episode(keys[2], 1)),
            return_exceptions=True,
        )
        refused = [isinstance(answer, StaleLeaseError) for answer in answers]
        assert refused == [False, True, True, True, True, True, False, False, False]
        assert [len(rows) for rows in (await store.load(keys)).values()] == [2, 1, 2]
        assert await store.find("refused") is None
        assert await store.find("accepted") is not None

    @kit.on_open_store
    async def test_blobs_of_starts_episodes_and_signals_are_read_back(self, store: HistoryStore) -> None:
        """Content is kept by digest, whatever it came with, compressible or not."""
        lease = await store.join("one", kit.APP)
        contents = [b"in the start" * 100, bytes(range(256)), b""]
        blobs = {digest(content): content for content in contents}
        addresses = list(blobs)
        start = kit.new("blobs", lease)
        key = (await store.start(kit.with_blobs(start, {addresses[0]: contents[0]}))).key
        await kit.append(store, lease, kit.episode(key, 1, blobs={addresses[1]: contents[1]}))
        await store.signal("blobs", kit.raised("hello"), {addresses[2]: contents[2]})
        assert await store.blobs(addresses) == blobs
        assert await store.blobs([]) == {}

    @kit.on_open_store
    async def test_writing_a_blob_again_changes_nothing(self, store: HistoryStore) -> None:
        """The first content of a digest stays."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "again", lease)
        address = digest(b"first")
        await kit.append(store, lease, kit.episode(key, 1, blobs={address: b"first"}))
        await kit.append(store, lease, kit.episode(key, 2, blobs={address: b"second"}))
        assert await store.blobs([address]) == {address: b"first"}

    @kit.on_open_store
    async def test_a_missing_or_wrong_blob_is_damage(self, store: HistoryStore) -> None:
        """Nobody is given content that is not what its digest says."""
        await kit.is_refused(store.blobs([digest(b"never written")]), StoreCorruptError)
        wrong = digest(b"right")
        await store.start(kit.with_blobs(kit.new("wrong"), {wrong: b"something else"}))
        await kit.is_refused(store.blobs([wrong]), StoreCorruptError)

    @kit.on_open_store
    async def test_a_conversation_is_read_back_from_its_links(self, store: HistoryStore) -> None:
        """Two branches share their beginning; each is read back whole."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "talk", lease)
        shared = kit.said("hello", "talk")
        left, right = kit.said("left " * 200, "talk", shared), kit.said("right", "talk", shared)
        for seq, encoded in enumerate((encode(left), encode(right)), 1):
            await kit.append(store, lease, kit.episode(key, seq, links=encoded.links, blobs=encoded.blobs))
        for branch in (shared, left, right):
            links = await store.conversation(branch.key)
            resolved = Resolved(await store.blobs(kit.text_references(links)))
            assert Conversation.from_links("talk", links, resolved).messages() == branch.messages()
        assert await store.conversation(("talk", 0, "")) == []

    @kit.on_open_store
    async def test_writing_a_link_again_changes_nothing(self, store: HistoryStore) -> None:
        """A link's key is its content."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "talk", lease)
        encoded: Encoded = encode(kit.said("hello", "talk"))
        for seq in (1, 2):
            await kit.append(store, lease, kit.episode(key, seq, links=encoded.links))
        assert await store.conversation(next(iter(encoded.conversations))) == list(encoded.links)

    @kit.on_open_store
    async def test_a_conversation_without_a_link_is_damage(self, store: HistoryStore) -> None:
        """A gap is reported, never skipped."""
        lease = await store.join("one", kit.APP)
        key = await kit.started(store, "talk", lease)
        whole = kit.said("third", "talk", kit.said("second", "talk", kit.said("first", "talk")))
        links = encode(whole).links
        await kit.append(store, lease, kit.episode(key, 1, links=[links[0], links[2]]))
        await kit.is_refused(store.conversation(whole.key), StoreCorruptError)
