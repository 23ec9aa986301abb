"""Both stores let in the same instances in the same order: one holds whole lines, the other loads what matters."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from perdure.base.events import ExecutionStarted, Status, encode_events
from perdure.base.limits import Limits, Rate
from perdure.components.history.memory import MemoryHistoryStore
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import Episode, HistoryStore, Lease, NewInstance, Park, Results
from perdure.ports.tickets import Queue, Ticket

QUEUE = Queue("default", "workflow", "flow")
LIMITS = (
    Limits(concurrency=6, per_key=3, backlog=40),
    Limits(concurrency=3),
    Limits(per_key=2),
    Limits(concurrency=9, rate=Rate(5, per=30.0)),
    Limits(),
)
EVENTS = encode_events([ExecutionStarted(name="flow")])


class Twin:
    """One of the stores, and what happens to it."""

    def __init__(self, store: HistoryStore, lease: Lease) -> None:
        self.store, self.lease = store, lease
        self.keys: dict[str, int] = {}

    async def start(self, name: str, ticket: Ticket, now: float) -> str:
        new = NewInstance(
            instance_id=name, app_id="default", workflow="flow", at=now, events=EVENTS, ticket=ticket, lease=self.lease
        )
        (answer,) = await asyncio.gather(self.store.start(new), return_exceptions=True)
        if isinstance(answer, BaseException):
            return type(answer).__name__
        self.keys[name] = answer.key
        return "waits" if answer.waits else "begins"

    async def end(self, name: str, now: float) -> bool:
        answer: asyncio.Future[Results | Exception | None] = asyncio.get_running_loop().create_future()
        episode = Episode(key=self.keys[name], seq=1, at=now, events="[]", park=Park(status=Status.COMPLETED))
        self.store.append(self.lease, episode, answer.set_result)
        results = await answer
        assert not isinstance(results, Exception), results
        return results is not None and results.woken

    async def begun(self, now: float) -> set[str]:
        return {one.instance_id for one in await self.store.claim(self.lease, ["flow"], now, 1000)}


@pytest.mark.parametrize("seed", range(8))
def test_both_stores_let_in_the_same_whatever_happens(seed: int, tmp_path: Path) -> None:
    async def run() -> None:
        stores: list[HistoryStore] = [MemoryHistoryStore(), SQLiteHistoryStore(tmp_path / "twin.db")]
        for store in stores:
            await store.open()
        try:
            await live([Twin(store, await store.join("one", "default")) for store in stores], random.Random(seed))
        finally:
            for store in stores:
                await store.close()

    asyncio.run(run())


async def live(twins: list[Twin], chance: random.Random) -> None:
    now, running = 1_700_000_000.5, list[str]()
    for number in range(300):
        kind = chance.random()
        if kind < 0.55:
            key, priority = chance.choice("aaaabcdefgh"), chance.choice((0, 0, 0, 3))
            ticket = Ticket(queue=QUEUE, limits=LIMITS[0], key=key, priority=priority)
            answers = [await twin.start(f"{key}{number}", ticket, now) for twin in twins]
            if answers[0] == "begins":
                running.append(f"{key}{number}")
        elif kind < 0.95 and running:
            ended = running.pop(chance.randrange(len(running)))
            answers = [str(await twin.end(ended, now)) for twin in twins]
        else:
            limits = chance.choice(LIMITS)
            answers = [msgspec.json.encode(await twin.store.declare({QUEUE: limits}, now)).decode() for twin in twins]
        assert len(set(answers)) == 1, answers
        now += chance.choice((0.0, 0.1, 7.0))
        first, second = [await twin.begun(now) for twin in twins]
        assert first == second
        running += sorted(first)
        due = {await twin.store.next_due(twin.lease, ["flow"]) for twin in twins}
        assert len(due) == 1, due
