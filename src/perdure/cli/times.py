"""Times and spans of time as people type them."""

from __future__ import annotations

import datetime as dt
import re

from perdure.base.errors import UsageError
from perdure.base.schedule_text import parse_duration

_LARGE_UNITS = re.compile(r"(?:(?P<w>[0-9]{1,5}(?:\.[0-9]+)?)w)?(?:(?P<d>[0-9]{1,6}(?:\.[0-9]+)?)d)?(?P<rest>.*)")
_DAY = 86_400.0


def span(option: str, text: str) -> float:
    """Return the seconds that a text such as ``90s``, ``2h``, ``1d12h`` or ``3w`` means.

    Raises:
        UsageError: it is no span of time; the message names the option.
    """
    seconds = _span(text)
    if seconds is None:
        raise UsageError(f"{option} is {text!r}; write numbers with units (w, d, h, m, s), such as 30d or 1h30m")
    return seconds


def since(option: str, text: str, now: float) -> float:
    """Return the time that a text names: so long ago (``2h``, ``3d``), or an ISO time.

    Raises:
        UsageError: it is neither; the message names the option.
    """
    seconds = _span(text)
    return now - seconds if seconds is not None else iso_time(option, text, instead=" or how long ago (2h, 3d)")


def iso_time(option: str, text: str, *, instead: str = "", zone: dt.tzinfo | None = None) -> float:
    """Return an ISO time in seconds since the epoch; one without time zone is in the given one, or the local one.

    Raises:
        UsageError: it is no ISO time; the message names the option, and what else it takes.
    """
    try:
        read = dt.datetime.fromisoformat(text)
        return (read if read.tzinfo is not None else read.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} is {text!r}; write an ISO time (2026-07-01, 2026-07-01T18:30, 2026-07-01T18:30+02:00){instead}"
        ) from None


def _span(text: str) -> float | None:
    found = _LARGE_UNITS.fullmatch(text)
    if found is None or not text:
        return None
    large = float(found["w"] or 0) * 7 * _DAY + float(found["d"] or 0) * _DAY
    try:
        return large + (parse_duration(found["rest"]) if found["rest"] else 0.0)
    except UsageError:
        return None
