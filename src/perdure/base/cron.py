"""When a cron expression fires, on the wall clock of a time zone: pure arithmetic.

Expressions are read as Dapr reads them: five fields, or six with the seconds first, or a macro such as ``@daily``.
Where the wall clock jumps, one of two rules holds:

- An expression that names hours (``30 2 * * *``) fires once for each time that it names: at the first moment after the
  gap for a time that the clock skips, and at its first showing for a time that the clock shows twice.
- An expression that holds for every hour (``*/5 * * * *``) names no time of day and keeps its rhythm: it fires whenever
  the clock shows a time that matches, in both showings of an hour and never for an hour that is skipped.

A *moment* is a whole number of seconds since the Unix epoch; a *wall* is what a clock on the wall shows at a moment,
counted the same way as if that clock were in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from perdure.base.errors import UsageError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
LONGEST_CRON = 500
"""Characters that an expression may have at most: far more than any honest one, few enough to read at once."""

_DAY = 86_400
_EVERY_HOUR = set(range(24))
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBERS: dict[str, int] = {name: number for number, name in enumerate(_DAYS)} | {
    name: number for number, name in enumerate(_MONTHS, start=1)
}
_STEPPED_RANGE = re.compile(r"([0-9]+|[A-Za-z]+)-([0-9]+|[A-Za-z]+)/0*[1-9][0-9]*")
_EVERY_DAY = re.compile(r"\*(/0*1)?")
_TRIAL_START = datetime(2000, 1, 1, tzinfo=UTC)
"""In the 50 years that the parser looks ahead from here, every day that ever comes has come."""

_FORMS = (
    "write five fields (minute hour day month weekday), six with the seconds in front, or one of "
    f"{', '.join(MACROS)}; an interval such as '@every 90s' is written every=90"
)


class Cron(NamedTuple):
    """A checked expression.

    Attributes:
        expression: the text as the parser reads it.
        every_hour: it holds for every hour of a day, and so names no time of day.
    """

    expression: str
    every_hour: bool


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Cron:
    """Return a checked cron expression.

    Raises:
        UsageError: the text is no cron expression, or one that never fires.
    """
    if len(text) > LONGEST_CRON:
        raise UsageError(f"it has {len(text)} characters, more than {LONGEST_CRON}; {_FORMS}")
    fields = MACROS.get(text.strip().lower(), text).replace("?", "*").split()
    if len(fields) not in (5, 6):
        raise UsageError(_FORMS)
    fields = [",".join(map(_without_idle_step, field.split(","))) for field in fields]
    fields[-3] = _as_dapr_reads_days(fields[-3], first=1, last=31)
    fields[-1] = _as_dapr_reads_days(fields[-1], first=0, last=6)
    expression = " ".join(fields)
    try:
        parser = CronSim(expression, _TRIAL_START)
        next(parser)
    except (CronSimError, StopIteration) as error:
        raise UsageError(f"{_explain(error)}; {_FORMS}") from None
    return Cron(expression, parser.hours == _EVERY_HOUR)


def _explain(error: CronSimError | StopIteration) -> str:
    """Return what the parser found, in words that also fit a day that none of its months has."""
    found = str(error).lower() or "its days never come"
    return f"{found}, or one that never comes" if "day-of-month" in found else found


def _without_idle_step(part: str) -> str:
    """Return ``5`` for ``5-5/2``: the parser lets any single value with a step go on to the end of the field."""
    found = _STEPPED_RANGE.fullmatch(part)
    return found[1] if found is not None and _number(found[1]) == _number(found[2]) else part


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else _NUMBERS.get(text.lower(), text)


def _as_dapr_reads_days(field: str, first: int, last: int) -> str:
    """Return a field of days such that the parser takes it as Dapr does.

    A day has to match both fields where one of them is a bare star, and one of the two otherwise. To Dapr a star with a
    step is a restriction like any other; the parser calls every field that begins with a star a star.
    """
    parts = field.split(",")
    stars = ["*"] if any(_EVERY_DAY.fullmatch(part) for part in parts) else []
    return ",".join([*stars, *(_with_its_end(part, first, last) for part in parts if part != "*")])


def _with_its_end(part: str, first: int, last: int) -> str:
    """Return a part of a field with both ends of a stepped range written out."""
    start, slash, step = part.partition("/")
    if not slash or "-" in start:
        return part
    return _without_idle_step(f"{first if start == '*' else start}-{last}/{step}")


def load_zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name; ``UTC`` needs no database.

    Raises:
        UsageError: there is no such zone, or no time zone database on this machine.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    try:
        ZoneInfo("Etc/UTC")
    except ZoneInfoNotFoundError:
        raise UsageError("this machine has no time zone database: pip install tzdata, or use 'UTC'") from None
    raise UsageError("write a name of the IANA time zone database, such as 'UTC' or 'Europe/Berlin'")


def next_match(cron: Cron, zone: tzinfo, after: int) -> int | None:
    """Return the first moment after ``after`` at which an expression fires, or None when there is none for 50 years."""
    return _next_in_rhythm(cron, zone, after) if cron.every_hour else _next_named(cron, zone, after)


def _next_named(cron: Cron, zone: tzinfo, after: int) -> int | None:
    for wall in _walls(cron, _furthest_wall(after, zone)):
        moment = _moment(wall, zone)
        if moment > after:
            return moment
    return None


def _next_in_rhythm(cron: Cron, zone: tzinfo, after: int) -> int | None:
    start = after + 1
    while True:
        offset = _offset(start, zone)
        wall = next(_walls(cron, start + offset - 1), None)
        if wall is None:
            return None
        moment = wall - offset
        probe = min(moment, start + _DAY)
        if _offset(probe, zone) != offset:
            start = _change(start, probe, zone)
        elif probe == moment:
            return moment
        else:
            start = moment - _DAY


def _walls(cron: Cron, wall: int) -> Iterator[int]:
    """Yield the walls after one that match, whether a clock ever shows them or not."""
    for found in CronSim(cron.expression, datetime.fromtimestamp(wall, UTC)):
        yield int(found.timestamp())


def _moment(wall: int, zone: tzinfo) -> int:
    """Return the moment at which a clock first shows a wall, or has just skipped it."""
    local = datetime.fromtimestamp(wall, UTC).replace(tzinfo=zone)
    first, second = int(local.timestamp()), int(local.replace(fold=1).timestamp())
    return first if first <= second else _change(second, first, zone)


def _furthest_wall(moment: int, zone: tzinfo) -> int:
    """Return the furthest that the clock has come up to a moment: where it was before it was set back."""
    local = datetime.fromtimestamp(moment, zone)
    if local.fold:
        moment = _change(int(local.replace(fold=0).timestamp()), moment, zone) - 1
    return moment + _offset(moment, zone)


def _offset(moment: int, zone: tzinfo) -> int:
    """Return how many seconds the clock of a zone is ahead of UTC at a moment."""
    return int((datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()).total_seconds())


def _change(low: int, high: int, zone: tzinfo) -> int:
    """Return the first moment after ``low`` that has the offset of ``high``, which is another than that of ``low``."""
    offset = _offset(high, zone)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset(middle, zone) == offset else (middle, high)
    return high
