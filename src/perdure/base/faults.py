"""Named crash points: the places where a test may pull the plug.

A crash point costs one comparison when none is armed. Armed by :func:`arm` or by the environment variable
``PERDURE_CRASH_AT`` (``name`` or ``name:n`` for the n-th pass), it ends the process as a power cut would.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

CrashPoint = Literal[
    "start.before_commit",
    "start.after_commit",
    "activity.before_run",
    "activity.after_run",
    "episode.before_commit",
    "episode.after_commit",
    "store.in_transaction",
    "signal.before_commit",
    "signal.after_commit",
    "claim.after_commit",
    "timer.before_fire",
    "finish.after_commit",
]

CRASH_POINTS: Final[tuple[CrashPoint, ...]] = CrashPoint.__args__  # type: ignore[attr-defined]


def kill_self() -> None:
    """End this process at once, without any cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Plan:
    __slots__ = ("action", "name", "passes")

    def __init__(self) -> None:
        self.name: str | None = None
        self.passes = 1
        self.action: Callable[[], None] = kill_self


_plan = _Plan()


def arm(name: CrashPoint, passes: int = 1, action: Callable[[], None] = kill_self) -> None:
    """Crash at the n-th pass of a named point.

    Args:
        name: one of :data:`CRASH_POINTS`.
        passes: which pass is the fatal one, counted from 1.
        action: what happens there; by default the process dies of SIGKILL.

    Raises:
        ValueError: the name is not a crash point.
    """
    if name not in CRASH_POINTS:
        raise ValueError(f"no crash point {name!r}; the points are: {', '.join(CRASH_POINTS)}")
    _plan.name, _plan.passes, _plan.action = name, passes, action


def disarm() -> None:
    """Forget the armed crash point."""
    _plan.name = None


def crash_point(name: CrashPoint) -> None:
    """Mark a place where a crash is interesting."""
    if _plan.name is not None and _plan.name == name:
        _plan.passes -= 1
        if _plan.passes <= 0:
            action = _plan.action
            disarm()
            action()


def arm_from_environment() -> None:
    """Arm what ``PERDURE_CRASH_AT`` asks for, if anything."""
    wanted = os.environ.get("PERDURE_CRASH_AT")
    if wanted:
        name, _, passes = wanted.partition(":")
        arm(name, int(passes or 1))  # type: ignore[arg-type]


arm_from_environment()
