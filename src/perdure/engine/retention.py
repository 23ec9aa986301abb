"""Purges instances that ended long ago, as their workflows declare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from perdure.base.events import Status
from perdure.engine.code import Retention, Workflow
from perdure.ports.history_store import HistoryStore

_AT_ONCE = 200
_PAUSE = 0.05


async def purge_expired(
    store: HistoryStore, *, app_id: str, workflows: Iterable[Workflow], default: Retention, now: float
) -> int:
    """Purge what its workflow's retention no longer keeps; return how many instances these were.

    Args:
        store: where they are.
        app_id: whose instances.
        workflows: whose retention to apply.
        default: for workflows that declare none.
        now: seconds since the epoch.
    """
    purged = 0
    for name, retention in {workflow.name: workflow.retention or default for workflow in workflows}.items():
        limits = {
            Status.COMPLETED: retention.completed,
            Status.FAILED: retention.failed,
            Status.TERMINATED: retention.terminated,
        }
        for status, seconds in limits.items():
            if seconds is not None:
                purged += await purge_ended(store, app_id=app_id, workflow=name, status=(status,), until=now - seconds)
    return purged


async def purge_ended(
    store: HistoryStore, *, app_id: str, workflow: str | None, status: tuple[Status, ...], until: float
) -> int:
    """Purge the instances that ended before a time, in steps that let others write between them."""
    purged = 0
    while keys := await store.expired(app_id=app_id, workflow=workflow, status=status, until=until, limit=_AT_ONCE):
        deleted = await store.purge(keys)
        purged += deleted
        if not deleted:
            break
        await asyncio.sleep(_PAUSE)
    return purged
