"""``perdure work``: a worker that executes an app's runs until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from perdure.base.events import HistoryRow, Status
from perdure.cli import terminal
from perdure.cli.apps import load_registry, workflow_names
from perdure.cli.formats import cleaned, duration, plural
from perdure.cli.journal import Journal
from perdure.cli.options import AppIdOption, StoreOption, leave_if_busy
from perdure.cli.terminal import report_warnings
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.hosting.background import new_event_loop
from perdure.ports.history_store import NO_RESULTS, Appended, Claimed, Episode, Lease, Results
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.location import app_id_of, store_path
from perdure.workflows.registry import Registry


def work(
    app: Annotated[str, typer.Argument(metavar="APP", help="Python file or module with workflows or agents.")],
    *,
    app_id: AppIdOption = None,
    store: StoreOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say warnings and errors only.")] = False,
) -> None:
    """Execute the runs of an app until Ctrl-C or SIGTERM; several workers may share one store.

    A worker that is stopped lets running activities finish, for up to 10 s, and gives its runs back; the same signal
    again leaves at once. Nothing is lost either way.

    Example: perdure work app.py --store perdure.db
    """
    with contextlib.redirect_stdout(sys.stderr):
        registry = load_registry(app)
        report_warnings()
        _Work(registry, store_path(store), app_id_of(app_id), quiet=quiet).run()
    leave_if_busy(0)


class _Work:
    """One ``perdure work``."""

    def __init__(self, registry: Registry, path: Path, app_id: str, *, quiet: bool) -> None:
        self._registry = registry
        self._path = path
        self._app_id = app_id
        self._quiet = quiet
        self._console = terminal.err()
        self._journal = Journal(self._say)
        self._stop = asyncio.Event()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._until_told())

    async def _until_told(self) -> None:
        store = SQLiteHistoryStore(self._path) if self._quiet else JournalledStore(self._path, self._journal)
        self._heed_signals()
        begun = time.time()
        async with EmbeddedRuntime(store, app_id=self._app_id, registry=self._registry):
            names = ", ".join(workflow_names(self._registry))
            self._say(Text(cleaned(f"worker of app {self._app_id} on {self._path}: {names}")))
            self._say(Text("Ctrl-C ends it; nothing is lost by that.", style="dim"))
            await self._stop.wait()
        self._journal.catch_up()
        ends = [f"{plural(number, 'run')} {status.lower()}" for status, number in sorted(self._journal.ends.items())]
        self._say(Text(f"stopped after {duration(time.time() - begun)}: {', '.join(ends) or 'no run ended here'}"))

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told_to_stop, number)

    def _told_to_stop(self, number: int) -> None:
        if self._stop.is_set():
            terminal.leave_at_once(128 + number)
        self._stop.set()
        self._say(Text("stopping: what runs may finish, for up to 10 s; again leaves at once", style="yellow"))

    def _say(self, text: Text) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=True)


class JournalledStore(SQLiteHistoryStore):
    """A history store that tells a journal what its worker does.

    Args:
        path: the file.
        journal: is told.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        super().__init__(path)
        self._journal = journal

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Add an episode, and tell of it once it is durable."""

        def told(outcome: Exception | Results | None) -> None:
            if not isinstance(outcome, Exception):
                self._journal.recorded(episode, outcome or NO_RESULTS)
            done(outcome)

        super().append(lease, episode, told)

    async def claim(
        self, lease: Lease, workflows: Collection[str], now: float, limit: int, family: str | None = None
    ) -> list[Claimed]:
        """Take over due instances, and tell of them."""
        claimed = await super().claim(lease, workflows, now, limit, family)
        for each in claimed:
            self._journal.taken_up(each.key, each.instance_id, each.workflow, begins=each.next_seq <= 1)
        return claimed

    async def load(self, keys: Collection[int]) -> dict[int, list[HistoryRow]]:
        """Return whole histories, and tell of the calls in them."""
        histories = await super().load(keys)
        for key, rows in histories.items():
            self._journal.read(key, rows)
        return histories

    async def release(
        self,
        lease: Lease,
        key: int,
        *,
        due: float | None,
        waits: str | None,
        stalled: bool,
        seen: int | None = None,
        status: Status | None = None,
    ) -> None:
        """Give an instance back, and tell of one that cannot go on."""
        await super().release(lease, key, due=due, waits=waits, stalled=stalled, seen=seen, status=status)
        self._journal.given_back(key, waits, stalled=stalled and status is None)
