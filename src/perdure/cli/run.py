"""``perdure run``: asks an agent, or goes on where it stopped."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from perdure.base.errors import UsageError
from perdure.cli import terminal
from perdure.cli.apps import load_agent
from perdure.cli.asking import Asking, Order
from perdure.cli.options import AppIdOption, JsonOption, StoreOption, leave_if_busy, run_async
from perdure.llm.resolve import ready_model, require_ready


def run(
    app: Annotated[str, typer.Argument(metavar="APP", help="Python file or module with a DurableAgent; app.py:name.")],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="What to ask. Without it, unfinished runs go on.")
    ] = None,
    *,
    store: StoreOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Model to use instead of the agent's: openai:gpt-5, echo, ...")
    ] = None,
    instance_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The run's id; the same id attaches to the same run.")
    ] = None,
    app_id: AppIdOption = None,
    new: Annotated[
        bool, typer.Option("--new", help="Begin a new run even if one with this question is unfinished.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write the answer only.")] = False,
) -> None:
    """Ask an agent. Stopped at any moment, the same command goes on where it was.

    The answer goes to stdout, everything about it to stderr. Exit codes: 0 answered, 1 failed, 3 waits for you,
    130 Ctrl-C.

    Example: perdure run app.py "What is the weather in Lisbon?"
    """
    if question is not None and not question.strip():
        raise UsageError("the question is empty; leave it out to go on with unfinished runs")
    order = Order(
        app=app,
        question=question,
        store=store,
        app_id=app_id,
        model=model,
        instance_id=instance_id,
        new=new,
        as_json=as_json,
        quiet=quiet or as_json,
    )
    results = sys.stdout
    # What the app and its tools print is not the answer.
    with contextlib.redirect_stdout(sys.stderr):
        agent = load_agent(app)
        if model is not None:
            agent.llm = ready_model(model)
        else:
            require_ready(agent.model)
        terminal.report_warnings()
        code = run_async(Asking(agent, order, results).run())
    leave_if_busy(code)
    raise typer.Exit(code)
