"""One run as a table and as data: what stands above its timeline, the timeline, the calls and child workflows in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from perdure.base.codec import decode
from perdure.base.ids import split_key
from perdure.cli.ending import run_data, task_of
from perdure.cli.formats import as_json, as_text, cleaned, duration, moment, plural, shortened
from perdure.cli.lines import took
from perdure.cli.standing import Standing, owner_name
from perdure.cli.tables import Facts, facts_table, record_data, status_text
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.inspect import Inspection, Step
from perdure.runtime.timeline import Kind, Progress

_SHORT_VALUE = 100
_PROGRESS_STYLES = {
    Progress.RUNNING: "cyan",
    Progress.RETRYING: "yellow",
    Progress.ASKS: "magenta",
    Progress.QUEUED: "yellow",
    Progress.WAITING: "yellow",
    Progress.COMPLETED: "green",
    Progress.FAILED: "red",
    Progress.CANCELLED: "yellow",
}
_WORDS = {Progress.QUEUED: "waits for its turn"}
_TIMED = {Kind.ACTIVITY, Kind.CHILD, Kind.TIMER}


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """A run with the child workflows that it called or started.

    Attributes:
        inspection: the run.
        stands: how it stands.
        children: by id, how those stand that are in the store.
    """

    inspection: Inspection
    stands: Standing
    children: Mapping[str, tuple[InstanceRecord, Standing]]


def header(sight: Sight) -> Table:
    """Return the facts that stand above a run's timeline."""
    return facts_table([*_identity(sight.inspection), *_course(sight)])


def _identity(inspection: Inspection) -> Facts:
    record = inspection.record
    name, version = split_key(record.workflow)
    facts: Facts = [
        ("run", cleaned(record.instance_id)),
        ("agent/workflow", cleaned(f"{owner_name(name)}  (app {record.app_id})")),
    ]
    if version:
        facts.append(("version", cleaned(version)))
    if inspection.generation:
        facts.append(("generation", f"{inspection.generation} (it has continued as new so often)"))
    if record.parent is not None:
        facts.append(("parent", cleaned(record.parent)))
    if record.custom_status is not None:
        facts.append(("custom status", cleaned(as_text(decode(record.custom_status)))))
    if record.attributes:
        pairs = (f"{name}={as_text(value)}" for name, value in record.attributes.items())
        facts.append(("attributes", cleaned(", ".join(pairs))))
    return facts


def _course(sight: Sight) -> Facts:
    record, stands = sight.inspection.record, sight.stands
    facts: Facts = [("status", status_text(record.status)), ("begun", moment(record.created_at))]
    if record.finished_at is not None:
        took = duration(record.finished_at - record.created_at)
        facts.append(("ended", f"{moment(record.finished_at)}, after {took}"))
    if stands.reason:
        facts.append(("reason" if stands.state == "finished" else "stands", cleaned(stands.reason)))
    if record.recoveries:
        facts.append(("recoveries", f"{plural(record.recoveries, 'worker')} died while it owned this run"))
    return facts


def timeline_table(sight: Sight, *, full: bool) -> Table:
    """Return a run's timeline; values are cut unless ``full``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("at", no_wrap=True, justify="right")
    table.add_column("#", no_wrap=True, justify="right")
    table.add_column("step", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("took", no_wrap=True, justify="right")
    table.add_column("tries", justify="right")
    table.add_column("tokens", no_wrap=True, justify="right")
    table.add_column("input", overflow="fold")
    table.add_column("output", overflow="fold")
    for step in sight.inspection.steps:
        table.add_row(*_cells(sight, step, full=full))
    return table


def _cells(sight: Sight, step: Step, *, full: bool) -> tuple[str | Text, ...]:
    entry, begun = step.entry, sight.inspection.record.created_at
    words = "told an error" if step.told else _WORDS.get(entry.progress, entry.progress)
    used = step.input_tokens + step.output_tokens
    return (
        f"+{duration(max(0.0, entry.started_at - begun))}",
        str(entry.attempts[0].task) if entry.attempts else "",
        Text(_step_name(step)),
        Text(words, style="red" if step.told else _PROGRESS_STYLES[entry.progress]),
        took(entry) if entry.kind in _TIMED else "",
        str(entry.tries) if entry.tries > 1 else "",
        f"{step.input_tokens:,}+{step.output_tokens:,}" if used else "",
        _value(step.input, full=full),
        _value(_outcome(sight, step), full=full),
    )


def _step_name(step: Step) -> str:
    if step.role == "model":
        return f"turn {step.turn}: model {shortened(step.model, 40)}".rstrip()
    if step.role == "tool":
        return f"  {shortened(step.name, 60)}"
    kind = "" if step.entry.kind is Kind.ACTIVITY else f"{step.role} "
    task = "" if step.entry.task is None else f" (task {step.entry.task})"
    name = "" if step.name == step.role else shortened(owner_name(step.name), 60)
    instance = "" if step.entry.instance is None else f" ({cleaned(step.entry.instance)})"
    return f"{kind}{name}{task}{instance}".rstrip()


def _outcome(sight: Sight, step: Step) -> Any:
    failure = step.entry.failure
    if failure is not None:
        return f"{failure.error_type}: {failure.message}"
    if step.entry.kind is Kind.CHILD and step.output is None:
        return _child_stands(sight, step)
    if step.entry.kind is Kind.END and isinstance(step.output, dict) and "content" in step.output:
        return step.output["content"]
    return step.output


def _value(value: Any, *, full: bool) -> str:
    text = as_text(value)
    return cleaned(text) if full else shortened(text, _SHORT_VALUE)


def _child_stands(sight: Sight, step: Step) -> str:
    """Return how a child workflow stands that has not answered, or whose end nobody is told of."""
    found = sight.children.get(step.entry.instance or "")
    if found is None:
        return "not in this store (any more)"
    record, stands = found
    return f"{record.status.lower()}: {stands.reason}" if stands.reason else record.status.lower()


def show_data(sight: Sight) -> dict[str, Any]:
    """Return a run as ``perdure runs show --json`` has it: values whole."""
    inspection = sight.inspection
    return {
        **record_data(inspection.record, sight.stands),
        **run_data(inspection),
        "generation": inspection.generation,
        "timeline": [_step_data(sight, step) for step in inspection.steps],
    }


def _step_data(sight: Sight, step: Step) -> dict[str, Any]:
    entry = step.entry
    failure = entry.failure
    child = sight.children.get(entry.instance or "")
    return {
        "kind": entry.kind,
        "role": step.role,
        "name": step.name,
        "turn": step.turn or None,
        "call": entry.attempts[0].task if entry.attempts else None,
        "task": task_of(step) if entry.attempts else entry.task,
        "instance": entry.instance,
        "instance_status": None if child is None else child[0].status,
        "instance_reason": None if child is None else child[1].reason,
        "status": entry.progress,
        "told_error": step.told,
        "started_at": entry.started_at,
        "ended_at": entry.ended_at,
        "duration": entry.duration,
        "origin": entry.origin,
        "due": entry.due,
        "attempts": len(entry.attempts),
        "interruptions": entry.interruptions,
        "model": step.model or None,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "input": as_json(step.input),
        "output": as_json(step.output),
        "failure": None if failure is None else {"type": failure.error_type, "message": failure.message},
    }
