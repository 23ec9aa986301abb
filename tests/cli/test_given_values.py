from __future__ import annotations

import datetime as dt

import pytest

from perdure.base.errors import UsageError
from perdure.base.events import Status
from perdure.cli import given, times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("1d12h", 129_600), ("2w", 1_209_600), ("1.5h", 5400)],
)
def test_a_span_of_time_is_numbers_with_units(text: str, seconds: float):
    assert times.span("--in", text) == seconds


@pytest.mark.parametrize("text", ["", "3", "d", "3 days", "2h3d", "-1h", "1e9h", "∞"])
def test_what_is_no_span_of_time_is_refused_with_the_name_of_its_option(text: str):
    with pytest.raises(UsageError, match=r"--in is .* such as 30d or 1h30m"):
        times.span("--in", text)


def test_since_takes_how_long_ago_and_iso_times():
    assert times.since("--since", "2h", 10_000.0) == 2800.0
    assert times.since("--since", "2026-07-01T18:30:00+02:00", 0.0) == 1_782_923_400.0
    local = dt.datetime(2026, 7, 1).timestamp()  # noqa: DTZ001 - the local time zone is what is meant
    assert times.since("--since", "2026-07-01", 0.0) == local


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "0001-01-01", "1h ago"])
def test_what_is_no_time_is_refused_with_what_to_write(text: str):
    with pytest.raises(UsageError, match=r"--since is .* write an ISO time .* or how long ago \(2h, 3d\)"):
        times.since("--since", text, 0.0)


def test_attributes_are_numbers_truth_values_or_texts():
    found = given.attributes(["a=5", "b=true", "c=ann", 'd="5"', "e=x=y", "f=", "g=[1]", "h=1.5"])
    assert found == {"a": 5, "b": True, "c": "ann", "d": "5", "e": "x=y", "f": "", "g": "[1]", "h": 1.5}


@pytest.mark.parametrize("text", ["customer", "=ann", ""])
def test_an_attribute_needs_a_name_and_a_value(text: str):
    with pytest.raises(UsageError, match="write name=value"):
        given.attributes([text])


def test_a_call_is_named_by_its_number_or_by_a_path():
    assert given.call_path("3") == [3]
    assert given.call_path("#3.0.12") == [3, 0, 12]


@pytest.mark.parametrize("text", ["", "x", "3.", ".3", "3..1", "-1", "1,2", "٣"])
def test_what_names_no_call_is_refused(text: str):
    with pytest.raises(UsageError, match="--at is"):
        given.call_path(text)


def test_statuses_are_read_in_any_case_and_unknown_ones_are_listed():
    assert given.statuses(["Pending", "SUSPENDED"]) == (Status.PENDING, Status.SUSPENDED)
    with pytest.raises(UsageError, match="--status is 'running'; use one of: failed"):
        given.statuses(["running"], among=[Status.FAILED])


def test_what_is_no_json_is_refused_with_a_hint():
    with pytest.raises(UsageError, match=r"--input is not JSON .* a text needs quotes of its own"):
        given.json_value("--input", "done")
