"""A process that executes errands over a store, whatever happens to it; it tells in lines what it was told.

``accepted ID`` a start was acknowledged, ``refused ERROR`` it was not and is asked for again, ``ended ID`` a run's end
is durable, ``finished`` all of them ended. A booking of an errand is first a line in a ledger outside of the store.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec

from perdure import WorkflowContext
from perdure.base.errors import StoreError
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.activity import current_activity
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

BOOKINGS = 8


class Voyage(msgspec.Struct, frozen=True, kw_only=True):
    """What a sailor is to do.

    Attributes:
        store: the database file.
        ledger: the file of the bookings.
        name: begins the ids of its errands.
        errands: how many runs it starts.
        bulk: bytes that every booking returns.
        pace: seconds that a booking takes at least.
        nap: seconds of the timer in each errand; 0 for none.
        stays: whether it goes on executing when its own errands have ended.
        lease_seconds, busy_timeout: of its store.
    """

    store: str
    ledger: str
    name: str
    errands: int = 0
    bulk: int = 0
    pace: float = 0.01
    nap: float = 0.05
    stays: bool = False
    lease_seconds: float = 10.0
    busy_timeout: float = 5.0


async def book(given: dict[str, Any]) -> bytes:
    call = current_activity()
    line = f"{call.instance_id} {call.idempotency_key} book\n".encode()
    file = os.open(given["ledger"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)
    await asyncio.sleep(given["pace"])
    return os.urandom(given["bulk"])


async def errand(ctx: WorkflowContext, given: dict[str, Any]) -> int:
    booked = [await ctx.call_activity(book, input=given) for _ in range(3)]
    booked += await ctx.when_all([ctx.call_activity(book, input=given) for _ in range(4)])
    if given["nap"]:
        await ctx.create_timer(given["nap"])
    booked.append(await ctx.call_activity(book, input=given))
    return len(booked)


async def alarm(ctx: WorkflowContext, seconds: float) -> str:
    """Wait in the store for a time, in nobody's hands."""
    await ctx.create_timer(seconds)
    return "rang"


async def rest(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def race(ctx: WorkflowContext, seconds: float) -> str:
    """Wait for a time with an activity in flight, in a worker's hands."""
    resting = ctx.call_activity(rest, input=600)
    return "resting" if await ctx.when_any([resting, ctx.create_timer(seconds)]) is resting else "rang"


async def letter(ctx: WorkflowContext, _: Any) -> Any:
    return await ctx.wait_for_external_event("letter")


def registry() -> Registry:
    """Return a registry with all that sailors execute."""
    known = Registry()
    for workflow in (errand, alarm, race, letter):
        known.add_workflow(workflow)
    for activity in (book, rest):
        known.add_activity(activity)
    return known


def runtime_of(voyage: Voyage, *, worker: bool = True) -> EmbeddedRuntime:
    """Return a runtime over a voyage's store, not open yet."""
    store = SQLiteHistoryStore(voyage.store, lease_seconds=voyage.lease_seconds, busy_timeout=voyage.busy_timeout)
    options = WorkerOptions(poll=0.02, reap=0.1, drain=1.0)
    return EmbeddedRuntime(store, registry=registry(), options=options, worker=worker)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _start(runtime: EmbeddedRuntime, voyage: Voyage, number: int, instance_id: str) -> None:
    # Each at a pace of its own, so that they do not all commit together.
    pace = voyage.pace * (1 + number % 7)
    given = {"ledger": voyage.ledger, "bulk": voyage.bulk, "pace": pace, "nap": voyage.nap}
    while True:
        try:
            await runtime.start(errand, given, instance_id=instance_id)
        except StoreError as error:
            say(f"refused {type(error).__name__} {error}")
            await asyncio.sleep(0.05)
        else:
            say(f"accepted {instance_id}")
            return


async def _one(runtime: EmbeddedRuntime, voyage: Voyage, number: int) -> None:
    instance_id = f"{voyage.name}-{number}"
    await _start(runtime, voyage, number, instance_id)
    assert await runtime.wait(instance_id) == BOOKINGS
    say(f"ended {instance_id}")


async def sail(voyage: Voyage) -> None:
    """Start the errands of a voyage and execute them to their end."""
    async with runtime_of(voyage) as runtime:
        say("open")
        await asyncio.gather(*(_one(runtime, voyage, number) for number in range(voyage.errands)))
        say("finished")
        if voyage.stays:
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(sail(msgspec.json.decode(sys.argv[1], type=Voyage)))
