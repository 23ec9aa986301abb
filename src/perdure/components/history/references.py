"""What instances refer to: content and conversations, which go when nobody refers to them any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perdure.base.codec import Link, blob_references, conversation_references

_CONVERSATION = "conversation:"


def holder_of(key: int) -> str:
    """Return what an instance's references are kept under."""
    return f"instance:{key}"


def conversation_target(root: str) -> str:
    """Return what stands for a conversation among the targets of references; it holds references itself."""
    return _CONVERSATION + root


def roots_among(targets: Iterable[str]) -> list[str]:
    """Return the roots of the conversations among some targets."""
    return [target.removeprefix(_CONVERSATION) for target in targets if target.startswith(_CONVERSATION)]


def targets_in(text: str, blobs: Mapping[str, bytes] | Iterable[str] = ()) -> set[str]:
    """Return what some encoded events refer to.

    Args:
        text: the encoded events.
        blobs: the content that came with them, or its digests; what is nested in other content included.
    """
    found = set(blobs)
    if '{"$' in text:
        found.update(blob_references(text))
        found.update(_conversations_in(text))
    if isinstance(blobs, Mapping):
        for content in blobs.values():
            found.update(_conversations_in(content))
    return found


def _conversations_in(encoded: str | bytes) -> set[str]:
    return {conversation_target(root) for root, _, _ in conversation_references(encoded)}


def targets_of_links(links: Iterable[Link]) -> dict[str, set[str]]:
    """Return what the messages of conversations refer to, by the conversation's own target."""
    held: dict[str, set[str]] = {}
    for link in links:
        mentioned = blob_references(link.message) if '{"$' in link.message else ()
        held.setdefault(conversation_target(link.root), set()).update(mentioned)
    return held
