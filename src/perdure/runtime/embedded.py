"""The embedded runtime: the engine over a history store, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
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
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    HistoryRow,
    Status,
    decode_events,
    encode_event,
    encode_events,
)
from perdure.base.faults import crash_point
from perdure.base.ids import new_execution_id, require_text, require_usable_id, split_key
from perdure.base.ids import new_instance_id as fresh_instance_id
from perdure.base.limits import Limits
from perdure.base.schedule import Schedule
from perdure.engine.activity import ActivityRunner
from perdure.engine.engine_events import ANSWERED
from perdure.engine.held import Held, WorkerOptions
from perdure.engine.requests import require_users_event, usable_attributes
from perdure.engine.retention import purge_ended
from perdure.engine.rules import Key, admission, ticket_of
from perdure.engine.scheduler import Scheduler
from perdure.engine.worker import Worker
from perdure.ports.history_store import (
    EVERYTHING,
    HistoryStore,
    InstanceQuery,
    InstanceRecord,
    Lease,
    NewInstance,
    News,
)
from perdure.ports.runtime import Reuse
from perdure.ports.tickets import Queue
from perdure.runtime.forks import Edit, fork, path_of
from perdure.runtime.location import DEFAULT_APP
from perdure.runtime.starting import age_of, moment_of, require_ended, require_known_reuse, require_reusable
from perdure.runtime.waiting import Ends
from perdure.workflows.registry import Registry, default_registry
from perdure.workflows.schedules import SCHEDULE_WORKFLOW, Plan, Progress, add_schedules, schedule_id

_CHILDREN = 1_000_000
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
        only: an instance id: it executes that instance, those that it calls and those that are started here, and
            leaves all others alone; None for all of its app.
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
        only: str | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        require_usable_id(app_id, "app_id")
        self._app_id = app_id
        self._name = name or app_id
        self._options = options or WorkerOptions()
        self._clock = clock or SystemClock()
        self._executes = worker
        self._only = only
        self._worker: Worker | None = None
        self._scheduler: Scheduler | None = None
        self._activities: ActivityRunner | None = None
        self._supply: asyncio.Task[None] | None = None
        self._declared: Mapping[Queue, Limits] = {}
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
        _share_interpreter(self._options.switch_interval)
        add_schedules(self.registry)
        name = f"{self._name}@{socket.gethostname()}:{os.getpid()}"
        self._activities = ActivityRunner(self.store, self.registry.activities.get, self._options.threads)
        self._worker = Worker(
            self.store,
            self._activities,
            self._clock,
            self._options,
            app_id=self._app_id,
            workflows=self.registry.workflows,
            finished=self._note_finished,
            parked=self._note_parked,
            lease_lost=self._note_lease_lost,
            news=self.look_for_work,
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
            family=self._only,
        )
        await self._declare_limits()
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
        usual = _POLL_TOLD if self._listens() else _POLL
        return usual if self._options.poll is None else self._options.poll

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
        start_at: float | dt.timedelta | dt.datetime | None = None,
        attributes: Mapping[str, str | float | bool] | None = None,
        reuse: Reuse = "attach",
        key: Key | None = None,
        priority: int | None = None,
    ) -> str:
        """Start an instance and return its id once it is durable; see :class:`~perdure.ports.runtime.Runtime`."""
        if instance_id is not None:
            require_usable_id(instance_id)
        require_known_reuse(reuse)
        code = self.registry.newest(workflow) if isinstance(workflow, str) else self.registry.add_workflow(workflow)
        name, version = split_key(code)
        rules = self.registry.rules_of(code)
        waits = admission(f"workflow {name!r}", rules, input, key, priority)
        encoded = encode(input, f"the input of workflow {name!r}", references=False)
        now = self._clock.now()
        due = None if start_at is None else moment_of(start_at, now)
        begins = ExecutionStarted(
            name=name,
            version=version,
            input=encoded.raw,
            # A fresh id is no other run's: only one that the caller chose may come back.
            execution_id="" if instance_id is None else new_execution_id(),
            admission=waits,
        )
        new = NewInstance(
            instance_id=instance_id or fresh_instance_id(),
            app_id=self._app_id,
            workflow=code,
            at=now,
            events=encode_events([begins]),
            blobs=encoded.blobs,
            lease=self._lease_for(code) if due is None or due <= now else None,
            due=due,
            attributes=usable_attributes(attributes or {}),
            replaces=reuse in {"replace", "terminate"},
            ticket=None if waits is None else ticket_of(self._app_id, name, waits, rules),
        )
        if rules is not None:
            await self._declare_limits(name)
        if new.lease is None:
            await self._accept(new, encoded, reuse)
        else:
            # A caller that stops waiting must not leave an instance that is this worker's and that it does not know.
            await asyncio.shield(self._accept(new, encoded, reuse))
        return new.instance_id

    async def schedule(
        self,
        name: str,
        workflow: Callable[..., Any] | str,
        when: Schedule,
        input: Any = None,  # noqa: A002 - as above
    ) -> str:
        """Start a workflow again and again; see docs/schedules.md for what a schedule says.

        Args:
            name: the schedule's name; a schedule that has it, and says something else, makes way.
            workflow: the function, or its registered name.
            when: when to start it.
            input: its input, the same each time.

        Returns:
            the instance id of the schedule: suspend it to pause it, terminate it to remove it.

        Raises:
            NotSerializableError: the input is not data.
        """
        key = workflow if isinstance(workflow, str) else self.registry.add_workflow(workflow)
        progress = Progress(plan=Plan(schedule=when, workflow=split_key(key)[0], input=input))
        try:
            return await self.start(SCHEDULE_WORKFLOW, progress, instance_id=schedule_id(name))
        except InstanceExistsError:
            return await self.start(SCHEDULE_WORKFLOW, progress, instance_id=schedule_id(name), reuse="terminate")

    async def _declare_limits(self, workflow: str | None = None) -> None:
        """Let the limits of the code here hold, unless they were declared since the given workflow was registered."""
        known = workflow is not None and Queue(self._app_id, "workflow", workflow) in self._declared
        if self._worker is not None and not known:
            limits = self.registry.limits(self._app_id)
            await self.store.declare(limits, self._clock.now())
            self._declared = limits

    def _lease_for(self, key: str) -> Lease | None:
        worker = self._worker
        return worker.lease if worker is not None and worker.has_room and key in self.registry.workflows else None

    async def _accept(self, new: NewInstance, encoded: Encoded, reuse: Reuse) -> None:
        crash_point("start.before_commit")
        try:
            started = await self.store.start(new)
        except StaleLeaseError:
            self._note_lease_lost()
            new = msgspec.structs.replace(new, lease=None)
            started = await self.store.start(new)
        crash_point("start.after_commit")
        if not started.created and reuse == "terminate" and started.app_id == new.app_id:
            await self.terminate(new.instance_id, "another run with this id takes its place")
            await self._end_of_family(new.instance_id)
            await self._accept(new, encoded, "replace")
        elif not started.created:
            require_reusable(new, started, reuse)
        elif self._worker is None or new.lease is None or self._worker.lease != new.lease or started.waits:
            # Also when the lease was lost before the answer came: then the instance is whoever's claims it.
            self.look_for_work()
        else:
            held = Held(started.key, new.instance_id, self.registry.workflows[new.workflow], 1, new.workflow)
            self._worker.begin(held, HistoryRow(0, new.at, decode_events(new.events)), encoded.resolved)

    async def _end_of_family(self, instance_id: str) -> None:
        """Wait until a terminated instance has ended, and its child workflows, whose ids its successor may use."""
        await self._ends.of(instance_id)
        for child in await self.store.instances(InstanceQuery(parent=instance_id, limit=_CHILDREN)):
            with contextlib.suppress(InstanceNotFoundError):
                await self._end_of_family(child.instance_id)

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

    async def instances(self, query: InstanceQuery = EVERYTHING) -> list[InstanceRecord]:
        """Return instances, the newest first; see :class:`~perdure.ports.runtime.Runtime`."""
        return await self.store.instances(query)

    # -- after the end, and beside it

    async def fork(
        self,
        instance_id: str,
        at: int | Sequence[int],
        *,
        output: Any = msgspec.UNSET,
        input: Any = msgspec.UNSET,  # noqa: A002 - as above
        new_instance_id: str | None = None,
    ) -> str:
        """Let another instance go on from a call of this one.

        What was decided before the call's outcome is kept, and none of the effects before it is repeated.

        Args:
            instance_id: the instance, finished or not.
            at: the call's id, as the run's timeline numbers it; a list leads into child workflows.
            output: what the call is taken to have returned.
            input: what the call is made again with; with neither, it is made again as it was.
            new_instance_id: the new instance's id; a new one by default.

        Returns:
            the new instance's id.

        Raises:
            InstanceNotFoundError: no such instance.
            InstanceError: other calls that were made before have no outcome.
            InstanceExistsError: the new id is taken.
            UsageError: no such call, one whose outcome did not matter, or both an input and an output.
        """
        if new_instance_id is not None:
            require_usable_id(new_instance_id)
        new_id = new_instance_id or fresh_instance_id()
        path = path_of(at)
        edit = Edit(output=output, input=input)
        await fork(self.store, instance_id, path, edit, new_id=new_id, now=self._clock.now())
        self.look_for_work()
        return new_id

    async def purge(self, instance_id: str, *, recursive: bool = True) -> int:
        """Delete an instance that has ended, with its child workflows unless told otherwise.

        Returns:
            how many instances were deleted.

        Raises:
            InstanceNotFoundError: no such instance.
            InstanceError: it has not ended.
        """
        record = await self._known(instance_id)
        if not record.status.finished:
            raise InstanceError(
                instance_id, f"instance {instance_id!r} is {record.status}; terminate it before you purge it"
            )
        purged = 0
        for child in (
            await self.store.instances(InstanceQuery(parent=instance_id, limit=_CHILDREN)) if recursive else ()
        ):
            if child.status.finished:
                purged += await self.purge(child.instance_id)
        return purged + await self.store.purge([record.key])

    async def purge_ended(
        self,
        *,
        older_than: float | dt.timedelta,
        status: Sequence[Status] = (Status.COMPLETED, Status.FAILED, Status.TERMINATED),
        workflow: str | None = None,
    ) -> int:
        """Delete the instances of this app that ended longer ago than some seconds; return how many these were.

        Args:
            older_than: seconds since their end, or a timedelta.
            status: how they ended.
            workflow: the name of their workflow, of whichever version; None for any.

        Raises:
            UsageError: an argument is unusable.
        """
        until = self._clock.now() - age_of(older_than)
        ended = require_ended(status)
        return await purge_ended(self.store, app_id=self._app_id, workflow=workflow, status=ended, until=until)

    # -- signals

    async def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to an instance; see :class:`~perdure.ports.runtime.Runtime`."""
        require_users_event(name)
        encoded = encode(data, f"the data of event {name!r}", references=False)
        status = await self._send(instance_id, EventRaised(name=name, input=encoded.raw), encoded)
        _require_unfinished(instance_id, status, "it takes no events any more")

    async def terminate(self, instance_id: str, reason: str = "", *, recursive: bool = True) -> None:
        """End an instance from outside; see :class:`~perdure.ports.runtime.Runtime`."""
        require_text("reason", reason)
        await self._send(instance_id, ExecutionTerminated(reason=reason, recurse=bool(recursive)))

    async def suspend(self, instance_id: str, reason: str = "") -> None:
        """Hold an instance; see :class:`~perdure.ports.runtime.Runtime`."""
        require_text("reason", reason)
        status = await self._send(instance_id, ExecutionSuspended(reason=reason))
        _require_unfinished(instance_id, status, "it cannot be suspended any more")

    async def resume(self, instance_id: str, reason: str = "") -> None:
        """Let an instance go on; see :class:`~perdure.ports.runtime.Runtime`."""
        require_text("reason", reason)
        status = await self._send(instance_id, ExecutionResumed(reason=reason))
        _require_unfinished(instance_id, status, "it cannot be resumed any more")

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

    async def _send(self, instance_id: str, event: AnyEvent, encoded: Encoded | None = None) -> Status:
        crash_point("signal.before_commit")
        blobs = encoded.blobs if encoded is not None else {}
        status = await self.store.signal(instance_id, encode_event(event), blobs)
        crash_point("signal.after_commit")
        if status is None:
            raise InstanceNotFoundError(instance_id)
        self.look_for_work()
        return status


def _share_interpreter(interval: float | None) -> None:
    if interval is not None and interval < sys.getswitchinterval():
        sys.setswitchinterval(interval)


def _calm_garbage_collector(threshold: int | None) -> None:
    present, *older = gc.get_threshold()
    if threshold is not None and 0 < present < threshold:
        gc.set_threshold(threshold, *older)


def _require_unfinished(instance_id: str, status: Status, so: str) -> None:
    if status.finished:
        raise InstanceError(instance_id, f"instance {instance_id!r} is {status}; {so}")
