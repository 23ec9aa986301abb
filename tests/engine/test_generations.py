from __future__ import annotations

from tests.engine.driving import Driven, child_completed, completed, fired, raised

from perdure.base.events import (
    EventRaised,
    ExecutionStarted,
    Parent,
    SubOrchestrationInstanceCreated,
)


async def counting(ctx, number):
    await ctx.wait_for_external_event("go")
    if number < 3:
        ctx.continue_as_new(number + 1)
        return "ignored"
    return [number, ctx.generation]


def test_the_next_generation_has_another_input_and_a_history_of_one_row():
    driven = Driven(counting, 1)
    driven.feed(raised("go"))
    started = driven.next_generation()[-1]
    assert isinstance(started, ExecutionStarted)
    assert (bytes(started.input), started.generation, started.name) == (b"2", 1, "flow")
    second = driven.renewed()
    assert [row.seq for row in second.rows] == [2]
    assert second.execution.waits() == {"events": ["go"]}


def test_generations_are_counted_and_the_last_one_has_the_result():
    driven = Driven(counting, 1)
    for _ in range(2):
        driven.feed(raised("go"))
        driven = driven.renewed()
    driven.feed(raised("go"))
    assert driven.result == [3, 2]


def test_the_caller_is_known_to_every_generation():
    parent = Parent(instance_id="caller", task_id=7, generation=2)
    driven = Driven(counting, 1, parent=parent)
    driven.feed(raised("go"))
    assert driven.next_generation()[-1].parent == parent
    assert driven.renewed().execution.parent == parent


def test_unread_events_are_carried_over_in_the_order_in_which_they_came():
    driven = Driven(counting, 1)
    driven.feed(raised("b", 1), raised("a", 2), raised("b", 3), raised("go"))
    carried = driven.next_generation()[:-1]
    assert [(event.name, bytes(event.input)) for event in carried if isinstance(event, EventRaised)] == [
        ("b", b"1"),
        ("a", b"2"),
        ("b", b"3"),
    ]


def test_unread_events_are_dropped_where_the_code_says_so():
    async def flow(ctx):
        await ctx.wait_for_external_event("go")
        ctx.continue_as_new(None, save_events=False)

    driven = Driven(flow)
    driven.feed(raised("unread"), raised("go"))
    assert len(driven.next_generation()) == 1


def test_an_event_that_was_carried_over_is_read_at_once_and_after_a_crash():
    async def flow(ctx, read):
        read = [*(read or []), await ctx.wait_for_external_event(f"part {ctx.generation}")]
        if len(read) < 2:
            ctx.continue_as_new(read)
            return None
        return [*read, await ctx.wait_for_external_event("end")]

    driven = Driven(flow)
    driven.feed(raised("part 1", "b"), raised("end", "c"), raised("part 0", "a"))
    second = driven.renewed()
    assert second.result == ["a", "b", "c"]
    assert second.replayed().completed is not None


def test_what_comes_in_one_episode_after_the_end_of_a_generation_is_left_for_the_next_one():
    driven = Driven(counting, 1)
    driven.feed(raised("go"), raised("go"), raised("go"))
    assert driven.decisions.taken == 1


def test_calls_of_an_earlier_generation_mean_nothing_to_a_later_one():
    async def flow(ctx, number):
        child = ctx.call_child_workflow("c")
        if number == 0:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(1)
            return None
        return await child

    driven = Driven(flow, 0)
    driven.feed(raised("go"))
    second = driven.renewed()
    created = second.rows[1].events[0]
    assert isinstance(created, SubOrchestrationInstanceCreated)
    assert created.instance_id == "one:1:0000"
    assert second.feed(child_completed(0, "of the first generation", generation=0)) == []
    second.feed(child_completed(0, "of the second", generation=1))
    assert second.result == "of the second"


def test_a_generation_that_is_put_away_at_its_beginning_begins_again():
    driven = Driven(counting, 1)
    driven.feed(raised("go"))
    second = driven.renewed()
    assert len(second.rows) == 1
    second.crash()
    second.feed(raised("go"))
    assert second.renewed().execution.generation == 2


def test_identifiers_and_random_numbers_are_new_in_every_generation_and_the_same_on_replay():
    seen: list[list[object]] = []

    async def flow(ctx, number):
        seen.append([ctx.new_uuid(), ctx.uuid4(), ctx.random.random(), ctx.random.random()])
        await ctx.create_timer(1)
        if number == 0:
            ctx.continue_as_new(1)

    driven = Driven(flow, 0)
    driven.crash()
    assert seen[0] == seen[1]
    driven.feed(fired(0), after=1)
    driven.renewed().crash()
    assert seen[2] == seen[3]
    assert not set(map(str, seen[0])) & set(map(str, seen[2]))
    assert len(set(map(str, seen[0]))) == 4


def test_an_input_of_the_next_generation_that_is_not_data_fails_the_run():
    async def flow(ctx):
        ctx.continue_as_new(object())

    driven = Driven(flow)
    assert driven.failure.error_type == "NotSerializableError"
    assert "the input of the next generation holds a builtins.object" in driven.failure.message


def test_a_run_that_fails_after_it_asked_to_continue_has_failed():
    async def flow(ctx):
        ctx.continue_as_new(1)
        raise ValueError("on second thoughts")

    driven = Driven(flow)
    assert driven.failure.message == "on second thoughts"
    assert driven.execution.continued is None


def test_the_last_wish_of_several_to_continue_counts():
    async def flow(ctx):
        ctx.continue_as_new("first")
        await ctx.call_activity("a")
        ctx.continue_as_new("second")

    driven = Driven(flow)
    driven.feed(completed(0))
    assert bytes(driven.next_generation()[-1].input) == b'"second"'
