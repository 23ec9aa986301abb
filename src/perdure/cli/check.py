"""``perdure check``: would this code break the runs that are open?"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from perdure.base.errors import UsageError
from perdure.cli import terminal
from perdure.cli.apps import load_registry
from perdure.cli.formats import cleaned, plural
from perdure.cli.options import AppOption, JsonOption, StoreOption, run_async
from perdure.cli.progress import progress
from perdure.cli.standing import owner_name
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.components.history.sqlite.connection import copy_to, would_migrate
from perdure.engine.code import Workflow
from perdure.runtime.checking import Checked, Verdict, check_instances, open_instances
from perdure.runtime.inspect import agent_of
from perdure.runtime.location import store_path

_OF_MANY = {Verdict.FITS: "fit", Verdict.DIFFERS: "differ"}


class _Report(msgspec.Struct, frozen=True):
    """What a check found."""

    counts: Counter[Verdict]
    breaks: Sequence[Checked]


def check(
    app: Annotated[str, typer.Argument(metavar="APP", help="Python file or module with the code to check.")],
    *,
    app_id: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the histories of all open runs against the code of APP, before it is deployed.

    Nothing is executed, and nothing in the store is changed. Exit code 1 when a run would break: its code decides
    something else than is recorded, or is missing.

    Example: perdure check app.py --store production.db
    """
    path = store_path(store)
    if not path.exists():
        raise UsageError(f"there is no store at {path}; --store names another")
    with contextlib.redirect_stdout(sys.stderr):
        registry = load_registry(app)
    # What workflow code prints while it is replayed is nobody's: it has been printed when it ran.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), _unchanged(path) as readable:
        report = run_async(_checked(readable, registry.workflows, app_id))
    if as_json:
        terminal.write_json(_data(report))
    else:
        _print(report)
    if report.breaks:
        raise typer.Exit(1)


@contextlib.contextmanager
def _unchanged(path: Path) -> Generator[Path]:
    """Yield where a store can be opened without a change: a copy where opening it would migrate it."""
    if not would_migrate(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="perdure-check-") as folder:
        copy = Path(folder) / path.name
        copy_to(path, copy)
        yield copy


async def _checked(path: Path, workflows: Mapping[str, Workflow], app_id: str | None) -> _Report:
    counts: Counter[Verdict] = Counter()
    breaks: list[Checked] = []
    store = SQLiteHistoryStore(path)
    await store.open()
    try:
        chosen = await open_instances(store, app_id)
        with progress("replaying", len(chosen)) as advance:
            async for checked in check_instances(store, chosen, workflows):
                counts[checked.verdict] += 1
                if checked.verdict.breaks:
                    breaks.append(checked)
                advance(1)
    finally:
        await store.close()
    return _Report(counts, breaks)


def _print(report: _Report) -> None:
    console = terminal.out()
    for checked in report.breaks:
        console.print(_finding(checked), soft_wrap=True)
    total = sum(report.counts.values())
    parts = [_of_many(number, verdict) for verdict, number in sorted(report.counts.items())]
    console.print(f"{plural(total, 'open run')}" + (f": {', '.join(parts)}" if parts else ""), soft_wrap=True)


def _of_many(number: int, verdict: Verdict) -> str:
    """Return how many runs have a verdict."""
    return f"{number:,} {verdict if number == 1 else _OF_MANY.get(verdict, verdict)}"


def _finding(checked: Checked) -> Text:
    version = f" version {checked.version}" if checked.version else ""
    row = "" if checked.row is None else f", row {checked.row}"
    name = owner_name(checked.workflow)
    text = Text(cleaned(f"{checked.instance_id}  {name}{version} (app {checked.app_id}){row}: "))
    text.append(checked.verdict, style="bold red")
    if checked.detail:
        text.append(cleaned(f"\n  {checked.detail}"))
    if checked.verdict is Verdict.DIFFERS:
        text.append(cleaned(f"\n  - recorded:  {checked.recorded}"), style="red")
        text.append(cleaned(f"\n  + requested: {checked.requested}"), style="green")
    return text


def _data(report: _Report) -> dict[str, Any]:
    return {
        "checked": sum(report.counts.values()),
        "counts": {verdict: report.counts[verdict] for verdict in Verdict},
        "breaks": [
            {
                "id": checked.instance_id,
                "app": checked.app_id,
                "agent": agent_of(checked.workflow),
                "workflow": checked.workflow,
                "version": checked.version or None,
                "problem": checked.verdict,
                "row": checked.row,
                "recorded": checked.recorded or None,
                "requested": checked.requested or None,
                "detail": checked.detail or None,
            }
            for checked in report.breaks
        ],
    }
