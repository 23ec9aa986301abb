from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.errors import UsageError
from perdure.base.schedule import Schedule, firings_due, initial_last, next_firing
from perdure.base.schedule_text import dapr_schedule, parse_duration, parse_moment

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h30m15s", 5415),
        ("10s", 10),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("30m1h", 5400),
        ("0", 0),
        ("0s", 0),
        ("100us", 0.0001),
        ("3µs", 0.000003),
        ("3μs", 0.000003),
        ("7ns", 0.000000007),
    ],
)
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "1h 30m", "1d", "1e3s", "٣s", "P1D", "9" * 200 + "s"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(UsageError, match="is no duration; write numbers with units"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-09T16:09:53Z", "2026-12-09T16:09:53+00:00"),
        ("2026-12-09t16:09:53.250+01:00", "2026-12-09T15:09:53.250+00:00"),
        ("1h30m", "2026-01-31T13:30:00+00:00"),
        ("PT5M", "2026-01-31T12:05:00+00:00"),
        ("P1DT12H", "2026-02-02T00:00:00+00:00"),
        ("P2W", "2026-02-14T12:00:00+00:00"),
        ("P1M", "2026-03-03T12:00:00+00:00"),
        ("P1Y11M", "2027-12-31T12:00:00+00:00"),
        ("PT90S", "2026-01-31T12:01:30+00:00"),
    ],
)
def test_a_moment_is_a_timestamp_or_counted_from_the_start(text: str, moment: str):
    assert parse_moment(text, NOW) == datetime.fromisoformat(moment).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "P",
        "PT",
        "P1DT",
        "R5/PT10S",
        "P9999Y",
        "2026-12-09",
        "2026-12-09T16:09:53",
        "2026-02-30T00:00:00Z",
        "2026-W01",
    ],
)
def test_what_is_no_moment_is_refused(text: str):
    with pytest.raises(UsageError, match="is no moment; write a timestamp with its offset"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("fields", "schedule"),
    [
        ({"schedule": "0 30 * * * *"}, Schedule(cron="0 30 * * * *", missed="run_all")),
        ({"schedule": "@daily", "repeats": 3}, Schedule(cron="@daily", repeats=3, missed="run_all")),
        ({"schedule": "@every 1h30m"}, Schedule(every=5400, starts=NOW + 5400, missed="run_all")),
        ({"schedule": "@every 500ms", "due_time": "10s"}, Schedule(every=0.5, at=NOW + 10, missed="run_all")),
        ({"due_time": "2026-12-09T16:09:53Z"}, Schedule(at=1_796_832_593, missed="run_all")),
        (
            {"schedule": "@hourly", "due_time": "30s", "ttl": "2h"},
            Schedule(cron="@hourly", at=NOW + 30, ends=NOW + 7230, missed="run_all"),
        ),
        ({"schedule": "@hourly", "ttl": "P1D"}, Schedule(cron="@hourly", ends=NOW + 86_400, missed="run_all")),
        (
            {"schedule": "CRON_TZ=America/New_York 0 30 04 * * *", "missed": "skip"},
            Schedule(cron="0 30 04 * * *", timezone="America/New_York", missed="skip"),
        ),
        ({"schedule": "TZ=Asia/Tokyo @daily"}, Schedule(cron="@daily", timezone="Asia/Tokyo", missed="run_all")),
    ],
)
def test_the_fields_of_a_dapr_job_make_a_schedule(fields: dict[str, Any], schedule: Schedule):
    assert dapr_schedule(now=NOW, **fields) == schedule


def test_an_interval_of_dapr_fires_first_after_one_interval_and_with_a_due_time_at_it():
    assert next_firing(dapr_schedule("@every 90s", now=NOW), NOW) == NOW + 90
    due = dapr_schedule("@every 90s", now=NOW, due_time="0s")
    assert firings_due(due, initial_last(due, NOW), NOW + 91, 0, 9).run == (NOW, NOW + 90)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "names no time"),
        ({"schedule": "nonsense"}, "Schedule.cron is 'nonsense'"),
        ({"schedule": 5}, "Schedule.cron is 5"),
        ({"schedule": "@every soon"}, "schedule: 'soon' is no duration"),
        ({"schedule": "@every 0s"}, "Schedule.every is 0.0"),
        ({"schedule": "CRON_TZ=Mars/Base @daily"}, "Schedule.timezone is 'Mars/Base'"),
        ({"schedule": "CRON_TZ=UTC"}, "Schedule.cron is 'CRON_TZ=UTC'"),
        ({"due_time": "soon"}, "dueTime: 'soon' is no moment"),
        ({"due_time": 5}, "dueTime: 5 is no moment"),
        ({"due_time": "5s", "repeats": 2}, "Schedule.repeats is 2"),
        ({"schedule": "@daily", "ttl": "later"}, "ttl: 'later' is no moment"),
        ({"due_time": "10s", "ttl": "2026-01-01T00:00:00Z"}, "Schedule.ends is "),
    ],
)
def test_fields_that_make_no_schedule_are_refused_by_name(fields: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        dapr_schedule(now=NOW, **fields)


texts = st.none() | st.text(max_size=30) | st.from_regex(r"\A(@every |P|CRON_TZ=UTC )?[0-9PTWDHMSmsh@a-z]{0,12}\Z")


@given(texts, texts, st.none() | st.integers(), texts)
def test_any_fields_make_a_schedule_or_are_refused(
    schedule: str | None, due_time: str | None, repeats: int | None, ttl: str | None
):
    try:
        made = dapr_schedule(schedule, now=NOW, due_time=due_time, repeats=repeats, ttl=ttl)
    except UsageError:
        return
    assert isinstance(made, Schedule)
