"""Many runs as a table, each one as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perdure.base.codec import decode
from perdure.base.events import Status
from perdure.base.ids import split_key
from perdure.cli.formats import as_json, as_text, cleaned, duration, short_id, shortened
from perdure.cli.standing import Standing, owner_name
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.forks import FORKED_FROM
from perdure.runtime.inspect import agent_of

_STYLES = {
    Status.PENDING: "blue",
    Status.SUSPENDED: "magenta",
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.TERMINATED: "yellow",
}


Facts = list[tuple[str, str | Text]]
"""Names, and what is to be said under them."""


def facts_table(facts: Facts) -> Table:
    """Return the facts about one thing, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts:
        table.add_row(name, fact)
    return table


def runs_table(rows: Sequence[tuple[InstanceRecord, Standing]], now: float) -> Table:
    """Return the table of ``perdure runs list``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several_apps = len({record.app_id for record, _ in rows}) > 1
    forks = any(FORKED_FROM in record.attributes for record, _ in rows)
    between = [*(["fork of"] if forks else []), *(["app"] if several_apps else [])]
    for column in ("id", *between, "agent/workflow", "status", "age", "duration"):
        table.add_column(column, no_wrap=True)
    table.add_column("waits for / reason", overflow="fold")
    table.add_column("recoveries", justify="right")
    for record, stands in rows:
        table.add_row(
            short_id(record.instance_id),
            *([short_id(as_text(record.attributes.get(FORKED_FROM)))] if forks else []),
            *([cleaned(record.app_id)] if several_apps else []),
            cleaned(owner_name(record.workflow)),
            status_text(record.status),
            duration(max(0.0, now - record.created_at)),
            duration((record.finished_at or now) - record.created_at),
            shortened(stands.reason, 120),
            str(record.recoveries) if record.recoveries else "",
        )
    return table


def status_text(status: Status) -> Text:
    """Return a status in its colour."""
    return Text(status.lower(), style=_STYLES[status])


def record_data(record: InstanceRecord, stands: Standing) -> dict[str, Any]:
    """Return one run as ``perdure runs list --json`` has it."""
    workflow, version = split_key(record.workflow)
    return {
        "id": record.instance_id,
        "app": record.app_id,
        "agent": agent_of(record.workflow),
        "workflow": workflow,
        "version": version or None,
        "parent": record.parent,
        "status": record.status,
        "state": stands.state,
        "reason": stands.reason,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "owner": record.owner,
        "due": record.due,
        "recoveries": record.recoveries,
        "custom_status": None if record.custom_status is None else as_json(decode(record.custom_status)),
        "attributes": dict(record.attributes),
    }
