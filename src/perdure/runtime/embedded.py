"""The embedded runtime: the engine over a history store, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.base.clock import Clock, SystemClock
from perdure.base.codec import Encoded, Resolved, decode, encode
from perdure.base.errors import (
    InstanceError,
    InstanceExistsError,
    InstanceNotFoundError,
    RunFailedError,
    StaleLeaseError,
    StoreError,
    UsageError,
)
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    HistoryRow,
    Status,
    decode_events,
    encode_event,
    encode_events,
)
from perdure.base.faults import crash_point
from perdure.base.ids import new_instance_id
from perdure.engine.activity import ActivityRunner
from perdure.engine.engine_events import ANSWERED, ENGINE_EVENT, RESUMED
from perdure.engine.held import Held, WorkerOptions
from perdure.engine.scheduler import Scheduler
from perdure.engine.worker import Worker
from perdure.ports.history_store import HistoryStore, InstanceRecord, NewInstance, News, Started
from perdure.runtime.location import DEFAULT_APP
from perdure.runtime.waiting import Ends
from perdure.workflows.registry import Registry, default_registry

_ID_LENGTH = 256
_POLL, _POLL_TOLD = 0.1, 1.0


class EmbeddedRuntime:
    """Executes workflows durably in this process; use it as an async context manager.

    Args:
        store: where histories are kept.
        app_id: the app that instances started here belong to, and whose instances it executes.
        registry: the workflows and activities it knows; by default those of the decorators.
        options: sizes and intervals of its worker.
        clock: tells the time.
        name: name of its worker, for people; by default the app id.
        worker: whether it executes instances; without, it only starts, signals and looks.
    """

    def __init__(
        self,
        store: HistoryStore,
        *,
        app_id: str = DEFAULT_APP,
        registry: Registry = default_registry,
        options: WorkerOptions | None = None,
        clock: Clock | None = None,
        name: str | None = None,
        worker: bool = True,
    ) -> None:
        self.store = store
        self.registry = registry
        self._app_id = _usable(app_id, "app_id")
        self._name = name or app_id
        self._options = options or WorkerOptions()
        self._clock = clock or SystemClock()
        self._executes = worker
        self._worker: Worker | None = None
        self._scheduler: Scheduler | None = None
        self._activities: ActivityRunner | None = None
        self._supply: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] | None = None
        self._store_tells: bool | None = None
        self._ends = Ends(store, self._is_here, self._listens)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the store, take a lease, and go on with what is unfinished."""
        await self.store.open()
        if not self._executes:
            return
        try:
            await self._open_worker()
        except BaseException:
            await self.close()
            raise

    async def _open_worker(self) -> None:
        _calm_garbage_collector(self._options.gc_threshold)
        name = f"{self._name}@{socket.gethostname()}:{os.getpid()}"
        self._activities = ActivityRunner(self.store, self.registry.activities.get, self._options.threads)
        self._worker = Worker(
            self.store,
            self._activities,
            self._clock,
            self._options,
            finished=self._note_finished,
            parked=self._note_parked,
            lease_lost=self._note_lease_lost,
        )
        self._scheduler = Scheduler(
            self.store,
            self._worker,
            worker_name=name,
            app_id=self._app_id,
            workflows=self.registry.workflows,
            clock=self._clock,
            options=self._options,
            poll=self._poll_seconds(),
        )
        self._worker.lease = await self.store.join(name, self._app_id)
        self._supply = asyncio.create_task(self._scheduler.run())

    async def close(self) -> None:
        """Let running activities finish within the drain time, give everything back, close the store."""
        if self._supply is not None:
            self._supply.cancel()
            await asyncio.gather(self._supply, return_exceptions=True)
            self._supply = None
        if self._worker is not None:
            await self._worker.stop()
            if self._worker.lease is not None:
                # A store that cannot take this now frees the instances when it finds the worker gone.
                with contextlib.suppress(StoreError):
                    await self.store.leave(self._worker.lease)
            self._worker = None
        if self._activities is not None:
            self._activities.close()
            self._activities = None
        await self._ends.close()
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        self._store_tells = None
        await self.store.close()

    def _listens(self) -> bool:
        """Listen to the store's news from now on; return whether there are any."""
        if self._store_tells is None:
            self._stop_listening = self.store.listen(self._note_news)
            self._store_tells = self._stop_listening is not None
        return self._store_tells

    def _poll_seconds(self) -> float:
        if self._options.poll is not None:
            return self._options.poll
        return _POLL_TOLD if self._listens() else _POLL

    def _note_news(self, news: News) -> None:
        if News.WORK in news:
            self.look_for_work()
        if News.ENDS in news:
            self._ends.note_news()

    def _note_finished(self, instance_id: str, completed: ExecutionCompleted, resolved: Resolved) -> None:
        self._ends.settle(instance_id, (completed, resolved))

    def _is_here(self, instance_id: str) -> bool:
        return self._worker is not None and self._worker.holds(instance_id)

    def _note_parked(self, instance_id: str, due: float | None) -> None:
        self._ends.note_gone(instance_id)
        if self._scheduler is not None:
            self._scheduler.note_due(due)

    def _note_lease_lost(self) -> None:
        if self._scheduler is not None:
            self._scheduler.note_lease_lost()

    # -- starting

    async def start(
        self,
        workflow: Callable[..., Any] | str,
        input: Any = None,  # noqa: A002 - the name that Dapr programs use
        *,
        instance_id: str | None = None,
    ) -> str:
        """Start an instance and return its id once it is durable; see :class:`~perdure.ports.runtime.Runtime`."""
        if instance_id is not None:
            _usable(instance_id, "instance_id")
        name = workflow if isinstance(workflow, str) else self.registry.add_workflow(workflow)
        encoded = encode(input, f"the input of workflow {name!r}", references=False)
        worker = self._worker
        lease = worker.lease if worker is not None and worker.has_room and name in self.registry.workflows else None
        new = NewInstance(
            instance_id=instance_id or new_instance_id(),
            app_id=self._app_id,
            workflow=name,
            at=self._clock.now(),
            events=encode_events([ExecutionStarted(name=name, input=encoded.raw)]),
            blobs=encoded.blobs,
            lease=lease,
        )
        if lease is None:
            await self._accept(new, encoded)
        else:
            # A caller that stops waiting must not leave an instance that is this worker's and that it does not know.
            await asyncio.shield(self._accept(new, encoded))
        return new.instance_id

    async def _accept(self, new: NewInstance, encoded: Encoded) -> None:
        crash_point("start.before_commit")
        try:
            started = await self.store.start(new)
        except StaleLeaseError:
            self._note_lease_lost()
            new = msgspec.structs.replace(new, lease=None)
            started = await self.store.start(new)
        crash_point("start.after_commit")
        if not started.created:
            _require_same(new, started)
        elif new.lease is None:
            self.look_for_work()
        elif self._worker is not None:
            held = Held(started.key, new.instance_id, self.registry.workflows[new.workflow], 1)
            self._worker.begin(held, HistoryRow(0, new.at, decode_events(new.events)), encoded.resolved)

    def look_for_work(self) -> None:
        """Look at once for runs to execute, for example after a workflow was registered."""
        if self._scheduler is not None:
            self._scheduler.poke()

    # -- waiting and looking

    async def wait(self, instance_id: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait for an instance to finish and return its result; see :class:`~perdure.ports.runtime.Runtime`."""
        async with asyncio.timeout(timeout):
            completed, resolved = await self._ends.of(instance_id)
        if completed.status is not Status.COMPLETED:
            raise RunFailedError(instance_id, completed.status, completed.failure)
        return decode(completed.result, resolved)

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """Return how an instance stands, or None."""
        return await self.store.find(instance_id)

    async def history(self, instance_id: str) -> list[HistoryRow]:
        """Return the whole history of an instance."""
        record = await self._known(instance_id)
        return (await self.store.load([record.key]))[record.key]

    async def _known(self, instance_id: str) -> InstanceRecord:
        record = await self.store.find(instance_id)
        if record is None:
            raise InstanceNotFoundError(instance_id)
        return record

    # -- signals

    async def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to an instance; see :class:`~perdure.ports.runtime.Runtime`."""
        if name.startswith(ENGINE_EVENT):
            raise UsageError(f"event names that begin with {ENGINE_EVENT!r} are the engine's own; choose another one")
        encoded = encode(data, f"the data of event {name!r}", references=False)
        status = await self._send(instance_id, EventRaised(name=name, input=encoded.raw), encoded)
        if status.finished:
            raise InstanceError(instance_id, f"instance {instance_id!r} is {status}; it takes no events any more")

    async def terminate(self, instance_id: str, reason: str = "") -> None:
        """End an instance from outside; one that has finished stays as it is."""
        await self._send(instance_id, ExecutionTerminated(reason=reason))

    async def answer(self, instance_id: str, task: int, decision: str, result: Any = None) -> None:
        """Say what became of an activity that a crash cut off.

        Args:
            instance_id: the run that asks.
            task: the attempt's id, as the run's waits show it.
            decision: "retry" to run it again, "completed" with its result, or "failed" with a reason as result.
            result: what the activity returned, or why it failed.

        Raises:
            UsageError: an unknown decision, or no attempt's id.
        """
        if not isinstance(task, int):
            raise UsageError(f"task is {task!r}; use the number that the run's waits show under 'asks'")
        if decision not in {"retry", "completed", "failed"}:
            raise UsageError(f"decision is {decision!r}; use 'retry', 'completed' or 'failed'")
        encoded = encode({"task": task, "decision": decision, "result": result}, "the answer", references=False)
        await self._send(instance_id, EventRaised(name=ANSWERED, input=encoded.raw), encoded)

    async def resume(self, instance_id: str) -> None:
        """Try a stalled instance again, for example after its code was restored."""
        await self._send(instance_id, EventRaised(name=RESUMED))

    async def _send(self, instance_id: str, event: AnyEvent, encoded: Encoded | None = None) -> Status:
        crash_point("signal.before_commit")
        blobs = encoded.blobs if encoded is not None else {}
        status = await self.store.signal(instance_id, encode_event(event), blobs)
        crash_point("signal.after_commit")
        if status is None:
            raise InstanceNotFoundError(instance_id)
        self.look_for_work()
        return status


def _usable(given: str, field: str) -> str:
    usable = 0 < len(given) <= _ID_LENGTH and "\0" not in given
    try:
        given.encode()
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise UsageError(f"{field} is {given!r:.80}; use 1 to {_ID_LENGTH} characters of text without NUL")
    return given


def _calm_garbage_collector(threshold: int | None) -> None:
    present, *older = gc.get_threshold()
    if threshold is not None and 0 < present < threshold:
        gc.set_threshold(threshold, *older)


def _require_same(new: NewInstance, found: Started) -> None:
    if found.app_id != new.app_id:
        raise InstanceExistsError(new.instance_id, f"it is a run of app {found.app_id!r}, not of {new.app_id!r}")
    if found.workflow != new.workflow:
        why = f"it is a run of workflow {found.workflow!r}, not of {new.workflow!r}"
        raise InstanceExistsError(new.instance_id, why)
    if found.events != new.events:
        raise InstanceExistsError(new.instance_id, f"it is a run of {found.workflow!r} with another input")
