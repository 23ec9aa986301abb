"""How long to wait before the next attempt: pure arithmetic over a retry policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.base.events import Failure, RetryPolicy


def next_attempt_at(
    policy: RetryPolicy | None, failure: Failure, attempt: int, first_at: float, now: float
) -> float | None:
    """Return when to try again, in seconds since the epoch, or None when the failure is final.

    Args:
        policy: the policy recorded with the call; None means one attempt only.
        failure: why the attempt failed.
        attempt: number of the attempt that failed, counted from 1.
        first_at: when the first attempt was scheduled.
        now: when the failure was recorded.
    """
    if policy is None or attempt >= policy.max_attempts:
        return None
    if failure.non_retryable or failure.error_type in policy.non_retryable:
        return None
    wait = policy.initial_backoff
    for _ in range(attempt - 1):
        wait *= policy.multiplier
        if wait >= policy.max_backoff:
            break
    at = now + max(min(wait, policy.max_backoff), failure.retry_after or 0.0)
    if policy.total_timeout is not None and at - first_at > policy.total_timeout:
        return None
    return at
