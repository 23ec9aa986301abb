from __future__ import annotations

import asyncio

import pytest

from perdure.base.codec import NOTHING
from perdure.base.events import TaskCompleted, TaskScheduled
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.activity import Activity, ActivityCall, ActivityRunner, Outcome


@pytest.mark.parametrize("is_async", [True, False], ids=["loop", "thread"])
def test_an_activity_begins_when_nobody_else_can_have_begun_it_even_if_that_changes_while_it_waits(is_async):
    ran: list[int] = []
    asked: list[bool] = []

    def may_begin() -> bool:
        # At first on the loop, then, for a function that blocks, on the thread that takes it up.
        asked.append(len(asked) in {1, 3, 4})
        return asked[-1]

    def act(_: object) -> int:
        ran.append(len(asked))
        return 5

    async def act_on_the_loop(_: object) -> int:
        return act(None)

    async def run() -> Outcome:
        activity = Activity(name="act", function=act_on_the_loop if is_async else act, is_async=is_async)
        runner = ActivityRunner(MemoryHistoryStore(), {"act": activity}.get, 1)
        scheduled = TaskScheduled(id=0, name="act")
        call = ActivityCall(instance_id="one", scheduled=scheduled, input=scheduled.input, resolved=NOTHING)
        try:
            return await runner.perform(call, may_begin)
        finally:
            runner.close()

    outcome = asyncio.run(run())
    assert isinstance(outcome.event, TaskCompleted)
    assert ran == [2 if is_async else 4]
    assert asked == ([False, True] if is_async else [False, True, False, True])
