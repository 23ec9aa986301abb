"""``perdure runs suspend``, ``resume``, ``cancel`` and ``event``: what is sent to a run from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.answering import Answer, answer_run, cancel_run, raise_event, suspend_run
from perdure.cli.given import json_value
from perdure.cli.options import WAITS_FOR_HUMAN, ReasonOption, RunArgument, StoreOption, named_store, run_async


def suspend(run: RunArgument, reason: ReasonOption = "", store: StoreOption = None) -> None:
    """Hold a run: activities that run are finished, and nothing further happens until it is resumed.

    It takes effect when its app runs.

    Example: perdure runs suspend 0198c7 --reason "the bank is closed"
    """
    run_async(suspend_run(store, run, reason))


def resume(
    run: RunArgument,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="The call had no effect: run it again.")] = False,
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="The call had its effect and returned this.")
    ] = None,
    fail: Annotated[str | None, typer.Option(metavar="REASON", help="The call failed for good.")] = None,
    task: Annotated[int | None, typer.Option(metavar="N", help="Answer for this task only; default: all.")] = None,
    store: StoreOption = None,
) -> None:
    """Let a suspended run go on, try a stalled one again, or answer what became of a call that a crash cut off.

    Example: perdure runs resume 0198c7 --retry
    """
    answer = Answer.of(retry=retry, result=result, fail=fail, task=task)
    code = run_async(answer_run(store, named_store(store), run, answer))
    if code:
        raise typer.Exit(WAITS_FOR_HUMAN)


def cancel(
    run: RunArgument,
    reason: ReasonOption = "",
    no_children: Annotated[
        bool, typer.Option("--no-children", help="Let the child workflows that it called go on.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """End a run from outside, with the child workflows that it called. It takes effect when its app runs.

    Example: perdure runs cancel 0198c7 --reason "asked twice"
    """
    run_async(cancel_run(store, run, reason, children=not no_children))


def event(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name; upper and lower case are the same.")],
    data: Annotated[str, typer.Argument(metavar="[JSON]", help="Its data.")] = "null",
    store: StoreOption = None,
) -> None:
    """Raise an event: a run that waits for it goes on, one that waits for it later finds it.

    Example: perdure runs event 0198c7 approval '{"by": "Ann"}'
    """
    run_async(raise_event(store, run, name, json_value("JSON", data)))
