"""When something happens again and again: schedules, and what a worker that wakes up has to do.

Everything here is pure: moments in (seconds since the Unix epoch), decisions out. The answers for a time zone depend on
the time zone database of the machine; code that is replayed must record a decision, not take it again.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NoReturn, TypeGuard, get_args

from perdure.base.codec import Record
from perdure.base.cron import load_zone, next_match, parse_cron
from perdure.base.errors import UsageError

Missed = Literal["skip", "run_once", "run_all"]
"""What to do about firings that nobody handled in time."""

HORIZON: Final = 250_246_627_200.0
"""Nothing fires after this moment, the first of the year 9900."""

SHORTEST_INTERVAL: Final = 0.001
LONGEST_INTERVAL: Final = 3_155_760_000.0
"""Seconds: a millisecond, and a hundred years."""

MOST_AT_ONCE: Final = 1_000
"""Firings that one decision runs, or counts, at most."""

_MOST_REPEATS: Final = 2**53


class Schedule(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """When something fires: by a cron expression, at a fixed interval, or at one moment.

    Attributes:
        cron: five fields, six with the seconds first, or a macro such as ``@daily``; read on the clock of ``timezone``.
        every: seconds between two firings, from 0.001 up; counted from ``at`` or ``starts``, which is then the first
            firing, and without them from the Unix epoch. Intervals do not drift.
        at: a moment. Alone, the only firing; together with ``cron`` or ``every``, the first one.
        timezone: IANA name of the time zone of ``cron``.
        starts: no firing is before this moment.
        ends: no firing is after this moment.
        repeats: how many firings are run in all, missed ones that are skipped not counted; None for no limit.
        missed: what to do about missed firings; see :func:`firings_due`.
        grace: seconds that the latest due firing may be late and still counts as in time.

    Raises:
        UsageError: a field does not fit; the message names it.
    """

    cron: str | None = None
    every: float | None = None
    at: float | None = None
    timezone: str = "UTC"
    starts: float | None = None
    ends: float | None = None
    repeats: int | None = None
    missed: Missed = "run_once"
    grace: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what makes no schedule."""
        _check_numbers(self)
        _check_names(self)
        _check_together(self)


class Due(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a worker that woke up has to do; commit all of it at once.

    Attributes:
        run: the firings to run now, oldest first.
        skipped: how many firings are passed over for good.
        remaining: how many due firings wait for the next decision, because of the limit.
        uncounted: there were more than ``skipped`` or ``remaining`` says; counting stopped at 1,000.
        last: the last firing that is handled now, to be given to the next decision.
        fired: how many firings were run so far, to be given to the next decision.
        wake: when to decide again, a moment in the past meaning at once; None when nothing will ever fire again.
    """

    run: tuple[float, ...] = ()
    skipped: int = 0
    remaining: int = 0
    uncounted: bool = False
    last: float
    fired: int
    wake: float | None = None


def next_firing(schedule: Schedule, after: float) -> float | None:
    """Return the first firing after a moment, or None when there is none.

    The number of repeats is not considered: see :func:`firings_due`.

    Raises:
        UsageError: ``after`` is not a finite number.
    """
    _check_finite("after", after)
    after = max(after, -1.0)
    if schedule.at is not None and after < schedule.at:
        found: float | None = schedule.at
    elif after >= HORIZON:
        found = None
    elif schedule.every is not None:
        found = _next_interval(schedule, schedule.every, after)
    elif schedule.cron is not None:
        found = _next_cron(schedule, schedule.cron, after)
    else:
        found = None
    return None if found is None or found > _end(schedule) else found


def initial_last(schedule: Schedule, created: float) -> float:
    """Return what the first decision about a schedule is given as ``last``.

    Firings count from the moment of creation on; an ``at`` that is not after it counts all the same, as a missed one.
    """
    _check_finite("created", created)
    if schedule.at is None or schedule.at > created:
        return created
    return math.nextafter(schedule.at, -math.inf)


def firings_due(schedule: Schedule, last: float, now: float, fired: int, limit: int) -> Due:
    """Decide what a worker does that wakes at ``now``.

    The firings after ``last`` and up to ``now`` are due. The latest of them is in time when it is at most
    ``schedule.grace`` seconds old; all others are missed. Then, by ``schedule.missed``:

    - ``skip``: the latest is run if it is in time, all others are skipped.
    - ``run_once``: the latest is run, for all; the others are skipped.
    - ``run_all``: all are run, oldest first, ``limit`` at a time; the rest remains for the next decision.

    No firing is run twice, whatever the clock does, as long as each decision is given what the one before returned.

    Args:
        schedule: when to fire.
        last: the last firing that was handled; in the beginning, :func:`initial_last`.
        now: the present moment.
        fired: how many firings were run so far.
        limit: how many firings may be run now, from 1 to 1,000.

    Raises:
        UsageError: a number does not fit; the message names it.
    """
    _check_finite("last", last)
    _check_finite("now", now)
    _check_count("fired", fired, 0, _MOST_REPEATS)
    _check_count("limit", limit, 1, MOST_AT_ONCE)
    left = (schedule.repeats or _MOST_REPEATS) - fired
    due = _first_due(schedule, last, now) if left > 0 else []
    if not due:
        return Due(last=last, fired=fired, wake=next_firing(schedule, last) if left > 0 else None)
    if schedule.missed == "run_all":
        return _run_all(schedule, due[:left], fired, limit)
    return _run_latest(schedule, due, now, fired)


def _run_all(schedule: Schedule, due: list[float], fired: int, limit: int) -> Due:
    run = tuple(due[:limit])
    done, fired = run[-1], fired + len(run)
    if fired == schedule.repeats:
        return Due(run=run, last=done, fired=fired)
    return Due(
        run=run,
        remaining=min(len(due), MOST_AT_ONCE) - len(run),
        uncounted=len(due) > MOST_AT_ONCE,
        last=done,
        fired=fired,
        wake=next_firing(schedule, done),
    )


def _run_latest(schedule: Schedule, due: list[float], now: float, fired: int) -> Due:
    uncounted = len(due) > MOST_AT_ONCE
    latest = _latest(schedule, due[-1], now) if uncounted else due[-1]
    in_time = now - latest <= schedule.grace
    run = (latest,) if in_time or schedule.missed == "run_once" else ()
    fired += len(run)
    return Due(
        run=run,
        skipped=min(len(due), MOST_AT_ONCE) - len(run),
        uncounted=uncounted,
        last=latest,
        fired=fired,
        wake=None if fired == schedule.repeats else next_firing(schedule, latest),
    )


def _first_due(schedule: Schedule, last: float, now: float) -> list[float]:
    """Return the oldest due firings: all of them, or one more than can be counted."""
    due: list[float] = []
    found = next_firing(schedule, last)
    while found is not None and found <= now and len(due) <= MOST_AT_ONCE:
        due.append(found)
        found = next_firing(schedule, found)
    return due


def _latest(schedule: Schedule, known: float, now: float) -> float:
    """Return the latest firing up to ``now``, where ``known`` is an earlier one: halving the time, not walking it."""
    high = now
    while True:
        middle = (known + high) / 2
        found = next_firing(schedule, middle)
        if found is not None and found <= now:
            known = found
        else:
            high = middle
        following = next_firing(schedule, known)
        if following is None or following > now:
            return known


def _next_interval(schedule: Schedule, every: float, after: float) -> float:
    anchor = next((moment for moment in (schedule.at, schedule.starts) if moment is not None), 0.0)
    if after < anchor:
        return anchor
    number = math.floor((after - anchor) / every)
    while anchor + number * every <= after:
        number += 1
    return anchor + number * every


def _next_cron(schedule: Schedule, cron: str, after: float) -> float | None:
    if schedule.starts is not None and after < schedule.starts:
        after = math.nextafter(schedule.starts, -math.inf)
    found = next_match(parse_cron(cron), load_zone(schedule.timezone), math.floor(after))
    return None if found is None else float(found)


def _end(schedule: Schedule) -> float:
    return HORIZON if schedule.ends is None else schedule.ends


def _check_numbers(schedule: Schedule) -> None:
    intervals = {"every": (SHORTEST_INTERVAL, LONGEST_INTERVAL), "grace": (0.0, LONGEST_INTERVAL)}
    for field in ("at", "starts", "ends", "every", "grace"):
        value = getattr(schedule, field)
        if value is None and field != "grace":
            continue
        least, most = intervals.get(field, (0.0, HORIZON))
        if not _is_number(value) or not least <= value <= most:
            unit = "seconds" if field in intervals else "seconds since the epoch, such as moment.timestamp()"
            _refuse(field, value, f"write {unit}, from {least:.12g} to {most:.12g}")
    if schedule.repeats is not None:
        _check_count("Schedule.repeats", schedule.repeats, 1, _MOST_REPEATS)


def _check_names(schedule: Schedule) -> None:
    if schedule.missed not in get_args(Missed):
        _refuse("missed", schedule.missed, f"write one of {', '.join(get_args(Missed))}")
    for field, check in (("timezone", load_zone), ("cron", parse_cron)):
        value: object = getattr(schedule, field)
        if value is None and field == "cron":
            continue
        if not isinstance(value, str):
            _refuse(field, value, "write a text")
        try:
            check(value)
        except UsageError as error:
            _refuse(field, value, str(error))


def _check_together(schedule: Schedule) -> None:
    recurs = schedule.cron is not None or schedule.every is not None
    if schedule.cron is not None and schedule.every is not None:
        _refuse("every", schedule.every, f"but cron is {shown(schedule.cron)}: write one of the two")
    if not recurs and schedule.at is None:
        raise UsageError("a Schedule names no time; write cron, every or at")
    if schedule.at is not None and schedule.starts is not None:
        _refuse("starts", schedule.starts, f"but at is {schedule.at}, the first firing: leave starts out")
    if not recurs and schedule.repeats not in (None, 1):
        _refuse("repeats", schedule.repeats, "but at names one moment: add every or cron, or leave repeats out")
    first = schedule.at if schedule.starts is None else schedule.starts
    if schedule.ends is not None and first is not None and schedule.ends < first:
        _refuse("ends", schedule.ends, f"which is before the beginning at {first}: write a later moment")


def _refuse(field: str, value: object, remedy: str) -> NoReturn:
    raise UsageError(f"Schedule.{field} is {shown(value)}; {remedy}")


def _check_finite(name: str, value: object) -> None:
    if not _is_number(value) or not -math.inf < value < math.inf:
        raise UsageError(f"{name} is {shown(value)}; write seconds since the epoch as a finite number")


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} is {shown(value)}; write a whole number from {least} to {most}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """Return a value as an error message shows it: never long, and never an error of its own."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than the interpreter writes
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."
