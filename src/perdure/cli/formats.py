"""Values, times and commands as a terminal shows them."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_GENERATED_ID = re.compile(r"[0-9a-f]{32}")
_SHORT_ID = 16


def cleaned(text: str) -> str:
    """Return a text without what would command the terminal: control characters are written out as escapes."""
    text = text.replace("\r\n", "\n").encode(errors="backslashreplace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shortened(text: str, limit: int) -> str:
    """Return a text on one line, cut to at most ``limit`` characters."""
    line = " ".join(cleaned(text[: limit * 4]).split())
    return line if len(line) <= limit and len(text) <= limit * 4 else line[: limit - 1] + "…"


def as_json(value: Any) -> msgspec.Raw:
    """Return any decoded value as JSON; what JSON lacks becomes its nearest text."""
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))
    except (TypeError, ValueError):
        return msgspec.Raw(msgspec.json.encode(cleaned(str(value))))


def as_text(value: Any) -> str:
    """Return any decoded value as text: a string as it is, nothing as nothing, everything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else bytes(as_json(value)).decode()


def call_text(name: str, arguments: Any, limit: int = 100) -> str:
    """Return a call as Python would write it; arguments that are no JSON object stand as they are."""
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except msgspec.DecodeError:
            return f"{name}({shortened(arguments, limit)})"
    if not isinstance(arguments, dict):
        return f"{name}({shortened(as_text(arguments), limit)})"
    parts = [f"{key}={bytes(as_json(value)).decode()}" for key, value in arguments.items()]
    return f"{name}({shortened(', '.join(parts), limit)})"


def duration(seconds: float | None) -> str:
    """Return a span of time in at most two units; none at all when the clock went back meanwhile."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def ago(at: float, now: float) -> str:
    """Return how long ago something was."""
    seconds = max(0.0, now - at)
    return f"{duration(seconds)} ago" if seconds >= 1 else "just now"


def moment(at: float) -> str:
    """Return a time of day of the local zone, with the date."""
    return dt.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short_id(instance_id: str) -> str:
    """Return the beginning of a generated id, long enough to be unique in practice; other ids stay whole."""
    return instance_id[:_SHORT_ID] if _GENERATED_ID.fullmatch(instance_id) else cleaned(instance_id)


def command(*words: str, store: str | None = None) -> str:
    """Return a command line of ``perdure`` that can be pasted, with the store that was named on this one."""
    located: Sequence[str] = () if store is None else ("--store", store)
    return shlex.join(["perdure", *words, *located])
