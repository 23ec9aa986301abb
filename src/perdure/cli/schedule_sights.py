"""Schedules as a table and as data: what they start, when, how they stand."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perdure.base.schedule import Missed, Schedule, next_firing
from perdure.cli.formats import as_json, cleaned, command, duration, moment, plural, shortened
from perdure.cli.standing import owner_name, standing, worker_command
from perdure.cli.tables import Facts, facts_table, status_text
from perdure.runtime.schedules import ScheduleView

_STYLES = {"active": "cyan", "paused": "magenta", "ended": "green", "removed": "yellow", "failed": "red"}
_ASKED = {"pause": "will be paused", "resume": "will go on", "remove": "will be removed"}
_MISSED: dict[Missed, str] = {
    "skip": "skip: missed firings are not run",
    "run_once": "run_once: of missed firings the latest is run, for all",
    "run_all": "run_all: missed firings are run, oldest first",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_AHEAD = 3


def when_text(schedule: Schedule) -> str:
    """Return when a schedule fires, in words."""
    parts: list[str] = []
    if schedule.cron is not None:
        parts.append(f"cron {schedule.cron}, {schedule.timezone}")
    if schedule.every is not None:
        parts.append(f"every {_interval(schedule.every)}")
    if schedule.at is not None:
        parts.append(f"{'first' if parts else 'once'}, at {moment(schedule.at)}")
    if schedule.starts is not None:
        parts.append(f"from {moment(schedule.starts)}")
    if schedule.ends is not None:
        parts.append(f"until {moment(schedule.ends)}")
    if schedule.repeats is not None:
        parts.append(f"{plural(schedule.repeats, 'time')} in all")
    return ", ".join(parts)


def _interval(seconds: float) -> str:
    # Exactly: an interval that is shown rounded would be another one.
    for size, unit in _UNITS:
        if seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.12g} s"


def next_text(view: ScheduleView, now: float) -> str:
    """Return when a schedule fires next; nothing when it does not."""
    if view.next is None:
        return ""
    if view.next <= now:
        return f"due since {moment(view.next)}"
    return f"in {duration(view.next - now)}, at {moment(view.next)}"


def schedules_table(views: Sequence[ScheduleView], apps: Collection[str], now: float) -> Table:
    """Return the table of ``perdure schedules list``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several_apps = len({view.record.app_id for view in views}) > 1
    for column in ("name", *(["app"] if several_apps else []), "starts"):
        table.add_column(column, no_wrap=True)
    for column in ("when", "state", "next firing", "last firing"):
        table.add_column(column, overflow="fold")
    table.add_column("worker", no_wrap=True)
    for view in views:
        table.add_row(
            cleaned(view.name),
            *([cleaned(view.record.app_id)] if several_apps else []),
            cleaned(owner_name(view.plan.workflow)),
            cleaned(when_text(view.plan.schedule)),
            _state(view, now),
            next_text(view, now),
            _last(view),
            "" if view.record.status.finished else "runs" if view.record.app_id in apps else "none runs",
        )
    return table


def _state(view: ScheduleView, now: float) -> Text:
    text = Text(view.state, style=_STYLES[view.state])
    if view.asked is not None:
        text.append(f", {_ASKED[view.asked]} when its app runs", style="default")
    reason = _reason(view, now)
    return text.append(f": {shortened(reason, 120)}", style="default") if reason else text


def _reason(view: ScheduleView, now: float) -> str:
    """Return what there is to be said of a schedule beyond its state."""
    stands = standing(view.record, now, view.inspection)
    if view.state in {"paused", "removed"} and stands.state in {"held", "finished"}:
        return stands.reason.removeprefix("suspended").removeprefix("cancelled").removeprefix(": ")
    return stands.reason if stands.state == "stalled" or view.state == "failed" else ""


def _last(view: ScheduleView) -> str:
    if view.last is None:
        return ""
    ended = "its run was purged" if view.last_run is None else view.last_run.status.lower()
    return f"{moment(view.last)} ({ended})"


def schedule_facts(view: ScheduleView, apps: Collection[str], now: float, store: str | None) -> Table:
    """Return what ``perdure schedules show`` says of a schedule."""
    plan, record = view.plan, view.record
    facts: Facts = [
        ("schedule", cleaned(f"{view.name}  (app {record.app_id})")),
        ("starts", cleaned(owner_name(plan.workflow))),
        ("input", cleaned(bytes(as_json(plan.input)).decode())),
        ("when", cleaned(when_text(plan.schedule))),
        (
            "missed",
            f"{_MISSED[plan.schedule.missed]}; a firing is in time for {duration(plan.schedule.grace)}",
        ),
        ("state", _state(view, now)),
        *_firings(view, now, store),
        ("run", command("runs", "show", cleaned(record.instance_id), store=store)),
    ]
    if not record.status.finished:
        works = record.app_id in apps
        facts.append(("worker", "runs" if works else f"none runs: {worker_command(record, store)}"))
    return facts_table(facts)


def _firings(view: ScheduleView, now: float, store: str | None) -> Facts:
    facts: Facts = []
    if view.next is not None:
        facts.append(("next firing", next_text(view, now)))
        after = [moment(each) for each in _following(view.plan.schedule, view.next, view.fired)]
        facts += [("then", "; ".join(after))] if after else []
    if view.last is not None:
        facts.append(("last firing", moment(view.last)))
    if view.last_run is not None:
        shown = command("runs", "show", cleaned(view.last_run.instance_id), store=store)
        facts.append(("last run", Text.assemble(status_text(view.last_run.status), f": {shown}")))
    facts.append(("fired", plural(view.fired, "time")))
    return facts


def _following(schedule: Schedule, after: float, fired: int) -> list[float]:
    """Return the firings that come after the next one, as many as are shown."""
    left = _AHEAD if schedule.repeats is None else min(_AHEAD, schedule.repeats - fired - 1)
    found: list[float] = []
    following = next_firing(schedule, after)
    while following is not None and len(found) < left:
        found.append(following)
        following = next_firing(schedule, following)
    return found


def schedule_data(view: ScheduleView, apps: Collection[str]) -> dict[str, Any]:
    """Return a schedule as ``--json`` has it."""
    record, run = view.record, view.last_run
    return {
        "name": view.name,
        "id": record.instance_id,
        "app": record.app_id,
        "workflow": view.plan.workflow,
        "input": as_json(view.plan.input),
        "schedule": {field: getattr(view.plan.schedule, field) for field in Schedule.__struct_fields__},
        "when": when_text(view.plan.schedule),
        "state": view.state,
        "asked": view.asked,
        "reason": standing(record, time.time(), view.inspection, apps).reason,
        "next": view.next,
        "last": view.last,
        "last_run": None if run is None else {"id": run.instance_id, "status": run.status},
        "fired": view.fired,
        "worker": record.app_id in apps,
        "created_at": record.created_at,
    }
