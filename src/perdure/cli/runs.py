"""``perdure runs``: looks at runs, cancels them, answers what they ask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from perdure.base.errors import UsageError
from perdure.base.events import Status
from perdure.base.ids import sanitized_name
from perdure.cli import ending, tables, terminal
from perdure.cli.answering import Answer, answer_run, cancel_run
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.lines import proof, tokens
from perdure.cli.live import Story
from perdure.cli.options import WAITS_FOR_HUMAN, JsonOption, RunArgument, StoreOption, looking, run_async
from perdure.cli.standing import Standing, standing
from perdure.cli.watching import follow
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.inspect import Inspection, Inspector
from perdure.runtime.location import store_path

runs = typer.Typer(no_args_is_help=True, help="Look at runs, follow, cancel and resume them.")


@runs.command("list")
def list_runs(
    *,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="running, completed, failed or terminated.")
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this agent only.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this workflow only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest ones.")] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first, each with what it waits for.

    Example: perdure runs list --status running
    """
    wanted = _status(status)
    if agent is not None and workflow is not None:
        raise UsageError("give --agent or --workflow, not both")
    if agent is not None:
        workflow = f"dapr.agents.{sanitized_name(agent)}.workflow"
    path = store_path(store)
    rows = run_async(_listed(store, wanted, workflow, limit)) if path.exists() else []
    if as_json:
        terminal.write_json([tables.record_data(record, stands) for record, stands in rows])
    elif rows:
        terminal.out().print(tables.runs_table(rows, time.time()))
    else:
        terminal.note(f"no runs in {path}" if path.exists() else f"no runs: there is no store at {path} yet")


@runs.command("show")
def show_run(
    run: RunArgument,
    full: Annotated[bool, typer.Option("--full", help="Show inputs and outputs whole.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: how it stands, and every step with input, output, attempts, time and tokens.

    Example: perdure runs show 0198c7
    """
    inspection = run_async(_inspected(store, run))
    if as_json:
        terminal.write_json(tables.show_data(inspection))
        return
    console, totals = terminal.out(), inspection.totals
    console.print(tables.header(inspection))
    console.print()
    console.print(tables.timeline_table(inspection, full=full))
    console.print()
    used = f", {tokens(totals.input_tokens, totals.output_tokens)}" if totals.model_calls else ""
    console.print(f"{proof(totals)}{used}", soft_wrap=True)
    for step in inspection.asks:
        console.print(ending.question(inspection, step, _named(store)), soft_wrap=True)


@runs.command("watch")
def watch_run(run: RunArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Follow a run live until it has ended, whichever process executes it.

    Example: perdure runs watch 0198c7
    """
    inspection = run_async(_watched(store, run, quiet=as_json))
    if as_json:
        terminal.write_json(ending.run_data(inspection))
    if ending.exit_code(inspection):
        ending.report_failure(inspection, _named(store))
        raise typer.Exit(1)
    if not as_json:
        terminal.out().print(ending.answer_text(inspection), soft_wrap=True)
        terminal.note(ending.summary(inspection))


@runs.command("cancel")
def cancel(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why; kept in the run's history.")] = "",
    store: StoreOption = None,
) -> None:
    """End a run from outside. It takes effect when its app runs.

    Example: perdure runs cancel 0198c7 --reason "asked twice"
    """
    run_async(cancel_run(store, run, reason))


@runs.command("resume")
def resume(
    run: RunArgument,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="The call had no effect: run it again.")] = False,
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="The call had its effect and returned this.")
    ] = None,
    fail: Annotated[str | None, typer.Option(metavar="REASON", help="The call failed for good.")] = None,
    task: Annotated[int | None, typer.Option(metavar="N", help="Answer for this task only; default: all.")] = None,
    store: StoreOption = None,
) -> None:
    """Answer what became of a call that a crash cut off, or try a stalled run again.

    Example: perdure runs resume 0198c7 --retry
    """
    answer = Answer.of(retry=retry, result=result, fail=fail, task=task)
    code = run_async(answer_run(store, _named(store), run, answer))
    if code:
        raise typer.Exit(WAITS_FOR_HUMAN)


def _named(store: Path | None) -> str | None:
    return None if store is None else str(store)


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    try:
        return Status(text.upper())
    except ValueError:
        known = ", ".join(status.lower() for status in Status)
        raise UsageError(f"--status is {text!r}; use one of: {known}") from None


async def _listed(
    store: Path | None, status: Status | None, workflow: str | None, limit: int
) -> Sequence[tuple[InstanceRecord, Standing]]:
    async with looking(store) as runtime:
        query = InstanceQuery(status=() if status is None else (status,), workflow=workflow, limit=limit)
        records = await runtime.store.instances(query)
        return [(record, await _standing(runtime.store, record)) for record in records]


async def _standing(store: HistoryStore, record: InstanceRecord) -> Standing:
    now = time.time()
    stands = standing(record, now)
    # Only these need the history: the name of the call, or why it ended.
    if stands.state == "asks" or record.status in {Status.FAILED, Status.TERMINATED}:
        return standing(record, now, await Inspector(store, record.instance_id).look())
    return stands


async def _inspected(store: Path | None, run: str) -> Inspection:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        return await Inspector(runtime.store, record.instance_id).look()


async def _watched(store: Path | None, run: str, *, quiet: bool) -> Inspection:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        with Story(quiet=quiet) as story:
            return await follow(runtime.store, record.instance_id, story, until_human=False)
