"""``perdure doctor``: says what is wrong here, and what to do."""

from __future__ import annotations

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from perdure.base.errors import StoreError
from perdure.cli import checks, terminal
from perdure.cli.formats import cleaned
from perdure.cli.model_checks import model_checks
from perdure.cli.options import JsonOption, StoreOption, run_async
from perdure.runtime.location import store_path

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check Python, SQLite, the store, its disk and its runs, and the models; exit code 1 when something fails.

    Of the models, it asks the servers that the environment names: PERDURE_MODEL, OPENAI_API_KEY, and so on.

    Example: perdure doctor
    """
    found = checks.programs()
    try:
        path = store_path(store)
        if path.exists():
            found += run_async(checks.store_checks(path))
        else:
            found.append(checks.Check("store", "ok", f"{path} does not exist yet", "the first `perdure run` makes it"))
        found += checks.disk(path)
    except StoreError as error:
        found.append(checks.Check("store", "fail", str(error), "choose another store with --store or PERDURE_HOME"))
    found += [*checks.environment(), *run_async(model_checks())]
    if as_json:
        terminal.write_json([msgspec.to_builtins(check) for check in found])
    else:
        terminal.out().print(_table(found))
    if any(check.verdict == "fail" for check in found):
        raise typer.Exit(1)


def _table(found: list[checks.Check]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("finding", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for check in found:
        verdict = Text(check.verdict, style=_STYLES[check.verdict])
        table.add_row(verdict, cleaned(check.name), cleaned(check.finding), cleaned(check.remedy))
    return table
