"""What the tests of the suite are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from perdure.base.codec import Link, blob_references
from perdure.base.conversation import Conversation
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    Status,
    encode_event,
    encode_events,
)
from perdure.base.messages import Message
from perdure.ports.history_store import (
    Claimed,
    Episode,
    HistoryStore,
    InstanceRecord,
    Lease,
    NewInstance,
    Park,
    Results,
    Started,
)

T = TypeVar("T")

APP = "suite"
WORKFLOW = "conformance"
T0 = 1_700_000_000.123457
"""When instances of the suite start: more digits than a careless store keeps."""

STARTED = ExecutionStarted(name=WORKFLOW)
WAITING = Park(status=Status.RUNNING, waits='{"event":"approval"}')
COMPLETED = Park(status=Status.COMPLETED)


def on_open_store(
    scenario: Callable[[Any, HistoryStore], Coroutine[Any, Any, None]],
) -> Callable[[Any, Path], None]:
    """Turn a coroutine over an open store into a test method that pytest can call."""

    def test(self: Suite, tmp_path: Path) -> None:
        async def run() -> None:
            store = self.make_store(tmp_path)
            await store.open()
            try:
                await scenario(self, store)
            finally:
                await store.close()

        asyncio.run(run())

    # Not functools.wraps: pytest would look for the coroutine's own parameters.
    test.__name__, test.__qualname__, test.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
    return test


def in_two_lives(
    suite: Suite,
    folder: Path,
    before: Callable[[HistoryStore], Coroutine[Any, Any, None]],
    after: Callable[[HistoryStore], Coroutine[Any, Any, None]],
) -> None:
    """Run one coroutine over an open store, and another one over the same store, closed and opened again."""

    async def live(store: HistoryStore, scenario: Callable[[HistoryStore], Coroutine[Any, Any, None]]) -> None:
        await store.open()
        try:
            await scenario(store)
        finally:
            await store.close()

    store = suite.make_store(folder)
    asyncio.run(live(store, before))
    asyncio.run(live(suite.reopen(store), after))


def new(
    instance_id: str, lease: Lease | None = None, *, at: float = T0, workflow: str = WORKFLOW, app_id: str = APP
) -> NewInstance:
    """Return an instance to start."""
    events = encode_events([ExecutionStarted(name=workflow)])
    return NewInstance(instance_id=instance_id, app_id=app_id, workflow=workflow, at=at, events=events, lease=lease)


def episode(key: int, seq: int, *events: AnyEvent, park: Park | None = None, **others: Any) -> Episode:
    """Return an episode of some events."""
    return Episode(key=key, seq=seq, at=T0 + seq, events=encode_events(events), park=park, **others)


def raised(name: str) -> str:
    """Return an external event as a signal carries it."""
    return encode_event(EventRaised(name=name))


async def append(store: HistoryStore, lease: Lease, episode: Episode) -> Sequence[Started]:
    """Append and wait for the answer: the outcomes of the child starts."""
    return (await appended(store, lease, episode)).started


async def appended(store: HistoryStore, lease: Lease, episode: Episode) -> Results:
    """Append and wait for the results."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Results] = loop.create_future()

    def done(outcome: Exception | Results | None) -> None:
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome or Results())

    store.append(lease, episode, done)
    return await answer


async def started(store: HistoryStore, instance_id: str, lease: Lease | None = None, **others: Any) -> int:
    """Start an instance and return its key."""
    return (await store.start(new(instance_id, lease, **others))).key


async def parked(store: HistoryStore, instance_id: str, lease: Lease, park: Park = WAITING) -> int:
    """Start an instance, park it, and return its key."""
    key = await started(store, instance_id, lease)
    await append(store, lease, episode(key, 1, park=park))
    return key


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do several things at once; return what each returned."""
    return list(await asyncio.gather(*work))


async def record(store: HistoryStore, instance_id: str) -> InstanceRecord:
    """Return an instance that must exist."""
    record = await store.find(instance_id)
    assert record is not None
    return record


async def claim(store: HistoryStore, lease: Lease, *, now: float = T0, limit: int = 100) -> list[Claimed]:
    """Claim what is due."""
    return await store.claim(lease, [WORKFLOW], now, limit)


async def is_refused(work: Coroutine[Any, Any, object], error: type[Exception]) -> None:
    """Require that some work is refused with an error."""
    try:
        await work
    except error:
        return
    raise AssertionError(f"accepted, where a {error.__name__} is due")


def said(text: str, root: str, parent: Conversation | None = None) -> Conversation:
    """Return a conversation with one more message of a user."""
    return (parent or Conversation(root)).append(Message(role="user", content=text))


class Suite:
    """What a tested adapter brings along.

    Attributes:
        patience: seconds after which a store must have noticed that a worker is dead.
    """

    patience: float = 30.0

    def make_store(self, folder: Path) -> HistoryStore:
        """Return a new, empty store, not open yet; it may keep what it needs in ``folder``."""
        raise NotImplementedError

    def reopen(self, store: HistoryStore) -> HistoryStore:
        """Return a store, not open yet, over what another one keeps.

        It stands for another process, after the first or beside it. Override it unless one object can be opened
        twice and closed twice, and keeps everything meanwhile.
        """
        return store

    async def reaped(self, store: HistoryStore) -> int:
        """Reap until something was freed: a store may know the dead by their silence alone."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.patience
        while loop.time() < give_up_at:
            freed = await store.reap()
            if freed:
                return freed
            await asyncio.sleep(0.05)
        raise AssertionError(f"no dead worker was noticed within {self.patience} s")


def with_blobs(new: NewInstance, blobs: dict[str, bytes]) -> NewInstance:
    """Return an instance to start that refers to some content."""
    return NewInstance(
        instance_id=new.instance_id,
        app_id=new.app_id,
        workflow=new.workflow,
        at=new.at,
        events=new.events,
        blobs=blobs,
        lease=new.lease,
    )


def text_references(links: Sequence[Link]) -> set[str]:
    """Return the digests of the texts that links refer to."""
    return set().union(*(blob_references(link.message) for link in links))
