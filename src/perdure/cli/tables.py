"""Runs and timelines as tables and as data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perdure.base.events import Status
from perdure.cli.ending import run_data, task_of
from perdure.cli.formats import as_json, as_text, cleaned, duration, moment, plural, short_id, shortened
from perdure.cli.standing import Standing, owner_name, standing
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.inspect import Inspection, Step
from perdure.runtime.timeline import Kind, Progress

_SHORT_VALUE = 100
_STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.TERMINATED: "yellow",
}
_PROGRESS_STYLES = {
    Progress.RUNNING: "cyan",
    Progress.RETRYING: "yellow",
    Progress.ASKS: "magenta",
    Progress.WAITING: "yellow",
    Progress.COMPLETED: "green",
    Progress.FAILED: "red",
    Progress.CANCELLED: "yellow",
}


def runs_table(rows: Sequence[tuple[InstanceRecord, Standing]], now: float) -> Table:
    """Return the table of ``perdure runs list``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "agent/workflow", "status", "age", "duration"):
        table.add_column(column, no_wrap=True)
    table.add_column("waits for / reason", overflow="fold")
    table.add_column("recoveries", justify="right")
    for record, stands in rows:
        table.add_row(
            short_id(record.instance_id),
            cleaned(owner_name(record.workflow)),
            Text(record.status.lower(), style=_STYLES[record.status]),
            duration(max(0.0, now - record.created_at)),
            duration((record.finished_at or now) - record.created_at),
            shortened(stands.reason, 120),
            str(record.recoveries) if record.recoveries else "",
        )
    return table


def record_data(record: InstanceRecord, stands: Standing) -> dict[str, Any]:
    """Return one run as ``perdure runs list --json`` has it."""
    return {
        "id": record.instance_id,
        "app": record.app_id,
        "agent": owner_name(record.workflow) if owner_name(record.workflow) != record.workflow else None,
        "workflow": record.workflow,
        "status": record.status,
        "state": stands.state,
        "reason": stands.reason,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "owner": record.owner,
        "due": record.due,
        "recoveries": record.recoveries,
    }


def header(inspection: Inspection) -> Table:
    """Return the facts that stand above a run's timeline."""
    record, now = inspection.record, time.time()
    stands = standing(record, now, inspection)
    facts: list[tuple[str, str | Text]] = [
        ("run", cleaned(record.instance_id)),
        ("agent/workflow", cleaned(f"{owner_name(record.workflow)}  (app {record.app_id})")),
        ("status", Text(record.status.lower(), style=_STYLES[record.status])),
        ("begun", moment(record.created_at)),
    ]
    if record.finished_at is not None:
        took = duration(record.finished_at - record.created_at)
        facts.append(("ended", f"{moment(record.finished_at)}, after {took}"))
    if stands.reason:
        facts.append(("reason" if stands.state == "finished" else "stands", cleaned(stands.reason)))
    if record.recoveries:
        facts.append(("recoveries", f"{plural(record.recoveries, 'worker')} died while it owned this run"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts:
        table.add_row(name, fact)
    return table


def timeline_table(inspection: Inspection, *, full: bool) -> Table:
    """Return a run's timeline; values are cut unless ``full``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("at", no_wrap=True, justify="right")
    table.add_column("step", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("took", no_wrap=True, justify="right")
    table.add_column("tries", justify="right")
    table.add_column("tokens", no_wrap=True, justify="right")
    table.add_column("input", overflow="fold")
    table.add_column("output", overflow="fold")
    begun = inspection.record.created_at
    for step in inspection.steps:
        table.add_row(*_cells(step, begun, full=full))
    return table


def _cells(step: Step, begun: float, *, full: bool) -> tuple[str | Text, ...]:
    entry = step.entry
    words = "told an error" if step.told else entry.progress.value
    used = step.input_tokens + step.output_tokens
    return (
        f"+{duration(max(0.0, entry.started_at - begun))}",
        Text(_step_name(step)),
        Text(words, style="red" if step.told else _PROGRESS_STYLES[entry.progress]),
        duration(entry.duration) if entry.kind in {Kind.ACTIVITY, Kind.TIMER} else "",
        str(len(entry.attempts)) if len(entry.attempts) > 1 else "",
        f"{step.input_tokens:,}+{step.output_tokens:,}" if used else "",
        _value(step.input, full=full),
        _value(_outcome(step), full=full),
    )


def _step_name(step: Step) -> str:
    if step.role == "model":
        return f"turn {step.turn}: model {shortened(step.model, 40)}".rstrip()
    if step.role == "tool":
        return f"  {shortened(step.name, 60)}"
    kind = "" if step.entry.kind is Kind.ACTIVITY else f"{step.role} "
    task = "" if step.entry.task is None else f" (task {step.entry.task})"
    name = "" if step.name == step.role else shortened(owner_name(step.name), 60)
    return f"{kind}{name}{task}".rstrip()


def _outcome(step: Step) -> Any:
    failure = step.entry.failure
    if failure is not None:
        return f"{failure.error_type}: {failure.message}"
    if step.entry.kind is Kind.END and isinstance(step.output, dict) and "content" in step.output:
        return step.output["content"]
    return step.output


def _value(value: Any, *, full: bool) -> str:
    text = as_text(value)
    return cleaned(text) if full else shortened(text, _SHORT_VALUE)


def show_data(inspection: Inspection) -> dict[str, Any]:
    """Return a run as ``perdure runs show --json`` has it: values whole."""
    record = inspection.record
    stands = standing(record, time.time(), inspection)
    return {
        **record_data(record, stands),
        **run_data(inspection),
        "timeline": [_step_data(step) for step in inspection.steps],
    }


def _step_data(step: Step) -> dict[str, Any]:
    entry = step.entry
    failure = entry.failure
    return {
        "kind": entry.kind,
        "role": step.role,
        "name": step.name,
        "turn": step.turn or None,
        "task": task_of(step) if entry.attempts else entry.task,
        "status": entry.progress,
        "told_error": step.told,
        "started_at": entry.started_at,
        "ended_at": entry.ended_at,
        "duration": entry.duration,
        "due": entry.due,
        "attempts": len(entry.attempts),
        "model": step.model or None,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "input": as_json(step.input),
        "output": as_json(step.output),
        "failure": None if failure is None else {"type": failure.error_type, "message": failure.message},
    }
