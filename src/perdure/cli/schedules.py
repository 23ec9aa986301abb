"""``perdure schedules``: what starts again and again, looked at, paused, resumed and removed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from perdure.base.errors import UsageError
from perdure.cli import terminal
from perdure.cli.answering import report_effect
from perdure.cli.formats import cleaned, command
from perdure.cli.options import (
    JsonOption,
    ReasonOption,
    StoreOption,
    looking,
    named_store,
    run_async,
)
from perdure.cli.schedule_sights import schedule_data, schedule_facts, schedules_table
from perdure.cli.scheduling import add
from perdure.cli.standing import standing
from perdure.ports.history_store import HistoryStore
from perdure.runtime.location import store_path
from perdure.runtime.schedules import ScheduleView, schedule_view, schedule_views

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


def list_schedules(
    *,
    app: Annotated[str | None, typer.Option(metavar="APP_ID", help="Schedules of this app only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were removed, too.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List schedules by name: what each one starts and when, how it stands, its next and its last firing.

    Example: perdure schedules list --app shop
    """
    path = store_path(store)
    # As with runs: a store that is named and not there is a mistake.
    views, apps = run_async(_listed(store, app)) if store is not None or path.exists() else ([], set[str]())
    shown = [view for view in views if everything or view.state != "removed"]
    if as_json:
        terminal.write_json([schedule_data(view, apps) for view in shown])
    elif shown:
        terminal.out().print(schedules_table(shown, apps, time.time()))
    else:
        nothing = f"in {path}" if path.exists() else f"there is no store at {path} yet"
        terminal.note(f"no schedules: {nothing}; `perdure schedules add` makes one")


async def _listed(store: Path | None, app: str | None) -> tuple[Sequence[ScheduleView], Collection[str]]:
    async with looking(store) as runtime:
        return await schedule_views(runtime.store, app), await runtime.store.working_apps()


def show_schedule(name: NameArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a schedule: what it starts with which input, when, its next firings, its last one.

    Example: perdure schedules show nightly
    """
    view, apps = run_async(_seen(store, name))
    if as_json:
        terminal.write_json(schedule_data(view, apps))
    else:
        terminal.out().print(schedule_facts(view, apps, time.time(), named_store(store)))


async def _seen(store: Path | None, name: str) -> tuple[ScheduleView, Collection[str]]:
    async with looking(store) as runtime:
        return await _known(runtime.store, name), await runtime.store.working_apps()


async def _known(store: HistoryStore, name: str) -> ScheduleView:
    view = await schedule_view(store, name)
    if view is None:
        names = ", ".join(view.name for view in await schedule_views(store)) or "none"
        raise UsageError(f"there is no schedule {cleaned(name)!r}; there are: {cleaned(names)}")
    return view


def pause(name: NameArgument, reason: ReasonOption = "", store: StoreOption = None) -> None:
    """Pause a schedule: it fires nothing until it is resumed. It takes effect when its app runs.

    Example: perdure schedules pause nightly --reason "holidays"
    """
    run_async(_pause(store, name, reason))


async def _pause(store: Path | None, name: str, reason: str) -> None:
    async with looking(store) as runtime:
        view = await _unended(runtime.store, name, "paused")
        if view.state == "paused" and view.asked is None:
            terminal.note(f"schedule {cleaned(name)} is paused already")
            return
        await runtime.suspend(view.record.instance_id, reason)
        await report_effect(runtime.store, view.inspection, "will be paused", f"schedule {cleaned(name)}")


def resume(name: NameArgument, store: StoreOption = None) -> None:
    """Let a paused schedule go on; what it did not fire meanwhile counts as missed. It takes effect when its app runs.

    Example: perdure schedules resume nightly
    """
    run_async(_resume(store, name))


async def _resume(store: Path | None, name: str) -> None:
    async with looking(store) as runtime:
        view = await _unended(runtime.store, name, "resumed")
        stalled = standing(view.record, time.time(), view.inspection).state == "stalled"
        if view.state == "active" and view.asked is None and not stalled:
            terminal.note(f"schedule {cleaned(name)} is active already")
            return
        await runtime.resume(view.record.instance_id)
        await report_effect(runtime.store, view.inspection, "will go on", f"schedule {cleaned(name)}")


def remove(name: NameArgument, reason: ReasonOption = "", store: StoreOption = None) -> None:
    """Remove a schedule: it fires nothing any more; runs that it has started go on. It takes effect when its app runs.

    Example: perdure schedules remove nightly
    """
    run_async(_remove(store, name, reason))


async def _remove(store: Path | None, name: str, reason: str) -> None:
    async with looking(store) as runtime:
        view = await _known(runtime.store, name)
        if view.record.status.finished:
            terminal.note(f"schedule {cleaned(name)} is {view.state} already; nothing to remove")
            return
        await runtime.terminate(view.record.instance_id, reason)
        await report_effect(runtime.store, view.inspection, "will be removed", f"schedule {cleaned(name)}")


async def _unended(store: HistoryStore, name: str, what: str) -> ScheduleView:
    view = await _known(store, name)
    if view.record.status.finished:
        again = cleaned(command("schedules", "add", name, "APP", view.plan.workflow))
        raise UsageError(
            f"schedule {cleaned(name)} is {view.state}; it cannot be {what}. It begins anew with: {again} ..."
        )
    return view


schedules = typer.Typer(no_args_is_help=True, help="Look at schedules, add, pause, resume and remove them.")
schedules.command("list")(list_schedules)
schedules.command("show")(show_schedule)
schedules.command("add")(add)
schedules.command("pause")(pause)
schedules.command("resume")(resume)
schedules.command("remove")(remove)
