"""``perdure runs export`` and ``perdure runs import``: whole runs as documents, out of one store and into another."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from perdure.base.errors import InstanceExistsError, PerdureError, UsageError
from perdure.cli import terminal
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.formats import cleaned, command, plural
from perdure.cli.options import JsonOption, RunArgument, StoreOption, looking, named_store, run_async
from perdure.cli.standing import standing, worker_command
from perdure.cli.tables import record_data
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import InstanceQuery, InstanceRecord
from perdure.runtime.archive import export_instance, import_instance
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.location import store_path
from perdure.runtime.pages import every_instance

_STREAM = "-"
"""Stands for stdin or stdout in place of a file."""


def export(
    run: RunArgument,
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - for stdout.")] = _STREAM,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
    store: StoreOption = None,
) -> None:
    """Write a run with its whole history, and all that it refers to, as one JSON document.

    The run stays as it is, whether it has ended or not. Child workflows are runs of their own, with documents of their
    own. `perdure runs import` reads it.

    Example: perdure runs export 0198c7 --output order-1.json
    """
    record, children, document = run_async(_exported(store, run))
    if output == _STREAM:
        # As bytes: what stdout cannot spell would be replaced otherwise.
        sys.stdout.buffer.write(document + b"\n")
        sys.stdout.flush()
    else:
        _write(Path(output), document, overwrite=force)
        told = f"run {record.instance_id} is exported into {output}"
        terminal.note(cleaned(f"{told}; it goes into another store with: {command('runs', 'import', output)}"))
    if children:
        several = plural(len(children), "child workflow")
        terminal.note(cleaned(f"Not in there, each is exported by itself: {several}, {', '.join(_some(children))}"))


async def _exported(store: Path | None, run: str) -> tuple[InstanceRecord, list[str], bytes]:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        query = InstanceQuery(parent=record.instance_id)
        children = [child.instance_id async for child in every_instance(runtime.store, query)]
        return record, children, await export_instance(runtime.store, record.instance_id)


def _some(ids: Sequence[str], most: int = 5) -> list[str]:
    return [*ids[:most], *([f"and {len(ids) - most} more"] if len(ids) > most else [])]


def _write(path: Path, document: bytes, *, overwrite: bool) -> None:
    try:
        with path.open("wb" if overwrite else "xb") as file:
            file.write(document + b"\n")
    except FileExistsError:
        raise UsageError(f"--output is {str(path)!r}, which exists; name another file, or give --force") from None
    except OSError as error:
        raise UsageError(f"--output is {str(path)!r}, which cannot be written: {error.strerror}") from None


def import_runs(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Exported runs; - for stdin.")],
    *,
    instance_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="Another id for the run.")] = None,
    app_id: Annotated[
        str | None, typer.Option(metavar="APP_ID", help="Another app for the runs. Default: the one they had.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add runs that were exported, with their histories, and write their ids to stdout.

    A run that has not ended is held until `perdure runs resume`, for whoever executed it elsewhere may do so still.

    Example: perdure runs import order-1.json order-2.json --store copy.db
    """
    if instance_id is not None and len(files) > 1:
        raise UsageError(f"--id is {instance_id!r} for {len(files)} files; import that run by itself")
    # All are read before the first is added.
    documents = [(file, _read(file)) for file in files]
    imported: list[InstanceRecord] = []
    try:
        run_async(_import(store_path(store), documents, instance_id, app_id, imported))
    except PerdureError:
        if imported:
            terminal.note(cleaned(f"imported before that: {', '.join(record.instance_id for record in imported)}"))
        raise
    if as_json:
        now = time.time()
        terminal.write_json([record_data(record, standing(record, now)) for record in imported])
        return
    for record in imported:
        terminal.out().print(cleaned(record.instance_id), soft_wrap=True)
        _report(record, named_store(store))


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == _STREAM else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"FILE is {cleaned(file)!r}, which cannot be read: {error.strerror}") from None


async def _import(
    path: Path,
    documents: Sequence[tuple[str, bytes]],
    instance_id: str | None,
    app_id: str | None,
    imported: list[InstanceRecord],
) -> None:
    async with EmbeddedRuntime(SQLiteHistoryStore(path), worker=False) as runtime:
        for file, document in documents:
            try:
                added = await import_instance(runtime.store, document, instance_id=instance_id, app_id=app_id)
            except InstanceExistsError as error:
                raise UsageError(f"{_name(file)}: instance id {error.instance_id!r} is taken; give --id NEW") from None
            except UsageError as error:
                raise UsageError(f"{_name(file)}: {error}") from None
            record = await runtime.find(added)
            assert record is not None
            imported.append(record)


def _name(file: str) -> str:
    return "stdin" if file == _STREAM else file


def _report(record: InstanceRecord, store: str | None) -> None:
    told = cleaned(f"run {record.instance_id} of app {record.app_id} is imported")
    if record.status.finished:
        show = command("runs", "show", record.instance_id, store=store)
        terminal.note(f"{told}; it is {record.status.lower()}: {cleaned(show)}")
        return
    resume = command("runs", "resume", record.instance_id, store=store)
    terminal.note(f"{told}; it has not ended, and is held: whoever executed it elsewhere may do so still")
    terminal.note(f"Once nobody does: {cleaned(resume)}")
    terminal.note(f"It goes on when its app ({cleaned(record.app_id)}) runs: {worker_command(record, store)}")
