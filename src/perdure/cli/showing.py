"""``perdure runs show`` and ``perdure runs watch``: one run, looked at or followed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from perdure.base.errors import UsageError
from perdure.cli import ending, sights, terminal, tree
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.lines import proof, tokens
from perdure.cli.listing import reason_of
from perdure.cli.live import Story
from perdure.cli.options import JsonOption, RunArgument, StoreOption, looking, named_store, run_async
from perdure.cli.sights import Sight
from perdure.cli.standing import standing
from perdure.cli.watching import follow
from perdure.runtime.inspect import Inspection, Inspector


def show_run(
    run: RunArgument,
    full: Annotated[bool, typer.Option("--full", help="Show inputs and outputs whole.")] = False,
    as_tree: Annotated[
        bool, typer.Option("--tree", help="Show the run with its child workflows, theirs, and so on.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: how it stands, and every step with input, output, attempts, time and tokens.

    The numbers under # name calls: `perdure runs fork` takes them.

    Example: perdure runs show 0198c7
    """
    if as_tree and full:
        raise UsageError("give --full or --tree, not both: a tree shows no inputs and outputs")
    if as_tree:
        places = run_async(_descendants(store, run))
        if as_json:
            terminal.write_json(tree.tree_data(places))
        else:
            terminal.out().print(tree.tree_of(places), soft_wrap=True)
        return
    sight = run_async(_seen(store, run))
    if as_json:
        terminal.write_json(sights.show_data(sight))
    else:
        _print(sight, named_store(store), full=full)


def _print(sight: Sight, store: str | None, *, full: bool) -> None:
    console, inspection = terminal.out(), sight.inspection
    totals = inspection.totals
    console.print(sights.header(sight))
    console.print()
    console.print(sights.timeline_table(sight, full=full))
    console.print()
    used = f", {tokens(totals.input_tokens, totals.output_tokens)}" if totals.model_calls else ""
    console.print(f"{proof(totals)}{used}", soft_wrap=True)
    for step in inspection.asks:
        console.print(ending.question(inspection, step, store), soft_wrap=True)


def watch_run(run: RunArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Follow a run live until it has ended, whichever process executes it.

    Example: perdure runs watch 0198c7
    """
    inspection = run_async(_watched(store, run, quiet=as_json))
    if as_json:
        terminal.write_json(ending.run_data(inspection))
    if ending.exit_code(inspection):
        ending.report_failure(inspection, named_store(store))
        raise typer.Exit(1)
    if not as_json:
        terminal.out().print(ending.answer_text(inspection), soft_wrap=True)
        terminal.note(ending.summary(inspection))


async def _seen(store: Path | None, run: str) -> Sight:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        inspection = await Inspector(runtime.store, record.instance_id).look()
        named = {step.entry.instance for step in inspection.steps if step.entry.instance is not None}
        records = await runtime.store.find_all(named)
        apps = await runtime.store.working_apps()
        children = {name: (child, await reason_of(runtime.store, child, apps)) for name, child in records.items()}
        stands = standing(inspection.record, time.time(), inspection, apps)
        return Sight(inspection=inspection, stands=stands, children=children)


async def _descendants(store: Path | None, run: str) -> list[tree.Place]:
    async with looking(store) as runtime:
        return await tree.descendants(runtime.store, await run_by_prefix(runtime.store, run))


async def _watched(store: Path | None, run: str, *, quiet: bool) -> Inspection:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        with Story(quiet=quiet) as story:
            return await follow(runtime.store, record.instance_id, story, until_human=False)
