from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.driving import Driven, completed, raised

from perdure.base.errors import NonDeterminismError
from perdure.base.events import EventRaised, HistoryRow
from perdure.engine.engine_events import PATCHED

Flow = Callable[..., Any]


def _noted(driven: Driven) -> list[bytes]:
    events = [event for row in driven.rows for event in row.events]
    return [bytes(event.input) for event in events if isinstance(event, EventRaised) and event.name == PATCHED]


async def old(ctx):
    return [await ctx.call_activity("a"), await ctx.call_activity("b")]


async def new(ctx):
    first = await ctx.call_activity("a")
    if ctx.is_patched("check"):
        await ctx.call_activity("check")
    return [first, await ctx.call_activity("b")]


def _changed(driven: Driven, flow: Flow) -> Driven:
    """Go on with other code."""
    return Driven(flow, rows=driven.rows)


def test_a_run_that_comes_to_the_place_under_the_new_code_goes_the_new_way():
    driven = Driven(new)
    driven.feed(completed(0, 1))
    assert _noted(driven) == [b'"check"']
    driven.crash()
    assert [task.name for task in driven.execution.pending_activities()] == ["check"]
    driven.feed(completed(1))
    driven.feed(completed(2, 2))
    assert driven.result == [1, 2]


def test_a_run_that_had_passed_the_place_goes_the_old_way():
    driven = Driven(old)
    driven.feed(completed(0, 1))
    changed = _changed(driven, new)
    assert [task.name for task in changed.execution.pending_activities()] == ["b"]
    changed.feed(completed(1, 2))
    assert changed.result == [1, 2]
    assert _noted(changed) == []


def test_a_run_that_had_not_passed_the_place_goes_the_new_way_whatever_began_it():
    changed = _changed(Driven(old), new)
    changed.feed(completed(0, 1))
    assert [task.name for task in changed.execution.pending_activities()] == ["check"]
    assert _noted(changed) == [b'"check"']


def test_a_patch_before_anything_else_applies_to_runs_that_have_not_begun():
    async def flow(ctx):
        if ctx.is_patched("first"):
            await ctx.call_activity("check")
        return await ctx.call_activity("a")

    async def before(ctx):
        return await ctx.call_activity("a")

    accepted = Driven(before).rows[:1]
    fresh = Driven(flow, rows=accepted)
    assert [task.name for task in fresh.execution.pending_activities()] == ["check"]
    fresh.crash()
    assert [task.name for task in fresh.execution.pending_activities()] == ["check"]
    begun = Driven(flow, rows=Driven(before).rows)
    assert [task.name for task in begun.execution.pending_activities()] == ["a"]


def test_a_run_keeps_the_old_way_in_every_round_of_a_loop():
    def loop(patched: bool) -> Flow:
        async def flow(ctx):
            ways = []
            for _ in range(4):
                ways.append(patched and ctx.is_patched("loop"))
                await ctx.wait_for_external_event("go")
            return ways

        return flow

    begun = Driven(loop(False))
    begun.feed(raised("go"))
    changed = _changed(begun, loop(True))
    for _ in range(3):
        changed.crash()
        changed.feed(raised("go"))
    assert changed.result == [False] * 4
    fresh = Driven(loop(True))
    for _ in range(4):
        fresh.feed(raised("go"))
        fresh.crash()
    assert fresh.replayed().completed is not None
    assert fresh.result == [True] * 4
    assert _noted(fresh) == [b'"loop"']


def test_patches_of_one_row_are_told_apart_by_name():
    async def flow(ctx):
        await ctx.wait_for_external_event("go")
        return [ctx.is_patched("a"), ctx.is_patched("b"), await ctx.call_activity("x")]

    async def with_one_more(ctx):
        await ctx.wait_for_external_event("go")
        ways = [ctx.is_patched("a"), ctx.is_patched("c"), ctx.is_patched("b")]
        await ctx.call_activity("x")
        return [*ways, ctx.is_patched("c"), ctx.is_patched("d")]

    driven = Driven(flow)
    driven.feed(raised("go"))
    changed = _changed(driven, with_one_more)
    changed.feed(completed(0))
    assert changed.result == [True, False, True, False, True]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_run_that_is_cut_off_after_any_row_comes_to_the_same_end(length):
    async def flow(ctx):
        ways = [ctx.is_patched("begin")]
        await ctx.call_activity("a")
        ways.append(ctx.is_patched("middle"))
        await ctx.call_activity("b")
        return [*ways, ctx.is_patched("begin"), ctx.is_patched("end")]

    driven = Driven(flow)
    driven.feed(completed(0))
    driven.feed(completed(1))
    again = Driven(flow, rows=driven.rows[:length])
    for task in range(2):
        again.feed(completed(task))
    assert again.result == [True] * 4 == driven.result


def test_a_patch_that_was_taken_out_leaves_a_note_that_disturbs_nobody():
    driven = Driven(new)
    driven.feed(completed(0, 1))

    async def settled(ctx):
        first = await ctx.call_activity("a")
        await ctx.call_activity("check")
        return [first, await ctx.call_activity("b")]

    changed = _changed(driven, settled)
    changed.feed(completed(1))
    changed.feed(completed(2, 2))
    assert changed.result == [1, 2]


def test_taking_a_patch_out_under_a_run_that_went_the_old_way_is_refused():
    driven = Driven(old)
    driven.feed(completed(0, 1))

    async def settled(ctx):
        await ctx.call_activity("a")
        await ctx.call_activity("check")

    with pytest.raises(NonDeterminismError, match="'check'"):
        _changed(driven, settled)


def test_the_note_of_a_patch_alone_makes_a_row():
    async def flow(ctx):
        ctx.is_patched("x")
        await ctx.wait_for_external_event("go")

    driven = Driven(flow)
    assert isinstance(driven.rows[1], HistoryRow)
    assert _noted(driven) == [b'"x"']
