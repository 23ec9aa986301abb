"""Reads the instances that fit a query, however many there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord

_PAGE = 1000


async def every_instance(store: HistoryStore, query: InstanceQuery) -> AsyncGenerator[InstanceRecord, None]:
    """Yield all instances that fit a query, the newest first, page by page; the query's limit does not count.

    Raises:
        StoreError: the store cannot be read.
    """
    before: int | None = None
    while True:
        page = await store.instances(msgspec.structs.replace(query, limit=_PAGE, before=before))
        for record in page:
            yield record
        if len(page) < _PAGE:
            return
        before = page[-1].key
