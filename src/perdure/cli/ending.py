"""What a command says and returns when a run has ended, or waits for a human."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from perdure.base.events import Failure, Status
from perdure.cli import terminal
from perdure.cli.formats import as_json, as_text, call_text, cleaned, command, duration
from perdure.cli.lines import proof, tokens
from perdure.cli.options import WAITS_FOR_HUMAN
from perdure.cli.standing import standing
from perdure.runtime.inspect import Inspection, Step

_REMEDIES = {
    "ScriptExhaustedError": "add replies to the script, then give the command again",
    "ModelUnavailableError": "check that the model can be reached (`perdure doctor`), then give the command again",
    "ModelError": "check the model's name, its key and what it was asked, then give the command again",
    "MissingExtraError": "install the extra that the message names, then give the command again",
}


def exit_code(inspection: Inspection) -> int:
    """Return the exit code that a run's end means."""
    if not inspection.record.status.finished:
        return WAITS_FOR_HUMAN
    return 0 if inspection.record.status is Status.COMPLETED else 1


def summary(inspection: Inspection) -> Text:
    """Return the line that closes a completed run's story."""
    record, totals = inspection.record, inspection.totals
    took = duration((record.finished_at or time.time()) - record.created_at)
    parts = [proof(totals), tokens(totals.input_tokens, totals.output_tokens), took, f"run {record.instance_id}"]
    return Text("  ".join(parts), style="dim")


def report_failure(inspection: Inspection, store: str | None) -> None:
    """Say why a run failed, and what to do."""
    record = inspection.record
    failure = None if inspection.end is None else inspection.end.entry.failure
    if record.status is Status.TERMINATED:
        why = f": {failure.message}" if failure is not None and failure.message else ""
        terminal.error_line(cleaned(f"run {record.instance_id} was cancelled{why}"))
        terminal.note("The same command begins a new run.")
        return
    why = "" if failure is None else f": {failure.error_type}: {failure.message}"
    terminal.error_line(cleaned(f"run {record.instance_id} failed{why}"))
    show = command("runs", "show", record.instance_id, store=store)
    terminal.note(f"What to do: {_remedy(failure)}.\nWhat happened: {show}")


def _remedy(failure: Failure | None) -> str:
    text = "" if failure is None else f"{failure.error_type}: {failure.message}"
    found = [remedy for name, remedy in _REMEDIES.items() if f"{name}:" in text]
    return found[0] if found else "mend the cause; the same command then begins a new run"


def report_wait(inspection: Inspection, store: str | None) -> None:
    """Say which human decision a run waits for, and the exact commands that give it."""
    run = inspection.record.instance_id
    if not inspection.asks:
        reason = standing(inspection.record, time.time(), inspection).reason
        terminal.note(f"run {run} is {cleaned(reason)}")
        terminal.note(f"When its code is restored:\n  {command('runs', 'resume', run, store=store)}")
        return
    for step in inspection.asks:
        terminal.note(question(inspection, step, store))


def question(inspection: Inspection, step: Step, store: str | None) -> Text:
    """Return the question about an interrupted call, with the commands that answer it."""
    run = inspection.record.instance_id
    which: Sequence[str] = ("--task", str(task_of(step))) if len(inspection.asks) > 1 else ()
    called = call_text(step.name, step.input)
    text = Text(f"run {run} waits for you: a crash cut off {called}, and only you can tell whether it took effect.")
    answers = [
        (("--retry",), "it did not: run it again"),
        (("--result", '"..."'), "it did, and returned this (JSON)"),
        (("--fail", "reason"), "it failed for good"),
    ]
    for option, meaning in answers:
        text.append(f"\n  {command('runs', 'resume', run, *which, *option, store=store)}")
        text.append(f"   # {meaning}", style="dim")
    return text


def task_of(step: Step) -> int:
    """Return the id of the attempt that a question is about."""
    return step.entry.attempts[-1].task


def run_data(inspection: Inspection, *, resumed: bool | None = None, now: float | None = None) -> dict[str, Any]:
    """Return a run as data for ``--json``, without its timeline."""
    record, totals = inspection.record, inspection.totals
    stands = standing(record, time.time() if now is None else now, inspection)
    asks = [{"task": task_of(step), "name": step.name, "arguments": as_json(step.input)} for step in inspection.asks]
    failure = None if inspection.end is None else inspection.end.entry.failure
    data = {
        "id": record.instance_id,
        "status": record.status,
        "state": stands.state,
        "answer": as_json(inspection.answer),
        "failure": None if failure is None else {"type": failure.error_type, "message": failure.message},
        "asks": asks,
        "model_calls": totals.model_calls,
        "tool_calls": totals.tool_calls,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "recorded_once": totals.once,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
    }
    return data if resumed is None else {**data, "resumed": resumed}


def answer_text(inspection: Inspection) -> str:
    """Return a completed run's answer as stdout gets it."""
    return as_text(inspection.answer)
