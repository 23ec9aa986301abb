"""Checks open instances against code: whether their histories still replay. Calls no activity, changes no store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum

import msgspec

from perdure.base.codec import Resolved
from perdure.base.errors import NonDeterminismError, StoreCorruptError
from perdure.base.events import UNFINISHED, HistoryRow
from perdure.base.ids import code_text, split_key, version_text
from perdure.engine.code import Workflow
from perdure.engine.replay import Execution
from perdure.engine.values import resolve_history
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.inspect import described
from perdure.runtime.pages import every_instance


class Verdict(StrEnum):
    """How an open instance and the code agree."""

    FITS = "fits"
    """The code decides what is recorded."""

    NOT_BEGUN = "not begun"
    """Its code is there, and nothing is recorded yet that it could contradict."""

    DIFFERS = "differs"
    """The code decides something else than is recorded."""

    MISSING = "missing"
    """Its workflow, or the version that it began with, is not there."""

    UNREADABLE = "unreadable"
    """Its history or the data in it cannot be read."""

    @property
    def breaks(self) -> bool:
        """Whether the instance would stall under this code."""
        return self not in {Verdict.FITS, Verdict.NOT_BEGUN}


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the check of one instance.

    Attributes:
        instance_id: its id.
        app_id: the app that it belongs to.
        workflow: the name of its workflow.
        version: the version that it began with; empty for a workflow without versions.
        verdict: how it and the code agree.
        row: number of the history row at which they part, or None.
        recorded: what the history holds there, in words; empty unless they differ.
        requested: what the code asks for there, in words; empty unless they differ.
        detail: why the code is missing or the history unreadable; otherwise empty.
    """

    instance_id: str
    app_id: str
    workflow: str
    version: str
    verdict: Verdict
    row: int | None = None
    recorded: str = ""
    requested: str = ""
    detail: str = ""


def check(
    record: InstanceRecord, rows: Sequence[HistoryRow], resolved: Resolved, workflows: Mapping[str, Workflow]
) -> Checked:
    """Replay a history into the code that would execute its instance, and say what disagrees.

    Args:
        record: the instance.
        rows: its whole history, of one that continued as new the last generation.
        resolved: the content of every reference in what reached it.
        workflows: the code, by the keys of instances.
    """
    code = workflows.get(record.workflow)
    begun = rows[-1].seq > 0
    if code is None or (begun and record.workflow not in code.keys):
        return _checked(record, Verdict.MISSING, detail=_missing(record, workflows))
    if len(rows) == 1:
        return _checked(record, Verdict.NOT_BEGUN)
    execution = Execution(code, record.instance_id)
    try:
        execution.replay(rows, resolved)
    except NonDeterminismError as error:
        return _checked(record, Verdict.DIFFERS, row=error.row, recorded=error.recorded, requested=error.requested)
    except Exception as error:  # noqa: BLE001 - whatever it is, it would stall the instance, and is said
        return _checked(record, Verdict.UNREADABLE, detail=f"{type(error).__name__}: {error}")
    finally:
        execution.close()
    return _checked(record, Verdict.FITS)


def _checked(
    record: InstanceRecord,
    verdict: Verdict,
    *,
    row: int | None = None,
    recorded: str = "",
    requested: str = "",
    detail: str = "",
) -> Checked:
    name, version = split_key(record.workflow)
    return Checked(
        instance_id=record.instance_id,
        app_id=record.app_id,
        workflow=name,
        version=version,
        verdict=verdict,
        row=row,
        recorded=recorded,
        requested=requested,
        detail=detail,
    )


def _missing(record: InstanceRecord, workflows: Mapping[str, Workflow]) -> str:
    name, _ = split_key(record.workflow)
    known = sorted({split_key(code.keys[0])[1] for code in workflows.values() if code.name == name})
    if not known:
        return f"there is no {described(name)}"
    there = ", ".join(version_text(each) for each in known)
    return f"it began with {code_text(record.workflow)}, which is not there; there is: {there}"


async def open_instances(store: HistoryStore, app_id: str | None = None) -> list[str]:
    """Return the ids of the instances that have not ended, the newest first; of one app, or of all."""
    query = InstanceQuery(status=UNFINISHED, app_id=app_id)
    return [record.instance_id async for record in every_instance(store, query)]


async def check_instances(
    store: HistoryStore, instance_ids: Sequence[str], workflows: Mapping[str, Workflow]
) -> AsyncGenerator[Checked, None]:
    """Check instances one after the other; those that have ended meanwhile are left out.

    Args:
        store: where they are; it is only read.
        instance_ids: which ones.
        workflows: the code, by the keys of instances.

    Raises:
        StoreError: the store cannot be read.
    """
    for instance_id in instance_ids:
        record = await store.find(instance_id)
        if record is None or record.status.finished:
            continue
        try:
            rows = (await store.load([record.key]))[record.key]
            resolved = await resolve_history(store, rows)
        except StoreCorruptError as error:
            yield _checked(record, Verdict.UNREADABLE, detail=str(error))
            continue
        # One that was purged between the two looks has no rows.
        if rows:
            yield check(record, rows, resolved, workflows)
