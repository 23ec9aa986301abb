"""``perdure runs purge``: deletes runs that have ended, one or all that ended long ago."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perdure.base.errors import UsageError
from perdure.base.events import Status
from perdure.cli import terminal
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.formats import cleaned, command, plural
from perdure.cli.given import statuses
from perdure.cli.options import AppOption, JsonOption, StoreOption, looking, named_store, run_async
from perdure.cli.progress import progress
from perdure.cli.times import span
from perdure.cli.tree import descendants
from perdure.ports.history_store import InstanceQuery
from perdure.runtime.pages import every_instance

_ENDED = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)
_AT_ONCE = 200
_PAUSE = 0.01


class _Found(msgspec.Struct, frozen=True):
    """What a purge is about: the keys of runs, and how many there are of each status."""

    keys: Sequence[int]
    statuses: Counter[Status]

    @property
    def text(self) -> str:
        listed = ", ".join(f"{number:,} {status.lower()}" for status, number in sorted(self.statuses.items()))
        return plural(len(self.keys), "run") + (f": {listed}" if listed else "")


def purge(
    run: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The run's id, or a beginning of it that is unique.")
    ] = None,
    *,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="All runs that ended so long ago: 30d, 12h.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="completed, failed or terminated; repeatable.")
    ] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this workflow only.")] = None,
    app: AppOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a run that has ended, with its child workflows; or all that ended longer ago than some time.

    What is deleted is gone for good; runs that have not ended stay.

    Example: perdure runs purge --older-than 30d --status completed
    """
    if (run is None) == (older_than is None):
        raise UsageError("say what to purge: the id of a run, or --older-than 30d for all that ended so long ago")
    if run is not None:
        if status or workflow is not None or app is not None:
            raise UsageError("--status, --workflow and --app choose among the runs of --older-than; leave them out")
        found = run_async(_with_children(store, run))
    else:
        assert older_than is not None
        query = InstanceQuery(
            status=statuses(status or (), among=_ENDED) or _ENDED,
            workflow=workflow,
            app_id=app,
            finished_until=time.time() - span("--older-than", older_than),
        )
        found = run_async(_ended(store, query))
    purged = 0
    if found.keys and not dry_run:
        _require_consent(found, yes=yes)
        purged = run_async(_purged(store, found.keys))
    _report(found, purged, dry_run=dry_run, as_json=as_json)


def _require_consent(found: _Found, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this would delete {found.text}, for good; give --yes, or --dry-run to look first")
    if not typer.confirm(f"Delete {found.text}, for good?", err=True):
        raise typer.Exit(1)


def _report(found: _Found, purged: int, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        by_status = dict(sorted(found.statuses.items()))
        terminal.write_json({"found": len(found.keys), "by_status": by_status, "purged": purged, "dry_run": dry_run})
    elif not found.keys:
        terminal.note("no runs to purge")
    elif dry_run:
        terminal.note(f"would purge {found.text}")
    else:
        terminal.note(f"purged {plural(purged, 'run')}")


async def _with_children(store: Path | None, run: str) -> _Found:
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        if not record.status.finished:
            first = command("runs", "cancel", record.instance_id, store=named_store(store))
            raise UsageError(
                f"run {cleaned(record.instance_id)} is {record.status.lower()}; only runs that have ended are purged. "
                f"Cancel it first: {cleaned(first)}"
            )
        records = [place.record for place in await descendants(runtime.store, record)]
        ended = [each for each in records if each.status.finished]
        return _Found([each.key for each in ended], Counter(each.status for each in ended))


async def _ended(store: Path | None, query: InstanceQuery) -> _Found:
    keys: list[int] = []
    counted: Counter[Status] = Counter()
    async with looking(store) as runtime:
        async for record in every_instance(runtime.store, query):
            keys.append(record.key)
            counted[record.status] += 1
    return _Found(keys, counted)


async def _purged(store: Path | None, keys: Sequence[int]) -> int:
    purged = 0
    async with looking(store) as runtime:
        with progress("purging", len(keys)) as advance:
            for begin in range(0, len(keys), _AT_ONCE):
                chosen = keys[begin : begin + _AT_ONCE]
                purged += await runtime.store.purge(chosen)
                advance(len(chosen))
                # Whoever else writes gets its turn.
                await asyncio.sleep(_PAUSE)
    return purged
