from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.base.codec import decode, encode
from perdure.base.errors import UsageError
from perdure.base.schedule import (
    HORIZON,
    MOST_AT_ONCE,
    Due,
    Schedule,
    firings_due,
    initial_last,
    next_firing,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


def first_firings(schedule: Schedule, after: float, until: float) -> list[float]:
    found: list[float] = []
    moment = next_firing(schedule, after)
    while moment is not None and moment <= until:
        found.append(moment)
        moment = next_firing(schedule, moment)
    return found


# When it fires


def test_one_moment_fires_once():
    assert first_firings(Schedule(at=NOON), 0, math.inf) == [NOON]
    assert next_firing(Schedule(at=NOON), NOON) is None


def test_an_interval_is_counted_from_its_start_and_does_not_drift():
    schedule = Schedule(every=0.1, starts=NOON)
    assert next_firing(schedule, 0) == NOON
    assert next_firing(schedule, NOON) == NOON + 0.1
    a_year_later = NOON + 315_360_000 * 0.1
    assert next_firing(schedule, a_year_later - 0.05) == a_year_later


@given(st.floats(0.001, 1e6) | st.integers(1, 100_000), st.integers(0, 10**9), st.sampled_from([0.0, 0.1, NOON]))
def test_an_interval_fires_at_every_multiple_and_nowhere_else(every: float, number: int, start: float):
    schedule = Schedule(every=every, starts=start)
    firing, following = start + number * every, start + (number + 1) * every
    expected = [found if found <= HORIZON else None for found in (firing, following)]
    assert [next_firing(schedule, math.nextafter(firing, -math.inf)), next_firing(schedule, firing)] == expected


def test_an_interval_without_a_start_is_counted_from_the_epoch():
    assert first_firings(Schedule(every=3600), NOON - 1800, NOON + 3600) == [NOON, NOON + 3600]


def test_a_moment_together_with_a_rule_is_the_first_firing():
    assert first_firings(Schedule(at=NOON + 7, every=60), 0, NOON + 130) == [NOON + 7, NOON + 67, NOON + 127]
    assert first_firings(Schedule(at=NOON + 7, cron="* * * * *"), 0, NOON + 130) == [NOON + 7, NOON + 60, NOON + 120]


def test_nothing_fires_before_the_start_or_after_the_end_and_both_moments_count():
    schedule = Schedule(cron="* * * * *", starts=NOON, ends=NOON + 120)
    assert first_firings(schedule, 0, math.inf) == [NOON, NOON + 60, NOON + 120]
    later = Schedule(cron="* * * * *", starts=NOON + 0.5, ends=NOON + 119.5)
    assert first_firings(later, 0, math.inf) == [NOON + 60]
    assert first_firings(Schedule(at=NOON, ends=NOON), 0, math.inf) == [NOON]


def test_time_zones_count():
    berlin = Schedule(cron="0 9 * * *", timezone="Europe/Berlin")
    assert next_firing(berlin, NOON) == datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("schedule", [Schedule(cron="* * * * *"), Schedule(every=1), Schedule(at=HORIZON)])
def test_nothing_fires_beyond_the_horizon(schedule: Schedule):
    assert next_firing(schedule, HORIZON - 0.5) in (None, HORIZON)
    assert next_firing(schedule, HORIZON) is None
    assert next_firing(schedule, 1e300) is None


@pytest.mark.parametrize("schedule", [Schedule(cron="* * * * *"), Schedule(every=60), Schedule(at=0)])
def test_time_begins_with_the_epoch(schedule: Schedule):
    assert next_firing(schedule, -1e300) == 0


moments = st.floats(0, 4e9) | st.integers(0, 4_000_000_000)
rules: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, every=st.floats(0.001, 1e8)),
    st.builds(dict, every=st.integers(1, 100_000)),
    st.builds(
        dict,
        cron=st.sampled_from(["* * * * *", "*/7 * * * * *", "30 2 * * *", "0 */5 1,15 * fri", "0 0 29 2 *", "@hourly"]),
        timezone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu"]),
    ),
)
schedules = st.builds(
    lambda rule, begin: Schedule(**rule, **begin),
    rules,
    st.one_of(st.just({}), st.builds(dict, starts=moments), st.builds(dict, at=moments)),
) | st.builds(Schedule, at=moments)


@given(schedules, moments)
def test_firings_only_go_forward_and_each_is_found_from_just_before_it(schedule: Schedule, after: float):
    for _ in range(5):
        found = next_firing(schedule, after)
        if found is None:
            return
        assert found > after
        assert next_firing(schedule, math.nextafter(found, -math.inf)) == found
        middle = (after + found) / 2
        assert middle == found or next_firing(schedule, middle) == found
        after = found


# What a worker does that wakes up


class Woken(NamedTuple):
    """What one decision is expected to do."""

    run: list[float]
    skipped: int


EVERY_MINUTE: dict[str, Any] = {"cron": "* * * * *", "grace": 10}


@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("skip", 5, Woken([300], 4)),
        ("skip", 11, Woken([], 5)),
        ("run_once", 5, Woken([300], 4)),
        ("run_once", 11, Woken([300], 4)),
        ("run_all", 5, Woken([60, 120, 180, 240, 300], 0)),
        ("run_all", 11, Woken([60, 120, 180, 240, 300], 0)),
    ],
)
def test_missed_firings_are_treated_as_declared(missed: Any, late: float, expected: Woken):
    due = firings_due(Schedule(**EVERY_MINUTE, missed=missed), NOON, NOON + 300 + late, 0, 100)
    assert due == Due(
        run=tuple(NOON + second for second in expected.run),
        skipped=expected.skipped,
        last=NOON + 300,
        fired=len(expected.run),
        wake=NOON + 360,
    )


def test_nothing_is_due_before_its_time():
    assert firings_due(Schedule(**EVERY_MINUTE), NOON, NOON + 59.9, 3, 1) == Due(last=NOON, fired=3, wake=NOON + 60)


def test_more_than_the_limit_remains_for_the_next_decision_at_once():
    schedule = Schedule(**EVERY_MINUTE, missed="run_all")
    first = firings_due(schedule, NOON, NOON + 300, 0, 2)
    assert first == Due(run=(NOON + 60, NOON + 120), remaining=3, last=NOON + 120, fired=2, wake=NOON + 180)
    assert firings_due(schedule, first.last, NOON + 300, first.fired, 3).run == (NOON + 180, NOON + 240, NOON + 300)


@pytest.mark.parametrize("missed", ["run_all", "run_once"])
def test_the_last_repeat_ends_a_schedule(missed: Any):
    schedule = Schedule(**EVERY_MINUTE, missed=missed, repeats=3)
    due = firings_due(schedule, NOON, NOON + 300, 1 if missed == "run_all" else 2, 100)
    assert (len(due.run), due.fired, due.remaining, due.wake) == (2 if missed == "run_all" else 1, 3, 0, None)
    assert firings_due(schedule, due.last, NOON + 3000, 3, 100) == Due(last=due.last, fired=3)


def test_skipped_firings_do_not_use_up_repeats():
    schedule = Schedule(**EVERY_MINUTE, missed="skip", repeats=1)
    due = firings_due(schedule, NOON, NOON + 330, 0, 1)
    assert (due.run, due.skipped, due.wake) == ((), 5, NOON + 360)


def test_what_remains_is_no_more_than_the_repeats_allow():
    due = firings_due(Schedule(**EVERY_MINUTE, missed="run_all", repeats=4), NOON, NOON + 600, 0, 1)
    assert (due.run, due.remaining) == ((NOON + 60,), 3)


def test_a_clock_that_went_back_fires_nothing_again():
    schedule = Schedule(**EVERY_MINUTE, missed="run_all")
    due = firings_due(schedule, NOON, NOON + 60, 0, 1)
    assert firings_due(schedule, due.last, NOON - 5000, due.fired, 1) == Due(last=NOON + 60, fired=1, wake=NOON + 120)


@pytest.mark.parametrize(
    "schedule",
    [Schedule(every=0.001), Schedule(cron="* * * * * *"), Schedule(cron="* * 3 * * *", timezone="Europe/Berlin")],
    ids=["every millisecond", "every second", "an hour of seconds a day"],
)
@pytest.mark.parametrize("missed", ["skip", "run_once"])
def test_after_ten_years_the_latest_firing_is_found_and_counting_stops(schedule: Schedule, missed: Any):
    now = NOON + 315_360_000
    due = firings_due(msgspec.structs.replace(schedule, missed=missed, grace=1e9), NOON, now, 0, 1)
    (latest,) = due.run
    following = next_firing(schedule, latest)
    assert now - 86_400 < latest <= now
    assert following is not None
    assert following > now
    assert (due.uncounted, due.skipped, due.wake) == (True, MOST_AT_ONCE - 1, following)


def test_after_ten_years_all_are_run_piece_by_piece():
    due = firings_due(Schedule(every=0.5, missed="run_all"), NOON, NOON + 315_360_000, 0, 10)
    assert due.run == tuple(NOON + 0.5 * number for number in range(1, 11))
    assert (due.remaining, due.uncounted, due.wake) == (MOST_AT_ONCE - 10, True, NOON + 5.5)


@pytest.mark.parametrize(("at", "run"), [(NOON + 60, (NOON + 60,)), (NOON, (NOON,)), (NOON - 3600, (NOON - 3600,))])
def test_a_moment_that_is_past_at_creation_counts_as_missed(at: float, run: tuple[float, ...]):
    schedule = Schedule(at=at)
    assert firings_due(schedule, initial_last(schedule, NOON), NOON + 61, 0, 1).run == run


def test_firings_before_the_creation_do_not_count():
    schedule = Schedule(every=60, starts=NOON - 600, missed="run_all")
    assert firings_due(schedule, initial_last(schedule, NOON), NOON + 60, 0, 9).run == (NOON + 60,)


class Wake(NamedTuple):
    """A worker wakes: by how much the clock has moved, and whether it dies before its decision is committed."""

    passed: float
    dies: bool
    limit: int


wakes = st.lists(
    st.builds(Wake, st.floats(-200, 600) | st.sampled_from([0.0, 60.0, 120.0]), st.booleans(), st.integers(1, 4)),
    max_size=25,
)
rhythms = st.sampled_from(
    [
        {"cron": "* * * * *"},
        {"cron": "*/20 * * * * *"},
        {"every": 45.0},
        {"every": 7.3, "starts": NOON + 50},
        {"at": NOON},
    ]
)


@settings(max_examples=150, deadline=None)
@given(rhythms, st.sampled_from(["skip", "run_once", "run_all"]), st.none() | st.integers(1, 30), wakes)
def test_whatever_the_clock_and_crashes_do_each_firing_is_run_or_skipped_once_as_declared(
    rhythm: dict[str, Any], missed: Any, repeats: int | None, wakes: list[Wake]
):
    schedule = Schedule(**rhythm, missed=missed, grace=15, repeats=repeats if "at" not in rhythm else None)
    all_firings = first_firings(schedule, NOON - 100, NOON + 20_000)
    state = Due(last=NOON - 100, fired=0, wake=0)
    now, ran, skipped = NOON - 100, list[float](), 0
    for wake in wakes:
        now += wake.passed
        decision = firings_due(schedule, state.last, now, state.fired, wake.limit)
        if wake.dies:
            continue
        before, state = state, decision
        ran += state.run
        skipped += state.skipped
        waiting = [firing for firing in all_firings if before.last < firing <= now] if before.wake is not None else []
        assert list(state.run) == EXPECTED[missed](waiting, now, wake.limit)[: (repeats or 1000) - before.fired]
        assert state.wake is None or state.wake > state.last

    assert ran == sorted(set(ran))
    assert set(ran) <= set(all_firings)
    assert state.fired == len(ran) <= (schedule.repeats or math.inf)
    assert len(ran) + skipped == len([firing for firing in all_firings if firing <= state.last])


EXPECTED: dict[str, Callable[[list[float], float, int], list[float]]] = {
    "skip": lambda waiting, now, limit: [firing for firing in waiting[-1:] if now - firing <= 15],
    "run_once": lambda waiting, now, limit: waiting[-1:],
    "run_all": lambda waiting, now, limit: waiting[:limit],
}


# What makes no schedule


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "names no time; write cron, every or at"),
        ({"cron": "* * * * *", "every": 5}, r"Schedule.every is 5; but cron is '\* \* \* \* \*': write one of the two"),
        ({"cron": "61 * * * *"}, r"Schedule.cron is '61 \* \* \* \*'; bad minute; write five fields"),
        ({"cron": 5}, "Schedule.cron is 5; write a text"),
        ({"every": 0}, "Schedule.every is 0; write seconds, from 0.001 to 3155760000"),
        ({"every": math.nan}, "Schedule.every is nan; write seconds"),
        ({"every": "5s"}, "Schedule.every is '5s'; write seconds"),
        ({"every": 10**5000}, "Schedule.every is a very large int; write seconds"),
        ({"every": True}, "Schedule.every is True; write seconds"),
        ({"at": -1}, "Schedule.at is -1; write seconds since the epoch"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, r"Schedule.at is datetime.*; write .* such as moment.timestamp\(\)"),
        ({"at": 5, "starts": 5}, "Schedule.starts is 5; but at is 5, the first firing: leave starts out"),
        ({"at": 5, "repeats": 2}, "Schedule.repeats is 2; but at names one moment: add every or cron"),
        ({"at": 5, "ends": 4}, "Schedule.ends is 4; which is before the beginning at 5: write a later moment"),
        ({"every": 5, "starts": 9, "ends": 8}, "Schedule.ends is 8; which is before the beginning at 9"),
        ({"every": 5, "repeats": 0}, "Schedule.repeats is 0; write a whole number from 1"),
        ({"every": 5, "repeats": 1.5}, "Schedule.repeats is 1.5; write a whole number"),
        ({"every": 5, "missed": "never"}, "Schedule.missed is 'never'; write one of skip, run_once, run_all"),
        ({"every": 5, "missed": []}, r"Schedule.missed is \[\]; write one of"),
        ({"every": 5, "grace": -1}, "Schedule.grace is -1; write seconds, from 0 to"),
        ({"every": 5, "grace": None}, "Schedule.grace is None; write seconds"),
        ({"every": 5, "timezone": "Mars/Base"}, "Schedule.timezone is 'Mars/Base'; write a name of the IANA"),
        ({"every": 5, "timezone": None}, "Schedule.timezone is None; write a text"),
    ],
)
def test_what_makes_no_schedule_is_refused_with_field_value_and_remedy(fields: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        Schedule(**fields)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("last", (math.nan, 0, 0, 1)),
        ("now", (0, math.inf, 0, 1)),
        ("now", (0, "0", 0, 1)),
        ("fired", (0, 0, -1, 1)),
        ("limit", (0, 0, 0, 0)),
        ("limit", (0, 0, 0, MOST_AT_ONCE + 1)),
        ("limit", (0, 0, 0, 1.0)),
    ],
)
def test_a_decision_is_refused_numbers_that_make_no_sense(name: str, arguments: tuple[Any, ...]):
    with pytest.raises(UsageError, match=f"^{name} is "):
        firings_due(Schedule(every=5), *arguments)


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.lists(st.none()),
)


@given(
    st.dictionaries(st.sampled_from(Schedule.__struct_fields__), junk | st.sampled_from(["UTC", "@daily", 60, "skip"]))
)
def test_any_fields_make_a_schedule_that_works_or_are_refused(fields: dict[str, Any]):
    try:
        schedule = Schedule(**fields)
    except UsageError:
        return
    due = firings_due(schedule, NOON, NOON + 1e6, 0, 1)
    assert due.wake is None or due.wake > due.last


def test_a_schedule_and_a_decision_are_stored_as_plain_data():
    schedule = Schedule(cron="@daily", timezone="Europe/Berlin", repeats=3)
    stored = decode(encode(schedule).raw)
    assert stored == {"cron": "@daily", "timezone": "Europe/Berlin", "repeats": 3}
    assert msgspec.convert(stored, Schedule) == schedule
    due = firings_due(schedule, NOON, NOON + 200_000, 0, 1)
    assert msgspec.convert(decode(encode(due).raw), Due) == due
