"""Fetches what encoded values refer to: blobs and conversations."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from perdure.base.codec import (
    NOTHING,
    ConversationKey,
    Reference,
    Resolved,
    blob_references,
    conversation_references,
    spilled_values,
)
from perdure.base.conversation import Conversation
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    HistoryRow,
    SubOrchestrationInstanceCompleted,
    TaskCompleted,
)
from perdure.ports.history_store import HistoryStore


async def resolve(store: HistoryStore, values: Iterable[bytes | msgspec.Raw | str]) -> Resolved:
    """Return the content of every reference in some encoded values.

    Raises:
        StoreCorruptError: the store lacks some of it.
    """
    raws = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
    marked = [raw for raw in raws if b'{"$' in raw]
    if not marked:
        return NOTHING
    blobs = await _blobs(store, marked)
    wanted: set[ConversationKey] = set()
    for raw in marked:
        for value in (raw, *spilled_values(raw, blobs)):
            wanted |= conversation_references(value)
    conversations: dict[ConversationKey, Reference] = {}
    for key in sorted(wanted):
        conversations[key] = await load_conversation(store, key)
    return Resolved(blobs, conversations)


async def _blobs(store: HistoryStore, raws: list[bytes]) -> dict[str, bytes]:
    wanted: set[str] = set()
    for raw in raws:
        wanted |= blob_references(raw)
    blobs = await store.blobs(sorted(wanted))
    nested: set[str] = set()
    for raw in raws:
        for value in spilled_values(raw, blobs):
            nested |= blob_references(value)
    if nested:
        blobs = blobs | await store.blobs(sorted(nested))
    return blobs


async def load_conversation(store: HistoryStore, key: ConversationKey) -> Conversation:
    """Return a conversation from the store."""
    links = await store.conversation(key)
    blobs = await _blobs(store, [link.message.encode() for link in links])
    return Conversation.from_links(key[0], links, Resolved(blobs))


def incoming_values(events: Iterable[AnyEvent]) -> list[msgspec.Raw]:
    """Return the values among events that workflow code will read."""
    values: list[msgspec.Raw] = []
    for event in events:
        match event:
            case TaskCompleted() | SubOrchestrationInstanceCompleted():
                values.append(event.result)
            case EventRaised() | ExecutionStarted():
                values.append(event.input)
            case _:
                continue
    return values


async def resolve_history(store: HistoryStore, rows: Iterable[HistoryRow]) -> Resolved:
    """Return what replaying these rows needs."""
    return await resolve(store, [value for row in rows for value in incoming_values(row.events)])


def merged(first: Resolved, second: Resolved) -> Resolved:
    """Return the content of both."""
    if not second.blobs and not second.conversations:
        return first
    if not first.blobs and not first.conversations:
        return second
    return Resolved({**first.blobs, **second.blobs}, {**first.conversations, **second.conversations})
