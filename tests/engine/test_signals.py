from __future__ import annotations

from tests.engine.driving import Driven, completed, raised

from perdure.base.codec import NOTHING
from perdure.engine.engine_events import ANSWERED, ASKED
from perdure.engine.signals import take_answers


async def two_payments(ctx):
    await ctx.when_all([ctx.call_activity("pay"), ctx.call_activity("pay")])


def _answer(task: int, decision: str, result: object = None):
    return raised(ANSWERED, {"task": task, "decision": decision, "result": result})


def test_answers_lead_to_outcomes_or_to_another_run():
    driven = Driven(two_payments)
    driven.feed(raised(ASKED, 0), raised(ASKED, 1))
    events = [raised("other"), _answer(0, "completed", 5), _answer(1, "retry"), _answer(1, "failed", "too late")]
    answers = take_answers(driven.execution, events, NOTHING)
    assert [outcome.event for outcome in answers.outcomes] == [completed(0, 5)]
    assert [task.id for task in answers.to_start] == [1]


def test_an_answer_to_what_was_not_asked_leads_to_nothing():
    driven = Driven(two_payments)
    driven.feed(raised(ASKED, 0))
    answers = take_answers(driven.execution, [_answer(1, "retry"), _answer(7, "completed")], NOTHING)
    assert (answers.outcomes, answers.to_start) == ([], [])
