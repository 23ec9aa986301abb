"""Identifiers: instance ids that sort by time, names that the wire allows, content digests."""

from __future__ import annotations

import hashlib
import os
import re
import time

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_BYTES = 20


def new_instance_id() -> str:
    """Return 32 hexadecimal digits: the millisecond of birth, then 80 random bits.

    Ids that sort by time keep neighbours together in the store's indexes.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def digest(*parts: bytes) -> str:
    """Return the content address of some bytes: BLAKE2b, 160 bits, as 40 hexadecimal digits."""
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def sanitized_name(name: str) -> str:
    """Return a name as workflows, activities, tools and messages may carry it.

    Characters outside ``[A-Za-z0-9_-]`` are deleted; nothing left gives ``unnamed_tool``
    (reference: wire.md, 1.1).

    Raises:
        ValueError: more than 64 characters are left.
    """
    cleaned = _FORBIDDEN.sub("", name) or "unnamed_tool"
    if len(cleaned) > 64:
        raise ValueError(f"the name {name!r} has {len(cleaned)} characters; at most 64 are allowed: shorten it")
    return cleaned
