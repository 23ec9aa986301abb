"""The history store on plain dicts: the port's rules without a file, for tests and for runs that may be forgotten."""

from __future__ import annotations

import asyncio
import functools
import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec

from perdure.base.codec import ConversationKey, Link
from perdure.base.errors import BacklogFullError, StaleLeaseError, StoreCorruptError, StoreUnavailableError
from perdure.base.events import HistoryRow, Status, decode_events, ends_instance
from perdure.base.ids import digest, split_key
from perdure.base.limits import Limits
from perdure.components.history.arrivals import INSTANCE, Arrival, Outcome, arrival_of, with_places
from perdure.components.history.memory_queues import MemoryQueues
from perdure.ports.history_store import (
    EVERYTHING,
    NO_BLOBS,
    Appended,
    Changes,
    ChildStart,
    Claimed,
    Episode,
    InstanceQuery,
    InstanceRecord,
    Lease,
    NewInstance,
    News,
    Park,
    Restored,
    Results,
    Signal,
    Started,
    begins_at,
    not_started,
)
from perdure.ports.tickets import Queue

P = ParamSpec("P")
T = TypeVar("T")

_NO_CHANGES = Changes()
_NO_RESULTS = Results()


class _Instance:
    """One instance with its history and its inbox."""

    def __init__(self, key: int, new: NewInstance) -> None:
        self.key = key
        self.instance_id, self.app_id, self.workflow = new.instance_id, new.app_id, new.workflow
        self.created_at = new.at
        self.finished_at: float | None = None
        self.owner: int | None = None
        self.due: float | None = begins_at(new)
        self.status = Status.PENDING if self.due > new.at else Status.RUNNING
        self.waits: str | None = None
        self.recoveries = 0
        self.parent = new.parent
        self.custom_status: str | None = None
        self.attributes = dict(new.attributes)
        self.base = 0
        self.rows: dict[int, tuple[float, str]] = {0: (begins_at(new), new.events)}
        self.next_seq = 1
        self.inbox: dict[int, str] = {}

    def signals(self) -> tuple[Signal, ...]:
        return tuple(Signal(position, self.key, event) for position, event in self.inbox.items())


class _DueQueue:
    """Instances of one app and workflow without owner, the longest due first.

    An entry is good while its instance has no owner and is due when the entry says; others are dropped when seen.
    """

    def __init__(self, instances: list[_Instance]) -> None:
        self._instances = instances
        self._heap: list[tuple[float, int]] = []
        self._sweep_at = 64

    def push(self, instance: _Instance) -> None:
        if instance.due is None:
            return
        heapq.heappush(self._heap, (instance.due, instance.key))
        if len(self._heap) > self._sweep_at:
            # Timers that signals overtook again and again must not pile up.
            self._heap = sorted({entry for entry in self._heap if self._is_good(entry)})
            self._sweep_at = 2 * len(self._heap) + 64

    def first(self) -> tuple[float, int] | None:
        while self._heap and not self._is_good(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def _is_good(self, entry: tuple[float, int]) -> bool:
        instance = self._instances[entry[1] - 1]
        return instance.owner is None and instance.due == entry[0]


def _answered(
    call: Callable[Concatenate[MemoryHistoryStore, P], T],
) -> Callable[Concatenate[MemoryHistoryStore, P], CoroutineType[Any, Any, T]]:
    """Make a method a coroutine that answers in a later turn of the event loop, as one that waits for a disk does."""

    async def answer(store: MemoryHistoryStore, *args: P.args, **kwargs: P.kwargs) -> T:
        store._require_open()
        try:
            return call(store, *args, **kwargs)
        finally:
            await asyncio.sleep(0)

    functools.update_wrapper(answer, call)
    return cast("Callable[Concatenate[MemoryHistoryStore, P], CoroutineType[Any, Any, T]]", answer)


class MemoryHistoryStore:
    """A history store in this process's memory.

    Several runtimes may share one. It is open until each has closed it; what it keeps survives that, so that closing
    and opening it again is a restart.

    Args:
        name: what people see in messages.
    """

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._users = 0
        self._version = 0
        self._last_token = 0
        self._last_position = 0
        self._live: dict[int, Lease] = {}
        self._dead: dict[int, Lease] = {}
        self._owned: dict[int, set[int]] = {}
        self._instances: list[_Instance] = []
        self._by_id: dict[str, _Instance] = {}
        self._children: dict[str, list[_Instance]] = {}
        self._signalled: set[int] = set()
        self._due: dict[tuple[str, str], _DueQueue] = {}
        self._line = MemoryQueues(self._granted)
        self._blobs: dict[str, bytes] = {}
        self._links: dict[ConversationKey, Link] = {}
        self._listeners: list[Callable[[News], None]] = []
        self._news = News(0)
        self._watched: set[int] = set()

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    async def open(self) -> None:
        """Make the store usable for one more user."""
        if self._users == 0:
            # What an earlier event loop did not come to tell concerns nobody any more.
            self._news = News(0)
        self._users += 1

    async def close(self) -> None:
        """End one use; after the last one, the leases that nobody left are those of dead workers."""
        self._users = max(0, self._users - 1)
        if self._users == 0:
            self._dead.update(self._live)
            self._live.clear()
        await asyncio.sleep(0)

    def _require_open(self) -> None:
        if self._users == 0:
            raise StoreUnavailableError(self._name, "the store is not open")

    # -- leases

    @_answered
    def join(self, worker: str, app_id: str) -> Lease:
        """Register a worker of an app."""
        self._last_token += 1
        self._version += 1
        lease = self._live[self._last_token] = Lease(self._last_token, worker, app_id)
        self._owned[lease.token] = set()
        return lease

    def kill(self, lease: Lease) -> None:
        """Let the worker of a lease be dead: its commits are refused, and the next :meth:`reap` frees what it owned."""
        if self._live.pop(lease.token, None) is not None:
            self._dead[lease.token] = lease

    @_answered
    def leave(self, lease: Lease) -> None:
        """End a lease; its instances are free at once. A dead worker leaves nothing: that is for :meth:`reap`."""
        if self._live.pop(lease.token, None) is not None:
            self._free_all(lease, recovered=False)

    def is_kept(self, lease: Lease) -> bool:
        """Return whether a lease is valid."""
        return lease.token in self._live

    @_answered
    def reap(self) -> int:
        """Free the instances of dead workers."""
        dead, self._dead = self._dead, {}
        return sum(self._free_all(lease, recovered=True) for lease in dead.values())

    @_answered
    def working_apps(self) -> set[str]:
        """Return the apps that have a worker with a lease."""
        return {lease.app_id for lease in (*self._live.values(), *self._dead.values())}

    def _free_all(self, lease: Lease, *, recovered: bool) -> int:
        keys = sorted(self._owned.pop(lease.token, ()))
        for key in keys:
            instance = self._instances[key - 1]
            instance.recoveries += int(recovered)
            instance.owner, instance.due = None, 0.0
            self._queue(instance)
        self._version += 1
        if keys:
            self._tell(News.WORK)
        return len(keys)

    def _require_live(self, lease: Lease) -> None:
        if lease.token not in self._live:
            raise StaleLeaseError(
                self._name, f"the lease of worker {lease.worker!r} (token {lease.token}) was taken over"
            )

    def _owned_by(self, lease: Lease, key: int) -> _Instance:
        self._require_live(lease)
        if key not in self._owned[lease.token]:
            raise StaleLeaseError(self._name, f"instance {key} does not belong to worker {lease.worker!r} any more")
        return self._instances[key - 1]

    # -- changes

    def _own(self, instance: _Instance, lease: Lease) -> None:
        instance.owner = lease.token
        self._owned[lease.token].add(instance.key)

    def _disown(self, instance: _Instance, due: float | None) -> None:
        if instance.owner is not None:
            self._owned[instance.owner].discard(instance.key)
        instance.owner, instance.due = None, due
        self._queue(instance)

    def _queue(self, instance: _Instance) -> None:
        place = instance.app_id, instance.workflow
        queue = self._due.get(place)
        if queue is None:
            queue = self._due[place] = _DueQueue(self._instances)
        queue.push(instance)

    def _queues(self, lease: Lease, workflows: Collection[str], family: str | None) -> list[_DueQueue]:
        if family is not None:
            return [self._queue_of_family(lease, workflows, family)]
        places = ((lease.app_id, name) for name in workflows)
        return [self._due[place] for place in places if place in self._due]

    def _queue_of_family(self, lease: Lease, workflows: Collection[str], root: str) -> _DueQueue:
        members, found = {root}, _DueQueue(self._instances)
        # A child is younger than its caller.
        for one in self._instances:
            if self._by_id.get(one.instance_id) is one and (one.instance_id in members or one.parent in members):
                members.add(one.instance_id)
                if one.owner is None and one.app_id == lease.app_id and one.workflow in workflows:
                    found.push(one)
        return found

    def _keep(self, blobs: Mapping[str, bytes]) -> None:
        for address, content in blobs.items():
            self._blobs.setdefault(address, content)

    @_answered
    def start(self, new: NewInstance) -> Started:
        """Accept an instance, or find the one that has its id already."""
        if new.lease is not None:
            self._require_live(new.lease)
        return self._accept(new)

    @_answered
    def declare(self, limits: Mapping[Queue, Limits], now: float) -> None:
        """Let these limits hold from now on."""
        self._line.declare(limits, now)

    def _granted(self, key: int, task: int, event: str | None, now: float) -> None:
        """Let an instance know that it got its turn."""
        instance = self._instances[key - 1]
        if event is not None:
            self._put(instance, event)
        elif task == INSTANCE and not instance.status.finished:
            self._version += 1
            instance.due = now
            self._queue(instance)
            self._tell(News.WORK)

    def _accept(self, new: NewInstance, *, may_be_refused: bool = True, is_limited: bool = True) -> Started:
        found = self._by_id.get(new.instance_id)
        if found is not None and new.replaces and found.status.finished and found.app_id == new.app_id:
            self._forget_family(found)
            found = None
        created, waits = found is None, False
        if found is None:
            if is_limited:
                arrival = arrival_of(new, len(self._instances) + 1, may_be_refused=may_be_refused)
                told = self._line.exchange_tickets(new.at, arrivals=[arrival])
                waits = told.answers[0] == "waits"
                if told.backlogs:
                    raise BacklogFullError(new.instance_id, arrival.ticket.queue.name, told.backlogs[0])
            self._version += 1
            found = self._by_id[new.instance_id] = _Instance(len(self._instances) + 1, new)
            self._instances.append(found)
            self._keep(new.blobs)
            if new.parent is not None:
                self._children.setdefault(new.parent, []).append(found)
            if waits:
                found.due, found.status = None, Status.PENDING
            elif new.lease is not None:
                self._own(found, new.lease)
            else:
                self._tell(News.WORK)
            self._queue(found)
        return Started(
            key=found.key,
            created=created,
            app_id=found.app_id,
            workflow=found.workflow,
            events=found.rows[0][1],
            status=found.status,
            waits=waits,
        )

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Add an episode; ``done`` is called in a later turn of the event loop."""
        self._require_open()
        loop = asyncio.get_running_loop()
        try:
            outcome: Exception | Results | None = self._append(lease, episode)
        except StaleLeaseError as error:
            outcome = error
        loop.call_soon(done, outcome)

    def _append(self, lease: Lease, episode: Episode) -> Results | None:
        instance = self._owned_by(lease, episode.key)
        if episode.seq != instance.next_seq:
            raise StaleLeaseError(
                self._name, "another worker has written this part of the history; the commit is refused"
            )
        self._version += 1
        instance.rows[episode.seq] = (episode.at, episode.events)
        instance.next_seq += 1
        self._keep(episode.blobs)
        for link in episode.links:
            self._links.setdefault((link.root, link.depth, link.digest), link)
        for position in episode.consumed:
            instance.inbox.pop(position, None)
        started = () if episode.changes is None else self._change(instance, episode.seq, episode.changes)
        park = episode.park
        ends = park is not None and park.status.finished and self._line.anything_limited
        granted, told = self._exchange_tickets(episode) if ends or episode.changes is not None else ((), Outcome())
        if park is not None and not (park.unless_granted and granted):
            self._park(instance, park, episode.at)
        if not instance.inbox:
            self._signalled.discard(instance.key)
        results = Results(started, granted, told.woken, told.next_grant)
        return None if results == _NO_RESULTS else results

    def _exchange_tickets(self, episode: Episode) -> tuple[tuple[int, ...], Outcome]:
        """Take and give back the tickets of an episode; return the attempts that were let in, and what else came."""
        changes = episode.changes or _NO_CHANGES
        told = self._line.exchange_tickets(
            episode.at,
            arrivals=[Arrival(one.ticket, episode.key, one.task, one.granted) for one in changes.tickets],
            ended=[episode.key] if episode.park is not None and episode.park.status.finished else [],
            renewed=[episode.key] if changes.renews else [],
            given_back=[(episode.key, task) for task in changes.gives_back],
        )
        answers = zip(changes.tickets, told.answers, strict=True)
        return tuple(one.task for one, answer in answers if answer != "waits"), told

    def _park(self, instance: _Instance, park: Park, at: float) -> None:
        instance.status, instance.waits = park.status, park.waits
        if park.status.finished:
            instance.finished_at = at
            instance.inbox.clear()
            self._end_watch(instance)
        due = None if park.status.finished else park.due
        self._disown(instance, 0.0 if instance.inbox else due)

    def _change(self, instance: _Instance, seq: int, changes: Changes) -> tuple[Started, ...]:
        started = tuple(self._start_child(instance, start) for start in changes.starts)
        for send in changes.sends:
            addressee = self._by_id.get(send.instance_id)
            if addressee is not None:
                self._put(addressee, send.event)
        if changes.to_children is not None:
            for child in self._children.get(instance.instance_id, ()):
                self._put(child, changes.to_children)
        if changes.renews:
            instance.base = seq
            instance.rows = {0: instance.rows[0], seq: instance.rows[seq]}
        instance.workflow = changes.workflow or instance.workflow
        instance.status = changes.status or instance.status
        instance.custom_status = changes.custom_status or instance.custom_status
        instance.attributes.update(changes.attributes)
        return started

    def _start_child(self, instance: _Instance, start: ChildStart) -> Started:
        # Nobody could tell a detached child's starter that a backlog is full.
        try:
            outcome = self._accept(start.new, may_be_refused=start.crowded is not None)
        except BacklogFullError:
            outcome = not_started(start.new)
            refused = start.crowded
        else:
            refused = None if outcome.created else start.refused
        if refused is not None:
            self._put(instance, refused)
        return outcome

    @_answered
    def release(
        self,
        lease: Lease,
        key: int,
        *,
        due: float | None,
        waits: str | None,
        stalled: bool,
        seen: int | None = None,
        status: Status | None = None,
    ) -> None:
        """Give an instance back without a history row."""
        instance = self._owned_by(lease, key)
        self._version += 1
        instance.waits, instance.status = waits, status or instance.status
        further = any(position > seen for position in instance.inbox) if seen is not None else False
        self._disown(instance, 0.0 if further or (instance.inbox and not stalled) else due)

    @_answered
    def signal(self, instance_id: str, event: str, blobs: Mapping[str, bytes] = NO_BLOBS) -> Status | None:
        """Put an event into an inbox."""
        instance = self._by_id.get(instance_id)
        if instance is None or instance.status.finished:
            return None if instance is None else instance.status
        self._keep(blobs)
        self._put(instance, event)
        return instance.status

    def _put(self, instance: _Instance, event: str) -> None:
        if instance.status.finished:
            return
        self._version += 1
        self._last_position += 1
        instance.inbox[self._last_position] = event
        self._signalled.add(instance.key)
        asleep = instance.status is Status.PENDING and not ends_instance(event)
        if instance.owner is None and not asleep and (instance.due is None or instance.due > 0):
            instance.due = 0.0
            self._queue(instance)
        self._tell(News.WORK)

    @_answered
    def claim(
        self, lease: Lease, workflows: Collection[str], now: float, limit: int, family: str | None = None
    ) -> list[Claimed]:
        """Take over due instances that nobody owns."""
        self._require_live(lease)
        self._line.grant_due(now)
        queues = self._queues(lease, workflows, family)
        heads = [(*first, queue) for queue in queues if (first := queue.first()) is not None]
        heapq.heapify(heads)
        taken: list[_Instance] = []
        while heads and heads[0][0] <= now and len(taken) < limit:
            _, key, queue = heads[0]
            one = self._instances[key - 1]
            one.status = Status.RUNNING if one.status is Status.PENDING else one.status
            taken.append(one)
            self._own(one, lease)
            following = queue.first()
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (*following, queue))
        self._version += bool(taken)
        return [
            Claimed(
                key=one.key,
                instance_id=one.instance_id,
                workflow=one.workflow,
                next_seq=one.next_seq,
                signals=one.signals(),
                tickets=self._line.tickets_of(one.key),
            )
            for one in taken
        ]

    # -- looking

    @_answered
    def inbox(self, lease: Lease) -> list[Signal]:
        """Return the signals of the lease's instances."""
        self._require_live(lease)
        keys = self._owned[lease.token] & self._signalled
        return sorted(
            (signal for key in keys for signal in self._instances[key - 1].signals()), key=attrgetter("position")
        )

    @_answered
    def next_due(self, lease: Lease, workflows: Collection[str], family: str | None = None) -> float | None:
        """Return the earliest time at which an instance without owner wants attention."""
        heads = (queue.first() for queue in self._queues(lease, workflows, family))
        times = [head[0] for head in heads if head is not None]
        grant = self._line.next_grant(lease.app_id)
        return min(times if grant is None else [*times, grant], default=None)

    @_answered
    def load(self, keys: Collection[int]) -> dict[int, list[HistoryRow]]:
        """Return whole histories."""
        return {key: self._history(key) for key in keys}

    def _history(self, key: int) -> list[HistoryRow]:
        if not 0 < key <= len(self._instances):
            return []
        one = self._instances[key - 1]
        return [HistoryRow(seq, at, decode_events(text)) for seq, (at, text) in one.rows.items() if seq >= one.base]

    @_answered
    def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return contents, each checked against its digest."""
        found = {address: self._blobs[address] for address in digests if address in self._blobs}
        for address in digests:
            if address not in found or digest(found[address]) != address:
                raise StoreCorruptError(self._name, f"the content {address} is missing or damaged")
        return found

    @_answered
    def conversation(self, key: ConversationKey) -> list[Link]:
        """Return the links of a conversation, walked back from its last one."""
        root, depth, wanted = key
        chain: list[Link] = []
        for place in range(depth, 0, -1):
            link = self._links.get((root, place, wanted))
            if link is None:
                raise StoreCorruptError(self._name, f"link {place} of conversation {root!r} is missing")
            chain.append(link)
            wanted = link.parent
        return chain[::-1]

    @_answered
    def find(self, instance_id: str) -> InstanceRecord | None:
        """Return one instance, or None."""
        found = next(self._records([instance_id]), None)
        return None if found is None else self._in_line(found)

    @_answered
    def find_all(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return those of the instances that exist, by id."""
        return {record.instance_id: record for record in self._records(instance_ids)}

    def _records(self, instance_ids: Iterable[str]) -> Iterator[InstanceRecord]:
        found = (self._by_id.get(name) for name in instance_ids)
        return (self._record(one) for one in found if one is not None)

    @_answered
    def instances(self, query: InstanceQuery = EVERYTHING) -> list[InstanceRecord]:
        """Return instances, the newest first."""
        end = len(self._instances) if query.before is None else min(query.before - 1, len(self._instances))
        newest_first = (self._instances[place] for place in range(end - 1, -1, -1))
        chosen = (one for one in newest_first if self._is_meant(one, query))
        return [self._in_line(self._record(one)) for one in islice(chosen, query.limit)]

    def _in_line(self, record: InstanceRecord) -> InstanceRecord:
        waits = None if record.owner is not None else with_places(record.waits, self._line.lines_of(record.key))
        return record if waits == record.waits else msgspec.structs.replace(record, waits=waits)

    def _is_meant(self, one: _Instance, query: InstanceQuery) -> bool:
        return (
            self._by_id.get(one.instance_id) is one
            and (not query.status or one.status in query.status)
            and query.workflow in (None, one.workflow, split_key(one.workflow)[0])
            and query.app_id in (None, one.app_id)
            and query.parent in (None, one.parent)
            and (query.created_from is None or one.created_at >= query.created_from)
            and (query.created_until is None or one.created_at < query.created_until)
            and (query.finished_until is None or (one.finished_at or math.inf) < query.finished_until)
            and all(_same(one.attributes.get(name), value) for name, value in query.attributes.items())
        )

    @_answered
    def rows(self, key: int) -> list[tuple[int, float, str]]:
        """Return the rows of an instance as they are kept."""
        rows = self._instances[key - 1].rows if 0 < key <= len(self._instances) else {}
        return [(seq, at, events) for seq, (at, events) in rows.items()]

    @_answered
    def waiting(self, key: int) -> list[str]:
        """Return the events in an inbox."""
        return list(self._instances[key - 1].inbox.values()) if 0 < key <= len(self._instances) else []

    @_answered
    def restore(self, restored: Sequence[Restored]) -> bool:
        """Add instances with their histories."""
        if any(one.new.instance_id in self._by_id for one in restored):
            return False
        for one in restored:
            self._restore(one)
        return True

    def _restore(self, restored: Restored) -> None:
        self._keep(restored.blobs)
        for link in restored.links:
            self._links.setdefault((link.root, link.depth, link.digest), link)
        started = self._accept(restored.new, may_be_refused=False, is_limited=restored.park.due is not None)
        one = self._instances[started.key - 1]
        one.rows = {seq: (at, events) for seq, at, events in restored.rows}
        one.next_seq, one.base = restored.rows[-1][0] + 1, restored.base
        if not started.waits:
            one.status, one.waits, one.due = restored.park.status, restored.park.waits, restored.park.due
        one.finished_at, one.custom_status = restored.finished_at, restored.custom_status
        self._queue(one)
        for event in restored.inbox:
            self._put(one, event)

    @_answered
    def expired(
        self, *, app_id: str, workflow: str | None, status: Collection[Status], until: float, limit: int
    ) -> list[int]:
        """Return the keys of instances that ended before a time."""
        query = InstanceQuery(status=tuple(status), workflow=workflow, app_id=app_id, finished_until=until)
        chosen = [one for one in self._by_id.values() if self._is_meant(one, query)]
        return [one.key for one in sorted(chosen, key=lambda one: one.finished_at or 0.0)[:limit]]

    @_answered
    def purge(self, keys: Collection[int]) -> int:
        """Delete instances that have ended; their content stays until this store itself goes."""
        ended = [self._instances[key - 1] for key in keys if 0 < key <= len(self._instances)]
        ended = [one for one in ended if one.status.finished and self._by_id.get(one.instance_id) is one]
        for one in ended:
            self._forget(one)
        return len(ended)

    def _forget_family(self, one: _Instance) -> None:
        for child in list(self._children.get(one.instance_id, ())):
            if child.status.finished:
                self._forget_family(child)
        self._forget(one)

    def _forget(self, one: _Instance) -> None:
        self._version += 1
        del self._by_id[one.instance_id]
        one.rows, one.due = {}, None
        if one.parent is not None:
            self._children[one.parent].remove(one)

    # -- news

    def listen(self, on_news: Callable[[News], None]) -> Callable[[], None] | None:
        """Be told of what any user of this store does, this one included."""
        self._require_open()
        self._listeners.append(on_news)
        return functools.partial(self._listeners.remove, on_news)

    @_answered
    def watch(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return those of the instances that exist, and tell of the end of those that run."""
        found = {record.instance_id: record for record in self._records(instance_ids)}
        self._watched.update(record.key for record in found.values() if not record.status.finished)
        return found

    def _end_watch(self, instance: _Instance) -> None:
        if instance.key in self._watched:
            self._watched.remove(instance.key)
            self._tell(News.ENDS)

    def _tell(self, news: News) -> None:
        if not self._news:
            # At the end of a turn of the loop, once for all that happened in it.
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._news |= news

    def _tell_all(self) -> None:
        news, self._news = self._news, News(0)
        for on_news in list(self._listeners):
            on_news(news)

    @_answered
    def version(self) -> int:
        """Return how many changes there were."""
        return self._version

    @_answered
    def check(self) -> dict[str, Any]:
        """Count what there is."""
        counts = Counter(str(one.status) for one in self._by_id.values())
        return {"instances": dict(counts), "workers": len(self._live) + len(self._dead)}

    def _record(self, one: _Instance) -> InstanceRecord:
        lease = None if one.owner is None else self._live.get(one.owner) or self._dead[one.owner]
        return InstanceRecord(
            key=one.key,
            instance_id=one.instance_id,
            app_id=one.app_id,
            workflow=one.workflow,
            status=one.status,
            created_at=one.created_at,
            finished_at=one.finished_at,
            owner=None if lease is None else lease.worker,
            due=one.due,
            waits=one.waits,
            recoveries=one.recoveries,
            parent=one.parent,
            custom_status=one.custom_status,
            attributes=dict(one.attributes),
        )


def _same(kept: object, wanted: object) -> bool:
    # True is 1 to Python, and another value to whoever set an attribute.
    return type(kept) is type(wanted) and kept == wanted
