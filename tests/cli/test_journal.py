from __future__ import annotations

from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    Failure,
    HistoryRow,
    Status,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    encode_events,
)
from perdure.cli.journal import Journal
from perdure.ports.history_store import NO_RESULTS, Episode, Park, Results


class Listener:
    """A journal on a clock that is turned by hand, and what it says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.journal = Journal(lambda text: self.lines.append(text.plain), lambda: self.now)
        self.journal.taken_up(1, "run", "order", begins=True)

    def happens(self, *events: AnyEvent, park: Park | None = None, results: Results = NO_RESULTS) -> list[str]:
        """Return what is said of an episode, without the time and the run."""
        said = len(self.lines)
        episode = Episode(key=1, seq=1, at=self.now, events=encode_events(events), park=park)
        self.journal.recorded(episode, results)
        return [line.partition(": ")[2] for line in self.lines[said:]]


def test_a_call_is_told_of_when_it_has_an_outcome():
    listener = Listener()
    assert listener.happens(TaskScheduled(id=0, name="pay")) == []
    listener.now += 2
    assert listener.happens(TaskCompleted(task_id=0), TaskScheduled(id=1, name="ship")) == ["✓ pay  2.0 s"]
    failure = Failure(error_type="OSError", message="no\npaper \x1b[1m")
    retry = TimerCreated(id=2, fire_at=listener.now + 30, retry_of=1)
    told = ["✗ ship  OSError: no paper \\x1b[1m", "↻ the next attempt is in 30 s"]
    assert listener.happens(TaskFailed(task_id=1, failure=failure), retry) == told


def test_a_call_that_an_earlier_worker_made_is_known_from_the_history():
    listener = Listener()
    listener.journal.read(1, [HistoryRow(1, 990.0, (TaskScheduled(id=0, name="pay"),))])
    assert listener.happens(TaskCompleted(task_id=0)) == ["✓ pay  10 s"]
    assert listener.happens(TaskCompleted(task_id=7)) == ["✓ a call"]


def test_turning_points_are_told():
    listener = Listener()
    told = listener.happens(
        EventRaised(name="approval"),
        EventRaised(name="perdure.asked"),
        ExecutionSuspended(),
        ExecutionResumed(),
        ExecutionStarted(name="order", generation=2),
        ExecutionCompleted(status=Status.TERMINATED, failure=Failure(error_type="Terminated", message="too late")),
    )
    assert told == [
        "event approval",
        "is suspended",
        "is resumed",
        "continues as new, generation 2",
        "terminated: too late",
    ]
    assert listener.journal.ends == {Status.TERMINATED: 1}


def test_a_run_that_is_parked_says_what_it_waits_for_and_is_known_when_it_wakes():
    listener = Listener()
    park = Park(status=Status.RUNNING, waits='{"events": ["approval"]}')
    assert listener.happens(TaskScheduled(id=0, name="pay"), park=park) == ["waits for event 'approval'"]
    assert listener.happens(TaskCompleted(task_id=0)) == []
    listener.journal.taken_up(1, "run", "order", begins=False)
    assert listener.happens(TaskCompleted(task_id=0)) == ["✓ pay  0 ms"]


def test_a_run_stays_in_hand_when_one_of_its_calls_is_let_in_at_once():
    listener = Listener()
    waits = '{"queued": [{"activity": "pay", "calls": 2}]}'
    park = Park(status=Status.RUNNING, waits=waits, unless_granted=True)
    assert listener.happens(TaskScheduled(id=0, name="pay"), park=park, results=Results(granted=(0,))) == []
    assert listener.happens(TaskCompleted(task_id=0), park=park) == [
        "✓ pay  0 ms",
        "waits for the turn of 2 calls of pay",
    ]


def test_what_is_given_back_says_why():
    listener = Listener()
    listener.journal.given_back(1, '{"timer": 1060}', stalled=False)
    assert listener.lines[-1].partition(": ")[2].startswith("waits for a timer in 1 min")
    listener.journal.taken_up(1, "run", "order", begins=False)
    listener.journal.given_back(1, "{}", stalled=True)
    assert listener.lines[-1].partition(": ")[2] == "stalled; perdure runs show run says why"


def test_more_than_a_hundred_lines_in_a_second_are_counted_only():
    listener = Listener()
    for number in range(300):
        listener.happens(EventRaised(name=f"e{number}"))
    assert len(listener.lines) == 100
    listener.now += 1
    listener.happens(EventRaised(name="last"))
    assert listener.lines[100] == "… 201 more lines in between"
    assert listener.lines[101].endswith("event last")
