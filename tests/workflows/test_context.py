from __future__ import annotations

import datetime as dt

from tests.engine.driving import Driven, fired

from perdure.base.events import TaskScheduled, TimerCreated


def _decided(flow):
    return [event for row in Driven(flow).rows for event in row.events][1:]


def test_a_timer_takes_seconds_a_timedelta_or_a_moment():
    async def flow(ctx):
        await ctx.when_all(
            [
                ctx.create_timer(5),
                ctx.create_timer(dt.timedelta(minutes=1)),
                ctx.create_timer(dt.datetime.fromtimestamp(130, dt.UTC)),
                ctx.create_timer(dt.datetime.fromtimestamp(140, dt.UTC).replace(tzinfo=None)),
                ctx.create_timer(dt.datetime.fromtimestamp(40, dt.timezone(dt.timedelta(hours=2)))),
            ]
        )

    assert [event.fire_at for event in _decided(flow)] == [105.0, 160.0, 130.0, 140.0, 100.0]


def test_timeouts_take_seconds_or_a_timedelta():
    async def flow(ctx):
        call = ctx.call_activity("a", timeout=dt.timedelta(seconds=3))
        await ctx.when_any([call, ctx.wait_for_external_event("go", timeout=dt.timedelta(seconds=4))])

    call, timer = _decided(flow)
    assert isinstance(call, TaskScheduled)
    assert call.timeout == 3.0
    assert isinstance(timer, TimerCreated)
    assert timer.fire_at == 104.0


def test_the_context_tells_who_and_when():
    async def flow(ctx):
        began = ctx.current_utc_datetime
        await ctx.create_timer(7)
        return [ctx.instance_id, ctx.current_utc_datetime - began, began.tzinfo is dt.UTC]

    driven = Driven(flow)
    driven.feed(fired(0), after=7)
    assert driven.result == ["one", dt.timedelta(seconds=7), True]
