from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.runtime.harness import PATIENCE, ManualClock, crash, registry_of, until, waits_of

from perdure.base.errors import BacklogFullError, RunFailedError, UsageError
from perdure.base.events import EventRaised, RetryPolicy, Status, TaskScheduled
from perdure.base.limits import Limits, Rate
from perdure.engine.activity import current_activity
from perdure.engine.engine_events import GRANTED
from perdure.workflows.registry import Registry


class Gate:
    """A limited activity that waits until it is let through, and who was inside with whom."""

    def __init__(self, limits: Limits, *, on_crash: str = "retry", **rules: object) -> None:
        self.inside: set[str] = set()
        self.most = 0
        self.order: list[str] = []
        self.runs: list[tuple[str, bool]] = []
        self.open: dict[str, asyncio.Event] = {}
        self.registry = Registry()
        self.registry.add_activity(self.pass_through, "pass", limits=limits, on_crash=on_crash, **rules)
        self.registry.add_workflow(self.one, "one")
        self.registry.add_workflow(self.many, "many")

    async def pass_through(self, name: str) -> str:
        self.runs.append((name, current_activity().interrupted))
        self.inside.add(name)
        self.order.append(name)
        self.most = max(self.most, len(self.inside))
        try:
            await self.open.setdefault(name, asyncio.Event()).wait()
        finally:
            self.inside.discard(name)
        return name

    async def one(self, ctx, name):
        return await ctx.call_activity("pass", input=name)

    async def many(self, ctx, names):
        return await ctx.when_all([ctx.call_activity("pass", input=name) for name in names])

    def let(self, *names: str) -> None:
        for name in names:
            self.open.setdefault(name, asyncio.Event()).set()


class House:
    """A limited workflow that waits for its event."""

    def __init__(self, limits: Limits, **rules: object) -> None:
        self.begun: list[str] = []
        self.registry = Registry()
        self.registry.add_workflow(self.stay, "stay", limits=limits, **rules)

    async def stay(self, ctx, given):
        if ctx.instance_id not in self.begun:
            self.begun.append(ctx.instance_id)
        return await ctx.wait_for_external_event("leave")


def test_runs_beyond_the_limit_are_pending_and_begin_when_others_have_ended(opened):
    house = House(Limits(concurrency=2))

    async def run() -> None:
        async with opened(house.registry) as runtime:
            for name in "abcd":
                await runtime.start("stay", name, instance_id=name)
            assert (await runtime.find("c")).status is Status.PENDING
            assert await waits_of(runtime, "c") == {"limit": {"workflow": "stay", "concurrency": 2, "ahead": 0}}
            assert await waits_of(runtime, "d") == {"limit": {"workflow": "stay", "concurrency": 2, "ahead": 1}}
            await until(lambda: house.begun == ["a", "b"])
            await runtime.raise_event("d", "leave", "early")
            await runtime.raise_event("b", "leave", 1)
            assert await runtime.wait("b", PATIENCE) == 1
            await until(lambda: house.begun[2:] == ["c"])
            await runtime.raise_event("a", "leave")
            assert await runtime.wait("d", PATIENCE) == "early"

    asyncio.run(run())


def test_the_key_and_the_priority_come_from_the_input_or_from_the_start(opened):
    rules = {"key": lambda given: given["tenant"], "priority": lambda given: given.get("priority", 0)}
    house = House(Limits(concurrency=1, per_key=1), **rules)
    given = {
        "running": {"tenant": "x"},
        "a1": {"tenant": "a"},
        "a2": {"tenant": "a"},
        "b1": {"tenant": "b"},
        "urgent": {"tenant": "a", "priority": 9},
    }

    async def run() -> None:
        async with opened(house.registry) as runtime:
            for name, one in given.items():
                await runtime.start("stay", one, instance_id=name)
            await runtime.start("stay", {"tenant": "a"}, instance_id="chosen", key="c", priority=10)
            for name in ("running", "chosen", "urgent", "b1", "a1", "a2"):
                await until(lambda name=name: house.begun[-1] == name)
                await runtime.raise_event(name, "leave")
                await runtime.wait(name, PATIENCE)

    asyncio.run(run())


def test_a_run_that_waits_for_its_turn_can_be_terminated_and_gives_up_its_place(opened):
    house = House(Limits(concurrency=1))

    async def run() -> None:
        async with opened(house.registry) as runtime:
            for name in "abc":
                await runtime.start("stay", name, instance_id=name)
            await runtime.suspend("b", "held before it began")
            await runtime.terminate("b", "not needed")
            with pytest.raises(RunFailedError, match="not needed"):
                await runtime.wait("b", PATIENCE)
            await runtime.raise_event("a", "leave")
            await until(lambda: house.begun == ["a", "c"])

    asyncio.run(run())


def test_a_run_that_is_suspended_before_its_turn_is_held_when_the_turn_comes(opened):
    house = House(Limits(concurrency=1))

    async def run() -> None:
        async with opened(house.registry) as runtime:
            for name in "ab":
                await runtime.start("stay", name, instance_id=name)
            await runtime.suspend("b")
            await runtime.raise_event("b", "leave", 5)
            await runtime.raise_event("a", "leave")
            await until(lambda: _status_is(runtime, "b", Status.SUSPENDED))
            await runtime.resume("b")
            assert await runtime.wait("b", PATIENCE) == 5

    asyncio.run(run())


async def _status_is(runtime, instance_id, status) -> bool:
    return (await runtime.find(instance_id)).status is status


def test_a_full_backlog_refuses_a_start_until_there_is_room(opened):
    house = House(Limits(concurrency=1, backlog=1))

    async def run() -> None:
        async with opened(house.registry) as runtime:
            for name in "ab":
                await runtime.start("stay", name, instance_id=name)
            with pytest.raises(
                BacklogFullError,
                match=r"'c' was not started: the backlog of workflow 'stay' is full, its Limits\(backlog=1\)",
            ):
                await runtime.start("stay", "c", instance_id="c")
            assert await runtime.find("c") is None
            assert await runtime.start("stay", "b", instance_id="b") == "b"
            await runtime.raise_event("a", "leave")
            await until(lambda: house.begun == ["a", "b"])
            await runtime.start("stay", "c", instance_id="c")

    asyncio.run(run())


def test_a_full_backlog_fails_the_call_of_a_child_and_lets_a_detached_one_wait(opened):
    house = House(Limits(concurrency=1, backlog=0))

    async def parent(ctx, _):
        ctx.start_workflow("stay", instance_id="detached")
        policy = RetryPolicy(max_attempts=2, initial_backoff=0.01)
        return await ctx.call_child_workflow("stay", instance_id="child", retry_policy=policy)

    house.registry.add_workflow(parent)

    async def run() -> None:
        async with opened(house.registry) as runtime:
            await runtime.start("stay", instance_id="first")
            await runtime.start("parent", instance_id="parent")
            with pytest.raises(RunFailedError, match="BacklogFullError: the backlog of workflow 'stay' is full"):
                await runtime.wait("parent", PATIENCE)
            assert await runtime.find("child") is None
            assert await runtime.find("child-2") is None
            await runtime.raise_event("first", "leave")
            await until(lambda: house.begun == ["first", "detached"])

    asyncio.run(run())


def test_a_rate_lets_the_next_ones_begin_when_their_time_has_come(opened):
    clock = ManualClock()
    house = House(Limits(rate=Rate(2, per=60.0)))

    async def run() -> None:
        async with opened(house.registry, clock=clock) as runtime:
            for name in "abcde":
                await runtime.start("stay", name, instance_id=name)
            until_when = (await waits_of(runtime, "c"))["limit"]["until"]
            await until(lambda: house.begun == ["a", "b"])
            clock.at = until_when
            await until(lambda: house.begun == ["a", "b", "c", "d"])
            clock.at -= 3600.0
            clock.at = await until(lambda: _until(runtime, "e", clock))
            await until(lambda: house.begun[4:] == ["e"])

    asyncio.run(run())


async def _until(runtime, instance_id, clock) -> float | None:
    """Return when the rate lets an instance in, once that has been worked out by the clock that was put back."""
    limit = (await waits_of(runtime, instance_id))["limit"]
    return limit.get("until") if limit.get("until", 0) < clock.at + 120 else None


def test_no_more_calls_of_an_activity_run_than_its_limit_says(opened):
    gate = Gate(Limits(concurrency=3))
    names = [f"{number}" for number in range(10)]

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            for name in names:
                await runtime.start("one", name, instance_id=name)
            await until(lambda: len(gate.inside) == 3)
            parked = await until(lambda: _parked(runtime, names))
            assert len(parked) == 7
            assert await waits_of(runtime, parked[0]) == {
                "queued": [{"activity": "pass", "calls": 1, "concurrency": 3, "ahead": 0}]
            }
            assert (await runtime.find(parked[0])).status is Status.RUNNING
            gate.let(*names)
            assert [await runtime.wait(name, PATIENCE) for name in names] == names
        assert gate.most == 3
        assert Counter(gate.order) == Counter(names)

    asyncio.run(run())


async def _parked(runtime, names) -> list[str]:
    records = [await runtime.find(name) for name in names]
    free = [record.instance_id for record in records if record.owner is None and record.waits]
    return free if len(free) == 7 else []


def test_calls_of_one_run_wait_for_each_other_too(opened):
    gate = Gate(Limits(concurrency=2, per_key=1), key=lambda name: name[0])
    names = ["a1", "a2", "a3", "b1", "b2"]

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            await runtime.start("many", names, instance_id="many")
            gate.let(*names)
            assert await runtime.wait("many", PATIENCE) == names
            rows = await runtime.history("many")
        assert gate.most <= 2
        assert [name for name in gate.order if name[0] == "a"] == ["a1", "a2", "a3"]
        late = [event for row in rows for event in row.events if isinstance(event, EventRaised)]
        assert {event.name for event in late} == {GRANTED}

    asyncio.run(run())


def test_each_attempt_of_a_retried_call_waits_for_a_turn_of_its_own(opened):
    registry = Registry()
    runs: list[tuple[int, int]] = []

    @registry.activity(limits=Limits(concurrency=1), key=lambda given: given)
    async def unsteady(given):
        attempt = current_activity().attempt
        runs.append((given, attempt))
        if attempt < 3:
            raise OSError("no line")
        return given

    @registry.workflow
    async def flow(ctx, given):
        policy = RetryPolicy(max_attempts=3, initial_backoff=0.01)
        calls = [ctx.call_activity(unsteady, input=number, retry_policy=policy) for number in given]
        return await ctx.when_all(calls)

    async def run() -> None:
        async with opened(registry) as runtime:
            started = await runtime.start(flow, [1, 2, 3])
            assert await runtime.wait(started, PATIENCE) == [1, 2, 3]
            rows = await runtime.history(started)
        scheduled = [event for row in rows for event in row.events if isinstance(event, TaskScheduled)]
        assert all(event.admission is not None for event in scheduled)
        assert len(scheduled) == 9

    asyncio.run(run())
    assert sorted(runs) == [(given, attempt) for given in (1, 2, 3) for attempt in (1, 2, 3)]


def test_a_cancelled_call_gives_its_place_back_whether_it_waits_or_runs(opened):
    gate = Gate(Limits(concurrency=1))

    async def impatient(ctx, name):
        call = ctx.call_activity("pass", input=name)
        await ctx.when_any([call, ctx.wait_for_external_event("enough")], cancel_losers=True)
        return "gone"

    gate.registry.add_workflow(impatient)

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            for name in ("runs", "waits"):
                await runtime.start("impatient", name, instance_id=name)
                await until(lambda: gate.inside == {"runs"})
            await runtime.start("one", "last", instance_id="last")
            for name in ("waits", "runs"):
                await runtime.raise_event(name, "enough")
                assert await runtime.wait(name, PATIENCE) == "gone"
            await until(lambda: gate.inside == {"last"})
            gate.let("last")
            assert await runtime.wait("last", PATIENCE) == "last"
        assert gate.order == ["runs", "last"]

    asyncio.run(run())


def test_a_terminated_run_gives_the_places_of_its_calls_back(opened):
    gate = Gate(Limits(concurrency=1))

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            await runtime.start("many", ["a", "b"], instance_id="many")
            await until(lambda: gate.inside == {"a"})
            await runtime.start("one", "next", instance_id="next")
            await runtime.terminate("many")
            await until(lambda: "next" in gate.inside)
            gate.let("next")

    asyncio.run(run())


def test_a_crash_keeps_the_places_of_those_inside_and_of_those_in_line(opened):
    gate = Gate(Limits(concurrency=1))
    names = ["a", "b", "c"]

    async def run() -> None:
        first = opened(gate.registry)
        await first.open()
        for name in names:
            await first.start("one", name, instance_id=name)
        await until(lambda: gate.inside == {"a"})
        await crash(first)
        async with opened(gate.registry) as second:
            await until(lambda: gate.inside == {"a"})
            gate.let("a")
            await until(lambda: gate.inside == {"b"})
            gate.let("b", "c")
            assert [await second.wait(name, PATIENCE) for name in names] == names
        assert gate.runs == [("a", False), ("a", True), ("b", False), ("c", False)]

    asyncio.run(run())


def test_an_activity_that_asks_keeps_its_place_until_it_is_answered_and_no_waiting_one_asks(opened):
    gate = Gate(Limits(concurrency=1), on_crash="ask")

    async def run() -> None:
        first = opened(gate.registry)
        await first.open()
        for name in "ab":
            await first.start("one", name, instance_id=name)
        await until(lambda: gate.inside == {"a"})
        await crash(first)
        async with opened(gate.registry) as second:
            await until(lambda: _waits_for(second, "a", "asks"))
            assert set(await waits_of(second, "b")) == {"queued"}
            await second.answer("a", 0, "completed", "done elsewhere")
            await until(lambda: gate.inside == {"b"})
            gate.let("b")
            assert await second.wait("b", PATIENCE) == "b"
        assert gate.runs == [("a", False), ("b", False)]

    asyncio.run(run())


async def _waits_for(runtime, instance_id, what) -> bool:
    return what in await waits_of(runtime, instance_id)


def test_a_worker_that_stops_takes_no_place_with_it(opened):
    gate = Gate(Limits(concurrency=1))
    names = ["a", "b", "c"]

    async def run() -> None:
        async with opened(gate.registry, drain=0.0) as first:
            for name in names:
                await first.start("one", name, instance_id=name)
            await until(lambda: gate.inside == {"a"})
        gate.let(*names)
        async with opened(gate.registry) as second:
            assert [await second.wait(name, PATIENCE) for name in names] == names
        assert gate.most == 1

    asyncio.run(run())


def test_two_runtimes_share_a_limit_and_wake_each_other(opened):
    gate = Gate(Limits(concurrency=1))

    async def run() -> None:
        async with opened(gate.registry, max_running=1) as one, opened(gate.registry, max_running=1) as other:
            for number in range(6):
                await (one, other)[number % 2].start("one", f"{number}", instance_id=f"{number}")
                gate.let(f"{number}")
            for number in range(6):
                assert await one.wait(f"{number}", PATIENCE) == f"{number}"
        assert gate.most == 1

    asyncio.run(run())


def test_a_limit_that_changed_between_two_programs_holds_from_then_on(opened):
    houses = [House(Limits(concurrency=n)) if n else House(Limits()) for n in (1, 3)]
    removed = registry_of()

    async def stay(ctx, given):
        houses[0].begun.append(ctx.instance_id)
        return await ctx.wait_for_external_event("leave")

    removed.add_workflow(stay)

    async def run() -> None:
        async with opened(houses[0].registry) as runtime:
            for name in "abcdef":
                await runtime.start("stay", name, instance_id=name)
            await until(lambda: houses[0].begun == ["a"])
        async with opened(houses[1].registry) as runtime:
            await until(lambda: {"b", "c"} <= set(houses[1].begun))
            assert (await waits_of(runtime, "d"))["limit"]["concurrency"] == 3
        async with opened(removed) as runtime:
            await until(lambda: {"d", "e", "f"} <= set(houses[0].begun))
            await runtime.start("stay", "g", instance_id="g")
            await until(lambda: "g" in houses[0].begun)

    asyncio.run(run())


def test_a_limit_that_is_removed_lets_the_calls_run_that_wait(opened):
    gate, free = Gate(Limits(concurrency=1)), Registry()
    free.add_workflow(gate.one, "one")
    free.add_activity(gate.pass_through, "pass")

    async def run() -> None:
        async with opened(gate.registry, drain=0.0) as runtime:
            for name in "abc":
                await runtime.start("one", name, instance_id=name)
            await until(lambda: gate.inside == {"a"})
        async with opened(free) as runtime:
            await until(lambda: gate.inside == {"a", "b", "c"})
            gate.let("a", "b", "c")
            assert [await runtime.wait(name, PATIENCE) for name in "abc"] == ["a", "b", "c"]

    asyncio.run(run())


def test_a_program_without_the_code_starts_within_the_limits_that_the_worker_declared(opened):
    house = House(Limits(concurrency=1))

    async def run() -> None:
        async with opened(house.registry) as worker, opened(Registry(), worker=False) as client:
            await client.start("stay", instance_id="a", key="tenant")
            await client.start("stay", instance_id="b")
            await until(lambda: house.begun == ["a"])
            assert (await worker.find("b")).status is Status.PENDING

    asyncio.run(run())


def test_a_fork_waits_for_a_turn_as_its_source_did(opened):
    gate = Gate(Limits(concurrency=1))

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            gate.let("done")
            await runtime.start("one", "done", instance_id="done")
            await runtime.wait("done", PATIENCE)
            await runtime.start("one", "inside", instance_id="inside")
            await until(lambda: gate.inside == {"inside"})
            await runtime.fork("done", 0, new_instance_id="fork")
            await until(lambda: _waits_for(runtime, "fork", "queued"))
            gate.let("inside")
            assert await runtime.wait("fork", PATIENCE) == "done"
        assert gate.most == 1

    asyncio.run(run())


def test_a_new_generation_keeps_the_place_of_its_run(opened):
    registry = Registry()
    inside: list[str] = []

    @registry.activity(limits=Limits(concurrency=1))
    async def note(given):
        return given

    @registry.workflow(limits=Limits(concurrency=1))
    async def flow(ctx, count):
        inside.append(ctx.instance_id)
        await ctx.call_activity(note, input=count)
        if count:
            ctx.continue_as_new(count - 1)
        return ctx.generation

    async def run() -> None:
        async with opened(registry) as runtime:
            for name in "abc":
                await runtime.start(flow, 3, instance_id=name)
            assert [await runtime.wait(name, PATIENCE) for name in "abc"] == [3, 3, 3]

    asyncio.run(run())
    assert list(dict.fromkeys(inside)) == ["a", "b", "c"]
    assert inside == sorted(inside)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda r: r.activity(limits=Limits(backlog=3)), "a call of an activity is never refused"),
        (lambda r: r.activity(limits=Limits(per_key=3)), r"has Limits\(per_key=...\) and no key"),
        (lambda r: r.workflow(key=lambda given: given), "has a key or a priority and no limits"),
        (lambda r: r.workflow(limits=Limits(concurrency=1), priority=2000), "the priority of workflow 'flow' is 2000"),
    ],
)
def test_limits_that_do_not_fit_are_refused_where_they_are_declared(declare, says):
    async def flow(ctx):
        return None

    with pytest.raises(UsageError, match=says):
        declare(Registry())(flow)


@pytest.mark.parametrize(
    ("given", "others", "says"),
    [
        ({}, {}, r"the key of workflow 'stay' cannot be worked out from this input \(KeyError: 'tenant'\)"),
        ({"tenant": 1.5}, {}, "the key of workflow 'stay' is 1.5"),
        ({"tenant": "x"}, {"priority": 1.5}, "the priority of workflow 'stay' is 1.5"),
        ({"tenant": "x" * 257}, {}, "use a text of at most 256 characters"),
    ],
)
def test_a_key_or_priority_that_is_unusable_refuses_the_start(opened, given, others, says):
    house = House(Limits(concurrency=1), key=lambda given: given["tenant"])

    async def run() -> None:
        async with opened(house.registry) as runtime:
            with pytest.raises(UsageError, match=says):
                await runtime.start("stay", given, **others)
            assert await runtime.instances() == []

    asyncio.run(run())


def test_a_key_that_cannot_be_worked_out_fails_the_call_where_it_is_made(opened):
    gate = Gate(Limits(concurrency=1), key=lambda name: name["none"])

    async def run() -> None:
        async with opened(gate.registry) as runtime:
            started = await runtime.start("one", "x")
            with pytest.raises(RunFailedError, match="the key of activity 'pass' cannot be worked out"):
                await runtime.wait(started, PATIENCE)

    asyncio.run(run())
