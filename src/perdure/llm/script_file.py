"""Script files of the scripted model: YAML or JSON, read and told apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from perdure.base.errors import UsageError

_KEYS = frozenset({"replies", "delay"})


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What a script file holds, not yet checked entry by entry.

    Attributes:
        path: where it was read, for people.
        replies: the list of replies.
        delay: seconds before each answer.
    """

    path: str
    replies: Any
    delay: Any = 0.0


def read_script(path: str | os.PathLike[str]) -> Script:
    """Return the script that a file holds.

    Raises:
        UsageError: the file cannot be read, is neither YAML nor JSON, or holds neither a list nor a mapping with
            ``replies``.
    """
    name = os.fspath(path)
    data = _parsed(name, _read(name))
    if isinstance(data, list):
        return Script(path=name, replies=data)
    if isinstance(data, Mapping) and "replies" in data:
        mapping = cast("Mapping[object, Any]", data)
        strange = [repr(key) for key in mapping if key not in _KEYS]
        if not strange:
            return Script(path=name, replies=mapping["replies"], delay=mapping.get("delay", 0.0))
        raise UsageError(f"{name}: unknown key {', '.join(strange)}; expected 'replies' and 'delay'")
    raise UsageError(f"{name}: expected a list of replies, or a mapping with 'replies' and 'delay'")


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{name}: the script cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name}: the script is not UTF-8 text") from None


def _parsed(name: str, text: str) -> object:
    if name.endswith(".json"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise UsageError(f"{name}: not JSON: {error}") from None
    from ruamel.yaml import YAML  # noqa: PLC0415 - only where files are used

    try:
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # noqa: BLE001 - told to the caller as what it is
        # Whatever the parser stumbles over (half a number, nesting without end) is a fault of the text.
        raise UsageError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
