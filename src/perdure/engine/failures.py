"""Exceptions as data."""

from __future__ import annotations

import math
import traceback

from perdure.base.errors import UsageError
from perdure.base.events import Failure


def failure_of(error: BaseException) -> Failure:
    """Return an exception as data; one that misbehaves when it is looked at included."""
    return Failure(
        error_type=type(error).__name__,
        message=_storable(_text_of(error)),
        stack=_storable(_stack_of(error)),
        non_retryable=isinstance(error, UsageError) or _attribute(error, "non_retryable") is True,
        retry_after=_seconds(_attribute(error, "retry_after")),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is must not hide that it was raised
        return f"<{type(error).__name__} without text: its __str__ fails>"


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as above
        return ""


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - as above
        return None


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _seconds(value: object) -> float | None:
    # Whatever exceptions of other libraries keep under this name: only a plain number is meant for us.
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return None
