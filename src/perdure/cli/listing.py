"""``perdure runs list``: which runs there are, and what each one waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from perdure.base.errors import InstanceNotFoundError, UsageError
from perdure.base.events import Status
from perdure.base.ids import agent_workflow_name
from perdure.cli import tables, terminal
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.formats import cleaned
from perdure.cli.given import attributes, statuses
from perdure.cli.options import AppOption, AttributeOption, JsonOption, StoreOption, looking, run_async
from perdure.cli.standing import Standing, standing
from perdure.cli.times import since as time_of
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.inspect import Inspector
from perdure.runtime.location import store_path

Rows = Sequence[tuple[InstanceRecord, Standing]]


def list_runs(
    *,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS", help="pending, running, suspended, completed, failed or terminated; repeatable."
        ),
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this agent only.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this workflow only.")] = None,
    app: AppOption = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begun since then: 2h, 3d (ago), or an ISO time.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Begun before then, likewise.")] = None,
    attribute: AttributeOption = None,
    parent: Annotated[str | None, typer.Option(metavar="ID", help="Child workflows that this run called only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest ones.")] = 50,
    before: Annotated[str | None, typer.Option(metavar="ID", help="The page behind this run: older ones only.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first, each with what it waits for.

    Example: perdure runs list --status running --status suspended --since 2h --attribute customer=ann
    """
    now = time.time()
    query = InstanceQuery(
        status=statuses(status or ()),
        workflow=_workflow(agent, workflow),
        app_id=app,
        created_from=None if since is None else time_of("--since", since, now),
        created_until=None if until is None else time_of("--until", until, now),
        attributes=attributes(attribute or ()),
        # One more than is shown: it tells whether there is a further page.
        limit=limit + 1,
    )
    path = store_path(store)
    # A store that is named and not there is a mistake; the usual one is not there before the first run.
    rows = run_async(_listed(store, query, parent, before)) if store is not None or path.exists() else []
    shown = rows[:limit]
    if as_json:
        terminal.write_json([tables.record_data(record, stands) for record, stands in shown])
    elif shown:
        terminal.out().print(tables.runs_table(shown, now))
        if len(rows) > limit:
            terminal.note(f"There are more: the same command with --before {cleaned(shown[-1][0].instance_id)}")
    else:
        terminal.note(_nothing(path, query))


def _workflow(agent: str | None, workflow: str | None) -> str | None:
    if agent is not None and workflow is not None:
        raise UsageError("give --agent or --workflow, not both")
    try:
        return workflow if agent is None else agent_workflow_name(agent)
    except ValueError as error:
        raise UsageError(f"--agent: {error}") from None


def _nothing(path: Path, query: InstanceQuery) -> str:
    if not path.exists():
        return f"no runs: there is no store at {path} yet"
    narrowed = msgspec.structs.replace(query, limit=0) != InstanceQuery(limit=0)
    return f"no runs like this in {path}" if narrowed else f"no runs in {path}"


async def _listed(store: Path | None, query: InstanceQuery, parent: str | None, before: str | None) -> Rows:
    async with looking(store) as runtime:
        more: dict[str, Any] = {}
        if parent is not None:
            more["parent"] = (await run_by_prefix(runtime.store, parent)).instance_id
        if before is not None:
            more["before"] = (await run_by_prefix(runtime.store, before)).key
        records = await runtime.store.instances(msgspec.structs.replace(query, **more))
        apps = await runtime.store.working_apps()
        return [(record, await reason_of(runtime.store, record, apps)) for record in records]


async def reason_of(store: HistoryStore, record: InstanceRecord, apps: Collection[str]) -> Standing:
    """Return how a run stands; its history is read only where the reason is in there."""
    now = time.time()
    stands = standing(record, now, None, apps)
    # Only these need the history: the name of the call, or why it ended.
    if stands.state == "asks" or record.status in {Status.FAILED, Status.TERMINATED}:
        # One that somebody purges at this moment is still listed, without the reason.
        with contextlib.suppress(InstanceNotFoundError):
            return standing(record, now, await Inspector(store, record.instance_id).look())
    return stands
