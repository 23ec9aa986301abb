"""A runtime on a thread of its own, for programs that have no event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.base.errors import UsageError
from perdure.runtime.embedded import EmbeddedRuntime

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop: uvloop's where it is installed, otherwise asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class BackgroundRuntime:
    """Runs a runtime on its own thread and loop; its coroutines are called from any other thread.

    Args:
        runtime: makes the runtime, on the thread.
        keeps_process: whether the process stays until :meth:`close`, even when its main thread has ended.
    """

    def __init__(self, runtime: Callable[[], EmbeddedRuntime], *, keeps_process: bool) -> None:
        self._make = runtime
        self._opened: concurrent.futures.Future[EmbeddedRuntime] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._work, name="perdure-runtime", daemon=not keeps_process)
        self._pid = os.getpid()
        self._thread.start()
        self.runtime = self._opened.result()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the runtime's loop and return its result."""
        return self.submit(work).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the runtime's loop and return a future of its result."""
        assert self._loop is not None
        if os.getpid() != self._pid:
            work.close()
            raise UsageError("this runner was started before a fork; make a new AgentRunner in the child process")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Close the runtime and end the thread. Idempotent; in a forked child there is nothing to close."""
        if os.getpid() != self._pid:
            return
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._host())

    async def _host(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            runtime = self._make()
            await runtime.open()
        except BaseException as error:  # noqa: BLE001 - the thread that waits for the runtime raises it
            self._opened.set_exception(error)
            return
        self._opened.set_result(runtime)
        try:
            await self._stop.wait()
        finally:
            await runtime.close()
