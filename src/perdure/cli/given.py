"""Values as people type them into options: JSON, attributes, paths of calls, statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.base.errors import UsageError
from perdure.base.events import Status

Attribute = str | int | float | bool


def json_value(option: str, text: str) -> Any:
    """Return the value of an option that takes JSON.

    Raises:
        UsageError: it is no JSON; the message names the option.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        hint = f"a text needs quotes of its own: {option} '\"done\"'"
        raise UsageError(f"{option} is not JSON ({error}); {hint}") from None


def attributes(given: Sequence[str]) -> dict[str, Attribute]:
    """Return custom attributes that are given as ``name=value``.

    A value that is a JSON number, ``true`` or ``false`` is one; everything else is text, quoted or not.

    Raises:
        UsageError: one has no ``=``, or no name.
    """
    found: dict[str, Attribute] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--attribute is {each!r}; write name=value, such as --attribute customer=ann")
        found[name] = _attribute(value)
    return found


def _attribute(text: str) -> Attribute:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def call_path(text: str) -> list[int]:
    """Return the calls that ``--at 3`` or ``--at 3.1`` means.

    Raises:
        UsageError: these are no numbers.
    """
    parts = text.removeprefix("#").split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            f"--at is {text!r}; give the number of a call as `perdure runs show` has it under #, such as 3, "
            "or a path into child workflows, such as 3.1"
        )
    return [int(part) for part in parts]


def statuses(given: Sequence[str], among: Sequence[Status] = tuple(Status)) -> tuple[Status, ...]:
    """Return the statuses of a repeatable ``--status``.

    Raises:
        UsageError: one is none of them.
    """
    named = {status.lower(): status for status in among}
    unknown = [text for text in given if text.lower() not in named]
    if unknown:
        raise UsageError(f"--status is {unknown[0]!r}; use one of: {', '.join(named)}")
    return tuple(named[text.lower()] for text in given)
