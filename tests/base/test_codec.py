"""Values as data: whatever goes in comes out, the same bytes every time, and no user's string is taken for a tag."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.base.codec import (
    INLINE,
    SPILL,
    Encoded,
    Record,
    Resolved,
    blob_references,
    conversation_references,
    decode,
    encode,
    spilled_values,
)
from perdure.base.conversation import Conversation
from perdure.base.errors import NotSerializableError
from perdure.base.ids import digest
from perdure.base.messages import Message

TAGS = [
    "$text",
    "$value",
    "$conversation",
    "$surrogates",
    "$bytes",
    "$map",
    "$tuple",
    "$set",
    "$frozenset",
    "$float",
    "$complex",
    "$datetime",
    "$date",
    "$time",
    "$timedelta",
    "$decimal",
    "$uuid",
]
ADDRESS = "0" * 40
WHEN = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
TRAPS = [
    f'{{"$text":"{ADDRESS}"}}',
    f'{{"$value":"{ADDRESS}"}}',
    '{"$conversation":["root",1,"00"]}',
    f'\\{{"$text":"{ADDRESS}"}}',
    f'\\"{{"$text":"{ADDRESS}"}}\\"',
]

any_char = st.characters(exclude_categories=())
texts = st.one_of(
    st.text(max_size=20),
    st.text(any_char, max_size=8),
    st.sampled_from(TRAPS),
    st.sampled_from(TAGS),
    st.builds(
        lambda text, size: (text * size)[:size], st.text(any_char, min_size=1, max_size=5), st.integers(500, 700)
    ),
)
offsets = st.integers(-86_399, 86_399).map(lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)))
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**200), 10**200),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    texts,
    st.binary(max_size=30),
    st.binary(min_size=500, max_size=600),
    st.datetimes(timezones=st.none() | offsets),
    st.dates(),
    st.times(timezones=st.none() | offsets),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
leaves = hashable_leaves | st.floats() | st.complex_numbers() | st.decimals(allow_nan=True)
hashable = st.recursive(
    hashable_leaves, lambda part: st.lists(part, max_size=3).map(tuple) | st.frozensets(part, max_size=3), max_leaves=6
)
values = st.recursive(
    leaves | hashable,
    lambda part: st.one_of(
        st.lists(part, max_size=4),
        st.lists(part, max_size=4).map(tuple),
        st.dictionaries(texts, part, max_size=4),
        st.dictionaries(hashable, part, max_size=3),
        st.builds(lambda tag, item: {tag: item}, st.sampled_from(TAGS), part),
        st.sets(hashable, max_size=4),
    ),
    max_leaves=12,
)


def _nested(encoded: Encoded) -> set[str]:
    """Return the digests that a value refers to through its spilled values."""
    values = spilled_values(encoded.raw, encoded.blobs)
    return set().union(*(blob_references(value) for value in values))


def same(one: Any, other: Any) -> bool:
    """Equality that tells 1 from True and from 1.0, and takes nan for nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return one == other


def read_back(encoded: Encoded) -> Any:
    return decode(encoded.raw, encoded.resolved)


@settings(max_examples=600, deadline=None)
@given(values)
@example(complex(math.nan, -0.0))
@example([complex(math.inf, math.nan)])
@example({"$text": ADDRESS})
@example({"\ud800": "\udfff" * 600})
@example({("a", 1): {"$map": []}})
@example(10**4000)
@example(-0.0)
def test_what_goes_in_comes_out(value: Any):
    assert same(read_back(encode(value)), value)


@settings(max_examples=300, deadline=None)
@given(values)
def test_encoding_is_deterministic_and_decoding_undoes_it_exactly(value: Any):
    first = encode(value)
    again = encode(read_back(first))
    assert bytes(first.raw) == bytes(encode(value).raw)
    assert first.blobs == encode(value).blobs
    # A set may hold numbers that are equal and written differently; all else is written as it was.
    assert same(read_back(again), value)


@settings(max_examples=300, deadline=None)
@given(values)
def test_the_references_of_an_encoding_are_exactly_its_blobs(value: Any):
    encoded = encode(value)
    direct = blob_references(encoded.raw)
    assert direct | _nested(encoded) <= set(encoded.blobs)
    needed = direct | _nested(encoded)
    known = Resolved({address: encoded.blobs[address] for address in needed})
    assert same(decode(encoded.raw, known), value)
    assert all(digest(content) == address for address, content in encoded.blobs.items())
    assert conversation_references(encoded.raw) == set()


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: [t], lambda t: {t: t}, lambda t: {"$text": t}, lambda t: (t,)])
def test_no_string_of_a_user_is_taken_for_a_reference(trap: str, wrap: Any):
    encoded = encode(wrap(trap))
    assert blob_references(encoded.raw) == set()
    assert conversation_references(encoded.raw) == set()
    assert read_back(encoded) == wrap(trap)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("item", [ADDRESS, ["root", 1, "00"], None, [], 1])
def test_no_dict_of_a_user_is_taken_for_a_tag(tag: str, item: Any):
    encoded = encode({tag: item})
    assert blob_references(encoded.raw) == set()
    assert conversation_references(encoded.raw) == set()
    assert read_back(encoded) == {tag: item}


@pytest.mark.parametrize("value", [{2, 1, 3}, frozenset("zyxwv"), {"b", 1, None, (2, "c")}])
def test_a_set_has_the_same_bytes_in_any_order(value: Any):
    turned = type(value)(reversed(list(value)))
    assert bytes(encode(value).raw) == bytes(encode(turned).raw)


def test_strings_are_stored_apart_from_512_bytes_on():
    short, long = "x" * (SPILL - 1), "x" * SPILL
    assert encode([short]).blobs == {}
    assert encode([long]).blobs == {digest(long.encode()): long.encode()}
    # In bytes, not in characters.
    assert len(encode(["\N{SNOWMAN}" * (SPILL // 3 + 1)]).blobs) == 1


def test_equal_strings_are_stored_once():
    text = "shared " * 100
    encoded = encode({"a": text, "b": [text, {"c": text}], text: 1})
    assert list(encoded.blobs) == [digest(text.encode())]
    assert read_back(encoded) == {"a": text, "b": [text, {"c": text}], text: 1}


def test_a_large_value_is_stored_apart_as_a_whole():
    value = [{"number": number, "text": "y" * 600} for number in range(1000)]
    encoded = encode(value)
    assert len(bytes(encoded.raw)) < 100
    assert len(encoded.blobs) == 2
    (whole,) = blob_references(encoded.raw)
    assert len(encoded.blobs[whole]) > INLINE
    assert _nested(encoded) == set(encoded.blobs) - {whole}
    assert read_back(encoded) == value


def test_a_missing_reference_is_a_key_error():
    with pytest.raises(KeyError):
        decode(encode("x" * 600).raw)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


class Point(msgspec.Struct):
    x: int
    at: dt.datetime | None = None
    path: tuple[int, ...] = ()


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    items: list[Point]


class Model(pydantic.BaseModel):
    amount: decimal.Decimal
    tags: set[str] = set()


class Later(dt.datetime):
    pass


class Span(dt.timedelta):
    pass


class Number(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Name("n"), "n"),
        (Number(1.5), 1.5),
        (Number("nan"), math.nan),
        (Point(1, WHEN, (1, 2)), {"x": 1, "at": WHEN, "path": (1, 2)}),
        (Order(uuid.UUID(int=1), [Point(1)]), {"id": uuid.UUID(int=1), "items": [{"x": 1, "at": None, "path": ()}]}),
        (Model(amount=decimal.Decimal("1.10"), tags={"a"}), {"amount": decimal.Decimal("1.10"), "tags": {"a"}}),
        (Later(2025, 1, 1, tzinfo=dt.UTC), WHEN),
        (Span(seconds=5), dt.timedelta(seconds=5)),
        (bytearray(b"x"), b"x"),
        (Colour.__members__, {"RED": "red"}),
    ],
)
def test_records_and_subclasses_become_plain_data(value: Any, expected: Any):
    assert same(read_back(encode(value)), expected)


class Note(Record, frozen=True, gc=False):
    text: str
    tags: tuple[str, ...] = ()


@pytest.mark.parametrize("text", ["short", "long " * 200, "\ud800"])
def test_a_record_has_the_same_shape_whatever_its_size(text: str):
    assert read_back(encode(Note(text, ("a",)))) == {"text": text, "tags": ["a"]}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), len, Colour, lambda: 0, [object()], {"k": {1: object()}}, Point(1, object()), nested(100_000), 10**5000],
    ids=[
        "object",
        "function",
        "class",
        "lambda",
        "in a list",
        "in a dict",
        "in a struct",
        "too deep",
        "too many digits",
    ],
)
def test_what_is_no_data_is_refused_by_name_of_its_place(value: Any):
    with pytest.raises(NotSerializableError, match=r"the result of activity 'pay' holds a .*Return plain values"):
        encode(value, "the result of activity 'pay'")


# -- conversations inside values


def said(*texts: str) -> Conversation:
    conversation = Conversation("root")
    for text in texts:
        conversation = conversation.append(Message(role="user", content=text))
    return conversation


@pytest.mark.parametrize("beside", ["short", "long " * 200, "\ud800", "x" * 20_000])
def test_links_are_handed_over_once_whatever_stands_beside_them(beside: str):
    conversation = said("one", "two " * 300)
    encoded = encode([conversation, beside, conversation])
    assert [link.depth for link in encoded.links] == [1, 2]
    assert digest(("two " * 300).encode()) in encoded.blobs
    assert read_back(encoded) == [conversation, beside, conversation]
    assert encode([conversation, beside]).links == []


def test_a_refused_value_keeps_no_links():
    conversation = said("one", "two")
    with pytest.raises(NotSerializableError):
        encode([conversation, object()])
    assert len(encode(conversation).links) == 2


def test_the_conversations_of_a_value_are_found():
    one = said("one")
    awkward = Conversation('ro"ot\\ \N{SNOWMAN}').append(Message(role="user", content="x"))
    encoded = encode({"a": one, "b": [awkward], "c": Conversation("empty")})
    assert conversation_references(encoded.raw) == {one.key, awkward.key, ("empty", 0, "")}
