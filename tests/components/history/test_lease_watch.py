from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.components.history.sqlite.leases import LeaseRow, LeaseWatch


def row(token: int, renewals: int, lease_seconds: float = 4.0) -> LeaseRow:
    return LeaseRow(token, f"lock-{token}", lease_seconds, renewals)


def test_a_row_that_stays_the_same_for_its_lease_is_silent():
    watch = LeaseWatch()
    found = [watch.silent([row(1, 7)], second) for second in range(6)]
    assert found == [[], [], [], [], [row(1, 7)], [row(1, 7)]]


def test_a_renewal_ends_the_silence():
    watch = LeaseWatch()
    for second in range(20):
        assert not watch.silent([row(1, second // 3)], second)


def test_each_is_judged_by_its_own_lease():
    watch = LeaseWatch()
    for second in range(5):
        found = watch.silent([row(1, 0, 4.0), row(2, 0, 8.0)], second)
    assert found == [row(1, 0, 4.0)]


def test_who_has_given_up_its_lease_is_silent_at_first_sight():
    assert LeaseWatch().silent([row(1, 3, 0.0)], 100.0) == [row(1, 3, 0.0)]


def test_a_pause_of_the_observer_is_nobodys_silence():
    watch = LeaseWatch()
    watch.silent([row(1, 0)], 0.0)
    assert not watch.silent([row(1, 0)], 1e6)
    assert not watch.silent([row(1, 0)], 2e6)


def test_a_worker_that_left_and_is_seen_again_begins_anew():
    watch = LeaseWatch()
    for second in range(4):
        watch.silent([row(1, 0)], second)
    watch.silent([], 4)
    assert not watch.silent([row(1, 0)], 5)


@given(st.lists(st.floats(0.01, 50.0), min_size=1, max_size=60))
def test_whoever_renews_between_any_two_looks_is_never_silent(gaps: list[float]):
    watch, now = LeaseWatch(), 0.0
    for renewals, gap in enumerate(gaps):
        now += gap
        assert not watch.silent([row(1, renewals)], now)
