"""Follows a run in the store, whoever executes it."""

from __future__ import annotations

import asyncio
import time

from perdure.cli.live import Story
from perdure.cli.standing import standing
from perdure.ports.history_store import HistoryStore
from perdure.runtime.inspect import Inspection, Inspector

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.1


async def follow(store: HistoryStore, instance_id: str, story: Story, *, until_human: bool) -> Inspection:
    """Tell a run's story until it has ended, and return it as it is then.

    Args:
        store: where it is.
        instance_id: its id.
        story: tells.
        until_human: return also when the run goes on only after a human's word.

    Raises:
        InstanceNotFoundError: no such run.
        StoreError: the store cannot be read.
    """
    inspector = Inspector(store, instance_id)
    seen: int | None = None
    pause = _FIRST_PAUSE
    while True:
        version = await store.version()
        if version != seen:
            seen, pause = version, _FIRST_PAUSE
            inspection = await inspector.look()
            story.tell(inspection)
            if _is_settled(inspection, until_human=until_human):
                return inspection
        else:
            pause = min(pause * 2, _LONGEST_PAUSE)
            story.tick()
        await asyncio.sleep(pause)


def _is_settled(inspection: Inspection, *, until_human: bool) -> bool:
    record = inspection.record
    if record.status.finished:
        return True
    # With a time to wake up, something else goes on before the human is all that is missing.
    return until_human and record.due is None and standing(record, time.time(), inspection).needs_human
