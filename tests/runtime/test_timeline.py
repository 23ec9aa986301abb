from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.codec import encode
from perdure.base.events import (
    Admission,
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionTerminated,
    Failure,
    HistoryRow,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.engine.engine_events import INTERRUPTED
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.inspect import Inspection, inspection
from perdure.runtime.timeline import Entry, Kind, Origin, Progress, timeline, values

FAILURE = Failure(error_type="OSError", message="the line is dead")


def raw(value: object) -> msgspec.Raw:
    return encode(value).raw


def history(*episodes: tuple[AnyEvent, ...]) -> list[HistoryRow]:
    """Return rows that happen one second after the other, from second 100 on."""
    return [HistoryRow(number, 100.0 + number, events) for number, events in enumerate(episodes)]


STARTED = ExecutionStarted(name="order", input=raw({"amount": 5}))
CALLED = TaskScheduled(id=0, name="pay", input=raw(5))
PAID = TaskCompleted(task_id=0, result=raw("paid"))
ENDED = ExecutionCompleted(status=Status.COMPLETED, result=raw("done"))


def only(entries: list[Entry], kind: Kind) -> Entry:
    (found,) = [entry for entry in entries if entry.kind is kind]
    return found


def test_a_run_has_a_start_its_calls_and_an_end():
    entries = timeline(history((STARTED,), (CALLED,), (PAID, ENDED)))
    assert [(entry.kind, entry.name, entry.progress) for entry in entries] == [
        (Kind.START, "order", Progress.COMPLETED),
        (Kind.ACTIVITY, "pay", Progress.COMPLETED),
        (Kind.END, "COMPLETED", Progress.COMPLETED),
    ]
    call = entries[1]
    assert (call.started_at, call.ended_at, call.duration, call.recorded) == (101.0, 102.0, 1.0, 1)
    assert (call.input, call.output) == (raw(5), raw("paid"))


def test_a_call_without_outcome_is_running():
    call = only(timeline(history((STARTED,), (CALLED,))), Kind.ACTIVITY)
    assert (call.progress, call.is_open, call.duration, call.recorded) == (Progress.RUNNING, True, None, 0)


RETRIED = [
    (STARTED,),
    (CALLED,),
    (TaskFailed(task_id=0, failure=FAILURE), TimerCreated(id=1, fire_at=105.0, retry_of=0)),
    (TimerFired(timer_id=1), TaskScheduled(id=2, name="pay", attempt=2, retry_of=0)),
    (TaskCompleted(task_id=2, result=raw("paid")),),
]


def test_a_failed_attempt_with_a_wait_behind_it_is_retrying():
    entries = timeline(history(*RETRIED[:3]))
    call = only(entries, Kind.ACTIVITY)
    assert (call.progress, call.due, call.failure, call.ended_at) == (Progress.RETRYING, 105.0, FAILURE, None)
    assert all(entry.kind is not Kind.TIMER for entry in entries)


def test_all_attempts_of_a_call_make_one_entry():
    call = only(timeline(history(*RETRIED)), Kind.ACTIVITY)
    assert (call.progress, call.failure, call.duration, call.recorded) == (Progress.COMPLETED, None, 3.0, 1)
    assert [(attempt.task, attempt.number, attempt.failure) for attempt in call.attempts] == [
        (0, 1, FAILURE),
        (2, 2, None),
    ]
    assert [(attempt.started_at, attempt.ended_at) for attempt in call.attempts] == [(101.0, 102.0), (103.0, 104.0)]


def test_a_failure_without_a_wait_is_final():
    call = only(timeline(history((STARTED,), (CALLED,), (TaskFailed(task_id=0, failure=FAILURE),))), Kind.ACTIVITY)
    assert (call.progress, call.failure, call.duration) == (Progress.FAILED, FAILURE, 1.0)


ASKED = EventRaised(name="perdure.asked", input=raw(0))


def answered(decision: str) -> EventRaised:
    return EventRaised(name="perdure.answered", input=raw({"task": 0, "decision": decision, "result": None}))


def test_an_interrupted_call_asks_until_a_human_answers():
    rows = history((STARTED,), (CALLED,), (ASKED,), (answered("retry"),), (PAID,))
    asking = timeline(rows[:3])
    assert only(asking, Kind.ACTIVITY).progress is Progress.ASKS
    assert (only(asking, Kind.QUESTION).name, only(asking, Kind.QUESTION).task) == ("pay", 0)
    again = timeline(rows[:4])
    assert only(again, Kind.ACTIVITY).progress is Progress.RUNNING
    assert not only(again, Kind.QUESTION).is_open
    assert only(again, Kind.ANSWER).task == 0
    assert only(timeline(rows), Kind.ACTIVITY).progress is Progress.COMPLETED


def test_an_answer_may_be_the_result_itself():
    entries = timeline(history((STARTED,), (CALLED,), (ASKED,), (answered("completed"), PAID)))
    assert (only(entries, Kind.ACTIVITY).progress, only(entries, Kind.ACTIVITY).output) == (
        Progress.COMPLETED,
        raw("paid"),
    )


def test_timers_and_events_are_entries_and_the_engines_own_notes_are_not():
    approval = EventRaised(name="approval", input=raw("yes"))
    note = EventRaised(name="perdure.not_started", input=raw([0]))
    resumed = ExecutionResumed()
    timer = TimerCreated(id=0, fire_at=101.5)
    entries = timeline(history((STARTED, timer), (TimerFired(timer_id=0),), (approval,), (note,), (resumed,)))
    assert [entry.kind for entry in entries] == [Kind.START, Kind.TIMER, Kind.EVENT, Kind.RESUME]
    assert (entries[1].progress, entries[1].due, entries[1].duration) == (Progress.COMPLETED, 101.5, 1.0)
    assert (entries[2].name, entries[2].input) == ("approval", raw("yes"))


def note(name: str, told: object) -> EventRaised:
    return EventRaised(name=f"perdure.{name}", input=raw(told))


FORKED = note("forked", "a seed")
ALSO_CALLED = TaskScheduled(id=1, name="pack")
PACKED = TaskCompleted(task_id=1, result=raw("packed"))


def calls(*episodes: tuple[AnyEvent, ...], apart: float = 1.0, instance_id: str = "new") -> list[Entry]:
    """Return the calls of a history whose rows are so many seconds apart."""
    rows = [HistoryRow(number, 100.0 + apart * number, events) for number, events in enumerate(episodes)]
    return [entry for entry in timeline(rows, instance_id=instance_id) if entry.kind in {Kind.ACTIVITY, Kind.CHILD}]


def test_a_call_that_a_fork_makes_again_counts_from_the_fork():
    (call,) = calls((STARTED,), (CALLED,), (note("not_started", [0]),), (FORKED,), (PAID,), apart=3600.0)
    assert (call.started_at, call.attempts[0].started_at, call.duration) == (3700.0, 7300.0, 7200.0)
    assert call.origin is Origin.OWN


def test_a_call_whose_output_a_fork_was_given_took_no_time():
    both = (CALLED, ALSO_CALLED)
    given, kept = calls((STARTED,), both, (FORKED, PAID, PACKED), (ENDED,), apart=3600.0)
    assert [(call.origin, call.duration) for call in (given, kept)] == [(Origin.GIVEN, None), (Origin.KEPT, None)]
    assert (given.output, kept.output) == (raw("paid"), raw("packed"))
    again, kept = calls((STARTED,), both, (note("not_started", [0]),), (FORKED, PACKED), (PAID,), apart=3600.0)
    assert [(call.origin, call.duration) for call in (again, kept)] == [(Origin.OWN, 7200.0), (Origin.KEPT, None)]


def test_a_retry_of_what_a_fork_kept_is_its_own():
    failed = TaskFailed(task_id=1, failure=FAILURE)
    retried = TaskScheduled(id=3, name="pack", attempt=2, retry_of=1)
    packed = TaskCompleted(task_id=3, result=raw("packed"))
    _, call = calls((STARTED,), (CALLED, ALSO_CALLED), (FORKED, PAID, failed), (retried,), (packed,))
    assert (call.origin, call.duration) == (Origin.OWN, 3.0)


@pytest.mark.parametrize(("generation", "child"), [(0, "new:0000"), (2, "new:2:0000")])
def test_a_child_that_a_fork_calls_again_counts_from_the_fork(generation: int, child: str):
    started = ExecutionStarted(name="order", generation=generation)
    called = SubOrchestrationInstanceCreated(id=0, name="ship", instance_id=child)
    came = SubOrchestrationInstanceCompleted(task_id=0, result=raw("here"), generation=generation)
    later, kept = calls((started,), (called, ALSO_CALLED), (FORKED, PACKED), (came,), apart=3600.0)
    assert [(call.origin, call.duration) for call in (later, kept)] == [(Origin.OWN, 3600.0), (Origin.KEPT, None)]
    at_once, _ = calls((started,), (called, ALSO_CALLED), (FORKED, PACKED, came), apart=3600.0)
    assert (at_once.origin, at_once.duration) == (Origin.OWN, 0.0)
    (given,) = calls((started,), (called,), (FORKED, came), instance_id="other")
    assert given.origin is Origin.GIVEN


LIMITED = TaskScheduled(id=0, name="pay", input=raw(5), admission=Admission())


def test_a_call_that_got_its_turn_counts_from_then():
    granted = note("granted", {"tasks": [0], "generation": 0})
    waiting, running, over = (calls(*[(STARTED,), (LIMITED,), (granted,), (PAID,)][:rows])[0] for rows in (2, 3, 4))
    assert [entry.may_wait for entry in (waiting, running)] == [True, False]
    assert over.duration == 1.0
    of_an_earlier_generation = note("granted", {"tasks": [0], "generation": 1})
    assert calls((STARTED,), (LIMITED,), (of_an_earlier_generation,))[0].may_wait
    again = calls((STARTED,), (LIMITED,), (granted,), (note("queued", [0]),))[0]
    assert (again.progress, again.is_open) == (Progress.QUEUED, True)


def test_of_the_calls_under_a_limit_the_last_ones_wait_that_the_run_says_wait():
    second = msgspec.structs.replace(LIMITED, id=1)
    waits = msgspec.json.encode({"queued": [{"activity": "pay", "calls": 1}]}).decode()
    record = InstanceRecord(
        key=1, instance_id="r", app_id="app", workflow="order", status=Status.RUNNING, created_at=100.0, waits=waits
    )
    rows = history((STARTED,), (LIMITED, second, msgspec.structs.replace(ALSO_CALLED, id=2)))
    steps = inspection(record, rows, encode(None).resolved).steps[1:]
    assert [step.entry.progress for step in steps] == [Progress.RUNNING, Progress.QUEUED, Progress.RUNNING]
    free = inspection(msgspec.structs.replace(record, waits=None), rows, encode(None).resolved).steps[1:]
    assert {step.entry.progress for step in free} == {Progress.RUNNING}


def test_what_a_run_leaves_open_when_it_ends_is_cancelled():
    failure = Failure(error_type="Terminated", message="enough")
    ended = ExecutionCompleted(status=Status.TERMINATED, failure=failure)
    timer = TimerCreated(id=1, fire_at=900.0)
    entries = timeline(history((STARTED,), (CALLED, timer), (ExecutionTerminated(reason="enough"), ended)))
    assert only(entries, Kind.ACTIVITY).progress is Progress.CANCELLED
    assert only(entries, Kind.TIMER).progress is Progress.CANCELLED
    end = only(entries, Kind.END)
    assert (end.name, end.progress, end.failure) == ("TERMINATED", Progress.FAILED, failure)


def test_a_result_recorded_twice_is_noticed():
    assert only(timeline(history((STARTED,), (CALLED,), (PAID,), (PAID,))), Kind.ACTIVITY).recorded == 2


def test_values_are_those_that_showing_needs():
    rows = history((STARTED,), (CALLED,), (PAID, ENDED))
    assert values(rows) == [raw({"amount": 5}), raw(5), raw("paid"), raw("done")]


@given(cut=st.integers(0, 5), end=st.booleans())
def test_every_beginning_of_a_history_has_a_timeline(cut: int, end: bool):
    episodes = [*RETRIED[:cut], *([(ENDED,)] if end and cut else [])]
    entries = timeline(history(*episodes))
    assert [entry.started_at for entry in entries] == sorted(entry.started_at for entry in entries)
    ended = any(entry.kind is Kind.END for entry in entries)
    assert not (ended and any(entry.is_open for entry in entries))


AGENT = "dapr.agents.Ada.workflow"
CALL_LLM, RUN_TOOL = "dapr.agents.Ada.call_llm", "dapr.agents.Ada.run_tool"


def spoken(content: str | None, *calls: str) -> msgspec.Raw:
    made = [{"id": name, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}} for name in calls]
    message = {"role": "assistant", "content": content, "tool_calls": made}
    return raw({"message": message, "model": "m-1", "usage": {"input_tokens": 10, "output_tokens": 2}})


def inspected(*episodes: tuple[AnyEvent, ...], workflow: str = AGENT) -> Inspection:
    record = InstanceRecord(
        key=1, instance_id="run", app_id="app", workflow=workflow, status=Status.COMPLETED, created_at=100.0
    )
    return inspection(record, history(*episodes), encode(None).resolved)


def model_call(task: int, depth: int) -> TaskScheduled:
    # As the engine writes it: the conversation by reference, which no store is asked for here.
    reference = f'{{"conversation":{{"$conversation":["run",{depth},"{"0" * 40}"]}},"turn":1}}'
    return TaskScheduled(id=task, name=CALL_LLM, input=msgspec.Raw(reference.encode()))


def tool_call(task: int, name: str) -> TaskScheduled:
    call = {"id": name, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}
    return TaskScheduled(id=task, name=RUN_TOOL, input=raw({"tool_call": call, "order": 0}))


def test_a_call_that_a_crash_cut_off_says_how_often_it_was_begun():
    found = inspected(
        (STARTED,),
        (TaskScheduled(id=0, name="pay"), TaskScheduled(id=1, name="pack")),
        (EventRaised(name=INTERRUPTED, input=raw([0, 1])), TaskCompleted(task_id=1)),
        (EventRaised(name=INTERRUPTED, input=raw([0])), TaskCompleted(task_id=0)),
    )
    assert [(step.name, step.entry.interruptions, step.entry.tries) for step in found.steps[1:]] == [
        ("pay", 2, 3),
        ("pack", 1, 2),
    ]
    assert (found.totals.interruptions, found.totals.retries) == (3, 0)


def test_an_agents_run_is_turns_tools_and_an_answer():
    found = inspected(
        (ExecutionStarted(name=AGENT, input=raw({"task": "hi"})),),
        (model_call(0, 1),),
        (TaskCompleted(task_id=0, result=spoken(None, "look", "take")), tool_call(1, "look"), tool_call(2, "take")),
        (TaskCompleted(task_id=2, result=raw({"content": "no", "failed": True})),),
        (TaskCompleted(task_id=1, result=raw({"content": "seen"})), model_call(3, 4)),
        (TaskCompleted(task_id=3, result=spoken("done")),),
        (ExecutionCompleted(status=Status.COMPLETED, result=raw({"role": "assistant", "content": "done"})),),
    )
    steps = [(step.role, step.name, step.turn) for step in found.steps]
    assert steps[1:5] == [("model", "model", 1), ("tool", "look", 1), ("tool", "take", 1), ("model", "model", 2)]
    first, look, take, second = found.steps[1:5]
    assert (first.input, first.output) == ("a conversation of 1 message", 'calls look({"a": 1}), take({"a": 1})')
    assert (look.input, look.output, look.told) == ('{"a": 1}', "seen", False)
    assert (take.output, take.told) == ("no", True)
    assert (second.model, second.input, second.output) == ("m-1", "a conversation of 4 messages", "done")
    assert found.answer == "done"
    totals = found.totals
    assert (totals.model_calls, totals.tool_calls, totals.open_calls, totals.once) == (2, 2, 0, True)
    assert (totals.input_tokens, totals.output_tokens) == (20, 4)


def test_a_question_carries_the_name_of_the_tool():
    rows = [(STARTED,), (tool_call(0, "take"),), (ASKED,)]
    found = inspected(*rows)
    assert [(step.role, step.name) for step in found.steps[1:]] == [("tool", "take"), ("question", "take")]
    assert [step.name for step in found.asks] == ["take"]


@pytest.mark.parametrize("result", ["text", None, {"content": "a field of its own"}, [1, 2]])
def test_the_answer_of_a_workflow_is_its_result(result: object):
    end = ExecutionCompleted(status=Status.COMPLETED, result=raw(result))
    assert inspected((STARTED,), (end,), workflow="order").answer == result
