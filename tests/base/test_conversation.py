from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.base.codec import Link, Resolved, encode
from perdure.base.conversation import Conversation
from perdure.base.messages import FunctionCall, Message, ToolCall

texts = st.text(st.characters(exclude_categories=()), max_size=20) | st.just("long " * 200)
calls = st.builds(
    ToolCall, id=texts, function=st.builds(FunctionCall, name=texts, arguments=texts), type=st.just("function")
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | texts,
    name=st.none() | texts,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
)


def conversation_of(parts: list[Message], root: str = "root") -> Conversation:
    conversation = Conversation(root)
    for message in parts:
        conversation = conversation.append(message)
    return conversation


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=6))
def test_a_conversation_is_the_same_after_a_round_trip_through_its_links(parts: list[Message]):
    original = conversation_of(parts)
    encoded = encode(original)
    read = Conversation.from_links("root", encoded.links, Resolved(encoded.blobs))
    assert read.messages() == parts
    assert read.key == original.key
    assert read.stored
    assert encode(read).links == []


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, min_size=1, max_size=4), st.lists(messages, min_size=1, max_size=4))
def test_the_digest_tells_conversations_apart(one: list[Message], other: list[Message]):
    assert (conversation_of(one).digest == conversation_of(other).digest) == (one == other)


def test_the_digest_does_not_depend_on_the_root_and_is_never_to_change():
    parts = [Message(role="user", content="hello"), Message(role="assistant", content="hi")]
    assert conversation_of(parts, "a").digest == conversation_of(parts, "b").digest
    assert conversation_of(parts).digest == "2fc78a3066352023d1da6bf85c0918ec5b6c8bbd"


def test_every_link_names_its_parent():
    links = encode(conversation_of([Message(role="user", content=str(number)) for number in range(3)])).links
    assert [link.depth for link in links] == [1, 2, 3]
    assert [link.parent for link in links] == ["", links[0].digest, links[1].digest]


def test_branches_share_their_links_and_each_is_handed_over_once():
    trunk = conversation_of([Message(role="user", content="trunk")])
    left = trunk.append(Message(role="user", content="left"))
    right = trunk.append(Message(role="user", content="right"))
    assert depths(encode(left).links) == [1, 2]
    assert depths(encode(right).links) == [2]
    assert encode(trunk).links == []
    assert [message.content for message in left.messages()] == ["trunk", "left"]


def depths(links: list[Link]) -> list[int]:
    return [link.depth for link in links]


def test_appending_leaves_the_conversation_as_it_was():
    short = conversation_of([Message(role="user", content="one")])
    longer = short.append(Message(role="user", content="two"))
    assert (short.depth, longer.depth) == (1, 2)
    assert len(short.messages()) == 1


def test_an_empty_conversation_is_a_reference_without_links():
    empty = Conversation("root")
    encoded = encode(empty)
    assert (empty.key, empty.messages(), encoded.links) == (("root", 0, ""), [], [])
    assert bytes(encoded.raw) == b'{"$conversation":["root",0,""]}'
    assert repr(empty) == 'Conversation(["root",0,""])'


def test_a_conversation_that_was_written_in_another_way_goes_on_from_its_own_digest():
    # As a later version would find it, whose messages have one more field.
    stored = Link("root", 1, "0" * 40, "", '{"role":"user","content":"hi","mood":"calm"}')
    read = Conversation.from_links("root", [stored], Resolved())
    assert read.key == ("root", 1, "0" * 40)
    longer = read.append(Message(role="assistant", content="hello"))
    assert [link.parent for link in encode(longer).links] == ["0" * 40]
