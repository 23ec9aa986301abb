"""What limits say: how many at a time, how many for each key, how many in a period. Pure.

What was let in during a period is kept as pairs of a time and a count, at most about 65 of them however high the rate.
Each count is booked on the end of a 64th of the period, never too early, so that no period ever holds more than it may.
"""

from __future__ import annotations

import math

import msgspec

from perdure.base.errors import UsageError

Spent = tuple[tuple[float, int], ...]
"""When how many were let in, in seconds since the epoch."""

LOWEST_PRIORITY, HIGHEST_PRIORITY = -1000, 1000

_PARTS = 64


class Rate(msgspec.Struct, frozen=True):
    """At most so many in any period.

    Attributes:
        count: how many, at least 1.
        per: length of the period in seconds; 1 by default.
    """

    count: int
    per: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no rate."""
        if not _is_count(self.count):
            raise UsageError(f"Rate.count is {self.count!r}; use a whole number of at least 1")
        if not (math.isfinite(self.per) and self.per > 0):
            raise UsageError(f"Rate.per is {self.per!r}; use a positive number of seconds")


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much of a workflow or an activity may go on, in all processes of an app together; None is no limit.

    Attributes:
        concurrency: instances that have begun and not ended, or activities that run, at the same time.
        per_key: as many of these for each key.
        rate: how many begin in any period.
        backlog: instances that may wait for their turn; a start beyond that is refused. For workflows only.
    """

    concurrency: int | None = None
    per_key: int | None = None
    rate: Rate | None = None
    backlog: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that make no limit."""
        for field in ("concurrency", "per_key"):
            value = getattr(self, field)
            if value is not None and not _is_count(value):
                raise UsageError(f"Limits.{field} is {value!r}; use a whole number of at least 1, or None for no limit")
        if self.backlog is not None and not (_is_count(self.backlog) or self.backlog == 0):
            raise UsageError(f"Limits.backlog is {self.backlog!r}; use a whole number, or None for no limit")

    @property
    def any(self) -> bool:
        """Whether something is limited at all."""
        return self != UNLIMITED


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


UNLIMITED = Limits()


def allowance(rate: Rate, spent: Spent, now: float) -> int:
    """Return how many more a rate lets in now."""
    return rate.count - sum(count for at, count in spent if now < at + rate.per)


def spend(rate: Rate, spent: Spent, now: float) -> Spent:
    """Return what was let in, with one more now."""
    part = rate.per / _PARTS
    booked = (math.floor(now / part) + 1) * part
    kept = {at: count for at, count in spent if now < at + rate.per}
    kept[booked] = kept.get(booked, 0) + 1
    return tuple(kept.items())


def set_right(rate: Rate, spent: Spent, now: float) -> Spent:
    """Return what was let in as it counts after the clock was put back: as if it had been now.

    Waiting until the clock has come as far as it once was could take hours; forgetting would let in too many.
    """
    part = rate.per / _PARTS
    if all(at <= now + part for at, _ in spent):
        return spent
    booked = (math.floor(now / part) + 1) * part
    past = [(at, count) for at, count in spent if at < booked]
    ahead = sum(count for at, count in spent if at >= booked)
    return (*past, (booked, ahead))


def free_again(rate: Rate, spent: Spent) -> float:
    """Return when the first of what was let in no longer counts."""
    return min(at for at, _ in spent) + rate.per
