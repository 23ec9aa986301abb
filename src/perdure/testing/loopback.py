"""Serves an ASGI application on the loopback address, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.base.errors import MissingExtraError, UsageError

try:
    import uvicorn
except ModuleNotFoundError:
    raise MissingExtraError("perdure.testing.OpenAIServer", "testing") from None

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"
"""The only address that is listened on."""

_IDLE = 75
_LAST_WORDS = 2
_PAUSE = 0.001

T = TypeVar("T")


def listen(port: int) -> socket.socket:
    """Return a socket bound to a port of the loopback address; 0 takes a free one.

    Raises:
        UsageError: the port is taken.
    """
    # With the protocol named: asyncio switches Nagle's algorithm off only then, and every answer would wait 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(f"cannot listen on {LOOPBACK}:{port}: {error}; port=0 takes a free one") from None
    return listener


class LoopbackServer(uvicorn.Server):
    """Uvicorn in a thread: it says when it listens, and stops at once.

    Args:
        application: what to serve.
        listener: a bound socket; the server closes it.
    """

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            application,
            access_log=False,
            date_header=False,
            lifespan="off",
            log_config=None,
            server_header=False,
            # Longer than clients keep idle connections: none is closed under a request.
            timeout_keep_alive=_IDLE,
            ws="none",
        )
        super().__init__(config)
        self._listener = listener
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perdure-loopback", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._work: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Serve, and return once requests are answered."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Cancel what is under way, close every connection and end the thread."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what the work returns, or None when the server stops first."""
        task = asyncio.create_task(work)
        self._work.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._stopping is not None and self._stopping.is_set():
                return None
            raise
        finally:
            self._work.discard(task)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for :meth:`stop`."""
        if self._stopping is not None:
            await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel what is under way, let it be answered, and close every connection."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for task in self._work:
            task.cancel()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + _LAST_WORDS
        # Not left to uvicorn, which pauses for a tenth of a second: a test suite stops many servers.
        while (state.connections or state.tasks) and loop.time() < end:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(_PAUSE)

    def _run(self) -> None:
        try:
            self.run([self._listener])
        finally:
            # Also where it could not start: whoever waits must not wait for ever.
            self._ready.set()
            self._listener.close()
