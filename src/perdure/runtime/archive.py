"""Histories as documents: out of one store, into another, readable without either."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from perdure.base.codec import Link, blob_references, conversation_references, spilled_values
from perdure.base.errors import InstanceExistsError, InstanceNotFoundError, UsageError
from perdure.base.events import Status, begins_generation, decode_event, decode_events
from perdure.base.ids import digest, require_usable_id
from perdure.ports.history_store import HistoryStore, InstanceRecord, NewInstance, Park, Restored

_LOOKS = 20
_IMPORTED = "it was imported: resume it once nobody executes it elsewhere"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An instance with its history, as JSON.

    Attributes:
        format: what this is.
        version: of the format.
        instance_id: who it is.
        app_id: the app that it belongs to.
        workflow: what it is kept under: the workflow's name, and its version behind an ``@``.
        status: where it stands.
        created_at: seconds since the epoch.
        finished_at: seconds since the epoch, or None.
        parent: who called it, or None.
        custom_status: what its code set, or null.
        attributes: its custom attributes.
        base: number of the first row of its last generation.
        rows: number, moment and events of each row.
        inbox: events that wait for it.
        blobs: content by digest, in base64.
        links: the messages of conversations: root, depth, digest, parent, message.
    """

    format: Literal["perdure-history"] = "perdure-history"
    version: Literal[1] = 1
    instance_id: str
    app_id: str
    workflow: str
    status: Status
    created_at: float
    finished_at: float | None = None
    parent: str | None = None
    custom_status: msgspec.Raw = msgspec.Raw(b"null")
    attributes: dict[str, str | int | float | bool] = {}
    base: int = 0
    rows: list[tuple[int, float, msgspec.Raw]]
    inbox: list[msgspec.Raw] = []
    blobs: dict[str, str] = {}
    links: list[tuple[str, int, str, str, msgspec.Raw]] = []


async def export_instance(store: HistoryStore, instance_id: str) -> bytes:
    """Return an instance with its history and all that it refers to, as one JSON document.

    Raises:
        InstanceNotFoundError: no such instance.
        StoreCorruptError: content that the history refers to is missing.
        UsageError: it goes on faster than it can be read.
    """
    record, rows, inbox = await _standstill(store, instance_id)
    blobs, links = await _beside(store, [*(events for _, _, events in rows), *inbox])
    document = Document(
        instance_id=record.instance_id,
        app_id=record.app_id,
        workflow=record.workflow,
        status=record.status,
        created_at=record.created_at,
        finished_at=record.finished_at,
        parent=record.parent,
        custom_status=msgspec.Raw(record.custom_status or "null"),
        attributes=dict(record.attributes),
        base=next((seq for seq, _, events in rows[1:2] if begins_generation(decode_events(events))), 0),
        rows=[(seq, at, msgspec.Raw(events)) for seq, at, events in rows],
        inbox=[msgspec.Raw(event) for event in inbox],
        blobs={address: base64.b64encode(content).decode() for address, content in blobs.items()},
        links=[(one.root, one.depth, one.digest, one.parent, msgspec.Raw(one.message)) for one in links],
    )
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1)


async def _standstill(
    store: HistoryStore, instance_id: str
) -> tuple[InstanceRecord, list[tuple[int, float, str]], list[str]]:
    """Return an instance, its rows and its inbox as they are at one moment.

    Between two looks an event may pass from the inbox into the history, so nothing may have moved meanwhile.
    """
    for _ in range(_LOOKS):
        record = await store.find(instance_id)
        if record is None:
            raise InstanceNotFoundError(instance_id)
        rows, inbox = await store.rows(record.key), await store.waiting(record.key)
        if await store.find(instance_id) == record and await store.rows(record.key) == rows:
            return record, rows, inbox
    raise UsageError(f"run {instance_id!r} goes on faster than it can be exported: suspend it first")


async def _beside(store: HistoryStore, texts: Iterable[str]) -> tuple[dict[str, bytes], list[Link]]:
    """Return all content and links that some encoded events refer to, directly or not."""
    blobs: dict[str, bytes] = {}
    links: dict[tuple[str, int, str], Link] = {}
    fresh = list(texts)
    while fresh:
        missing = {address for text in fresh for address in blob_references(text)} - blobs.keys()
        blobs |= await store.blobs(missing)
        nested = [content.decode() for text in fresh for content in spilled_values(text, blobs)]
        keys = {key for text in [*fresh, *nested] for key in conversation_references(text)} - links.keys()
        found: list[Link] = []
        # The longest first: most of the others are parts of it.
        for key in sorted(keys, key=lambda key: -key[1]):
            if key[1] and key not in links:
                chain = await store.conversation(key)
                found += [link for link in chain if (link.root, link.depth, link.digest) not in links]
                links |= {(link.root, link.depth, link.digest): link for link in chain}
        fresh = [*nested, *(link.message for link in found)]
    return blobs, list(links.values())


async def import_instance(
    store: HistoryStore, document: bytes | str, *, instance_id: str | None = None, app_id: str | None = None
) -> str:
    """Add an instance from a document, and return its id.

    One that has not ended waits until it is resumed, for whoever executed it elsewhere may do so still.

    Args:
        store: where it is added.
        document: what :func:`export_instance` returned.
        instance_id: another id for it.
        app_id: another app for it.

    Raises:
        InstanceExistsError: the id is taken.
        UsageError: it is no such document, or what it refers to is not in it.
    """
    found = _read(document)
    chosen = instance_id or found.instance_id
    require_usable_id(chosen)
    rows = [(seq, at, _text(events)) for seq, at, events in found.rows]
    # One that was put off begins when it is resumed.
    status = Status.RUNNING if found.status is Status.PENDING else found.status
    new = NewInstance(
        instance_id=chosen,
        app_id=app_id or found.app_id,
        workflow=found.workflow,
        at=found.created_at,
        events=rows[0][2],
        parent=found.parent,
        attributes=found.attributes,
    )
    waits = None if found.status.finished else msgspec.json.encode({"stalled": _IMPORTED}).decode()
    restored = Restored(
        new=new,
        rows=rows,
        park=Park(status=status, waits=waits),
        base=found.base,
        finished_at=found.finished_at,
        custom_status=None if _text(found.custom_status) == "null" else _text(found.custom_status),
        blobs=_content(found.blobs),
        links=[Link(root, depth, own, parent, _text(message)) for root, depth, own, parent, message in found.links],
        inbox=tuple(_text(event) for event in found.inbox),
    )
    if not await store.restore([restored]):
        raise InstanceExistsError(chosen, "an import begins as a new run")
    return chosen


def _read(document: bytes | str) -> Document:
    try:
        found = msgspec.json.decode(document, type=Document)
        for _, _, events in found.rows:
            decode_events(bytes(events))
        for event in found.inbox:
            decode_event(bytes(event))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"this is no exported history: {error}") from error
    numbers = [seq for seq, _, _ in found.rows]
    expected = [0, *range(max(found.base, 1), max(found.base, 1) + len(numbers) - 1)]
    if numbers != expected:
        raise UsageError(f"this is no whole history: its rows are numbered {numbers[:20]}; export it again")
    return found


def _text(raw: msgspec.Raw) -> str:
    # As compact as the store's own, whatever an editor made of it.
    return msgspec.json.format(bytes(raw), indent=-1).decode()


def _content(blobs: Mapping[str, str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for address, text in blobs.items():
        try:
            contents[address] = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise UsageError(f"the content {address} is not base64: {error}") from error
        if digest(contents[address]) != address:
            raise UsageError(f"the content {address} was changed: it does not match its digest; export it again")
    return contents
