from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.backoff import next_attempt_at
from perdure.base.events import Failure, RetryPolicy

FAILURE = Failure(error_type="OSError", message="down")

seconds = st.floats(0, 1e6)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 50),
    initial_backoff=seconds,
    max_backoff=seconds,
    multiplier=st.floats(1, 10),
)


def waits(policy: RetryPolicy, failure: Failure = FAILURE) -> list[float]:
    """Return the wait after each attempt until the failure is final."""
    found: list[float] = []
    for attempt in range(1, 100):
        at = next_attempt_at(policy, failure, attempt, 0.0, 0.0)
        if at is None:
            return found
        found.append(at)
    return found


def test_waits_grow_up_to_the_longest():
    policy = RetryPolicy(max_attempts=6, initial_backoff=1, multiplier=2, max_backoff=5)
    assert waits(policy) == [1, 2, 4, 5, 5]


def test_without_a_policy_a_failure_is_final():
    assert next_attempt_at(None, FAILURE, 1, 0, 0) is None
    assert waits(RetryPolicy()) == []


def test_what_is_not_worth_a_retry_is_final():
    assert waits(RetryPolicy(max_attempts=3), Failure(error_type="X", message="", non_retryable=True)) == []
    assert waits(RetryPolicy(max_attempts=3, non_retryable=("OSError",))) == []
    assert waits(RetryPolicy(max_attempts=3, non_retryable=("ValueError",))) == [1, 2]


def test_the_failing_party_may_ask_for_a_longer_wait_never_for_a_shorter_one():
    policy = RetryPolicy(max_attempts=2, initial_backoff=10, max_backoff=20)
    assert waits(policy, Failure(error_type="X", message="", retry_after=99)) == [99]
    assert waits(policy, Failure(error_type="X", message="", retry_after=1)) == [10]


def test_no_attempt_begins_after_the_total_timeout():
    policy = RetryPolicy(max_attempts=9, initial_backoff=10, total_timeout=30)
    assert next_attempt_at(policy, FAILURE, 1, first_at=100, now=120) == 130
    assert next_attempt_at(policy, FAILURE, 1, first_at=100, now=121) is None


@given(policies)
def test_there_are_never_more_attempts_than_allowed_and_no_wait_is_too_long(policy: RetryPolicy):
    found = waits(policy)
    assert len(found) == policy.max_attempts - 1
    assert all(0 <= wait <= policy.max_backoff for wait in found)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_attempts", 0), ("initial_backoff", -1), ("max_backoff", -1), ("multiplier", 0.5), ("total_timeout", 0)],
)
def test_numbers_that_make_no_policy_are_refused(field: str, value: float):
    with pytest.raises(ValueError, match=f"RetryPolicy.{field} is {value}; "):
        RetryPolicy(**{field: value})
