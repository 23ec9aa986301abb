from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.runtime.harness import PATIENCE, ManualClock, crash, options, registry_of, until, waits_of

from perdure.base.conversation import Conversation
from perdure.base.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreUnavailableError,
    UsageError,
)
from perdure.base.events import RetryPolicy
from perdure.base.messages import Message
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.activity import current_activity
from perdure.runtime.embedded import EmbeddedRuntime


class FailingStore(MemoryHistoryStore):
    """A store whose calls fail as often as they are told to."""

    def __init__(self) -> None:
        super().__init__("failing")
        self.failures: dict[str, list[Exception]] = defaultdict(list)
        self.calls: dict[str, int] = defaultdict(int)
        self.late: dict[int, Callable[[], None]] = {}
        self.answers_starts = asyncio.Event()
        self.answers_starts.set()
        self.answers_reads = asyncio.Event()
        self.answers_reads.set()
        self._late_rows: set[int] = set()

    def answer_late(self, row: int) -> None:
        """Keep the answer to the next commit of this row back, until the test calls ``late[row]``."""
        self._late_rows.add(row)

    def fail(self, call: str, error: type[StoreError] = StoreLockedError, times: int = 1) -> None:
        self.failures[call] += [error("failing", "for a moment")] * times

    async def start(self, new):
        started = await super().start(new)
        await self.answers_starts.wait()
        return started

    def append(self, lease, episode, done):
        self.calls["append"] += 1
        if self.failures["append"]:
            asyncio.get_running_loop().call_soon(done, self.failures["append"].pop())
        elif episode.seq in self._late_rows:
            self._late_rows.discard(episode.seq)
            super().append(lease, episode, lambda error: self.late.update({episode.seq: partial(done, error)}))
        else:
            super().append(lease, episode, done)


def _failing(name: str) -> Any:
    async def call(self, *args, **kwargs):
        self.calls[name] += 1
        if self.failures[name]:
            raise self.failures[name].pop()
        if name == "blobs":
            await self.answers_reads.wait()
        return await getattr(MemoryHistoryStore, name)(self, *args, **kwargs)

    return call


for _name in ("join", "leave", "reap", "release", "claim", "inbox", "next_due", "load", "blobs", "find_all"):
    setattr(FailingStore, _name, _failing(_name))


async def echo(value):
    return value


async def waiting(ctx, name):
    await ctx.call_activity(echo, input="x" * 2000)
    return await ctx.wait_for_external_event(name)


async def echoing(ctx, value):
    return await ctx.call_activity(echo, input=value)


@pytest.fixture(params=["warm", "put-away"])
def runtimes(request):
    store = FailingStore()

    def make(*functions, clock=None, worker=True, **others) -> EmbeddedRuntime:
        given = options(request.param, reap=0.01, **others)
        registry = registry_of(*functions, activities=(echo,))
        return EmbeddedRuntime(store, registry=registry, options=given, clock=clock, worker=worker)

    make.store = store
    return make


async def _waiting_in_the_store(runtimes) -> None:
    """Leave an instance behind that waits for ``go`` and is in nobody's memory."""
    async with runtimes(waiting) as runtime:
        await runtime.start(waiting, "go", instance_id="one")
        await until(lambda: waits_of(runtime, "one"))


def test_runs_wait_for_a_store_that_refuses_commits_and_say_so_once(runtimes, caplog):
    async def run() -> None:
        async with runtimes(echoing) as runtime:
            runtimes.store.fail("append", StoreFullError, 3)
            assert await runtime.wait(await runtime.start(echoing, 1), PATIENCE) == 1

    asyncio.run(run())
    texts = [record.getMessage() for record in caplog.records]
    assert sum("the store refuses commits, runs wait for it" in text for text in texts) == 1
    assert texts[-1] == "the store takes commits again"


def test_a_commit_that_waits_for_the_store_is_dropped_when_the_runtime_closes(runtimes):
    async def run() -> None:
        async with runtimes(echoing) as runtime:
            runtimes.store.fail("append", StoreFullError, 50)
            await runtime.start(echoing, 1, instance_id="one")
            await until(lambda: runtimes.store.calls["append"])
        runtimes.store.failures.clear()
        async with runtimes(echoing) as runtime:
            assert await runtime.wait("one", PATIENCE) == 1

    asyncio.run(run())


def test_an_instance_that_cannot_be_read_now_is_tried_again_later(runtimes):
    clock = ManualClock()

    async def run() -> None:
        await _waiting_in_the_store(runtimes)
        runtimes.store.fail("load")
        async with runtimes(waiting, clock=clock) as runtime:
            await runtime.raise_event("one", "go", 5)

            async def postponed() -> bool:
                record = await runtime.find("one")
                return record.owner is None and runtimes.store.calls["release"] > 0

            await until(postponed)
            clock.at += 2
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


def test_an_instance_whose_history_is_damaged_waits_for_a_human(runtimes):
    async def run() -> None:
        await _waiting_in_the_store(runtimes)
        runtimes.store.fail("load", StoreCorruptError)
        async with runtimes(waiting) as runtime:
            await runtime.raise_event("one", "go", 5)

            async def stalled() -> str | None:
                return (await waits_of(runtime, "one")).get("stalled")

            assert await until(stalled) == "failing: for a moment"
            await runtime.resume("one")
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


def test_an_instance_that_cannot_be_given_back_is_found_when_its_worker_is_gone(runtimes):
    async def run() -> None:
        await _waiting_in_the_store(runtimes)
        async with runtimes(waiting) as runtime:
            runtimes.store.fail("load", StoreCorruptError)
            runtimes.store.fail("release", StoreLockedError)
            await runtime.raise_event("one", "go", 5)
            await until(lambda: not runtimes.store.failures["release"])
        async with runtimes(waiting) as runtime:
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


@pytest.mark.parametrize("call", ["claim", "inbox", "reap"])
def test_the_scheduler_goes_on_after_an_error_of_the_store(runtimes, call):
    async def run() -> None:
        async with runtimes(waiting) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            runtimes.store.fail(call)
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5
            await until(lambda: not runtimes.store.failures[call])

    asyncio.run(run())


def test_a_timer_fires_although_the_look_for_it_failed(runtimes):
    clock = ManualClock()

    async def flow(ctx, _):
        await ctx.create_timer(60)

    async def run() -> None:
        async with runtimes(flow, clock=clock) as runtime:
            runtimes.store.fail("next_due", times=10_000)
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            asked = runtimes.store.calls["next_due"]
            await until(lambda: runtimes.store.calls["next_due"] > asked)
            runtimes.store.failures.clear()
            clock.at += 61
            await runtime.wait("one", PATIENCE)

    asyncio.run(run())


def test_an_answer_that_comes_after_the_instance_was_claimed_again_does_not_drop_it(runtimes):
    gate = asyncio.Event()
    runs: list[str] = []

    async def held(_):
        runs.append("held")
        await gate.wait()

    async def flow(ctx, _):
        await ctx.create_timer(0.05)
        await ctx.call_activity(held)

    async def run() -> None:
        async with runtimes(flow) as runtime:
            runtimes.store.answer_late(1)
            await runtime.start(flow, instance_id="one")
            await until(lambda: runs)
            runtimes.store.late.pop(1)()
            gate.set()
            await runtime.wait("one", PATIENCE)
        assert runs == ["held"]

    asyncio.run(run())


def test_a_start_that_is_answered_after_its_lease_was_lost_does_not_run_the_instance_a_second_time(runtimes):
    gate = asyncio.Event()
    runs: list[str] = []

    async def held(_):
        runs.append("held")
        await gate.wait()

    async def flow(ctx, _):
        await ctx.call_activity(held)

    async def run() -> None:
        async with runtimes(flow) as runtime:
            runtimes.store.answers_starts.clear()
            starting = asyncio.create_task(runtime.start(flow, instance_id="one"))
            await until(lambda: runtime.find("one"))
            runtimes.store.kill(runtime._worker.lease)
            runtime.look_for_work()
            await until(lambda: runs)
            runtimes.store.answers_starts.set()
            await starting
            commits = runtimes.store.calls["append"]
            await runtime.raise_event("one", "unread")
            await until(lambda: runtimes.store.calls["append"] > commits)
            gate.set()
            await runtime.wait("one", PATIENCE)
        assert runs == ["held"]

    asyncio.run(run())


def test_an_answer_that_comes_after_the_instance_waits_again_keeps_the_younger_function(runtimes):
    async def flow(ctx, _):
        try:
            await ctx.create_timer(0.05)
            await ctx.call_activity(echo, input=0)
            return await ctx.wait_for_external_event("go")
        finally:
            await ctx.call_activity(echo, input=1)

    async def waits_for_go(runtime) -> bool:
        return "events" in await waits_of(runtime, "one")

    async def run() -> None:
        async with runtimes(flow) as runtime:
            runtimes.store.answer_late(1)
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_for_go(runtime))
            await until(lambda: not runtime._worker.held)
            runtimes.store.late.pop(1)()
            gc.collect()
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())
    gc.collect()


def test_room_that_a_late_answer_makes_is_given_to_who_waits_for_it(runtimes):
    async def run() -> None:
        async with runtimes(echoing, max_running=1) as runtime:
            runtimes.store.answer_late(2)
            await runtime.start(echoing, 1, instance_id="one")
            await until(lambda: runtimes.store.late)
            await runtime.start(echoing, 2, instance_id="two")
            await until(lambda: runtime._scheduler._seen_version == runtimes.store._version)
            runtimes.store.late.pop(2)()
            assert await runtime.wait("two", PATIENCE) == 2

    asyncio.run(run())


def test_a_timer_fires_although_the_look_after_new_room_failed(runtimes):
    clock = ManualClock()

    async def flow(ctx, _):
        await ctx.create_timer(60)

    async def run() -> None:
        async with runtimes(echoing, flow, clock=clock, max_running=1) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            runtimes.store.answer_late(2)
            await runtime.start(echoing, 2, instance_id="two")
            await until(lambda: runtimes.store.late)
            await until(lambda: runtime._scheduler._seen_version == runtimes.store._version)
            runtimes.store.fail("next_due")
            runtimes.store.late.pop(2)()
            await until(lambda: not runtimes.store.failures["next_due"])
            clock.at += 61
            await runtime.wait("one", PATIENCE)

    asyncio.run(run())


def test_an_event_for_an_instance_in_hand_arrives_although_the_first_look_failed(runtimes):
    gate = asyncio.Event()

    async def held(_):
        await gate.wait()

    async def flow(ctx, _):
        both = await ctx.when_any([ctx.call_activity(held), ctx.wait_for_external_event("go")])
        return both.result()

    async def run() -> None:
        async with runtimes(flow) as runtime:
            await runtime.start(flow, instance_id="one")
            runtimes.store.fail("inbox")
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


@pytest.mark.parametrize("call", ["blobs", "load"])
def test_a_store_that_cannot_be_read_for_a_moment_cuts_no_running_activity_off(runtimes, call):
    gate = asyncio.Event()
    runs: list[str] = []

    async def slow(_):
        runs.append("slow")
        await gate.wait()

    async def quick(_):
        runs.append("quick")

    async def flow(ctx, _):
        held = ctx.call_activity(slow)
        await ctx.wait_for_external_event("go")
        await ctx.when_all([ctx.call_activity(quick), held])

    async def run() -> None:
        async with runtimes(flow) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: runs)
            runtimes.store.fail(call, times=2)
            await runtime.raise_event("one", "go", "x" * 5000)
            await until(lambda: len(runs) > 1)
            gate.set()
            await runtime.wait("one", PATIENCE)
        assert runs == ["slow", "quick"]

    asyncio.run(run())


def test_the_scheduler_goes_on_after_an_error_that_nobody_foresaw(runtimes, caplog):
    async def run() -> None:
        async with runtimes(waiting) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            runtimes.store.failures["claim"].append(ZeroDivisionError())
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())
    assert "instances could not be taken up, trying again" in caplog.text


def test_a_store_that_cannot_be_read_costs_an_activity_no_attempt(runtimes):
    async def flaky(value):
        if current_activity().attempt == 1:
            runtimes.store.fail("blobs", times=1)
            raise OSError("again")
        return [current_activity().attempt, len(value)]

    async def flow(ctx, _):
        policy = RetryPolicy(max_attempts=2, initial_backoff=0.001)
        return await ctx.call_activity(flaky, input="x" * 5000, retry_policy=policy)

    async def run() -> None:
        async with runtimes(flow) as runtime:
            assert await runtime.wait(await runtime.start(flow), PATIENCE) == [2, 5000]
            assert not runtimes.store.failures["blobs"]

    asyncio.run(run())


def test_a_function_that_is_being_woken_is_unwound_when_the_runtime_closes(runtimes):
    async def flow(ctx, _):
        await ctx.call_activity(echo, input=0)
        try:
            await ctx.wait_for_external_event("go")
        finally:
            await ctx.call_activity(echo, input=1)

    async def run() -> None:
        async with runtimes(flow) as runtime:
            await runtime.start(flow, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            await until(lambda: not runtime._worker.held)
            runtimes.store.answers_reads.clear()
            await runtime.raise_event("one", "go", "x" * 5000)
            await until(lambda: runtimes.store.calls["blobs"])

    asyncio.run(run())
    # An unwinding by the garbage collector would be told as an error: the function awaits in its clean-up.
    gc.collect()


def test_those_who_wait_are_told_that_the_store_cannot_be_read(runtimes):
    async def run() -> None:
        async with runtimes(waiting) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            runtimes.store.fail("find_all")
            with pytest.raises(StoreLockedError):
                await runtime.wait("one", PATIENCE)
            runtimes.store.failures["find_all"].append(ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                await runtime.wait("one", PATIENCE)

    asyncio.run(run())


def test_a_runtime_that_cannot_be_opened_leaves_its_store_closed(runtimes):
    async def run() -> None:
        runtimes.store.fail("join")
        with pytest.raises(StoreLockedError):
            async with runtimes(echoing):
                raise AssertionError
        with pytest.raises(StoreUnavailableError):
            await runtimes.store.find("one")

    asyncio.run(run())


def test_closing_ends_although_the_store_takes_nothing_any_more(runtimes):
    async def run() -> None:
        async with runtimes(waiting) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            runtimes.store.fail("leave")
        async with runtimes(waiting) as runtime:
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


def test_whoever_still_waits_when_the_runtime_closes_is_told_so(runtimes):
    async def run() -> None:
        async with runtimes(waiting) as runtime:
            await runtime.start(waiting, "go", instance_id="one")
            waiter = asyncio.create_task(runtime.wait("one"))
            await until(lambda: waits_of(runtime, "one"))
        with pytest.raises(StoreUnavailableError, match="the run goes on when it is opened again"):
            await waiter

    asyncio.run(run())


def test_instances_beyond_what_a_worker_holds_wait_their_turn(runtimes):
    async def run() -> None:
        async with runtimes(echoing, max_running=2) as runtime:
            ids = [await runtime.start(echoing, number) for number in range(12)]
            assert await asyncio.gather(*(runtime.wait(one, PATIENCE) for one in ids)) == list(range(12))

    asyncio.run(run())


def test_a_function_in_memory_that_the_store_has_moved_past_is_not_used(runtimes):
    async def two(ctx, _):
        return [await ctx.wait_for_external_event("go"), await ctx.wait_for_external_event("go")]

    async def run() -> None:
        async with runtimes(two, poll=60.0) as first:
            await first.start(two, instance_id="one")
            await until(lambda: waits_of(first, "one"))
            async with runtimes(two) as second:
                await second.raise_event("one", "go", 1)

                async def went_on() -> bool:
                    return len(await second.history("one")) > 1 and bool(await waits_of(second, "one"))

                await until(went_on)
            await first.raise_event("one", "go", 2)
            assert await first.wait("one", PATIENCE) == [1, 2]

    asyncio.run(run())


def test_what_wakes_an_instance_without_concerning_it_leaves_it_waiting(runtimes):
    async def run() -> None:
        await _waiting_in_the_store(runtimes)
        lost = runtimes(waiting)
        await lost.open()
        await crash(lost)
        async with runtimes(waiting) as runtime:
            await runtime.resume("one")
            await until(lambda: waits_of(runtime, "one"))
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", PATIENCE) == 5

    asyncio.run(run())


def test_a_conversation_is_no_input_and_no_event(runtimes):
    def conversation() -> Conversation:
        return Conversation("one").append(Message(role="user", content="hello"))

    async def run() -> None:
        async with runtimes(waiting) as runtime:
            with pytest.raises(UsageError, match="pass its messages"):
                await runtime.start(waiting, conversation())
            await runtime.start(waiting, "go", instance_id="one")
            with pytest.raises(UsageError, match="pass its messages"):
                await runtime.raise_event("one", "go", conversation())

    asyncio.run(run())
