"""Finds runs by a beginning of their id."""

from __future__ import annotations

from perdure.base.errors import InstanceNotFoundError, UsageError
from perdure.cli.formats import cleaned, plural
from perdure.ports.history_store import EVERYTHING, HistoryStore, InstanceRecord
from perdure.runtime.pages import every_instance
from perdure.workflows.schedules import schedule_id

_LISTED = 5


async def run_by_prefix(store: HistoryStore, given: str) -> InstanceRecord:
    """Return the run with this id, or of the schedule with this name, or the only one whose id begins like this.

    Raises:
        InstanceNotFoundError: there is none.
        UsageError: several begin like this.
    """
    exact = await store.find(given) or await store.find(schedule_id(given))
    if exact is not None:
        return exact
    if not given:
        raise InstanceNotFoundError(given)
    found = [record async for record in every_instance(store, EVERYTHING) if record.instance_id.startswith(given)]
    if not found:
        raise InstanceNotFoundError(given)
    if len(found) > 1:
        listed = ", ".join(record.instance_id for record in found[:_LISTED])
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        number = plural(len(found), "run")
        raise UsageError(f"{number} begin with {cleaned(given)!r}: {cleaned(listed)}{more}. Give more of the id.")
    return found[0]
