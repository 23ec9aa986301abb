"""Tickets on plain dicts: whole lines in memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

from perdure.base.limits import Limits
from perdure.base.line import Answer, Line, Waiting
from perdure.components.history.arrivals import INSTANCE, Arrival, InLine, Outcome, ahead_of
from perdure.ports.tickets import Queue, Ticket

Told = Callable[[int, int, str | None, float], None]
"""Told of a grant: the instance, the attempt or INSTANCE, the event for its inbox, and the time."""


class _Taken:
    __slots__ = ("arrival", "granted", "queue", "waiting")

    def __init__(self, queue: Queue, arrival: Arrival, waiting: Waiting, granted: bool) -> None:
        self.queue, self.arrival, self.waiting, self.granted = queue, arrival, waiting, granted


class MemoryQueues:
    """The queues of a store.

    Args:
        told: told of every grant that does not come at once.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._lines: dict[Queue, Line] = {}
        self._wakes: dict[Queue, float] = {}
        self._taken: dict[int, dict[int, _Taken]] = {}
        self._later: list[tuple[float, int, Arrival]] = []
        self._coming: set[int] = set()
        self._last = 0

    @property
    def anything_limited(self) -> bool:
        """Whether there are queues at all."""
        return bool(self._lines)

    def declare(self, limits: Mapping[Queue, Limits], now: float) -> None:
        """Let these limits hold from now on."""
        for queue, given in limits.items():
            line = self._lines.get(queue)
            if line is None and given.any:
                self._lines[queue] = Line(given)
            elif line is not None and line.limits != given:
                line.change(given)
                self._settle(queue, now)

    def exchange_tickets(
        self,
        now: float,
        *,
        arrivals: Sequence[Arrival] = (),
        ended: Collection[int] = (),
        renewed: Collection[int] = (),
        given_back: Collection[tuple[int, int]] = (),
    ) -> Outcome:
        """Give tickets back, grant what that lets in, and take new ones."""
        back = [(instance, task) for instance in ended for task in self._taken.get(instance, ())]
        back += [(instance, task) for instance in renewed for task in self._taken.get(instance, ()) if task >= 0]
        self._coming.difference_update(ended)
        queues = {queue for where in (*back, *given_back) for queue in self._take_back(*where)}
        woken = sum([self._settle(queue, now) for queue in queues])
        answers: list[Answer | None] = []
        backlogs: dict[int, int] = {}
        for place, arrival in enumerate(arrivals):
            queue = arrival.ticket.queue
            line = self._line(arrival.ticket)
            if line is None:
                answers.append(None)
                continue
            queues.add(queue)
            woken += self._settle(queue, now)
            answers.append(self._arrive(line, arrival, now))
            self._note_wake(queue, line, now)
            if answers[-1] == "refused":
                backlogs[place] = line.limits.backlog or 0
        times = [self._wakes[queue] for queue in queues if queue in self._wakes]
        return Outcome(answers, backlogs, woken > 0, next_grant=min(times, default=None))

    def grant_due(self, now: float) -> None:
        """Let those stand in line whose time has come, and grant what waited for a time that has come."""
        while self._later and self._later[0][0] <= now:
            _, _, arrival = heapq.heappop(self._later)
            if arrival.instance in self._coming:
                self._coming.discard(arrival.instance)
                line = self._line(arrival.ticket)
                if line is None or self._arrive(line, arrival, now) == "granted":
                    self._told(arrival.instance, INSTANCE, None, now)
        for queue, line in self._lines.items():
            if line.waiting and line.limits.rate is not None:
                self._settle(queue, now)

    def next_grant(self, app_id: str) -> float | None:
        """Return when something of an app is granted because its time has come."""
        times = [at for queue, at in self._wakes.items() if queue.app_id == app_id]
        times += [at for at, _, arrival in self._later if arrival.ticket.queue.app_id == app_id]
        return min(times, default=None)

    def tickets_of(self, instance: int) -> dict[int, bool]:
        """Return whether the tickets of an instance's attempts are granted."""
        return {task: taken.granted for task, taken in self._taken.get(instance, {}).items() if task >= 0}

    def lines_of(self, instance: int) -> list[InLine]:
        """Return how the tickets of an instance wait, the first of each queue."""
        waiting = [one for one in self._taken.get(instance, {}).values() if not one.granted]
        first = {one.queue: one for one in sorted(waiting, key=lambda one: -one.waiting.number)}
        return [self._in_line(one) for one in first.values()]

    # -- small parts

    def _in_line(self, one: _Taken) -> InLine:
        line, mine, key = self._lines[one.queue], one.waiting, one.arrival.ticket.key
        own = [
            taken.waiting
            for tasks in self._taken.values()
            for taken in tasks.values()
            if not taken.granted and taken.queue == one.queue and taken.arrival.ticket.key == key
        ]
        before = sum((-each.priority, each.number) < (-mine.priority, mine.number) for each in own)
        others = [(place.waiting, place.priority) for place in line.places.values() if place.key != key]
        ahead = ahead_of(before, mine.priority, others)
        return InLine(one.queue, line.limits, one.arrival.task, self._wakes.get(one.queue), ahead)

    def _line(self, ticket: Ticket) -> Line | None:
        line = self._lines.get(ticket.queue)
        if line is None and ticket.limits is not None and ticket.limits.any:
            line = self._lines[ticket.queue] = Line(ticket.limits)
        if line is not None and ticket.limits is None and not line.limits.any:
            return None
        return line

    def _arrive(self, line: Line, arrival: Arrival, now: float) -> Answer:
        self._last += 1
        if arrival.begins_at is not None and arrival.begins_at > now:
            heapq.heappush(self._later, (arrival.begins_at, self._last, arrival))
            self._coming.add(arrival.instance)
            return "waits"
        ticket = arrival.ticket
        waiting = Waiting(self._last, ticket.priority, (arrival.instance, arrival.task))
        answer = line.arrive(ticket.key, waiting, now, may_refuse=arrival.may_be_refused)
        if answer != "refused":
            taken = _Taken(ticket.queue, arrival, waiting, answer == "granted")
            self._taken.setdefault(arrival.instance, {})[arrival.task] = taken
        return answer

    def _take_back(self, instance: int, task: int) -> list[Queue]:
        tasks = self._taken.get(instance, {})
        taken = tasks.pop(task, None)
        if taken is None:
            return []
        if not tasks:
            del self._taken[instance]
        line, key = self._lines[taken.queue], taken.arrival.ticket.key
        if taken.granted:
            line.leave(key)
        else:
            line.withdraw(key, taken.waiting.number)
        return [taken.queue]

    def _settle(self, queue: Queue, now: float) -> bool:
        line = self._lines[queue]
        granted = line.settle(now)
        for ticket in granted:
            instance, task = ticket.holder
            taken = self._taken[instance][task]
            taken.granted = True
            self._told(instance, task, taken.arrival.granted, now)
        if line.waiting == 0 and len(line.places) > 2 * line.running + 64:
            line.places = {key: place for key, place in line.places.items() if not place.is_idle}
        self._note_wake(queue, line, now)
        return bool(granted)

    def _note_wake(self, queue: Queue, line: Line, now: float) -> None:
        at = line.wakes_at(now)
        if at is None:
            self._wakes.pop(queue, None)
        else:
            self._wakes[queue] = at
