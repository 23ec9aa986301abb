"""Options that several commands share, and how commands reach the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from perdure.base.errors import UsageError
from perdure.cli.terminal import leave_at_once
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.hosting.background import new_event_loop
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.location import store_path

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

WAITS_FOR_HUMAN = 3
"""Exit code of a command that leaves a run waiting for a human."""

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="PATH",
        help="The database. Default: $PERDURE_STORE, else perdure.db in $PERDURE_HOME, else in ~/.perdure.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout, and nothing else.")]
AppOption = Annotated[str | None, typer.Option("--app", metavar="APP_ID", help="Runs of this app only.")]
AppIdOption = Annotated[
    str | None,
    typer.Option(
        metavar="APP_ID",
        help="The app that runs belong to; an app goes on with its own only. "
        "Default: $PERDURE_APP_ID, else $APP_ID, else default.",
        show_default=False,
    ),
]
AttributeOption = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="A custom attribute; repeatable.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the run's history.")]
RunArgument = Annotated[str, typer.Argument(metavar="ID", help="The run's id, or a beginning of it that is unique.")]


def named_store(store: Path | None) -> str | None:
    """Return the --store option as commands that are suggested repeat it."""
    return None if store is None else str(store)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C ends the command with exit code 130.

    Raises:
        typer.Exit: Ctrl-C was pressed.
    """
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        leave_if_busy(INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None


def leave_if_busy(code: int) -> None:
    """End the process at once when a tool still blocks one of its threads; otherwise return."""
    for thread in threading.enumerate():
        if thread.name.startswith("perdure-activity"):
            thread.join(0.1)
            if thread.is_alive():
                leave_at_once(code)


@asynccontextmanager
async def looking(store: Path | None) -> AsyncGenerator[EmbeddedRuntime, None]:
    """Open a store that exists, to look and to signal, not to execute.

    Raises:
        UsageError: there is no such file.
    """
    path = store_path(store)
    if not path.exists():
        raise UsageError(f"there is no store at {path} yet; the first `perdure run` makes it, --store names another")
    async with EmbeddedRuntime(SQLiteHistoryStore(path), worker=False) as runtime:
        # So that no run is said to be executed by a process that is gone.
        await runtime.store.reap()
        yield runtime
