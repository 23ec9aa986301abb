"""Rows as the parameter of a statement."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

_json = msgspec.json.Encoder()


def parameter(rows: Iterable[object]) -> tuple[str]:
    """Return rows as the one parameter of a statement that reads them with ``json_each``."""
    return (_json.encode(rows).decode(),)
