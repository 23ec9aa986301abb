"""A bar for what takes long: on a terminal only, on stderr, gone when it is over."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perdure.cli import terminal


@contextmanager
def progress(what: str, total: int) -> Generator[Callable[[int], None]]:
    """Show how far something has come; call what this yields with the number of things that were done."""
    console = terminal.err()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
