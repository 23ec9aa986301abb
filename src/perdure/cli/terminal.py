"""The two streams: results on stdout, everything said about them on stderr."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.text import Text

from perdure.cli.formats import as_json, cleaned

_PIPE_WIDTH = 160


def console_on(stream: TextIO) -> Console:
    """Return a console; into a pipe or a file it writes lines as long as they are, and wide tables."""
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or _PIPE_WIDTH)
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def out() -> Console:
    """Return the console of results."""
    return console_on(sys.stdout)


def err() -> Console:
    """Return the console of progress, notes and errors."""
    return console_on(sys.stderr)


def note(text: str | Text) -> None:
    """Say something about what is going on."""
    err().print(text, soft_wrap=True)


def error_line(message: str) -> None:
    """Say what went wrong."""
    err().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def write_json(value: Any, stream: TextIO | None = None) -> None:
    """Write a value as one JSON document."""
    (stream or sys.stdout).write(bytes(as_json(value)).decode() + "\n")


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads that are still inside a tool; what they do is recorded nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Warnings(logging.Handler):
    """Says the engine's warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record's message, without its traceback."""
        note(f"{record.levelname.lower()}: {cleaned(record.getMessage())}")


def report_warnings() -> None:
    """Let the engine's warnings be said, among everything that is said about what goes on."""
    # An app that has set logging up itself is left alone.
    if not logging.getLogger().handlers:
        logging.getLogger("perdure").addHandler(_Warnings(logging.WARNING))
