"""The ``perdure`` command: what it can do, and how its errors look."""

from __future__ import annotations

import io
import os
import platform
import sqlite3
import sys
from typing import Annotated

import typer

import perdure
from perdure.base.errors import PerdureError
from perdure.cli import terminal
from perdure.cli.check import check
from perdure.cli.doctor import doctor
from perdure.cli.formats import cleaned
from perdure.cli.run import run
from perdure.cli.runs import runs
from perdure.cli.schedules import schedules
from perdure.cli.work import work

app = typer.Typer(
    name="perdure",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help='AI agents that survive crashes.\n\nExample: perdure run app.py "What is the weather in Lisbon?"',
)
app.command()(run)
app.command()(work)
app.add_typer(runs, name="runs")
app.add_typer(schedules, name="schedules")
app.command()(check)
app.command()(doctor)


@app.command()
def version() -> None:
    """Show the versions of Perdure, Python and SQLite.

    Example: perdure version
    """
    terminal.out().print(_versions(), soft_wrap=True)


def _versions() -> str:
    return f"perdure {perdure.__version__} (Python {platform.python_version()}, SQLite {sqlite3.sqlite_version})"


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors; so does PERDURE_DEBUG=1.")] = False,
) -> None:
    """Take the options that stand before any command; both are handled elsewhere."""
    _ = show_version, debug


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a letter shows a question mark; that is no reason to end a run.
            stream.reconfigure(errors="replace")
    arguments, debug = without_debug(sys.argv[1:])
    try:
        app(arguments)
    except PerdureError as error:
        if debug:
            raise
        terminal.error_line(cleaned(str(error)))
        sys.exit(1)


def without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments without ``--debug``, which may stand anywhere, and whether tracebacks are wanted."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    wanted = len(kept) < end or os.environ.get("PERDURE_DEBUG", "") not in {"", "0"}
    return kept + arguments[end:], wanted


if __name__ == "__main__":
    main()
