"""``perdure schedules add``: accepts a schedule, which a worker of its app executes."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from perdure.base.cron import load_zone
from perdure.base.errors import UsageError
from perdure.base.ids import VERSION_MARK, require_usable_id
from perdure.base.schedule import Schedule
from perdure.cli import terminal
from perdure.cli.apps import known_workflow, load_registry
from perdure.cli.formats import cleaned, command
from perdure.cli.given import json_value
from perdure.cli.options import AppIdOption, JsonOption, StoreOption, named_store, run_async
from perdure.cli.schedule_sights import next_text, schedule_data, when_text
from perdure.cli.standing import owner_name
from perdure.cli.times import iso_time, span
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.runtime import Reuse
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.location import app_id_of, store_path
from perdure.runtime.schedules import ScheduleView, schedule_view
from perdure.workflows.registry import Registry
from perdure.workflows.schedules import SCHEDULE_WORKFLOW, Plan, Progress, schedule_id

Outcome = Literal["added", "replaced", "unchanged"]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")],
    app: Annotated[str, typer.Argument(metavar="APP", help="Python file or module with the workflow.")],
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name, or an agent's.")],
    *,
    cron: Annotated[str | None, typer.Option(metavar="EXPR", help="A cron expression: '30 2 * * *', @daily.")] = None,
    every: Annotated[str | None, typer.Option(metavar="SECONDS", help="An interval; or with units: 90s, 2h.")] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="MOMENT", help="One moment, an ISO time; with --cron or --every, the first firing."),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="TZ", help="Of --cron (default: UTC) and of times that name none.")
    ] = None,
    missed: Annotated[
        str, typer.Option(metavar="HOW", help="Missed firings: skip, run_once (the latest, for all), run_all.")
    ] = "run_once",
    grace: Annotated[str, typer.Option(metavar="TIME", help="How late a firing may be and not be missed.")] = "60s",
    starts: Annotated[str | None, typer.Option(metavar="MOMENT", help="No firing before.")] = None,
    ends: Annotated[str | None, typer.Option(metavar="MOMENT", help="No firing after.")] = None,
    repeats: Annotated[int | None, typer.Option(metavar="N", help="How many firings in all.")] = None,
    given: Annotated[str, typer.Option("--input", metavar="JSON", help="The input, the same each time.")] = "null",
    app_id: AppIdOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a workflow or an agent again and again; `perdure work APP` executes it.

    A schedule that has the name and says something else makes way.

    Example: perdure schedules add nightly app.py report --cron "30 2 * * *" --timezone Europe/Berlin
    """
    require_usable_id(name, "NAME")
    moments = {"at": at, "starts": starts, "ends": ends}
    schedule = _schedule(
        cron=cron,
        every=None if every is None else _seconds("--every", every),
        timezone=timezone or "UTC",
        missed=missed,
        grace=_seconds("--grace", grace),
        repeats=repeats,
        **{field: _moment(f"--{field}", text, timezone) for field, text in moments.items()},
    )
    value = json_value("--input", given)
    results = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        registry = load_registry(app)
        plan = Plan(schedule=schedule, workflow=_unversioned(known_workflow(registry, app, workflow)), input=value)
        outcome, view, works = run_async(_added(store_path(store), registry, name, plan, app_id_of(app_id)))
    if as_json:
        data = schedule_data(view, {view.record.app_id} if works else ())
        terminal.write_json({**data, "outcome": outcome}, results)
        return
    results.write(cleaned(name) + "\n")
    located = () if app_id is None else ("--app-id", app_id)
    _report(outcome, view, command("work", app, *located, store=named_store(store)))


def _seconds(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return span(option, text)


def _moment(option: str, text: str | None, timezone: str | None) -> float | None:
    if text is None:
        return None
    try:
        zone = None if timezone is None else load_zone(timezone)
    except UsageError as error:
        raise UsageError(f"--timezone is {timezone!r}; {error}") from None
    return iso_time(option, text, zone=zone)


def _schedule(**fields: Any) -> Schedule:
    if (fields["cron"], fields["every"], fields["at"]) == (None, None, None):
        raise UsageError("say when it fires: --cron '30 2 * * *', --every 3600 or --at 2030-01-31T08:00")
    try:
        return Schedule(**fields)
    except UsageError as error:
        # The fields are named as the options are.
        raise UsageError(str(error).replace("Schedule.", "--")) from None


def _unversioned(workflow: str) -> str:
    name, mark, _ = workflow.partition(VERSION_MARK)
    if mark:
        raise UsageError(f"WORKFLOW is {workflow!r}; a schedule starts the newest version: write {name!r}")
    return name


async def _added(
    path: Path, registry: Registry, name: str, plan: Plan, app_id: str
) -> tuple[Outcome, ScheduleView, bool]:
    """Add a schedule; return what became of it, the schedule, and whether a worker of its app runs."""
    outcome: Outcome = "added"
    async with EmbeddedRuntime(SQLiteHistoryStore(path), registry=registry, app_id=app_id, worker=False) as runtime:
        known = await schedule_view(runtime.store, name)
        if known is not None and known.record.app_id != app_id:
            owner = cleaned(known.record.app_id)
            raise UsageError(
                f"schedule {cleaned(name)!r} is one of app {owner}; give --app-id {owner}, or another NAME"
            )
        reuse: Reuse = "replace"
        if known is not None and not known.record.status.finished:
            outcome = "unchanged" if known.plan == plan and known.asked != "remove" else "replaced"
            reuse = "terminate"
        if outcome == "replaced":
            told = f"schedule {cleaned(name)} is there already, and is ended first"
            terminal.note(f"{told}; this waits until a worker of its app has done that")
        if outcome != "unchanged":
            start = Progress(plan=plan)
            await runtime.start(SCHEDULE_WORKFLOW, start, instance_id=schedule_id(name), reuse=reuse)
        view = await schedule_view(runtime.store, name)
        assert view is not None
        await runtime.store.reap()
        return outcome, view, app_id in await runtime.store.working_apps()


def _report(outcome: Outcome, view: ScheduleView, worker: str) -> None:
    schedule = cleaned(f"schedule {view.name} of app {view.record.app_id}")
    if outcome == "unchanged":
        paused = "; it is paused" if view.state == "paused" else ""
        terminal.note(f"{schedule} says so already, and nothing was changed{paused}")
        return
    what = cleaned(f"it starts {owner_name(view.plan.workflow)}, {when_text(view.plan.schedule)}")
    following = next_text(view, time.time())
    terminal.note(f"{schedule} is accepted: {what}")
    terminal.note(f"Next firing: {following}" if following else "It never fires: it ends before its first firing")
    terminal.note(f"Executed by: {cleaned(worker)}")
