"""Finds runs by a beginning of their id."""

from __future__ import annotations

from perdure.base.errors import InstanceNotFoundError, UsageError
from perdure.cli.formats import cleaned, plural
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord

_PAGE = 1000
_LISTED = 5


async def run_by_prefix(store: HistoryStore, given: str) -> InstanceRecord:
    """Return the run with this id, or the only one whose id begins like this.

    Raises:
        InstanceNotFoundError: there is none.
        UsageError: several begin like this.
    """
    exact = await store.find(given)
    if exact is not None:
        return exact
    found = await _beginning(store, given) if given else []
    if not found:
        raise InstanceNotFoundError(given)
    if len(found) > 1:
        listed = ", ".join(record.instance_id for record in found[:_LISTED])
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        number = plural(len(found), "run")
        raise UsageError(f"{number} begin with {cleaned(given)!r}: {cleaned(listed)}{more}. Give more of the id.")
    return found[0]


async def _beginning(store: HistoryStore, prefix: str) -> list[InstanceRecord]:
    found: list[InstanceRecord] = []
    before: int | None = None
    while True:
        page = await store.instances(InstanceQuery(limit=_PAGE, before=before))
        found.extend(record for record in page if record.instance_id.startswith(prefix))
        if len(page) < _PAGE:
            return found
        before = page[-1].key
