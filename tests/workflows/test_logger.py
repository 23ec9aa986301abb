from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import options, registry_of

from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.logger import get_context_aware_logger

logger = get_context_aware_logger("tests.replayed")
plain = logging.getLogger("tests.replayed.plain")


async def step(number: int) -> int:
    logger.info("step %d", number)
    return number


async def chatty(ctx: Any) -> None:
    logger.info("begins")
    for number in range(3):
        plain.info("plain %d", number)
        await ctx.call_activity(step, input=number)
        logger.info("did %d", number)


def test_a_replayed_workflow_says_each_thing_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        store = SQLiteHistoryStore(tmp_path / "store.db")
        async with EmbeddedRuntime(store, registry=registry_of(chatty), options=options("put-away")) as runtime:
            await runtime.wait(await runtime.start(chatty), 5)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if record.name == "tests.replayed"]
    assert said == ["begins", "step 0", "did 0", "step 1", "did 1", "step 2", "did 2"]
    assert sum(record.name == "tests.replayed.plain" for record in caplog.records) > 3


def test_the_same_logger_is_filtered_once() -> None:
    assert get_context_aware_logger("tests.replayed") is logger
    assert len(logger.filters) == 1
