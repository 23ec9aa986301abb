from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from perdure.base.cron import LONGEST_CRON, MACROS, load_zone, next_match, parse_cron
from perdure.base.errors import UsageError


def fires(cron: str, begin: str, times: int, zone: str = "UTC") -> list[str]:
    """Return the first firings after a local time, as the clock of the zone shows them."""
    place, parsed = load_zone(zone), parse_cron(cron)
    moment: int | None = int(datetime.fromisoformat(begin).replace(tzinfo=place).timestamp())
    found: list[str] = []
    for _ in range(times):
        moment = next_match(parsed, place, moment)
        if moment is None:
            break
        found.append(
            datetime.fromtimestamp(moment, place).isoformat(" ").replace(":00+", "+", 1).replace(":00-", "-", 1)
        )
    return found


def days(cron: str, begin: str, times: int) -> list[str]:
    return [text[:10] for text in fires(cron, begin, times)]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/20 * * * *", ["2026-01-01 00:20", "2026-01-01 00:40", "2026-01-01 01:00"]),
        ("5/20 1-2 * * *", ["2026-01-01 01:05", "2026-01-01 01:25", "2026-01-01 01:45"]),
        ("0,30 9-17/4 * * mon-FRI", ["2026-01-01 09:00", "2026-01-01 09:30", "2026-01-01 13:00"]),
        ("0 0 ? feb,Apr *", ["2026-02-01 00:00", "2026-02-02 00:00", "2026-02-03 00:00"]),
        ("30 4 1 */6 *", ["2026-01-01 04:30", "2026-07-01 04:30", "2027-01-01 04:30"]),
        ("0 0 * * 0", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00"]),
        ("0 0 LW * *", ["2026-01-30 00:00", "2026-02-27 00:00", "2026-03-31 00:00"]),
        ("0 0 * * fri#2", ["2026-01-09 00:00", "2026-02-13 00:00", "2026-03-13 00:00"]),
        ("0 0 * * 5L", ["2026-01-30 00:00", "2026-02-27 00:00", "2026-03-27 00:00"]),
        ("30 */20 * * * *", ["2026-01-01 00:00:30", "2026-01-01 00:20:30", "2026-01-01 00:40:30"]),
        ("0 15 3 * * *", ["2026-01-01 03:15", "2026-01-02 03:15", "2026-01-03 03:15"]),
        (" @Weekly ", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
    ],
)
def test_an_expression_fires_when_it_says(cron: str, expected: list[str]):
    assert fires(cron, "2026-01-01", 3) == [f"{text}+00:00" for text in expected]


def test_every_macro_fires_at_the_beginning_of_its_period():
    firsts = {macro: fires(macro, "2025-12-30 12:30", 1)[0][:16] for macro in MACROS}
    assert firsts == {
        "@yearly": "2026-01-01 00:00",
        "@annually": "2026-01-01 00:00",
        "@monthly": "2026-01-01 00:00",
        "@weekly": "2026-01-04 00:00",
        "@daily": "2025-12-31 00:00",
        "@midnight": "2025-12-31 00:00",
        "@hourly": "2025-12-30 13:00",
    }


def test_a_day_matches_either_field_of_days_unless_one_is_a_bare_star():
    assert days("0 0 13 * fri", "2026-01-01", 3) == ["2026-01-02", "2026-01-09", "2026-01-13"]
    assert days("0 0 13 * *", "2026-01-01", 3) == ["2026-01-13", "2026-02-13", "2026-03-13"]
    assert days("0 0 13 * ?", "2026-01-01", 3) == ["2026-01-13", "2026-02-13", "2026-03-13"]
    assert days("0 0 13 * 5,*/1", "2026-01-01", 3) == ["2026-01-13", "2026-02-13", "2026-03-13"]


def test_a_star_with_a_step_is_a_restriction_as_it_is_to_dapr():
    assert days("0 0 */10 * sun", "2026-01-01", 4) == ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-21"]
    assert days("0 0 13 * */6", "2026-01-01", 4) == ["2026-01-03", "2026-01-04", "2026-01-10", "2026-01-11"]
    assert days("0 0 * * mon/2", "2026-01-01", 4) == ["2026-01-02", "2026-01-05", "2026-01-07", "2026-01-09"]


def test_a_range_of_one_value_is_that_value_whatever_its_step():
    assert days("0 0 5-05/2 1-JAN/3 *", "2026-01-01", 2) == ["2026-01-05", "2027-01-05"]
    assert days("0 0 * * SAT/1", "2026-01-01", 2) == ["2026-01-03", "2026-01-10"]
    assert fires("0-0/2 */12 * * *", "2026-01-01", 2) == ["2026-01-01 12:00+00:00", "2026-01-02 00:00+00:00"]
    with pytest.raises(UsageError, match="bad minute"):
        parse_cron("0-0/0 * * * *")


def test_leap_days_are_waited_for_over_a_century_without_one():
    assert days("0 0 29 2 *", "2090-01-01", 3) == ["2092-02-29", "2096-02-29", "2104-02-29"]
    assert days("0 0 * 2 mon#5", "2072-03-01", 1) == ["2112-02-29"]


SPRING_AND_AUTUMN = [
    ("Europe/Berlin", "2026-03-29 00:00", ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]),
    ("Europe/Berlin", "2026-10-25 00:00", ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]),
    ("America/New_York", "2026-03-08 00:00", ["2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00"]),
    ("Australia/Lord_Howe", "2026-10-04 00:00", ["2026-10-04 02:30+11:00", "2026-10-05 02:30+11:00"]),
]


@pytest.mark.parametrize(("zone", "begin", "expected"), SPRING_AND_AUTUMN)
@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 2 * * *"])
def test_a_time_of_day_fires_once_a_day_when_the_clock_jumps(cron: str, zone: str, begin: str, expected: list[str]):
    assert fires(cron, begin, 2, zone) == expected


def test_a_time_that_is_shown_twice_fires_when_it_is_shown_first():
    assert fires("30 1 * * *", "2026-11-01 00:00", 2, "America/New_York") == [
        "2026-11-01 01:30-04:00",
        "2026-11-02 01:30-05:00",
    ]
    assert fires("45 1 * * *", "2026-04-05 00:00", 2, "Australia/Lord_Howe") == [
        "2026-04-05 01:45+11:00",
        "2026-04-06 01:45+10:30",
    ]


def test_half_an_hour_that_is_skipped_fires_at_its_end():
    assert fires("15 2 * * *", "2026-10-04 00:00", 2, "Australia/Lord_Howe") == [
        "2026-10-04 02:30+11:00",
        "2026-10-05 02:15+11:00",
    ]


def test_times_that_are_skipped_together_fire_once_together_with_the_first_one_after_them():
    assert fires("*/15 2,3 * * *", "2026-03-29 00:00", 3, "Europe/Berlin") == [
        "2026-03-29 03:00+02:00",
        "2026-03-29 03:15+02:00",
        "2026-03-29 03:30+02:00",
    ]


def test_a_whole_day_that_an_island_skipped_fires_once():
    assert fires("0 */6 * * *", "2011-12-29 12:00", 3, "Pacific/Apia") == [
        "2011-12-29 18:00-10:00",
        "2011-12-31 00:00+14:00",
        "2011-12-31 06:00+14:00",
    ]


def test_an_expression_for_every_hour_keeps_its_rhythm_when_the_clock_jumps():
    assert fires("*/30 * * * *", "2026-03-29 01:00", 3, "Europe/Berlin") == [
        "2026-03-29 01:30+01:00",
        "2026-03-29 03:00+02:00",
        "2026-03-29 03:30+02:00",
    ]
    assert fires("15 * * * *", "2026-03-29 01:00", 2, "Europe/Berlin") == [
        "2026-03-29 01:15+01:00",
        "2026-03-29 03:15+02:00",
    ]
    assert fires("*/30 * * * *", "2026-10-25 01:30", 5, "Europe/Berlin") == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:30+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 02:30+01:00",
        "2026-10-25 03:00+01:00",
    ]


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "*",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "* * * * xyz",
        "*/0 * * * *",
        "15/0 * * * *",
        "5-1 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "1.5 * * * *",
        "*-5 * * * *",
        "* * * * 1#6",
        "* * L/2 * *",
        "* * 5-1,* * *",
        "٣ * * * *",
        "@every 5s",
        "@reboot",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 30,31 feb ?",
        f"{'9' * 400} * * * *",
        ",".join(["1"] * LONGEST_CRON) + " * * * *",
    ],
)
def test_what_is_no_expression_or_never_fires_is_refused(cron: str):
    with pytest.raises(UsageError, match="write five fields"):
        parse_cron(cron)


@given(st.text(max_size=40) | st.text("0123456789*/,-?#LW @", max_size=40).map(lambda text: f"0 {text}"))
@example("* * 1#2/3 * *")
@example("* * * * L")
@example("* * * * 1L/2")
def test_any_text_is_an_expression_or_refused(text: str):
    try:
        cron = parse_cron(text)
    except UsageError:
        return
    found = next_match(cron, load_zone("Europe/Berlin"), 1_800_000_000)
    assert found is not None
    assert found > 1_800_000_000


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "../UTC", "/etc/passwd", "Europe", "a\0b", "\ud800", "x" * 5000, "tzdata.zi"]
)
def test_a_zone_that_does_not_exist_is_refused(name: str):
    with pytest.raises(UsageError, match="IANA time zone database, such as 'UTC' or 'Europe/Berlin'"):
        load_zone(name)


@given(st.text(max_size=30))
def test_any_text_is_a_zone_or_refused(name: str):
    with contextlib.suppress(UsageError):
        assert load_zone(name) is not None


def test_without_a_time_zone_database_utc_works_and_others_say_what_to_install():
    program = """
import sys
sys.modules["tzdata"] = None
from perdure.base.errors import UsageError
from perdure.base.schedule import Schedule, next_firing
print(next_firing(Schedule(cron="@hourly"), 0))
try:
    Schedule(cron="@hourly", timezone="Europe/Berlin")
except UsageError as error:
    print(error)
"""
    environment = {"PYTHONTZPATH": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    first, second = done.stdout.splitlines()
    assert first == "3600.0"
    assert second.startswith("Schedule.timezone is 'Europe/Berlin'; this machine has no time zone database: ")
    assert "pip install tzdata" in second


class Field(NamedTuple):
    """A field of an expression: its text, what it means, and whether it is a bare star."""

    text: str
    values: frozenset[int]
    star: bool = False


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, stars: int) -> Field:
    """Return a field with its meaning, worked out apart from the code under test."""
    kind = draw(st.sampled_from([*["star"] * stars, "value", "range", "step", "list"]))
    whole = range(low, high + 1)
    if kind == "star":
        return Field("*", frozenset(whole), star=True)
    first, last = sorted((draw(st.sampled_from(whole)), draw(st.sampled_from(whole))))
    if kind == "value":
        return Field(str(first), frozenset({first}))
    if kind == "range":
        return Field(f"{first}-{last}", frozenset(range(first, last + 1)))
    if kind == "list":
        return Field(f"{last},{first}", frozenset({first, last}))
    step = draw(st.integers(2, high))
    text, values = draw(
        st.sampled_from(
            [
                (f"*/{step}", whole[::step]),
                (f"{first}/{step}", range(first, high + 1, step)),
                (f"{first}-{last}/{step}", range(first, last + 1, step)),
            ]
        )
    )
    return Field(text, frozenset(values))


expressions = st.tuples(fields(0, 59, 1), fields(0, 23, 2), fields(1, 31, 6), fields(1, 12, 12), fields(0, 6, 6))


def matches(expression: tuple[Field, ...], wall: datetime) -> bool:
    minute, hour, day, month, weekday = expression
    on_day, on_weekday = wall.day in day.values, wall.isoweekday() % 7 in weekday.values
    right_day = (on_day and on_weekday) if day.star or weekday.star else (on_day or on_weekday)
    return wall.minute in minute.values and wall.hour in hour.values and wall.month in month.values and right_day


def watch_the_clock(expression: tuple[Field, ...], zone: ZoneInfo, begin: int, end: int) -> Iterator[int]:
    """Yield when an expression fires between two whole minutes, by looking at the clock once a minute."""
    minute = timedelta(minutes=1)
    rhythm = len(expression[1].values) == 24
    furthest = datetime.fromtimestamp(begin - 6 * 3600, zone).replace(tzinfo=None)
    for moment in range(begin - 6 * 3600 + 60, end + 60, 60):
        wall = datetime.fromtimestamp(moment, zone).replace(tzinfo=None)
        passed = [wall] if rhythm else [furthest + n * minute for n in range(1, (wall - furthest) // minute + 1)]
        furthest = max(furthest, wall)
        if moment > begin and any(matches(expression, each) for each in passed):
            yield moment


JUMPS = [
    ("UTC", "2028-02-29"),
    ("Asia/Kolkata", "2026-12-31"),
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Santiago", "2026-09-06"),
    ("America/Santiago", "2026-04-05"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Pacific/Apia", "2011-12-31"),
]


@settings(max_examples=150, deadline=None)
@given(expressions, st.sampled_from(JUMPS), st.integers(-1440, 1440))
def test_every_firing_is_where_watching_the_clock_finds_it(
    expression: tuple[Field, ...], jump: tuple[str, str], shift: int
):
    assume(min(expression[2].values) < 30)
    zone = ZoneInfo(jump[0])
    begin = int(datetime.fromisoformat(jump[1]).replace(tzinfo=zone).timestamp()) // 60 * 60 + shift * 60
    end = begin + 36 * 3600
    cron = parse_cron(" ".join(field.text for field in expression))
    found: list[int] = []
    moment = next_match(cron, load_zone(jump[0]), begin)
    while moment is not None and moment <= end:
        found.append(moment)
        moment = next_match(cron, load_zone(jump[0]), moment)
    assert found == list(watch_the_clock(expression, zone, begin, end))
