"""The contract of a history store: where instances, their histories, their inboxes and their leases are kept.

Rules of the state, which every adapter keeps and the conformance suite checks:

* An instance is *owned* by one worker or by nobody. Only a worker's :meth:`HistoryStore.claim` and a start that names
  a lease give it an owner; parking it (``Episode.park``), its worker leaving and its worker's death take it away.
* An instance belongs to an *app* for ever. A worker works for one app, and is given instances of that app only.
* ``due`` says when an instance without owner wants attention: a time, or None for not before a signal arrives.
  A signal makes the instance due at once; but one that is PENDING only if it is its end (ExecutionTerminated): the
  others wait for it in its inbox.
* Every call that changes something is acknowledged after it is durable, never before; changes submitted earlier are
  never durable without those submitted by the same caller before them.
* A commit under a lease that is no longer valid is refused with StaleLeaseError, and changes nothing.
* Blobs and links are keyed by content: writing one again changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from perdure.base.codec import ConversationKey, Link
from perdure.base.errors import UsageError
from perdure.base.events import HistoryRow, Status
from perdure.base.limits import Limits
from perdure.ports.tickets import AttemptTicket, Queue, Ticket

NO_BLOBS: Mapping[str, bytes] = {}
NO_ATTRIBUTES: Mapping[str, str | int | float | bool] = {}
NO_TICKETS: Mapping[int, bool] = {}


class News(enum.Flag):
    """What others did to a store, as far as it concerns a listener."""

    WORK = enum.auto()
    """Something may be due, or in an inbox, that a worker of the listener does not know of."""

    ENDS = enum.auto()
    """An instance that the listener watches has ended."""


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A worker's right to execute instances.

    Attributes:
        token: the fencing token; every later lease has a higher one.
        worker: name of the worker, for people.
        app_id: the app that it works for.
    """

    token: int
    worker: str
    app_id: str


class NewInstance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance to accept.

    Attributes:
        instance_id: unique in the store.
        app_id: the app it belongs to.
        workflow: registered name of its workflow.
        at: when it was started, in seconds since the epoch.
        events: its first history row (ExecutionStarted), encoded.
        blobs: content that the row refers to.
        lease: the worker that will run it at once, or None to leave it to whoever claims it.
        due: when it is to begin, in seconds since the epoch; until then it is PENDING. None means at once. It is also
            the time of the first history row: the workflow's clock does not begin before it does.
        parent: id of the instance that called it, or None.
        attributes: its custom attributes.
        replaces: an instance of the app that has ended and has the same id makes way: it is purged, and with it the
            child workflows below it that have ended.
        ticket: how it waits for its turn, from when it is due; None to go by the limits that the store knows, if any.
    """

    instance_id: str
    app_id: str
    workflow: str
    at: float
    events: str
    blobs: Mapping[str, bytes] = NO_BLOBS
    lease: Lease | None = None
    due: float | None = None
    parent: str | None = None
    attributes: Mapping[str, str | int | float | bool] = NO_ATTRIBUTES
    replaces: bool = False
    ticket: Ticket | None = None


def begins_at(new: NewInstance) -> float:
    """Return when an instance begins, in seconds since the epoch."""
    return new.at if new.due is None else max(new.at, new.due)


class Started(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a start.

    Attributes:
        key: the store's own number of the instance.
        created: False when the id existed before; then nothing was changed.
        app_id: the app of the instance that has the id now.
        workflow: what the instance that has the id now is kept under.
        events: its first history row, encoded.
        status: where it stands.
        waits: whether it was created and waits for its turn; then it belongs to nobody, whatever lease was named.
    """

    key: int
    created: bool
    app_id: str
    workflow: str
    events: str
    status: Status = Status.RUNNING
    waits: bool = False


def not_started(new: NewInstance) -> Started:
    """Return the answer to a child start that a full backlog refused."""
    return Started(key=0, created=False, app_id=new.app_id, workflow=new.workflow, events="")


class Park(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How an episode leaves an instance that has nothing in flight.

    Attributes:
        status: RUNNING for one that waits, SUSPENDED for one that is held, otherwise how it ended.
        due: when to wake it, in seconds since the epoch; None for not before a signal.
        waits: what it waits for, as JSON text for people; None when it is finished.
        unless_granted: it stays with its worker if one of the episode's own tickets is granted at once.
    """

    status: Status
    due: float | None = None
    waits: str | None = None
    unless_granted: bool = False


class ChildStart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A child workflow to accept together with the episode that called it; its content is the episode's.

    Attributes:
        new: the child.
        refused: the encoded event that the caller's inbox gets instead when the id is taken; None for none.
        crowded: the one that it gets when the backlog of the child's workflow is full.
    """

    new: NewInstance
    refused: str | None = None
    crowded: str | None = None


class Sending(msgspec.Struct, frozen=True, gc=False):
    """An event for another instance, as :meth:`HistoryStore.signal` takes it; its blobs are the episode's.

    Attributes:
        instance_id: whom it is for; one that does not exist or has ended does not get it.
        event: the encoded event.
    """

    instance_id: str
    event: str


class Changes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an episode changes beyond its own history row.

    Attributes:
        starts: child workflows that begin.
        sends: events for other instances.
        to_children: an encoded event for every child of the instance that has not ended; None for none.
        renews: this row is the first one of a new generation: the rows between the very first and this one go.
        workflow: what the instance is kept under from now on; None for as before.
        status: where it stands now, when it does not leave its worker; None for as before.
        custom_status: JSON that its code set; None for as before.
        attributes: custom attributes that its code set.
        tickets: those that attempts of activities take.
        gives_back: attempts whose tickets are no longer needed.
    """

    starts: tuple[ChildStart, ...] = ()
    sends: tuple[Sending, ...] = ()
    to_children: str | None = None
    renews: bool = False
    workflow: str | None = None
    status: Status | None = None
    custom_status: str | None = None
    attributes: Mapping[str, str | int | float | bool] = NO_ATTRIBUTES
    tickets: tuple[AttemptTicket, ...] = ()
    gives_back: tuple[int, ...] = ()


class Episode(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One history row with everything that becomes durable together with it.

    Attributes:
        key: the instance.
        seq: number of the row; the row before it must exist and this one must not.
        at: when it happened.
        events: the encoded events.
        blobs: content that the events refer to.
        links: conversation links that the events refer to.
        consumed: inbox positions that the events take over.
        park: set when the instance leaves its worker with this row.
        changes: what it changes beyond the row; None for most episodes.
    """

    key: int
    seq: int
    at: float
    events: str
    blobs: Mapping[str, bytes] = NO_BLOBS
    links: Iterable[Link] = ()
    consumed: tuple[int, ...] = ()
    park: Park | None = None
    changes: Changes | None = None


class Signal(msgspec.Struct, frozen=True, gc=False):
    """An event for an instance, in the order of acceptance.

    Attributes:
        position: the store's number of it; higher is later.
        key: the instance.
        event: the encoded event.
    """

    position: int
    key: int
    event: str


class Claimed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance that now belongs to the claiming worker.

    Attributes:
        key: the store's number of it.
        instance_id: its id.
        workflow: its workflow's name.
        next_seq: number of the next history row.
        signals: its inbox, oldest first.
        tickets: those of its activities, by the attempt's id: whether they are granted.
    """

    key: int
    instance_id: str
    workflow: str
    next_seq: int
    signals: tuple[Signal, ...] = ()
    tickets: Mapping[int, bool] = NO_TICKETS


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a store knows about an instance without reading its history.

    Attributes:
        key: the store's number of it.
        instance_id: its id.
        app_id: the app that it belongs to.
        workflow: its workflow's name.
        status: where it stands.
        created_at: seconds since the epoch.
        finished_at: seconds since the epoch, or None.
        owner: name of the worker that executes it, or None.
        due: when it wants attention, or None.
        waits: JSON text of what it waits for, as of its last episode; None while it is busy or finished. Whether it
            waits for its turn, and how many are before it, is as of now; long lists and :meth:`HistoryStore.find_all`
            need not say that.
        recoveries: how many workers died while they owned it.
        parent: id of the instance that called it, or None.
        custom_status: JSON that its code set, or None.
        attributes: its custom attributes.
    """

    key: int
    instance_id: str
    app_id: str
    workflow: str
    status: Status
    created_at: float
    finished_at: float | None = None
    owner: str | None = None
    due: float | None = None
    waits: str | None = None
    recoveries: int = 0
    parent: str | None = None
    custom_status: str | None = None
    attributes: Mapping[str, str | int | float | bool] = NO_ATTRIBUTES


class InstanceQuery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which instances to return, the newest first; conditions that are not set do not count.

    Attributes:
        status: any of these.
        workflow: the name of its workflow, of whichever version.
        app_id: the app that it belongs to.
        parent: id of the instance that called it.
        created_from: started at this time or later, in seconds since the epoch.
        created_until: started before this time.
        finished_until: ended before this time.
        attributes: has all of these.
        limit: at most so many.
        before: key of the last one of the page before.
    """

    status: tuple[Status, ...] = ()
    workflow: str | None = None
    app_id: str | None = None
    parent: str | None = None
    created_from: float | None = None
    created_until: float | None = None
    finished_until: float | None = None
    attributes: Mapping[str, str | int | float | bool] = NO_ATTRIBUTES
    limit: int = 50
    before: int | None = None

    def __post_init__(self) -> None:
        """Refuse conditions that would mean something else than they say."""
        if not isinstance(self.status, tuple):
            raise UsageError(f"InstanceQuery.status is {self.status!r}; use a tuple of statuses")
        if self.limit < 0:
            raise UsageError(f"InstanceQuery.limit is {self.limit}; use a number of at least 0")


EVERYTHING = InstanceQuery()
"""The newest instances, whatever they are."""


class Restored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance with a history that was made elsewhere: a fork of another one, or an import.

    Attributes:
        new: who it is; its first row comes with the others.
        rows: the encoded rows (seq, at, events), in order: the very first one, and those from ``base`` on.
        base: number of the first row of its last generation.
        park: how it stands: waiting, or ended. A waiting one is due when this says; one that is due at a time waits for
            its turn, too.
        finished_at: when it ended, or None.
        custom_status: JSON that its code set, or None.
        blobs: content that the rows and links refer to and that the store may lack.
        links: conversation links that the rows refer to and that the store may lack.
        inbox: encoded events that wait for it.
        source: key of an instance in this store whose content it shares, or None.
    """

    new: NewInstance
    rows: Sequence[tuple[int, float, str]]
    park: Park
    base: int = 0
    finished_at: float | None = None
    custom_status: str | None = None
    blobs: Mapping[str, bytes] = NO_BLOBS
    links: Sequence[Link] = ()
    inbox: tuple[str, ...] = ()
    source: int | None = None


class Results(msgspec.Struct, frozen=True, gc=False):
    """What became of an episode that changed more than its history.

    Attributes:
        started: the outcomes of its child starts, in their order.
        granted: attempts of the instance whose tickets were granted at once.
        woken: whether other instances got their turn.
        next_grant: when the next one gets its turn, if that is a matter of time; seconds since the epoch.
    """

    started: tuple[Started, ...] = ()
    granted: tuple[int, ...] = ()
    woken: bool = False
    next_grant: float | None = None


NO_RESULTS = Results()

Appended = Callable[[Exception | Results | None], None]
"""Told what became of an episode: refused with an error, or durable, with its results if it has any."""


class HistoryStore(Protocol):
    """Keeps instances and their histories.

    All coroutines raise a :class:`~perdure.base.errors.StoreError` subclass when the store cannot do what is asked;
    then nothing was changed. Only when the disk failed in the midst of a commit (StoreUnavailableError, StoreFullError)
    may the change come to light later: a start that is asked for again then finds its instance, and an episode that is
    appended again is accepted as already there.
    """

    @property
    def name(self) -> str:
        """Where the store is, for people: a path or a URL."""
        ...

    async def open(self) -> None:
        """Make the store usable from the running event loop; create or migrate it when needed.

        Raises:
            StoreVersionError: a newer Perdure wrote it.
            StoreCorruptError: it is not a store, or it is damaged.
            StoreReadOnlyError, StoreFullError, StoreLockedError: as their names say.
        """
        ...

    async def close(self) -> None:
        """Finish what was submitted, then release everything. Idempotent."""
        ...

    async def join(self, worker: str, app_id: str) -> Lease:
        """Register a worker of an app; the store keeps the lease alive until :meth:`leave` or the process's death."""
        ...

    async def leave(self, lease: Lease) -> None:
        """End a lease; its instances lose their owner and are due at once."""
        ...

    def is_kept(self, lease: Lease) -> bool:
        """Return whether a lease of this store is still its worker's, as far as this process can tell without asking.

        False once others may have ended it, such as after the process was stopped for longer than its lease; True again
        when it turns out that they have not.
        """
        ...

    async def reap(self) -> int:
        """End the leases of dead workers as :meth:`leave` does, and return how many instances that set free.

        A worker is dead when its process is gone, or when it has not renewed its lease in time. Wall clocks have no say
        in that: they jump. Each instance that it owned counts one recovery more.
        """
        ...

    async def working_apps(self) -> set[str]:
        """Return the apps with a worker whose lease has not been ended; those of the dead end with :meth:`reap`."""
        ...

    async def start(self, new: NewInstance) -> Started:
        """Accept an instance, or find the one that has its id already.

        Raises:
            BacklogFullError: as many as may do so wait for their turn already.
            StaleLeaseError: ``new.lease`` is no longer valid.
        """
        ...

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Add an episode to the history of an instance that the lease owns, with all its changes or not at all.

        ``done`` is called in the event loop: once the episode is durable with its results, or None when it has none;
        or with the error that refused it (StaleLeaseError, or another
        StoreError after which the same episode may be appended again).
        """
        ...

    async def release(
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
        """Give an instance back without adding to its history.

        Args:
            lease: the owner's.
            key: the instance.
            due: when it wants attention, or None; its inbox makes it due at once, unless it is stalled.
            waits: JSON text of what it waits for, or None.
            stalled: only a further signal makes it due before that.
            seen: position of the last signal that is no further one; None for the last one in the inbox.
            status: where it stands from now on; None for as before.

        Raises:
            StaleLeaseError: the lease is no longer valid, or does not own the instance.
        """
        ...

    async def signal(self, instance_id: str, event: str, blobs: Mapping[str, bytes] = NO_BLOBS) -> Status | None:
        """Put an event into the inbox of an instance; return the instance's status, None when it does not exist.

        Only an instance that has not ended takes the event. One that waits for its turn is not due because of it,
        unless the event ends it.
        """
        ...

    async def declare(self, limits: Mapping[Queue, Limits], now: float) -> None:
        """Let these limits hold from now on; tickets that they let in are granted.

        A queue that the store does not know and that has no limits is left out.
        """
        ...

    async def claim(
        self, lease: Lease, workflows: Collection[str], now: float, limit: int, family: str | None = None
    ) -> list[Claimed]:
        """Give the lease at most ``limit`` instances without owner that are due, the longest due first.

        Only instances of the lease's app and of the named workflows are claimed; with a ``family``, only the instance
        of that id and the child workflows below it. One that was PENDING is RUNNING from then on. Tickets whose time
        has come are granted before.

        Raises:
            StaleLeaseError: the lease is no longer valid.
        """
        ...

    async def inbox(self, lease: Lease) -> list[Signal]:
        """Return the signals, oldest first, in the inboxes of the instances that the lease owns.

        Raises:
            StaleLeaseError: the lease is no longer valid.
        """
        ...

    async def next_due(self, lease: Lease, workflows: Collection[str], family: str | None = None) -> float | None:
        """Return the earliest ``due`` of what :meth:`claim` would give the lease sooner or later, or the time at which
        a ticket of its app is granted, or None.
        """
        ...

    async def load(self, keys: Collection[int]) -> dict[int, list[HistoryRow]]:
        """Return the whole history of each instance, in order; of one that continued as new, its last generation."""
        ...

    async def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return the content of each digest.

        Raises:
            StoreCorruptError: one is missing or does not match its digest.
        """
        ...

    async def conversation(self, key: ConversationKey) -> list[Link]:
        """Return all links of a conversation, the first message first.

        Raises:
            StoreCorruptError: a link is missing.
        """
        ...

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """Return one instance, or None."""
        ...

    async def find_all(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return those of the instances that exist, by id."""
        ...

    async def instances(self, query: InstanceQuery = EVERYTHING) -> list[InstanceRecord]:
        """Return instances, the newest first."""
        ...

    async def rows(self, key: int) -> list[tuple[int, float, str]]:
        """Return the rows (seq, at, events) of an instance as they are stored: the very first, then its last
        generation's.
        """
        ...

    async def waiting(self, key: int) -> list[str]:
        """Return the encoded events in an instance's inbox, oldest first."""
        ...

    async def restore(self, restored: Sequence[Restored]) -> bool:
        """Add instances with their histories, all or none; False when an id is taken, and nothing was changed."""
        ...

    async def expired(
        self, *, app_id: str, workflow: str | None, status: Collection[Status], until: float, limit: int
    ) -> list[int]:
        """Return the keys of at most ``limit`` instances that ended before a time, the longest ago first.

        Args:
            app_id: the app that they belong to.
            workflow: the name of their workflow, of whichever version; None for any.
            status: how they ended.
            until: seconds since the epoch.
            limit: how many at most.
        """
        ...

    async def purge(self, keys: Collection[int]) -> int:
        """Delete instances that have ended with all that is theirs alone, and return how many these were.

        Others stay as they are, and so does content that another instance refers to.
        """
        ...

    def listen(self, on_news: Callable[[News], None]) -> Callable[[], None] | None:
        """Be told of what others do to the store, in the event loop and soon after it is durable.

        News are hints. Some are about nothing, and one may be lost: who listens looks by himself now and then. What a
        listener's own worker is going to find anyway need not be told. Who wants news of work listens before
        :meth:`join`.

        Returns:
            what ends the listening; None when this store cannot tell, here or at all.
        """
        ...

    async def watch(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return what :meth:`find_all` does; from then on listeners are told when one that still runs has ended."""
        ...

    async def version(self) -> int:
        """Return a number that changes whenever the store was changed, by any process."""
        ...

    async def check(self) -> dict[str, Any]:
        """Return facts for ``perdure doctor``; raises StoreCorruptError when the store is damaged."""
        ...
