"""Runs activities and records what became of them; the only module that makes such a record."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from perdure.base.codec import NOTHING, Link, Resolved, decode, encode
from perdure.base.errors import StoreCorruptError, StoreError, UsageError
from perdure.base.events import AnyEvent, EventRaised, Failure, TaskCompleted, TaskFailed, TaskScheduled
from perdure.base.faults import crash_point
from perdure.base.limits import Limits
from perdure.engine.engine_events import ASKED
from perdure.engine.failures import failure_of
from perdure.engine.rules import Rules
from perdure.engine.values import resolve
from perdure.ports.history_store import HistoryStore
from perdure.ports.toolset import Interrupted, OnCrash, Reconciled

T = TypeVar("T")

_log = logging.getLogger("perdure.activity")
_RETRY_SECONDS = 0.25
_UNSURE_SECONDS = 0.05


class ActivityContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an activity may know about its call; :func:`current_activity` returns it.

    Attributes:
        instance_id: the workflow instance that called.
        activity: registered name of the activity.
        idempotency_key: the same on every retry and resume of this call, and different for every other call. Give it
            to services that take one, so that an effect which a crash or a retry repeats happens once.
        attempt: 1 for the first attempt, then one more for each retry.
        interrupted: whether a crash cut an earlier run of this attempt off.
    """

    instance_id: str
    activity: str
    idempotency_key: str
    attempt: int = 1
    interrupted: bool = False


class _Running(NamedTuple):
    """What surrounds a running activity.

    Attributes:
        context: of its call.
        threads: those of its runtime.
        may_begin: whether nobody else can have taken the instance over.
    """

    context: ActivityContext
    threads: ThreadPoolExecutor | None = None
    may_begin: Callable[[], bool] = lambda: True


class _NotYet:
    """What a thread answers that may not begin."""


_NOT_YET = _NotYet()
_running: contextvars.ContextVar[_Running] = contextvars.ContextVar("perdure_running")


def current_activity() -> ActivityContext:
    """Return the context of the running activity or tool.

    Raises:
        UsageError: no activity is running here.
    """
    try:
        return _running.get().context
    except LookupError:
        raise UsageError("current_activity() works inside an activity or a tool only") from None


async def in_thread(function: Callable[[], T], began: Callable[[], None] | None = None) -> T:
    """Run a blocking function on a thread of the runtime's bounded pool; for use inside async activities.

    It begins when a thread is free and, should the process have been stopped meanwhile, once it is certain that no
    other one has begun it instead.

    Args:
        function: what to run.
        began: called on the event loop when a thread has taken the function up.
    """
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    running = _running.get(None)
    threads, may_begin = (None, None) if running is None else (running.threads, running.may_begin)

    def call() -> T | _NotYet:
        if may_begin is not None and not may_begin():
            return _NOT_YET
        if began is not None:
            loop.call_soon_threadsafe(began)
        try:
            return context.run(function)
        except StopIteration as error:
            # A future refuses to carry this one, and would never finish.
            raise RuntimeError(f"StopIteration was raised on a thread: {error}") from error

    while True:
        outcome = await loop.run_in_executor(threads, call)
        if not isinstance(outcome, _NotYet):
            return outcome
        await asyncio.sleep(_UNSURE_SECONDS)


async def call_within(function: Callable[[], Any], *, is_async: bool, seconds: float | None, name: str) -> Any:
    """Call a function with a time limit, which begins when the function does, not while it waits for a thread.

    Args:
        function: returns an awaitable when ``is_async``, otherwise it blocks and runs on a thread.
        is_async: which of both it is.
        seconds: the limit, or None.
        name: of what is called, for the error.

    Raises:
        TimeoutError: the limit is over; a thread cannot be stopped, but its result is no longer waited for.
    """
    limit = asyncio.timeout(seconds if is_async else None)

    def begin() -> None:
        if seconds is not None:
            with contextlib.suppress(RuntimeError):
                limit.reschedule(asyncio.get_running_loop().time() + seconds)

    try:
        async with limit:
            result = function() if is_async else await in_thread(function, begin)
            return await result if inspect.isawaitable(result) else result
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"{name} took longer than {seconds:g} s") from None


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """A registered activity.

    Attributes:
        name: its registered name.
        function: called with the decoded input.
        is_async: whether the function returns an awaitable; otherwise it runs on a thread.
        on_crash: what a crash in its middle means: run it again, ask a human, or what a function finds out.
        rules: its limits, or None.
    """

    name: str
    function: Callable[[Any], Any]
    is_async: bool
    on_crash: OnCrash = "retry"
    rules: Rules | None = None


class ActivityCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt to run.

    Attributes:
        instance_id: who calls.
        scheduled: the recorded decision.
        input: the encoded input.
        resolved: content of the input's references when it is at hand, otherwise None.
        interrupted: whether a crash cut this attempt off before.
        idempotency_key: what names this call, and no other one, on every retry and resume.
    """

    instance_id: str
    scheduled: TaskScheduled
    input: msgspec.Raw
    resolved: Resolved | None = None
    interrupted: bool = False
    idempotency_key: str = ""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of an attempt: the event to record, and what belongs to its value."""

    event: AnyEvent
    resolved: Resolved = NOTHING
    links: tuple[Link, ...] = ()


Verdict = Literal["run", "ask"] | Outcome


class ActivityRunner:
    """Runs activities: async ones on the loop, plain functions on a bounded pool of threads.

    Args:
        store: where references in inputs are found.
        lookup: returns the activity of a name, or None.
        threads: size of the pool.
    """

    def __init__(self, store: HistoryStore, lookup: Callable[[str], Activity | None], threads: int) -> None:
        self._store = store
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="perdure-activity")

    def limits_of(self, name: str) -> Limits | None:
        """Return the limits of an activity, or None."""
        activity = self._lookup(name)
        return None if activity is None or activity.rules is None else activity.rules.limits

    def close(self) -> None:
        """Let go of the threads; those that are inside a function end when it returns."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def perform(self, call: ActivityCall, may_begin: Callable[[], bool]) -> Outcome:
        """Run one attempt and return what to record: a result, a failure, or that a human must be asked.

        It begins once ``may_begin`` says so, which is asked again and again.

        An exception of the activity is an outcome, not an error of this method; only the cancellation of the calling
        task passes. SystemExit is an outcome too: an activity must not end the process that would run it again.
        """
        scheduled = call.scheduled
        activity = self._lookup(scheduled.name)
        if activity is None:
            return _failed(scheduled, _unknown(scheduled.name))
        context = ActivityContext(
            instance_id=call.instance_id,
            activity=scheduled.name,
            idempotency_key=call.idempotency_key,
            attempt=scheduled.attempt,
            interrupted=call.interrupted,
        )
        _running.set(_Running(context, self._threads, may_begin))
        try:
            argument = await self._argument(call) if call.resolved is None else decode(call.input, call.resolved)
            if not may_begin():
                await _until(may_begin)
            if call.interrupted:
                verdict = await self._reconcile(activity, scheduled, argument, context)
                if verdict == "ask":
                    return Outcome(EventRaised(name=ASKED, input=encode(scheduled.id).raw))
                if isinstance(verdict, Outcome):
                    return verdict
                # What was found out about the earlier run took its time.
                await _until(may_begin)
            crash_point("activity.before_run")
            if activity.is_async and scheduled.timeout is None:
                result = await activity.function(argument)
            else:
                result = await call_within(
                    lambda: activity.function(argument),
                    is_async=activity.is_async,
                    seconds=scheduled.timeout,
                    name=f"activity {activity.name!r}",
                )
            crash_point("activity.after_run")
            return _completed(scheduled, result)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if _is_cancelled(error):
                raise
            return _failed(scheduled, failure_of(error))

    async def _argument(self, call: ActivityCall) -> Any:
        while True:
            try:
                return decode(call.input, await resolve(self._store, [call.input]))
            except StoreCorruptError:
                raise
            except StoreError as error:
                # Not the activity's failure, so none of its attempts may be spent on it.
                _log.warning("the input of activity %r cannot be read yet: %s", call.scheduled.name, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _reconcile(
        self, activity: Activity, scheduled: TaskScheduled, argument: Any, context: ActivityContext
    ) -> Verdict:
        if activity.on_crash == "retry":
            return "run"
        if activity.on_crash == "ask":
            return "ask"
        arguments = argument if isinstance(argument, dict) else {"input": argument}
        question = Interrupted(tool=activity.name, arguments=arguments, idempotency_key=context.idempotency_key)
        try:
            answer = await reconciled(activity.on_crash, question)
        except Exception:  # noqa: BLE001 - logged, and a human decides
            # Failing the attempt would let a retry policy repeat an effect that may have taken place.
            _log.exception("the on_crash function of %r failed; a human is asked instead", activity.name)
            return "ask"
        if answer.decision == "completed":
            return _completed(scheduled, answer.result)
        return "ask" if answer.decision == "ask" else "run"


async def _until(may_begin: Callable[[], bool]) -> None:
    while not may_begin():  # noqa: ASYNC110 - time alone changes it
        await asyncio.sleep(_UNSURE_SECONDS)


def _is_cancelled(error: BaseException) -> bool:
    """Whether this task is cancelled, rather than something that the activity waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def reconciled(
    function: Callable[[Interrupted], Reconciled | Awaitable[Reconciled]], question: Interrupted
) -> Reconciled:
    """Ask a reconcile function what became of an interrupted call; a blocking one runs on a thread.

    Raises:
        UsageError: it answered something else than the question's own methods return.
    """
    if inspect.iscoroutinefunction(function):
        answer: object = await function(question)
    else:
        answer = await in_thread(lambda: function(question))
        if isinstance(answer, Awaitable):
            answer = await answer
    if not isinstance(answer, Reconciled):
        raise UsageError(
            f"the on_crash function of {question.tool!r} returned {answer!r}; return interrupted.completed(result), "
            "interrupted.retry() or interrupted.ask()"
        )
    return answer


def _completed(scheduled: TaskScheduled, result: Any) -> Outcome:
    encoded = encode(result, f"the result of activity {scheduled.name!r}")
    event = TaskCompleted(task_id=scheduled.id, result=encoded.raw)
    if not encoded.blobs and not encoded.conversations:
        return Outcome(event)
    return Outcome(event, encoded.resolved, tuple(encoded.links))


def answered(scheduled: TaskScheduled, decision: str, result: Any) -> Outcome | None:
    """Return what a human's answer about an interrupted attempt records, or None when it is to run again."""
    if decision == "completed":
        return _completed(scheduled, result)
    if decision == "failed":
        return _failed(scheduled, Failure(error_type="Interrupted", message=str(result), non_retryable=True))
    return None


def _failed(scheduled: TaskScheduled, failure: Failure) -> Outcome:
    return Outcome(TaskFailed(task_id=scheduled.id, failure=failure))


def _unknown(name: str) -> Failure:
    message = (
        f"no activity {name!r} is registered in this process; decorate the function with @activity, register it "
        "with the runtime before it starts, or pass the function itself to ctx.call_activity"
    )
    return Failure(error_type="ActivityNotRegistered", message=message, non_retryable=True)
