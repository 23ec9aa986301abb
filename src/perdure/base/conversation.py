"""A conversation as a content-addressed chain: every link is its parent and one message.

A conversation is passed to activities by reference (root, depth, digest), so that a history stores each message
once however many model calls see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.base.codec import ConversationKey, Link, Reference, Resolved, Sink, decode, encode
from perdure.base.ids import digest
from perdure.base.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence


class Conversation(Reference):
    """An immutable conversation; :meth:`append` returns a longer one that shares all links of this one.

    Attributes:
        root: id of the instance that began it.
        depth: number of messages.
        digest: content address of the whole conversation, empty for the empty one.
        stored: whether a store has been given this link and all before it.
    """

    __slots__ = ("_encoded", "depth", "digest", "message", "parent", "root")

    def __init__(self, root: str, parent: Conversation | None = None, message: Message | None = None) -> None:
        self.root = root
        self.parent = parent
        self.message = message
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.stored = parent is None
        self._encoded = encode(message, "a chat message")
        raw = bytes(self._encoded.raw)
        self.digest: str = "" if parent is None else digest(parent.digest.encode(), raw)

    @property
    def key(self) -> ConversationKey:
        """Root, depth and digest of the last link."""
        return self.root, self.depth, self.digest

    def append(self, message: Message) -> Conversation:
        """Return this conversation with one more message."""
        return Conversation(self.root, self, message)

    def messages(self) -> list[Message]:
        """Return all messages, the oldest first."""
        found: list[Message] = []
        link: Conversation | None = self
        while link is not None and link.message is not None:
            found.append(link.message)
            link = link.parent
        found.reverse()
        return found

    def forget_stored(self) -> None:
        """Take it that no store has been given any link of this conversation."""
        node: Conversation = self
        while node.parent is not None:
            node.stored = False
            node = node.parent

    def as_reference(self, sink: Sink) -> object:
        """Return the tagged reference; hand over the links that no store holds yet, and mark them as handed over."""
        fresh: list[Link] = []
        node: Conversation | None = self
        while node is not None and not node.stored:
            parent = "" if node.parent is None else node.parent.digest
            fresh.append(Link(self.root, node.depth, node.digest, parent, bytes(node._encoded.raw).decode()))
            sink.blobs.update(node._encoded.blobs)
            sink.handed_over.append(node)
            node.stored = True
            node = node.parent
        sink.links.extend(reversed(fresh))
        sink.conversations[self.key] = self
        return {"$conversation": [self.root, self.depth, self.digest]}

    @classmethod
    def from_links(cls, root: str, links: Sequence[Link], resolved: Resolved) -> Conversation:
        """Return the conversation that a store kept as these links, the first message first."""
        conversation = cls(root)
        for link in links:
            message = msgspec.convert(decode(link.message, resolved), Message)
            conversation = conversation.append(message)
            # Its own address, not that of the message as it is written today.
            conversation.digest = link.digest
            conversation.stored = True
        return conversation

    def __repr__(self) -> str:
        return f"Conversation({msgspec.json.encode(self.key).decode()})"
