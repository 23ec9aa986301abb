"""The virtual time, the agenda of what happens when, and whose turn it is."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any, Protocol

EPOCH = 1_700_000_000.0
"""What a clock that is right shows when a simulation begins, in seconds since the Unix epoch."""

_MOST_CALLBACKS = 500_000


class Actor(Protocol):
    """Something that runs by itself: a living process."""

    @property
    def runs(self) -> bool:
        """Whether it does: it is alive and does not stand still."""
        ...

    def next_timer(self) -> float | None:
        """Return when it wants to go on by itself, or None."""
        ...

    def wake(self) -> None:
        """Make ready what is due."""
        ...

    def turn(self) -> int:
        """Do what is ready; return how many callbacks that were."""
        ...


class SpinError(AssertionError):
    """Something runs for ever without waiting."""


class World:
    """One simulation's time, chance and agenda.

    Args:
        seed: decides every choice.
        tracing: whether to keep what happened, line by line.

    Attributes:
        now: virtual seconds since the simulation began.
        random: the one source of chance.
        actors: the processes, in the order of their birth.
        trace: what happened, or None when nobody wants to know.
        violations: what the engine did wrong, in words.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.actors: list[Actor] = []
        self.trace: list[str] | None = [] if tracing else None
        self.violations: list[str] = []
        self.callbacks = 0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._entries = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Have something happen at a virtual time; what has the same time happens in the order of asking."""
        self._entries += 1
        heapq.heappush(self._agenda, (when, self._entries, call, args))

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Have something happen some virtual seconds from now."""
        self.at(self.now + seconds, call, *args)

    def note(self, who: str, what: str) -> None:
        """Keep a line of the trace; callers ask :attr:`trace` first where making the line costs something."""
        if self.trace is not None:
            self.trace.append(f"{self.now:12.6f} {who:<6} {what}")

    def blame(self, what: str) -> None:
        """Take note of a broken promise."""
        self.violations.append(f"at {self.now:.6f}: {what}")
        self.note("ORACLE", what)

    def run_until(self, moment: float) -> None:
        """Let everything happen up to a virtual time."""
        while True:
            self._take_turns()
            actor, when = self._next_timer()
            if self._agenda and self._agenda[0][0] <= when:
                actor, when = None, self._agenda[0][0]
            if when > moment:
                self.now = max(self.now, moment)
                return
            self.now = max(self.now, when)
            if actor is not None:
                actor.wake()
            else:
                _, _, call, args = heapq.heappop(self._agenda)
                call(*args)

    def _take_turns(self) -> None:
        # One pass is enough: what one process does reaches another through the agenda only.
        for actor in tuple(self.actors):
            if actor.runs:
                self.callbacks += actor.turn()
        if self.callbacks > _MOST_CALLBACKS:
            raise SpinError(f"{self.callbacks} callbacks and no end: something spins")

    def _next_timer(self) -> tuple[Actor | None, float]:
        first, earliest = None, math.inf
        for actor in self.actors:
            if actor.runs:
                when = actor.next_timer()
                if when is not None and when < earliest:
                    first, earliest = actor, when
        return first, earliest
