"""Values as data: JSON with tagged types, large parts by content address.

What JSON has is written as JSON. What it lacks is an object with one ``$`` key: ``$bytes``, ``$tuple``, ``$set``,
``$frozenset``, ``$datetime``, ``$date``, ``$time``, ``$timedelta``, ``$decimal``, ``$uuid``, ``$float`` (nan and the
infinities), ``$complex``, ``$surrogates`` and ``$map`` (a dict whose keys are not plain strings). Dataclasses,
pydantic models, structs and enums become plain data; nothing is ever imported or unpickled when a value is read.

Strings of :data:`SPILL` bytes or more are stored once by digest and leave ``{"$text": digest}`` behind; whatever is
still larger than :data:`INLINE` leaves ``{"$value": digest}``.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.base.errors import NotSerializableError, UsageError
from perdure.base.ids import digest

SPILL = 512
"""Strings of this many UTF-8 bytes are stored by content: below it, a reference would not pay for itself."""

INLINE = 16_384
"""An encoded value larger than this many bytes is stored by content as a whole."""

_SHORT = SPILL // 6
"""An ASCII string below this length is small however it is escaped."""

_PLAIN = frozenset({str, int, bool, type(None)})
_STRUCT_LEAVES = (bytes, bytearray, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID)
_NO_BLOBS: dict[str, bytes] = {}
_NO_CONVERSATIONS: dict[ConversationKey, Reference] = {}
_REFERENCE = re.compile(rb'\{"\$(text|value)":"([0-9a-f]{40})"\}')
_CONVERSATION = re.compile(rb'\{"\$conversation":(\["(?:[^"\\]|\\.)*",\d+,"[0-9a-f]*"\])\}')


ConversationKey = tuple[str, int, str]
"""Root, depth and digest: where a conversation's last link stands."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A struct whose fields are plain JSON values and records of such: it is encoded in one step."""


class Link(msgspec.Struct, frozen=True, gc=False):
    """One link of a conversation chain, as a store keeps it.

    Attributes:
        root: id of the instance that began the conversation; neighbours in the store.
        depth: how many messages the conversation has up to this link.
        digest: content address of this link: of its parent's digest and its message.
        parent: digest of the link before, empty for the first.
        message: the message as tagged JSON.
    """

    root: str
    depth: int
    digest: str
    parent: str
    message: str


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An encoded value with what must be stored beside it.

    Attributes:
        raw: the tagged JSON.
        blobs: content by digest that ``raw`` refers to.
        links: conversation links that ``raw`` refers to and that no store holds yet.
        conversations: the conversations that ``raw`` refers to, as they are in memory.
    """

    raw: msgspec.Raw
    blobs: Mapping[str, bytes] = _NO_BLOBS
    links: Sequence[Link] = ()
    conversations: Mapping[ConversationKey, Reference] = _NO_CONVERSATIONS

    @property
    def resolved(self) -> Resolved:
        """What decoding this value in the same process needs."""
        return Resolved(self.blobs, self.conversations)


class Sink:
    """Collects what an encoding leaves beside the value."""

    __slots__ = ("blobs", "conversations", "handed_over", "links", "spill", "takes_references", "where")

    def __init__(self, where: str, *, takes_references: bool) -> None:
        self.where, self.spill = where, False
        self.takes_references = takes_references
        self.blobs: dict[str, bytes] = {}
        self.links: list[Link] = []
        self.conversations: dict[ConversationKey, Reference] = {}
        self.handed_over: list[Reference] = []


class Reference(ABC):
    """A value that is stored as a reference to links of its own.

    Attributes:
        stored: whether a store has been given everything that the reference needs.
    """

    __slots__ = ("stored",)

    stored: bool

    @abstractmethod
    def forget_stored(self) -> None:
        """Take it that no store has been given anything of this reference."""

    @abstractmethod
    def as_reference(self, sink: Sink) -> object:
        """Return the tagged data that stands for this value; add to the sink what a store must keep."""


def _keep(sink: Sink, content: bytes) -> str:
    address = digest(content)
    sink.blobs[address] = content
    return address


def _text(value: str, sink: Sink) -> object:
    if not sink.spill:
        return value
    try:
        content = value.encode()
    except UnicodeEncodeError:
        return {"$surrogates": _text(base64.b64encode(value.encode("utf-8", "surrogatepass")).decode(), sink)}
    if len(content) >= SPILL:
        return {"$text": _keep(sink, content)}
    return value


def _is_plain_key(key: object, sink: Sink) -> bool:
    if type(key) is not str or key.startswith("$"):
        return False
    return not sink.spill or type(_text(key, sink)) is str


def _mapping(value: Mapping[Any, Any], sink: Sink) -> object:
    plain: dict[str, object] = {}
    for key, item in value.items():
        if not _is_plain_key(key, sink):
            return {"$map": [[_member(k, sink), _data(v, sink)] for k, v in value.items()]}
        plain[key] = _data(item, sink)
    return plain


def _many(tag: str) -> Callable[[Any, Sink], object]:
    return lambda value, sink: {tag: [_data(item, sink) for item in value]}


def _sorted_set(tag: str) -> Callable[[Any, Sink], object]:
    # Sorted by encoding: the same set must give the same bytes in every process.
    return lambda value, sink: {tag: sorted((_member(item, sink) for item in value), key=msgspec.json.encode)}


def _member(value: Any, sink: Sink) -> object:
    """Return a member of a set or a key of a dict as data, if what is read back can be one again."""
    data = _data(value, sink)
    if not _reads_hashable(data):
        raise NotSerializableError(sink.where, value)
    return data


def _reads_hashable(data: object) -> bool:
    if isinstance(data, dict):
        tag, item = next(iter(data.items()), ("", ()))
        if tag in {"$tuple", "$frozenset"}:
            return all(_reads_hashable(part) for part in item)
        return len(data) == 1 and tag.startswith("$") and tag not in {"$map", "$set"}
    return not isinstance(data, list)


_WRITERS: dict[type, Callable[[Any, Sink], object]] = {
    str: _text,
    dict: _mapping,
    list: lambda value, sink: [_data(item, sink) for item in value],
    float: lambda value, _: value if math.isfinite(value) else {"$float": str(value)},
    complex: lambda value, sink: {"$complex": [_data(value.real, sink), _data(value.imag, sink)]},
    tuple: _many("$tuple"),
    set: _sorted_set("$set"),
    frozenset: _sorted_set("$frozenset"),
    bytes: lambda value, sink: {"$bytes": _text(base64.b64encode(value).decode(), sink)},
    bytearray: lambda value, sink: {"$bytes": _text(base64.b64encode(value).decode(), sink)},
    dt.datetime: lambda value, _: {"$datetime": value.isoformat()},
    dt.date: lambda value, _: {"$date": value.isoformat()},
    dt.time: lambda value, _: {"$time": value.isoformat()},
    dt.timedelta: lambda value, _: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    decimal.Decimal: lambda value, _: {"$decimal": str(value)},
    uuid.UUID: lambda value, _: {"$uuid": str(value)},
}


def _data(value: Any, sink: Sink) -> object:
    """Return a value as what JSON can hold."""
    kind = type(value)
    if kind in _PLAIN and (kind is not str or not sink.spill):
        return value
    writer = _WRITERS.get(kind)
    return writer(value, sink) if writer is not None else _unusual(value, sink)


def _unusual(value: Any, sink: Sink) -> object:
    if isinstance(value, Reference):
        if not sink.takes_references:
            raise UsageError(
                f"{sink.where} holds a conversation, which only an activity can be given; pass its messages"
            )
        return value.as_reference(sink)
    known, plain = _as_plain(value, sink)
    if known:
        return _data(plain, sink)
    if isinstance(value, Mapping):
        return _mapping(value, sink)
    for base, writer in _WRITERS.items():
        if isinstance(value, base):
            return writer(value, sink)
    raise NotSerializableError(sink.where, value)


def _as_plain(value: Any, sink: Sink) -> tuple[bool, object]:
    """Return whether the value is of a kind that has plain data in it, and that data."""
    if isinstance(value, enum.Enum):
        return True, value.value
    if isinstance(value, msgspec.Struct):
        fields = msgspec.to_builtins(value, builtin_types=_STRUCT_LEAVES, enc_hook=_refusing(sink))
        return True, _with_lists(fields) if isinstance(value, Record) else fields
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return True, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return True, dump()
    for base in (str, int, float):
        if isinstance(value, base):
            return True, base(value)
    return False, None


def _with_lists(data: Any) -> Any:
    # A record's tuples are JSON arrays, as they are when it is small and encoded in one step.
    if isinstance(data, dict):
        return {key: _with_lists(item) for key, item in data.items()}
    return [_with_lists(item) for item in data] if isinstance(data, list | tuple) else data


def _refusing(sink: Sink) -> Callable[[Any], object]:
    def refuse(value: Any) -> object:
        raise NotSerializableError(sink.where, value)

    return refuse


def _json_of(value: object, where: str) -> bytes:
    try:
        return msgspec.json.encode(value)
    except ValueError as error:
        # An integer of more digits than Python reads back.
        raise NotSerializableError(where, value) from error


def _small_record(value: Record) -> Encoded | None:
    try:
        raw = msgspec.json.encode(value)
    except UnicodeEncodeError:
        return None
    return Encoded(msgspec.Raw(raw)) if len(raw) < SPILL else None


def _written(value: object, sink: Sink) -> bytes:
    try:
        raw = msgspec.json.encode(_data(value, sink))
        if len(raw) < SPILL:
            return raw
    except UnicodeEncodeError:
        # A surrogate somewhere: only the thorough way looks at each string.
        pass
    # With the same sink, which keeps the links that were handed over on the first way.
    sink.spill = True
    return msgspec.json.encode(_data(value, sink))


def encode(value: object, where: str = "this value", *, references: bool = True) -> Encoded:
    """Return a value as tagged JSON, with its large parts beside it.

    Args:
        value: anything the module's docstring names, in any nesting.
        where: what is being stored, for the error's text.
        references: whether the value may refer to conversations.

    Raises:
        NotSerializableError: some part of the value is not data.
        UsageError: it refers to a conversation and may not.
    """
    kind = type(value)
    if kind in _PLAIN and (kind is not str or (len(value) < _SHORT and value.isascii())):  # type: ignore[arg-type, attr-defined]
        return Encoded(msgspec.Raw(_json_of(value, where)))
    if isinstance(value, Record):
        small = _small_record(value)
        if small is not None:
            return small
    sink = Sink(where, takes_references=references)
    try:
        raw = _written(value, sink)
    except BaseException as error:
        # Nobody will store what the sink has got.
        for reference in sink.handed_over:
            reference.stored = False
        if isinstance(error, RecursionError | ValueError):
            # Nested too deeply, or an integer of more digits than Python reads back.
            raise NotSerializableError(where, value) from error
        raise
    if len(raw) > INLINE:
        raw = msgspec.json.encode({"$value": _keep(sink, raw)})
    return Encoded(msgspec.Raw(raw), sink.blobs, sink.links, sink.conversations)


def blob_references(raw: bytes | str) -> set[str]:
    """Return the digests of the blobs that an encoded value refers to, directly."""
    content = raw.encode() if isinstance(raw, str) else bytes(raw)
    if b'{"$' not in content:
        return set()
    return {found[1].decode() for found in _REFERENCE.findall(content)}


def spilled_values(raw: bytes | str, blobs: Mapping[str, bytes]) -> list[bytes]:
    """Return those blobs of an encoded value that are themselves encoded values, and may refer to others."""
    content = raw.encode() if isinstance(raw, str) else bytes(raw)
    return [blobs[address.decode()] for kind, address in _REFERENCE.findall(content) if kind == b"value"]


def conversation_references(raw: bytes | str) -> set[ConversationKey]:
    """Return the keys of the conversations that an encoded value refers to."""
    content = raw.encode() if isinstance(raw, str) else bytes(raw)
    if b'{"$conversation"' not in content:
        return set()
    return {tuple(msgspec.json.decode(found)) for found in _CONVERSATION.findall(content)}


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """What a store gave for the references of a value."""

    blobs: Mapping[str, bytes] = _NO_BLOBS
    conversations: Mapping[ConversationKey, Reference] = _NO_CONVERSATIONS


NOTHING = Resolved()
"""What a value without references needs."""

_Reader = Callable[[Any, Resolved], object]

_READERS: dict[str, _Reader] = {
    "$text": lambda item, found: found.blobs[item].decode(),
    "$value": lambda item, found: _value(msgspec.json.decode(found.blobs[item]), found),
    "$conversation": lambda item, found: found.conversations[tuple(item)],
    "$surrogates": lambda item, found: base64.b64decode(_as_text(item, found)).decode("utf-8", "surrogatepass"),
    "$bytes": lambda item, found: base64.b64decode(_as_text(item, found)),
    "$map": lambda item, found: {_value(k, found): _value(v, found) for k, v in item},
    "$tuple": lambda item, found: tuple(_value(part, found) for part in item),
    "$set": lambda item, found: {_value(part, found) for part in item},
    "$frozenset": lambda item, found: frozenset(_value(part, found) for part in item),
    "$float": lambda item, _: float(item),
    "$complex": lambda item, found: complex(*(_value(part, found) for part in item)),
    "$datetime": lambda item, _: dt.datetime.fromisoformat(item),
    "$date": lambda item, _: dt.date.fromisoformat(item),
    "$time": lambda item, _: dt.time.fromisoformat(item),
    "$timedelta": lambda item, _: dt.timedelta(*item),
    "$decimal": lambda item, _: decimal.Decimal(item),
    "$uuid": lambda item, _: uuid.UUID(item),
}


def _as_text(item: Any, found: Resolved) -> str:
    return item if isinstance(item, str) else found.blobs[item["$text"]].decode()


def _value(data: Any, found: Resolved) -> Any:
    if isinstance(data, list):
        return [_value(item, found) for item in data]
    if isinstance(data, dict):
        if len(data) == 1:
            tag, item = next(iter(data.items()))
            reader = _READERS.get(tag)
            if reader is not None:
                return reader(item, found)
        return {key: _value(item, found) for key, item in data.items()}
    return data


def decode(raw: bytes | msgspec.Raw | str, resolved: Resolved = NOTHING) -> Any:
    """Return the value that :func:`encode` wrote.

    Args:
        raw: tagged JSON.
        resolved: the content of every reference inside it.

    Raises:
        KeyError: a reference is not in ``resolved``.
    """
    data = msgspec.json.decode(raw)
    if type(data) in _PLAIN or b'{"$' not in (raw.encode() if isinstance(raw, str) else bytes(raw)):
        return data
    return _value(data, resolved)
