from __future__ import annotations

import asyncio

import pytest
from tests.runtime.harness import PATIENCE

from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.held import WorkerOptions
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


@pytest.mark.parametrize("turns", range(12))
def test_closing_ends_the_scheduler_even_in_the_turn_in_which_something_wakes_it(turns):
    async def run() -> None:
        runtime = EmbeddedRuntime(MemoryHistoryStore(), registry=Registry(), options=WorkerOptions(poll=60))
        async with asyncio.timeout(PATIENCE):
            await runtime.open()
            await asyncio.sleep(0.02)
            await runtime.start("of another process")
            for _ in range(turns):
                await asyncio.sleep(0)
            await runtime.close()

    asyncio.run(run())
