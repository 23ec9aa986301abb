"""An event loop on virtual time: it has timers and callbacks, and nothing else of a real one."""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol


class Timeline(Protocol):
    """Tells virtual time, in seconds."""

    now: float


class ThreadUseError(AssertionError):
    """Code under simulation asked for a thread, whose timing no seed can decide."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order in which they became ready, when it is told to.

    Whatever would need a socket, a signal or a process is not there: the abstract base class refuses it.

    Args:
        timeline: the virtual time, which this loop reads and never turns.
        failed: told of what asyncio reports: a callback that raised, an error that nobody retrieved.

    Attributes:
        tasks: every task that was made here, in order.
    """

    def __init__(self, timeline: Timeline, failed: Callable[[dict[str, Any]], None]) -> None:
        self.tasks: list[asyncio.Task[Any]] = []
        self._timeline = timeline
        self._failed = failed
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._armed = 0

    # -- what asyncio asks of a loop

    def time(self) -> float:
        return self._timeline.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._timeline.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._armed += 1
        heapq.heappush(self._timers, (when, self._armed, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **options)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        raise ThreadUseError(f"{func!r} was given to a thread; a simulation has none")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._failed(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Take note that a timer is not wanted any more; it is dropped when its time comes."""

    # -- what the world asks of it

    @property
    def is_ready(self) -> bool:
        """Whether callbacks wait for their turn."""
        return bool(self._ready)

    def next_timer(self) -> float | None:
        """Return the virtual time of the next timer, or None."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def wake(self) -> None:
        """Make ready what is due."""
        now = self._timeline.now
        while self._timers and self._timers[0][0] <= now:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)

    def run_ready(self, most: int) -> int:
        """Run callbacks until none is ready, but not more than so many; return how many there were."""
        ready = self._ready
        ran = 0
        events._set_running_loop(self)
        try:
            while ready and ran < most:
                handle = ready.popleft()
                ran += 1
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(None)
        return ran

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine that waits for nothing but turns of this loop, and return its result."""
        events._set_running_loop(self)
        try:
            while True:
                waited_for = coroutine.send(None)
                assert waited_for is None, f"{coroutine!r} waits for {waited_for!r}, which no turn of this loop brings"
        except StopIteration as end:
            return end.value
        finally:
            events._set_running_loop(None)

    def unwind(self) -> None:
        """Cancel whatever goes on here, and let its clean-up run: the end of a simulation leaves nothing behind."""
        for _ in range(50):
            self.run_ready(10_000)
            unfinished = [task for task in self.tasks if not task.done()]
            if not unfinished and not self._ready:
                break
            for task in unfinished:
                task.cancel()
        self._timers.clear()
        self._ready.clear()
