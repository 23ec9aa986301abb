"""What code declares about its limits, applied to one start or call. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from perdure.base.errors import UsageError
from perdure.base.events import Admission
from perdure.base.limits import HIGHEST_PRIORITY, LOWEST_PRIORITY, Limits
from perdure.ports.tickets import Queue, Ticket

Key = str | int
KeyOf = Callable[[Any], Key]
Priority = Callable[[Any], int] | int

_LONGEST_KEY = 256


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a workflow or an activity, and how its runs wait.

    Attributes:
        limits: how much of it may go on.
        key: returns the key of an input; None for one key for all.
        priority: of an input, or of all.
    """

    limits: Limits
    key: KeyOf | None = None
    priority: Priority = 0


def rules_of(
    what: str, limits: Limits | None, key: KeyOf | None, priority: Priority, *, has_backlog: bool
) -> Rules | None:
    """Return what a decorator declares, or None when it limits nothing.

    Raises:
        UsageError: it does not fit together.
    """
    if limits is None:
        if key is not None or priority != 0:
            raise UsageError(f"{what} has a key or a priority and no limits; add limits=Limits(...), or leave both out")
        return None
    if not has_backlog and limits.backlog is not None:
        raise UsageError(f"{what} has Limits(backlog=...); a call of an activity is never refused, leave it out")
    if limits.per_key is not None and key is None:
        raise UsageError(
            f"{what} has Limits(per_key=...) and no key; add key=lambda input: ..., which says what counts together"
        )
    if not callable(priority):
        _checked_priority(what, priority)
    return Rules(limits=limits, key=key, priority=priority)


def admission(
    what: str, rules: Rules | None, given: Any, key: Key | None = None, priority: int | None = None
) -> Admission | None:
    """Return how a start or call waits for its turn; None when nothing is known to be limited.

    Args:
        what: names it in errors.
        rules: what its code declares, or None.
        given: its input, as the caller gave it.
        key: overrides what the rules say.
        priority: overrides what the rules say.

    Raises:
        UsageError: the key or the priority is unusable, or cannot be worked out from this input.
    """
    if rules is None and key is None and priority is None:
        return None
    if key is None and rules is not None and rules.key is not None:
        key = _worked_out(what, "key", rules.key, given)
    if priority is None and rules is not None:
        priority = _worked_out(what, "priority", rules.priority, given) if callable(rules.priority) else rules.priority
    return Admission(key=_checked_key(what, key), priority=_checked_priority(what, priority or 0))


def ticket_of(app_id: str, workflow: str, admission: Admission, rules: Rules | None) -> Ticket:
    """Return the ticket that an instance takes.

    Args:
        app_id: its app.
        workflow: the name of its workflow, without a version.
        admission: how it waits.
        rules: what its code declares, where that is known.
    """
    return Ticket(
        queue=Queue(app_id, "workflow", workflow),
        limits=None if rules is None else rules.limits,
        key=admission.key,
        priority=admission.priority,
    )


def _worked_out(what: str, field: str, function: Callable[[Any], Any], given: Any) -> Any:
    try:
        return function(given)
    except Exception as error:
        raise UsageError(
            f"the {field} of {what} cannot be worked out from this input ({type(error).__name__}: {error}); let the "
            f"function that is declared as its {field} take every input"
        ) from error


def _checked_key(what: str, key: object) -> str:
    if key is None:
        return ""
    if not isinstance(key, str | int) or isinstance(key, bool) or len(str(key)) > _LONGEST_KEY:
        raise UsageError(
            f"the key of {what} is {key!r:.80}; use a text of at most {_LONGEST_KEY} characters or a number"
        )
    return str(key)


def _checked_priority(what: str, priority: object) -> int:
    if (
        not isinstance(priority, int)
        or isinstance(priority, bool)
        or not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY
    ):
        raise UsageError(
            f"the priority of {what} is {priority!r:.80}; use a whole number from {LOWEST_PRIORITY} to "
            f"{HIGHEST_PRIORITY}, higher is first"
        )
    return priority
