"""``perdure runs start``: accepts a run, which a worker of its app executes."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import typer

from perdure.base.errors import UsageError
from perdure.cli import terminal
from perdure.cli.apps import known_workflow, load_registry
from perdure.cli.formats import cleaned, command, duration, moment
from perdure.cli.given import Attribute, attributes, json_value
from perdure.cli.options import AppIdOption, AttributeOption, JsonOption, StoreOption, named_store, run_async
from perdure.cli.standing import owner_name
from perdure.cli.times import iso_time, span
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import InstanceRecord
from perdure.ports.runtime import Reuse
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.inspect import agent_of
from perdure.runtime.location import app_id_of, store_path
from perdure.runtime.starting import require_known_reuse
from perdure.workflows.registry import Registry


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be started."""

    input: Any
    instance_id: str | None
    start_at: dt.datetime | None
    attributes: dict[str, Attribute]
    reuse: Reuse
    key: str | None
    priority: int | None


def start(
    app: Annotated[str, typer.Argument(metavar="APP", help="Python file or module with the workflow.")],
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name, or an agent's.")],
    *,
    given: Annotated[str, typer.Option("--input", metavar="JSON", help="Its input.")] = "null",
    instance_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="The run's id.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When to begin, an ISO time.")] = None,
    wait: Annotated[
        str | None, typer.Option("--in", metavar="TIME", help="How long to wait before it begins: 10m, 2h.")
    ] = None,
    attribute: AttributeOption = None,
    reuse: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="When the id is taken: attach to a run with the same input, refuse, ignore, replace one that has "
            "ended, or terminate one that has not.",
        ),
    ] = "attach",
    key: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Of a limited workflow: what this run counts for, such as a tenant."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Of a limited workflow: from -1000 to 1000, higher goes first.")
    ] = None,
    app_id: AppIdOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run and write its id to stdout. It is durable then; `perdure work APP` executes it.

    Example: perdure runs start app.py order --input '{"amount": 5}' --in 10m --attribute customer=ann
    """
    require_known_reuse(reuse)
    order = _Order(
        input=json_value("--input", given),
        instance_id=instance_id,
        start_at=_begin(at, wait),
        attributes=attributes(attribute or ()),
        reuse=cast("Reuse", reuse),
        key=key,
        priority=priority,
    )
    results = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        registry = load_registry(app)
        name = known_workflow(registry, app, workflow)
        _note_idle_rules(registry, app, name, order)
        record, created = run_async(_started(store_path(store), registry, name, order, app_id_of(app_id)))
    if as_json:
        named = {"workflow": record.workflow, "agent": agent_of(record.workflow)}
        facts = {"id": record.instance_id, "app": record.app_id, **named}
        begins = None if order.start_at is None else order.start_at.timestamp()
        terminal.write_json({**facts, "status": record.status, "created": created, "begins_at": begins}, results)
        return
    results.write(cleaned(record.instance_id) + "\n")
    located = () if app_id is None else ("--app-id", app_id)
    worker = command("work", app, *located, store=named_store(store))
    _report(record, created=created, worker=worker, start_at=order.start_at)


def _begin(at: str | None, wait: str | None) -> dt.datetime | None:
    if at is not None and wait is not None:
        raise UsageError("give --at or --in, not both")
    if at is not None:
        return dt.datetime.fromtimestamp(iso_time("--at", at), dt.UTC)
    if wait is None:
        return None
    try:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=span("--in", wait))
    except OverflowError:
        raise UsageError(f"--in is {wait!r}; that is after the year 9999") from None


def _note_idle_rules(registry: Registry, app: str, name: str, order: _Order) -> None:
    """Say that a key or a priority changes nothing where nothing is limited."""
    if (order.key, order.priority) != (None, None) and registry.rules_of(registry.newest(name)) is None:
        told = cleaned(owner_name(name))
        terminal.note(f"{app} declares no limits of {told}: --key and --priority change nothing; see docs/queues.md")


async def _started(
    path: Path, registry: Registry, name: str, order: _Order, app_id: str
) -> tuple[InstanceRecord, bool]:
    """Start a run; return it, and whether it is a new one."""
    async with EmbeddedRuntime(SQLiteHistoryStore(path), registry=registry, app_id=app_id, worker=False) as runtime:
        known = None if order.instance_id is None else await runtime.find(order.instance_id)
        if known is not None and order.reuse == "terminate" and not known.status.finished:
            told = cleaned(known.instance_id)
            terminal.note(f"run {told} is terminated first; this waits until a worker of its app has done that")
        started = await runtime.start(
            name,
            order.input,
            instance_id=order.instance_id,
            start_at=order.start_at,
            attributes=order.attributes,
            reuse=order.reuse,
            key=order.key,
            priority=order.priority,
        )
        record = await runtime.find(started)
        assert record is not None
        return record, known is None or known.key != record.key


def _report(record: InstanceRecord, *, created: bool, worker: str, start_at: dt.datetime | None) -> None:
    if not created:
        terminal.note(cleaned(f"the run exists already; it is {record.status.lower()}, and nothing was started"))
        return
    now = time.time()
    when = ""
    if start_at is not None and start_at.timestamp() > now:
        when = f"; it begins in {duration(start_at.timestamp() - now)}, at {moment(start_at.timestamp())}"
    terminal.note(cleaned(f"run {record.instance_id} of app {record.app_id} is accepted{when}"))
    terminal.note(f"Executed by: {cleaned(worker)}")
