from __future__ import annotations

import pytest

from perdure.base.errors import UsageError
from perdure.engine.tasks import Deadline, Task, WhenAll, WhenAny


def done(value: object = None) -> Task:
    task: Task = Task("done")
    task.resolve(value)
    return task


def broken(error: BaseException) -> Task:
    task: Task = Task("broken")
    task.reject(error)
    return task


def test_a_task_that_is_not_finished_has_no_result():
    with pytest.raises(RuntimeError, match="await it first"):
        Task("a").result()


def test_the_first_result_counts():
    task: Task = Task("a")
    assert (task.done, task.failed, task.waits_for()) == (False, False, ["a"])
    task.resolve(1)
    task.resolve(2)
    task.reject(ValueError())
    assert (task.done, task.failed, task.result(), task.waits_for()) == (True, False, 1, [])


def test_the_error_of_a_task_is_raised():
    task = broken(ValueError("no"))
    assert task.failed
    with pytest.raises(ValueError, match="no"):
        task.result()


def test_all_gives_results_in_order_whatever_finishes_first():
    tasks = [Task("a"), done(2), Task("c")]
    both = WhenAll(tasks)
    assert both.waits_for() == ["a", "c"]
    tasks[2].resolve(3)
    assert not both.done
    tasks[0].resolve(1)
    assert both.result() == [1, 2, 3]


def test_all_of_nothing_is_done():
    assert WhenAll([]).result() == []


def test_all_fails_with_the_first_error_at_once():
    tasks = [Task("a"), Task("b"), Task("c")]
    both = WhenAll(tasks)
    tasks[1].reject(ValueError("first"))
    assert both.failed
    tasks[0].reject(ValueError("second"))
    tasks[2].resolve(3)
    assert str(both.error()) == "first"
    assert WhenAll([Task("a"), broken(KeyError())]).failed


def test_one_task_may_be_in_a_group_twice():
    task: Task = Task("a")
    both = WhenAll([task, task])
    task.resolve(1)
    assert both.result() == [1, 1]


def test_any_is_the_first_to_finish_even_if_it_failed():
    tasks = [Task("a"), Task("b")]
    first = WhenAny(tasks)
    tasks[1].reject(ValueError())
    tasks[0].resolve(1)
    assert first.result() is tasks[1]
    assert WhenAny([Task("a"), tasks[0]]).result() is tasks[0]


def test_any_of_nothing_is_refused():
    with pytest.raises(ValueError, match="wait for ever"):
        WhenAny([])


@pytest.mark.parametrize("kind", [WhenAll, WhenAny])
def test_a_group_of_something_else_than_tasks_is_refused_with_a_remedy(kind):
    async def helper():
        raise AssertionError

    with pytest.raises(UsageError, match="make each one an activity"):
        kind([Task("a"), helper()])
    with pytest.raises(UsageError, match="not 7"):
        kind([7])


def test_a_deadline_finishes_as_its_task_does_and_tells_of_the_loser():
    for finish, outcome in ((lambda task: task.resolve(5), 5), (lambda task: task.reject(KeyError("k")), KeyError)):
        task, timer, losers = Task("event"), Task("timer"), []
        limited = Deadline(task, timer, "too late", losers.append)
        finish(task)
        timer.resolve(None)
        assert losers == [timer]
        if outcome == 5:
            assert limited.result() == 5
        else:
            assert isinstance(limited.error(), outcome)


def test_a_deadline_of_a_finished_task_is_finished():
    losers: list[Task] = []
    assert Deadline(done(5), Task("timer"), "too late", losers.append).result() == 5
    assert len(losers) == 1


def test_a_deadline_fails_when_its_timer_is_first():
    task, timer, losers = Task("event"), Task("timer"), []
    limited = Deadline(task, timer, "too late", losers.append)
    timer.resolve(None)
    task.resolve(5)
    with pytest.raises(TimeoutError, match="too late"):
        limited.result()
    assert losers == [task]
