from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from tests.chaos.harness import completed_keys
from tests.runtime.harness import until
from tests.shapes import ALL, REGISTRY, Shape, completions, effects

from perdure.base.errors import RunFailedError
from perdure.runtime.embedded import EmbeddedRuntime


async def _begin(runtime: EmbeddedRuntime, shape: Shape, log: Path) -> None:
    await runtime.start(shape.workflow, shape.input(log), instance_id=shape.name)
    for name, data in shape.events:
        await runtime.raise_event(shape.name, name, data)


async def _judge(runtime: EmbeddedRuntime, shape: Shape) -> None:
    if shape.error is None:
        shape.check(await runtime.wait(shape.name, 15))
    else:
        with pytest.raises(RunFailedError) as caught:
            await runtime.wait(shape.name, 15)
        assert shape.error in str(caught.value)
    for instance_id, counts in shape.expected_counts().items():
        await until(lambda instance_id=instance_id: _finished(runtime, instance_id))
        assert completions(await runtime.history(instance_id)) == Counter(counts)


async def _finished(runtime: EmbeddedRuntime, instance_id: str) -> bool:
    record = await runtime.find(instance_id)
    return record is not None and record.status.finished


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_every_shape_gives_its_result_and_runs_each_activity_once(shape, opened, tmp_path):
    log = tmp_path / "effects"

    async def run() -> None:
        async with opened(REGISTRY) as runtime:
            await _begin(runtime, shape, log)
            await _judge(runtime, shape)

    asyncio.run(run())
    keys = Counter(key for _, key, name in effects(log) if name not in {"fail_before", "refuse"})
    assert set(keys.values()) <= {1}


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_a_restart_in_the_middle_finishes_every_shape_and_runs_no_recorded_activity_again(shape, opened, tmp_path):
    log = tmp_path / "effects"

    async def run() -> None:
        first = opened(REGISTRY, drain=0.0)
        async with first:
            await _begin(first, shape, log)
            await until(lambda: not shape.counts or effects(log) or first._worker.held == {})
        looker = opened(REGISTRY, worker=False)
        async with looker:
            recorded = set(completed_keys(shape.name, await looker.history(shape.name)))
        before = len(effects(log))
        assert recorded <= {key for _, key, _ in effects(log)}
        async with opened(REGISTRY) as second:
            await _judge(second, shape)
        assert recorded.isdisjoint({key for _, key, _ in effects(log)[before:]})

    asyncio.run(run())


def test_all_shapes_run_beside_each_other(opened, tmp_path):
    async def run() -> None:
        async with opened(REGISTRY, threads=4, warm=3) as runtime:
            await asyncio.gather(*(_begin(runtime, shape, tmp_path / shape.name) for shape in ALL))
            await asyncio.gather(*(_judge(runtime, shape) for shape in ALL))

    asyncio.run(run())
