"""What encoded values refer to is found, wherever it is; what only looks like a reference is not."""

from __future__ import annotations

import asyncio

from perdure.base.codec import Link, decode, encode
from perdure.base.conversation import Conversation
from perdure.base.messages import Message
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.values import resolve
from perdure.ports.history_store import Episode, Lease, NewInstance


async def stored(store: MemoryHistoryStore, lease: Lease, value: object) -> bytes:
    """Put what belongs to a value into a store and return the encoded value."""
    encoded = encode(value)
    new = NewInstance(instance_id="i", app_id="a", workflow="w", at=1.0, events="[]", blobs={}, lease=lease)
    started = await store.start(new)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    links: list[Link] = list(encoded.links)
    episode = Episode(key=started.key, seq=1, at=1.0, events="[]", blobs=encoded.blobs, links=links)
    store.append(lease, episode, lambda error: done.set_result(None) if error is None else done.set_exception(error))
    await done
    return bytes(encoded.raw)


def round_trip(value: object) -> object:
    async def body() -> object:
        store = MemoryHistoryStore()
        await store.open()
        try:
            raw = await stored(store, await store.join("w", "test"), value)
            return decode(raw, await resolve(store, [raw]))
        finally:
            await store.close()

    return asyncio.run(body())


def test_a_conversation_inside_a_value_that_is_stored_as_a_whole_is_found() -> None:
    talk = (
        Conversation("root")
        .append(Message(role="user", content="hi"))
        .append(Message(role="assistant", content="x" * 900))
    )
    found = round_trip({"talk": talk, "much": list(range(9000)), "texts": ["y" * 600]})
    assert isinstance(found, dict)
    assert found["talk"].messages() == talk.messages()
    assert found["texts"] == ["y" * 600]


def test_a_long_text_that_looks_like_a_reference_stays_a_text() -> None:
    text = '{"$conversation":["root",1,"ab"]} {"$value":"' + "0" * 40 + '"}' + " " * 600
    assert round_trip([text, {"nested": text}]) == [text, {"nested": text}]
