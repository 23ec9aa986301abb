"""Looks at schedules: what each one starts, when it fires next, what it fired last."""

from __future__ import annotations

import contextlib
from typing import Literal

import msgspec

from perdure.base.errors import InstanceNotFoundError
from perdure.base.events import ExecutionResumed, ExecutionSuspended, ExecutionTerminated, Status, decode_event
from perdure.base.schedule import Due, initial_last, next_firing
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.inspect import Inspection, Inspector
from perdure.runtime.pages import every_instance
from perdure.runtime.timeline import Kind
from perdure.runtime.timeline import Progress as Advance
from perdure.workflows.schedules import (
    DECIDE_ACTIVITY,
    SCHEDULE_WORKFLOW,
    Plan,
    Progress,
    firing_id,
    schedule_id,
    schedule_name,
)

State = Literal["active", "paused", "ended", "removed", "failed"]
Asked = Literal["pause", "resume", "remove"]

_STATES: dict[Status, State] = {
    Status.PENDING: "active",
    Status.RUNNING: "active",
    Status.SUSPENDED: "paused",
    Status.COMPLETED: "ended",
    Status.TERMINATED: "removed",
    Status.FAILED: "failed",
}


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule at one moment.

    Attributes:
        name: its name.
        inspection: the run that it is.
        plan: what it starts, and when.
        fired: how many firings were run.
        next: when it fires next, a moment in the past when that is due and nobody has come to it; None when it is
            paused or will not fire again.
        last: the latest firing that was run, as far as its present generation knows.
        last_run: what that firing started, if it is still in the store.
        asked: what somebody asked of it that no worker has read yet.
    """

    name: str
    inspection: Inspection
    plan: Plan
    fired: int
    next: float | None
    last: float | None = None
    last_run: InstanceRecord | None = None
    asked: Asked | None = None

    @property
    def record(self) -> InstanceRecord:
        """What the store knows of its run."""
        return self.inspection.record

    @property
    def state(self) -> State:
        """Where it stands: "ended" when it will not fire again by itself, "removed" when somebody ended it."""
        return _STATES[self.record.status]


async def schedule_views(store: HistoryStore, app_id: str | None = None) -> list[ScheduleView]:
    """Return all schedules, those that have ended included, by name; of one app, or of all.

    Raises:
        StoreError: the store cannot be read.
    """
    query = InstanceQuery(workflow=SCHEDULE_WORKFLOW, app_id=app_id)
    views: list[ScheduleView] = []
    async for record in every_instance(store, query):
        # One that is purged at this moment is none any more.
        with contextlib.suppress(InstanceNotFoundError):
            views.append(await _viewed(store, record.instance_id))
    return sorted(views, key=lambda view: view.name)


async def schedule_view(store: HistoryStore, name: str) -> ScheduleView | None:
    """Return a schedule by its name, or None.

    Raises:
        StoreError: the store cannot be read.
    """
    record = await store.find(schedule_id(name))
    return None if record is None or record.workflow != SCHEDULE_WORKFLOW else await _viewed(store, record.instance_id)


async def _viewed(store: HistoryStore, instance_id: str) -> ScheduleView:
    inspection = await Inspector(store, instance_id).look()
    record = inspection.record
    progress = _progress(inspection)
    due = _decided(inspection)
    last, last_run = await _last(store, instance_id, progress, due)
    return ScheduleView(
        name=schedule_name(instance_id),
        inspection=inspection,
        plan=progress.plan,
        fired=progress.fired if due is None else due.fired,
        next=_next(record, progress, due) if _STATES[record.status] == "active" else None,
        last=last,
        last_run=last_run,
        asked=None if record.status.finished else await _asked(store, record),
    )


def _progress(inspection: Inspection) -> Progress:
    start = next(step for step in inspection.steps if step.entry.kind is Kind.START)
    return msgspec.convert(start.input, Progress)


def _decided(inspection: Inspection) -> Due | None:
    """Return what the schedule's present generation has decided, or None when it has not."""
    for step in inspection.steps:
        if step.entry.name == DECIDE_ACTIVITY and step.entry.progress is Advance.COMPLETED:
            return msgspec.convert(step.output, Due)
    return None


def _next(record: InstanceRecord, progress: Progress, due: Due | None) -> float | None:
    if due is not None:
        return due.wake
    schedule = progress.plan.schedule
    last = initial_last(schedule, record.created_at) if progress.last is None else progress.last
    return next_firing(schedule, last)


async def _last(
    store: HistoryStore, instance_id: str, progress: Progress, due: Due | None
) -> tuple[float | None, InstanceRecord | None]:
    """Return the latest firing that was run, and its run.

    The generation before may have handled its last firing by skipping it; only a run with its id tells.
    """
    is_run = due is not None and bool(due.run)
    moment = due.run[-1] if due is not None and due.run else progress.last
    run = None if moment is None else await store.find(firing_id(instance_id, moment))
    return (moment if is_run or run is not None else None), run


async def _asked(store: HistoryStore, record: InstanceRecord) -> Asked | None:
    """Return what waits in a schedule's inbox and will change how it stands."""
    held = record.status is Status.SUSPENDED
    for event in map(decode_event, await store.waiting(record.key)):
        if isinstance(event, ExecutionTerminated):
            return "remove"
        if isinstance(event, ExecutionSuspended | ExecutionResumed):
            held = isinstance(event, ExecutionSuspended)
    if held == (record.status is Status.SUSPENDED):
        return None
    return "pause" if held else "resume"
