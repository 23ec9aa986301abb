"""The texts in which Dapr writes durations, moments and schedules, read into schedules."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from perdure.base.errors import UsageError
from perdure.base.schedule import Missed, Schedule, shown

_LONGEST_TEXT = 100
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_PERIOD = re.compile(
    r"P(?=.)(?:([0-9]{1,6})Y)?(?:([0-9]{1,6})M)?(?:([0-9]{1,6})W)?(?:([0-9]{1,6})D)?"
    r"(?:T(?=.)(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,6})S)?)?"
)
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.DOTALL)
_EVERY = "@every "


def parse_duration(text: str) -> float:
    """Return the seconds that a duration text such as ``1h30m15s``, ``1.5h`` or ``500ms`` means.

    Raises:
        UsageError: the text is no duration, or a negative one.
    """
    if text == "0":
        return 0.0
    if not _match(_DURATION, text):
        raise UsageError(
            f"{shown(text)} is no duration; write numbers with units (h, m, s, ms, us, ns), such as '1h30m'"
        )
    total = sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(text))
    return float(total / 1_000_000_000)


def parse_moment(text: str, start: float) -> float:
    """Return the moment that a text names, in seconds since the epoch.

    Args:
        text: an RFC 3339 timestamp with its offset, or what is added to ``start``: a duration (``1h30m``) or an ISO
            8601 period without repetition (``P1DT12H``), whose years and months follow the calendar in UTC.
        start: seconds since the epoch.

    Raises:
        UsageError: the text is none of these.
    """
    try:
        if _match(_TIMESTAMP, text):
            return datetime.fromisoformat(text.upper()).timestamp()
        period = _match(_PERIOD, text)
        return start + parse_duration(text) if period is None else _add_period(start, period)
    except (UsageError, ValueError, OverflowError):
        raise UsageError(
            f"{shown(text)} is no moment; write a timestamp with its offset ('2026-12-09T16:09:53Z'), a duration "
            "('1h30m') or an ISO 8601 period without repetition ('P1DT12H')"
        ) from None


def _add_period(start: float, period: re.Match[str]) -> float:
    """Return a moment moved by a period; a day that its new month lacks runs over into the month after, as in Go."""
    years, months, weeks, days, hours, minutes, seconds = map(int, period.groups(default="0"))
    begin = datetime.fromtimestamp(start, UTC)
    year, month = divmod((begin.year + years) * 12 + begin.month - 1 + months, 12)
    first = begin.replace(year=year, month=month + 1, day=1)
    days += begin.day - 1
    return (first + timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)).timestamp()


def dapr_schedule(
    schedule: str | None = None,
    *,
    now: float,
    due_time: str | None = None,
    repeats: int | None = None,
    ttl: str | None = None,
    missed: Missed = "run_all",
) -> Schedule:
    """Return the schedule that the fields of a Dapr job, or of a cron binding, describe.

    Args:
        schedule: a cron expression, a macro or ``@every 1h30m``; ``CRON_TZ=Europe/Berlin `` in front names a time zone.
        now: when the job was created, in seconds since the epoch.
        due_time: the first firing, at which the job fires whether or not the schedule does; the only one without it.
        repeats: how many firings there are in all.
        ttl: when the job ends, counted from ``due_time`` or ``now`` if it is no timestamp.
        missed: Dapr makes up for every missed firing.

    Raises:
        UsageError: a field does not fit; the message names it.
    """
    due = None if due_time is None else _field("dueTime", due_time, now)
    ends = None if ttl is None else _field("ttl", ttl, now if due is None else due)
    zone, rule = _split_zone(schedule)
    every = _every(rule)
    return Schedule(
        cron=rule if every is None else None,
        every=every,
        at=due,
        timezone=zone,
        starts=None if every is None or due is not None else now + every,
        ends=ends,
        repeats=repeats,
        missed=missed,
    )


def _match(form: re.Pattern[str], text: object) -> re.Match[str] | None:
    return form.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST_TEXT else None


def _field(name: str, text: str, start: float) -> float:
    try:
        return parse_moment(text, start)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _split_zone(schedule: str | None) -> tuple[str, str | None]:
    found = _ZONE.fullmatch(schedule) if isinstance(schedule, str) else None
    return ("UTC", schedule) if found is None else (found[1], found[2])


def _every(rule: str | None) -> float | None:
    """Return the seconds of ``@every 90s``, or None for any other rule."""
    if not isinstance(rule, str) or not rule.startswith(_EVERY):
        return None
    try:
        return parse_duration(rule.removeprefix(_EVERY).strip())
    except UsageError as error:
        raise UsageError(f"schedule: {error}") from None
