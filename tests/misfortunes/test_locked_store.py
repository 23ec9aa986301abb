"""A store that another process keeps locked: who asks is told or waits, leases survive, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from tests.components.history.child import Child
from tests.misfortunes.harness import PATIENCE, Sailor, bookings, facts_of, let_pass, require_once, until
from tests.misfortunes.sailor import BOOKINGS, Voyage, letter, runtime_of

from perdure.base.errors import StoreLockedError
from perdure.base.events import Status

ERRANDS = 15


async def _ask_in_vain(voyage: Voyage) -> None:
    async with runtime_of(voyage, worker=False) as client:
        for asked in (client.start("letter", instance_id="hasty"), client.raise_event("waits", "letter", "early")):
            begun = time.monotonic()
            with pytest.raises(StoreLockedError, match="holds the write lock; end it, or wait until it has fin"):
                await asked
            assert time.monotonic() - begun < 3.0


async def _ask_patiently(voyage: Voyage, locker: Child, unlock_at: float) -> None:
    async with runtime_of(voyage, worker=False) as client:
        start = asyncio.create_task(client.start("letter", instance_id="patient"))
        event = asyncio.create_task(client.raise_event("waits", "letter", "arrived"))
        await asyncio.to_thread(let_pass, max(0.0, unlock_at - time.monotonic()))
        assert not start.done()
        assert not event.done()
        locker.tell()
        await asyncio.gather(start, event)
        assert await client.wait("waits", PATIENCE) == "arrived"
        assert await client.find("hasty") is None
        await client.raise_event("patient", "letter", "as well")
        assert await client.wait("patient", PATIENCE) == "as well"


async def _begin_to_wait(voyage: Voyage) -> None:
    async with runtime_of(voyage, worker=False) as client:
        await client.start(letter, instance_id="waits")


@pytest.mark.parametrize(
    ("seconds", "lease_seconds"), [(10.0, 10.0), (3.0, 0.5)], ids=["as long as a lease", "for several leases"]
)
def test_a_store_locked_by_another_process_costs_time_and_nothing_else(
    tmp_path: Path, seconds: float, lease_seconds: float
):
    store, ledger = tmp_path / "perdure.db", tmp_path / "ledger"
    one, two = (
        Voyage(
            store=str(store),
            ledger=str(ledger),
            name=name,
            errands=ERRANDS,
            pace=0.05,
            stays=True,
            lease_seconds=lease_seconds,
        )
        for name in ("one", "two")
    )
    asyncio.run(_begin_to_wait(one))
    with Sailor(one) as first, Sailor(two) as second:
        until(lambda: len(bookings(ledger)) > 60)
        with Child("lock", store) as locker:
            assert locker.hear() == "locked"
            unlock_at = time.monotonic() + seconds
            asyncio.run(_ask_in_vain(msgspec.structs.replace(one, busy_timeout=0.3)))
            asyncio.run(_ask_patiently(msgspec.structs.replace(one, busy_timeout=30.0), locker, unlock_at))
        for sailor in (first, second):
            sailor.hear("finished")
            assert "its instances are claimed anew" not in sailor.log
    require_once(ledger)
    assert len(bookings(ledger)) == 2 * ERRANDS * BOOKINGS
    records = facts_of(store)
    assert {record.recoveries for record in records.values()} == {0}
    assert {record.status for record in records.values()} == {Status.COMPLETED}
    assert len(records) == 2 * ERRANDS + 2
