"""Durable schedules: each one is a run of an ordinary workflow, which sleeps, starts others, and continues as new.

So a schedule survives whatever a run survives; it is paused by suspending it, and removed by terminating it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from perdure.base.codec import Record
from perdure.base.schedule import Due, Schedule, firings_due, initial_last
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

SCHEDULE_WORKFLOW = "perdure.schedule"
"""Name of the workflow that executes schedules."""

DECIDE_ACTIVITY = "perdure.schedule.decide"
"""Name of the activity that decides what a schedule does next."""

_ID_PREFIX = "schedule:"
_AT_ONCE = 100


class Plan(Record, frozen=True, kw_only=True):
    """What a schedule starts, and when.

    Attributes:
        schedule: when.
        workflow: registered name of the workflow that it starts.
        input: its input, the same for every firing.
    """

    schedule: Schedule
    workflow: str
    input: Any = None


class Progress(Record, frozen=True, kw_only=True):
    """How far a schedule has come.

    Attributes:
        plan: what it does.
        last: the last firing that was handled.
        fired: how many firings were run.
    """

    plan: Plan
    last: float | None = None
    fired: int = 0


def schedule_id(name: str) -> str:
    """Return the instance id of a schedule."""
    return _ID_PREFIX + name


def schedule_name(instance_id: str) -> str:
    """Return the name of a schedule by its instance id."""
    return instance_id.removeprefix(_ID_PREFIX)


def firing_id(schedule: str, moment: float) -> str:
    """Return the instance id of what one firing of a schedule starts; the same moment is never started twice."""
    at = dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{schedule_name(schedule)}/{at}"


def add_schedules(registry: Registry) -> None:
    """Register what executes schedules; registering it again changes nothing."""
    registry.add_workflow(_run_schedule, SCHEDULE_WORKFLOW)
    registry.add_activity(_decide, DECIDE_ACTIVITY)


async def _run_schedule(ctx: WorkflowContext, given: dict[str, Any]) -> dict[str, Any]:
    progress = msgspec.convert(given, Progress)
    now = ctx.current_utc_datetime.timestamp()
    # An activity, for its answer depends on the machine's time zones: it is recorded, not worked out again.
    decided = await ctx.call_activity(DECIDE_ACTIVITY, input={"progress": progress, "now": now})
    due = msgspec.convert(decided, Due)
    for moment in due.run:
        plan = progress.plan
        ctx.start_workflow(plan.workflow, input=plan.input, instance_id=firing_id(ctx.instance_id, moment))
    status = {"fired": due.fired, "skipped": due.skipped, "next": due.wake}
    ctx.set_custom_status(status)
    if due.wake is None:
        return status
    await ctx.create_timer(dt.datetime.fromtimestamp(due.wake, dt.UTC))
    ctx.continue_as_new(Progress(plan=progress.plan, last=due.last, fired=due.fired))
    return status


async def _decide(given: dict[str, Any]) -> Due:
    progress = msgspec.convert(given["progress"], Progress)
    now, schedule = given["now"], progress.plan.schedule
    last = initial_last(schedule, now) if progress.last is None else progress.last
    return firings_due(schedule, last, now, progress.fired, _AT_ONCE)
