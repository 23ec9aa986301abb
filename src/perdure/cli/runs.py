"""``perdure runs``: the commands about runs, whichever process executes them."""

from __future__ import annotations

import typer

from perdure.cli.archives import export, import_runs
from perdure.cli.forking import fork, rerun
from perdure.cli.listing import list_runs
from perdure.cli.purging import purge
from perdure.cli.showing import show_run, watch_run
from perdure.cli.signals import cancel, event, resume, suspend
from perdure.cli.starting import start

runs = typer.Typer(
    no_args_is_help=True, help="Look at runs, start, follow, hold, cancel, fork, export, import and purge them."
)
runs.command("list")(list_runs)
runs.command("show")(show_run)
runs.command("watch")(watch_run)
runs.command("start")(start)
runs.command("event")(event)
runs.command("suspend")(suspend)
runs.command("resume")(resume)
runs.command("cancel")(cancel)
runs.command("fork")(fork)
runs.command("rerun")(rerun)
runs.command("export")(export)
runs.command("import")(import_runs)
runs.command("purge")(purge)
