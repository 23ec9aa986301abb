"""What workflow code awaits: tasks that history, not a clock or a socket, completes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar, cast

from perdure.base.errors import UsageError

T = TypeVar("T")


class Task(Generic[T]):
    """Something that a workflow waits for; ``await`` it, or ``yield`` it from a generator workflow.

    Attributes:
        done: whether it has a result or an error.
        reason: what it stands for, in words.
        source: what it stands for, to whoever made it; None once it is done.
    """

    __slots__ = ("_error", "_parents", "_result", "done", "reason", "source")

    def __init__(self, reason: str = "", source: object = None) -> None:
        self.done = False
        self.reason = reason
        self.source = source
        self._result: T | None = None
        self._error: BaseException | None = None
        self._parents: list[_Composite[Any]] = []

    def result(self) -> T:
        """Return the result of a finished task, or raise its error.

        Raises:
            RuntimeError: it is not finished; await it first.
        """
        if not self.done:
            raise RuntimeError("this task is not finished; await it first")
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    @property
    def failed(self) -> bool:
        """Whether it finished with an error."""
        return self._error is not None

    def error(self) -> BaseException | None:
        """Return the error of a failed task, otherwise None."""
        return self._error

    def __await__(self) -> Generator[Task[T], Any, T]:
        if not self.done:
            yield self
        return self.result()

    def resolve(self, result: T) -> None:
        """Give the task its result; later calls change nothing."""
        self._finish(result, None)

    def reject(self, error: BaseException) -> None:
        """Give the task its error; later calls change nothing."""
        self._finish(None, error)

    def _finish(self, result: T | None, error: BaseException | None) -> None:
        if self.done:
            return
        self.done, self._result, self._error = True, result, error
        # Of no use any more, and a call refers to its task: together they would be garbage for the collector to find.
        self.source = None
        for parent in self._parents:
            parent.child_done(self)
        self._parents.clear()

    def waits_for(self) -> list[str]:
        """Return, in words, what keeps this task unfinished."""
        return [] if self.done else [self.reason]


def _require_task(child: object) -> None:
    if isinstance(child, Task):
        return
    if inspect.iscoroutine(child):
        child.close()
    raise UsageError(
        f"when_all and when_any take what the context's methods return, not {child!r}. Call the activities and pass "
        "their tasks; to run whole helper functions beside each other, make each one an activity"
    )


class _Composite(Task[T]):
    """A task made of others."""

    __slots__ = ("_children",)

    def __init__(self, children: Sequence[Task[Any]]) -> None:
        super().__init__()
        self._children = list(children)
        self.source = self._children
        for child in self._children:
            _require_task(child)
        for child in self._children:
            if not child.done:
                child._parents.append(self)

    def child_done(self, child: Task[Any]) -> None:
        """Take note that a child has finished."""
        raise NotImplementedError

    def waits_for(self) -> list[str]:
        """Return, in words, what keeps this task unfinished."""
        return [] if self.done else [reason for child in self._children for reason in child.waits_for()]


class WhenAll(_Composite[list[Any]]):
    """Finishes with all results in order, or with the first error at once.

    Args:
        children: the tasks.
        collect: wait for every task, and let an error stand in the place of the result.
    """

    __slots__ = ("_collect", "_open")

    def __init__(self, children: Sequence[Task[Any]], *, collect: bool = False) -> None:
        super().__init__(children)
        self._collect = collect
        self._open = sum(not child.done for child in self._children)
        for child in self._children:
            if child.failed and not collect:
                self.reject(cast("BaseException", child.error()))
                return
        self._settle()

    def child_done(self, child: Task[Any]) -> None:
        """Take note that a child has finished."""
        self._open -= 1
        error = child.error()
        if error is not None and not self._collect:
            self.reject(error)
        self._settle()

    def _settle(self) -> None:
        if self._open == 0 and not self.done:
            self.resolve([child.error() or child.result() for child in self._children])


class WhenAny(_Composite[Task[Any]]):
    """Finishes with the first child that does, whether that one failed or not.

    Args:
        children: the tasks.
        lost: called once with those that have not finished then, so that they can be cancelled; or None.
    """

    __slots__ = ("_lost",)

    def __init__(
        self, children: Sequence[Task[Any]], lost: Callable[[Sequence[Task[Any]]], None] | None = None
    ) -> None:
        super().__init__(children)
        self._lost = lost
        if not children:
            raise ValueError("when_any needs at least one task; it would wait for ever")
        for child in self._children:
            if child.done:
                self.child_done(child)
                return

    def child_done(self, child: Task[Any]) -> None:
        """Take note that a child has finished."""
        if self.done:
            return
        self.resolve(child)
        if self._lost is not None:
            self._lost([other for other in self._children if not other.done])


class Deadline(_Composite[Any]):
    """Finishes as its task does, or with a TimeoutError when its timer is first.

    Args:
        task: what is waited for.
        timer: the limit.
        message: text of the TimeoutError.
        settled: called once with the child that lost, so that it can be forgotten.
    """

    __slots__ = ("_message", "_settled", "_task", "_timer")

    def __init__(self, task: Task[Any], timer: Task[None], message: str, settled: Callable[[Task[Any]], None]) -> None:
        super().__init__([task, timer])
        self._task, self._timer, self._message, self._settled = task, timer, message, settled
        if task.done:
            self.child_done(task)

    def child_done(self, child: Task[Any]) -> None:
        """Take note that the task or the timer has finished."""
        if self.done:
            return
        error = child.error()
        if child is self._timer:
            self.reject(TimeoutError(self._message))
            self._settled(self._task)
        elif error is not None:
            self.reject(error)
            self._settled(self._timer)
        else:
            self.resolve(child.result())
            self._settled(self._timer)
