"""What comes from outside: raised events, terminations, a human's answer about an interrupted activity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from perdure.base.codec import Resolved, decode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionResumed,
    ExecutionSuspended,
    TaskScheduled,
    decode_event,
)
from perdure.engine.activity import Outcome, answered
from perdure.engine.engine_events import ANSWERED
from perdure.engine.replay import Execution
from perdure.engine.values import incoming_values, resolve
from perdure.ports.history_store import HistoryStore, Signal


class News(msgspec.Struct, frozen=True, gc=False):
    """Signals with what reading them needs."""

    signals: Sequence[Signal]
    events: list[AnyEvent]
    resolved: Resolved


async def read_signals(store: HistoryStore, signals: Sequence[Signal]) -> News:
    """Return the events of some signals."""
    events = [decode_event(signal.event) for signal in signals]
    return News(signals, events, await resolve(store, incoming_values(events)))


def suspension_in(events: Iterable[AnyEvent]) -> str | None:
    """Return why an instance is suspended once these events have reached it, or None when it is not."""
    reason: str | None = None
    for event in events:
        if isinstance(event, ExecutionSuspended):
            reason = event.reason
        elif isinstance(event, ExecutionResumed):
            reason = None
    return reason


class Answers(msgspec.Struct, gc=False):
    """What humans' answers about interrupted attempts lead to."""

    outcomes: list[Outcome]
    to_start: list[TaskScheduled]


def take_answers(execution: Execution, events: Iterable[AnyEvent], resolved: Resolved) -> Answers:
    """Return what the answers among some events lead to; only the first answer to what was asked counts."""
    answers = Answers([], [])
    unanswered = {task.id: task for task in execution.pending_activities() if task.id in execution.asked}
    for event in events:
        if not isinstance(event, EventRaised) or event.name != ANSWERED:
            continue
        answer = decode(event.input, resolved)
        scheduled = unanswered.pop(answer["task"], None)
        if scheduled is None:
            continue
        outcome = answered(scheduled, answer["decision"], answer.get("result"))
        if outcome is None:
            answers.to_start.append(scheduled)
        else:
            answers.outcomes.append(outcome)
    return answers
