"""Identifiers: instance ids that sort by time, names that the wire allows, keys of workflows, content digests."""

from __future__ import annotations

import hashlib
import os
import re
import time

from perdure.base.errors import UsageError

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_BYTES = 20
_ID_LENGTH = 256

VERSION_MARK = "@"
"""Stands between a workflow's name and its version in the key of its instances."""


def new_instance_id() -> str:
    """Return 32 hexadecimal digits: the millisecond of birth, then 80 random bits.

    Ids that sort by time keep neighbours together in the store's indexes.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def new_execution_id() -> str:
    """Return 16 random hexadecimal digits, which tell apart the runs that have one instance id in turn."""
    return os.urandom(8).hex()


def execution_id_of_call(caller: str, execution_id: str, generation: int, call: int) -> str:
    """Return the execution id of a child workflow: the same each time that this call is made, and no other call's.

    Args:
        caller: the instance id of the caller.
        execution_id: the caller's own.
        generation: how often the caller has continued as new.
        call: the number of the call.
    """
    return digest(f"{caller}\0{execution_id}\0{generation}\0{call}".encode())[:16]


def require_usable_id(given: str, field: str = "instance_id") -> None:
    """Refuse what cannot be an instance id, or an app id.

    Raises:
        UsageError: it is empty, longer than 256 characters, or no text that a store keeps.
    """
    if not (_is_text(given) and 0 < len(given) <= _ID_LENGTH and "\0" not in given):
        raise UsageError(f"{field} is {given!r:.80}; use 1 to {_ID_LENGTH} characters of text without NUL")


def require_text(field: str, text: str) -> None:
    """Refuse what an event cannot carry as its name or reason.

    Args:
        field: what it is given as, for the error's text.
        text: what was given.

    Raises:
        UsageError: it is no text that a store keeps.
    """
    if not _is_text(text):
        raise UsageError(f"{field} is {text!r:.80}; use text")


def _is_text(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def workflow_key(name: str, version: str) -> str:
    """Return what instances of a version of a workflow are kept under."""
    return f"{name}{VERSION_MARK}{version}" if version else name


def split_key(key: str) -> tuple[str, str]:
    """Return the name and the version that a key stands for; the version is empty where there is none."""
    name, _, version = key.partition(VERSION_MARK)
    return name, version


def code_text(key: str) -> str:
    """Return in words which workflow, of which version, a key stands for."""
    name, version = split_key(key)
    return f"workflow {name!r} {version_text(version)}"


def version_text(version: str) -> str:
    """Return a version in words."""
    return f"of version {version!r}" if version else "without a version"


def agent_workflow_name(agent: str, framework: str = "") -> str:
    """Return the registered name of an agent's workflow (reference: wire.md, 1.2).

    Args:
        agent: the agent's name, or the name of its workflow already.
        framework: what the agent is written with; empty, or a spelling of "Dapr Agents", for this one's own agents.

    Raises:
        ValueError: more than 64 characters of the name are left when it is sanitised.
    """
    if agent.startswith("dapr.") and agent.endswith(".workflow"):
        return agent
    kind = framework.lower()
    if re.sub(r"[ ._-]", "", kind) in {"", "dapragents"}:
        return f"dapr.agents.{sanitized_name(agent)}.workflow"
    return f"dapr.{re.sub(r'[ _]', '-', kind)}.{sanitized_name(agent)}.workflow"
