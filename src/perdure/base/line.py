"""Who is let in next under a limit. Pure: the same line at the same time lets in the same tickets, in the same order.

A ticket stands in line under a key, such as a tenant. The highest priority goes first. Among the keys that have
something of that priority to offer, each is served in turn (start-time fair queueing): a ticket that comes to the front
of its key gets a start tag, the smallest tag goes first, and the next one of the same key gets a tag that is one
higher. Tags of one priority are never more than one apart, so that a key is passed by any other one twice at most,
however many tickets that one has. Within a key, first come is first served.

A line need not hold all of what waits: a store loads the keys that matter and the first tickets of each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from perdure.base.limits import Limits, Spent, allowance, free_again, set_right, spend

Answer = Literal["granted", "waits", "refused"]

_Entry = tuple[int, int, int, str]


class Waiting(msgspec.Struct, frozen=True):
    """A ticket that waits.

    Attributes:
        number: higher is later.
        priority: higher is first.
        holder: who is told; nothing here looks at it.
    """

    number: int
    priority: int = 0
    holder: Any = None


class Place:
    """Where one key stands in a line.

    Attributes:
        key: the key.
        running: how many of it are in.
        waiting: how many of it wait, those that are not loaded included.
        finish: the tag after that of the last one let in.
        start: the tag of its first ticket, while that stands in line.
        priority: of its first ticket.
        ready: whether its first ticket stands in line: it has one, and is below its own limit.
    """

    __slots__ = (
        "_dropped",
        "_front",
        "_loaded_to",
        "entry",
        "finish",
        "key",
        "priority",
        "ready",
        "running",
        "start",
        "waiting",
    )

    def __init__(
        self,
        key: str,
        *,
        running: int = 0,
        waiting: int = 0,
        finish: int = 0,
        start: int = 0,
        priority: int = 0,
        ready: bool = False,
    ) -> None:
        self.key = key
        self.running, self.waiting, self.finish = running, waiting, finish
        self.start, self.priority, self.ready = start, priority, ready
        self.entry: _Entry | None = None
        self._front: list[tuple[int, int, Waiting]] = []
        self._dropped: set[int] = set()
        self._loaded_to: tuple[int, int] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this key is in or waits."""
        return self.running == 0 and self.waiting == 0

    def first(self) -> Waiting | None:
        """Return its first ticket; None when none waits, or when that one is not loaded."""
        while self._front and self._front[0][1] in self._dropped:
            self._dropped.discard(heapq.heappop(self._front)[1])
        return self._front[0][2] if self._front else None

    def load(self, tickets: Sequence[Waiting]) -> None:
        """Take over its first tickets, which are counted already; there may be more of them."""
        for ticket in tickets:
            self._push(ticket)
        more = tickets and self.waiting > len(tickets)
        self._loaded_to = max((-ticket.priority, ticket.number) for ticket in tickets) if more else None

    def add(self, ticket: Waiting) -> None:
        """Take one more ticket."""
        self.waiting += 1
        # One that comes after others which are not loaded is not to be taken for the next one.
        if self._loaded_to is None or (-ticket.priority, ticket.number) < self._loaded_to:
            self._push(ticket)

    def _push(self, ticket: Waiting) -> None:
        heapq.heappush(self._front, (-ticket.priority, ticket.number, ticket))

    def pop(self) -> Waiting:
        """Take the first ticket out, which :meth:`first` has returned."""
        self.waiting -= 1
        return heapq.heappop(self._front)[2]

    def drop(self, number: int) -> None:
        """Take any ticket out that is loaded."""
        self.waiting = max(0, self.waiting - 1)
        self._dropped.add(number)


class Line:
    """The line of one limit, or the part of it that matters.

    Attributes:
        limits: how many are let in.
        running: how many are in.
        waiting: how many wait.
        virtual: the tag of the last one let in, by priority.
        spent: what the rate has let in.
        places: by key, those that are loaded.
        is_short: a key whose next ticket is not loaded may be the next one: load more, and settle again.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        running: int = 0,
        waiting: int = 0,
        virtual: dict[int, int] | None = None,
        spent: Spent = (),
    ) -> None:
        self.limits = limits
        self.running, self.waiting = running, waiting
        self.virtual = {} if virtual is None else virtual
        self.spent = spent
        self.places: dict[str, Place] = {}
        self.is_short = False
        self._heads: list[_Entry] = []

    # -- loading

    def place(self, key: str) -> Place:
        """Return the place of a key; a new one when it has none."""
        found = self.places.get(key)
        if found is None:
            found = self.places[key] = Place(key)
        return found

    def seat(self, place: Place) -> None:
        """Add a loaded place; one that was in line before keeps its tag."""
        self.places[place.key] = place
        self._stand(place)

    # -- what happens to tickets

    def arrive(self, key: str, ticket: Waiting, now: float, *, may_refuse: bool = False) -> Answer:
        """Take a ticket: let it in, let it wait, or refuse it because the backlog is full.

        What could be let in before it must have been: see :meth:`settle`.
        """
        place = self.place(key)
        self._set_clock_right(now)
        if self._has_room(now) and not self._is_full(place) and self._next() is None:
            self._let_in(place, self._fresh_tag(place, ticket.priority), ticket.priority, now)
            return "granted"
        backlog = self.limits.backlog
        if may_refuse and backlog is not None and self.waiting >= backlog:
            return "refused"
        place.add(ticket)
        self.waiting += 1
        self._stand(place)
        return "waits"

    def leave(self, key: str) -> None:
        """Take note that one of those that are in is not any more."""
        place = self.place(key)
        place.running = max(0, place.running - 1)
        self.running = max(0, self.running - 1)
        self._stand(place)

    def withdraw(self, key: str, number: int) -> None:
        """Take note that a ticket does not wait any more."""
        place = self.place(key)
        place.drop(number)
        self.waiting = max(0, self.waiting - 1)
        self._stand(place)

    def settle(self, now: float, most: int | None = None) -> list[Waiting]:
        """Let in all that may come in now, up to a number of them, and return them in order."""
        self.is_short = False
        self._set_clock_right(now)
        granted: list[Waiting] = []
        while self._has_room(now) and len(granted) != most:
            place = self._next()
            if place is None:
                break
            if place.first() is None:
                self.is_short = True
                break
            ticket = place.pop()
            self.waiting -= 1
            self._let_in(place, place.start, ticket.priority, now)
            granted.append(ticket)
        if self.waiting == 0:
            # Nobody is in line, so nobody's place in it is to be remembered.
            self.virtual = {}
        return granted

    def change(self, limits: Limits) -> None:
        """Apply other limits from now on."""
        self.limits = limits
        for place in self.places.values():
            self._stand(place)

    # -- looking

    def room(self, now: float) -> int | None:
        """Return how many could be let in now if they came from different keys; None for any number."""
        bounds = []
        if self.limits.concurrency is not None:
            bounds.append(self.limits.concurrency - self.running)
        if self.limits.rate is not None:
            bounds.append(allowance(self.limits.rate, set_right(self.limits.rate, self.spent, now), now))
        return max(0, min(bounds)) if bounds else None

    def wakes_at(self, now: float) -> float | None:
        """Return when the rate lets the next one in, if that is what they wait for."""
        rate, limits = self.limits.rate, self.limits
        if rate is None or self.waiting == 0 or allowance(rate, self.spent, now) > 0:
            return None
        if limits.concurrency is not None and self.running >= limits.concurrency:
            return None
        return free_again(rate, self.spent)

    # -- small parts

    def _has_room(self, now: float) -> bool:
        limits = self.limits
        return (limits.concurrency is None or self.running < limits.concurrency) and (
            limits.rate is None or allowance(limits.rate, self.spent, now) > 0
        )

    def _is_full(self, place: Place) -> bool:
        return self.limits.per_key is not None and place.running >= self.limits.per_key

    def _set_clock_right(self, now: float) -> None:
        if self.limits.rate is not None:
            self.spent = set_right(self.limits.rate, self.spent, now)

    def _let_in(self, place: Place, tag: int, priority: int, now: float) -> None:
        place.running += 1
        self.running += 1
        if self.limits.rate is not None:
            self.spent = spend(self.limits.rate, self.spent, now)
        self.virtual[priority] = max(self.virtual.get(priority, 0), tag)
        place.finish = place.start = tag + 1
        self._stand(place)

    def _fresh_tag(self, place: Place, priority: int) -> int:
        """Return the tag of a ticket that comes to the front.

        At most one behind the others of its priority: what the key had of another priority does not count.
        """
        virtual = self.virtual.get(priority, 0)
        return min(max(virtual, place.finish), virtual + 1)

    def _stand(self, place: Place) -> None:
        """Put a place in line as it is now."""
        first = place.first()
        if place.waiting == 0 or self._is_full(place):
            place.ready, place.entry = False, None
            place.priority = place.priority if first is None else first.priority
            return
        # One whose first ticket is not loaded stands where it stood, before all that came to its front meanwhile.
        priority, number = (place.priority, 0) if first is None else (first.priority, first.number)
        if not place.ready or place.priority != priority:
            place.start = self._fresh_tag(place, priority)
        place.priority, place.ready = priority, True
        entry = (-priority, place.start, number, place.key)
        if entry != place.entry:
            place.entry = entry
            heapq.heappush(self._heads, entry)

    def _next(self) -> Place | None:
        while self._heads:
            place = self.places.get(self._heads[0][3])
            if place is not None and place.entry == self._heads[0]:
                return place
            heapq.heappop(self._heads)
        return None
