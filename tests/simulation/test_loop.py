from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.simulation.loop import SimulatedLoop, ThreadUseError
from tests.simulation.world import World


class Alone:
    """A loop that the world runs, without a process around it."""

    runs = True

    def __init__(self, world: World) -> None:
        self.failures: list[dict[str, Any]] = []
        self.loop = SimulatedLoop(world, self.failures.append)
        self.next_timer, self.wake = self.loop.next_timer, self.loop.wake
        world.actors.append(self)

    def turn(self) -> int:
        return self.loop.run_ready(1_000)


@pytest.fixture
def world() -> World:
    return World(1)


@pytest.fixture
def alone(world: World) -> Alone:
    return Alone(world)


def test_an_hour_of_sleep_takes_no_time_and_ends_on_the_second(world: World, alone: Alone) -> None:
    async def sleeper() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    task = alone.loop.create_task(sleeper())
    world.run_until(10_000)
    assert task.result() == 3600
    assert world.now == 10_000


def test_a_timeout_cancels_what_takes_longer(world: World, alone: Alone) -> None:
    async def impatient() -> str:
        try:
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        except TimeoutError:
            return "enough"
        return "done"

    task = alone.loop.create_task(impatient())
    world.run_until(4.9)
    assert not task.done()
    world.run_until(5)
    assert task.result() == "enough"


def test_callbacks_run_in_the_order_of_their_times_and_of_their_asking(world: World, alone: Alone) -> None:
    order: list[str] = []
    alone.loop.call_later(2, order.append, "third")
    alone.loop.call_later(1, order.append, "first")
    alone.loop.call_later(1, order.append, "second")
    alone.loop.call_later(1, order.append, "never").cancel()
    world.run_until(3)
    assert order == ["first", "second", "third"]


def test_a_thread_is_refused(world: World, alone: Alone) -> None:
    async def blocking() -> None:
        await asyncio.to_thread(len, "abc")

    task = alone.loop.create_task(blocking())
    world.run_until(1)
    with pytest.raises(ThreadUseError, match="a simulation has none"):
        task.result()


def test_real_input_and_output_is_refused(world: World, alone: Alone) -> None:
    task = alone.loop.create_task(asyncio.open_connection("127.0.0.1", 9))
    world.run_until(1)
    with pytest.raises(NotImplementedError):
        task.result()


def test_an_error_in_a_callback_is_reported(world: World, alone: Alone) -> None:
    alone.loop.call_soon(lambda: 1 // 0)
    world.run_until(1)
    assert isinstance(alone.failures[0]["exception"], ZeroDivisionError)


def test_unwinding_ends_whatever_goes_on(world: World, alone: Alone) -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    task = alone.loop.create_task(stubborn())
    world.run_until(1)
    alone.loop.unwind()
    assert task.cancelled()
    assert ended == ["cleaned up"]
