"""When a start takes effect, and what a start with a known id means. Pure."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import get_args

from perdure.base.errors import InstanceExistsError, UsageError
from perdure.base.events import ExecutionStarted, Status, decode_events
from perdure.ports.history_store import NewInstance, Started
from perdure.ports.runtime import Reuse
from perdure.runtime.inspect import described


def moment_of(when: float | dt.timedelta | dt.datetime, now: float) -> float:
    """Return a moment in seconds since the epoch.

    Args:
        when: seconds from now, a timedelta from now, or a datetime; one without time zone is in UTC.
        now: seconds since the epoch.

    Raises:
        UsageError: it is no finite number.
    """
    if isinstance(when, dt.datetime):
        aware = when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)
        return aware.timestamp()
    return now + _seconds("start_at", when, "use seconds from now, a timedelta or a datetime")


def age_of(older_than: float | dt.timedelta) -> float:
    """Return an age in seconds.

    Raises:
        UsageError: it is no number of at least 0.
    """
    remedy = "use seconds of at least 0, or a timedelta"
    seconds = _seconds("older_than", older_than, remedy)
    if seconds < 0:
        raise UsageError(f"older_than is {older_than!r}; {remedy}")
    return seconds


def _seconds(field: str, given: float | dt.timedelta, remedy: str) -> float:
    seconds = given.total_seconds() if isinstance(given, dt.timedelta) else given
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UsageError(f"{field} is {given!r:.80}; {remedy}")
    return float(seconds)


def require_ended(status: Sequence[Status]) -> tuple[Status, ...]:
    """Return ways in which instances end.

    Raises:
        UsageError: one of them is none.
    """
    ended = [one for one in Status if one.finished]
    for one in [status] if isinstance(status, str) else status:
        if one not in ended:
            raise UsageError(f"status holds {one!r:.80}; use some of: {', '.join(ended)}")
    return tuple(status)


def require_known_reuse(reuse: str) -> None:
    """Refuse an unknown policy.

    Raises:
        UsageError: it is none of the known ones.
    """
    if reuse not in get_args(Reuse):
        raise UsageError(f"reuse is {reuse!r}; use one of: {', '.join(get_args(Reuse))}")


def require_reusable(new: NewInstance, found: Started, reuse: Reuse) -> None:
    """Refuse a start whose id is taken, unless it may attach to what is there.

    Raises:
        InstanceExistsError: it may not.
    """
    if found.app_id != new.app_id:
        raise InstanceExistsError(new.instance_id, f"it is a run of app {found.app_id!r}, not of {new.app_id!r}")
    known, wanted = _started(found.events), _started(new.events)
    if reuse == "ignore":
        return
    if reuse == "refuse":
        raise InstanceExistsError(new.instance_id, f"it is a run of {described(known.name)}, {found.status}")
    if reuse == "replace":
        raise InstanceExistsError(new.instance_id, f"its run of {described(known.name)} has not finished")
    if known.name != wanted.name:
        detail = f"it is a run of {described(known.name)}, not of {described(wanted.name)}"
        raise InstanceExistsError(new.instance_id, detail)
    if bytes(known.input) != bytes(wanted.input):
        raise InstanceExistsError(new.instance_id, f"it is a run of {described(known.name)} with another input")


def _started(events: str) -> ExecutionStarted:
    return next(event for event in decode_events(events) if isinstance(event, ExecutionStarted))
