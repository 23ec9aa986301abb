"""``AgentRunner``: runs agents in this process, durably."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Self

import msgspec

from perdure.agents.agent import DurableAgent
from perdure.base.errors import UsageError
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.hosting.background import BackgroundRuntime
from perdure.ports.history_store import HistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.location import app_id_of, store_path
from perdure.workflows.registry import default_registry

Payload = str | dict[str, Any]


class AgentRunner:
    """Hosts agents and runs them (reference: dapr-ai-docs 2.4, Durable Agent; behaviour.md 2).

    Inside a running event loop the runner works on that loop; otherwise on a thread of its own. Whatever an earlier
    process left unfinished goes on as soon as its agent is known to the runner.

    Args:
        agent: an agent to host from the start.
        name: name of the runner, for people: they see it as the owner of what it executes.
        app_id: the app that runs belong to and whose unfinished runs go on here; by default what ``PERDURE_APP_ID`` or
            ``APP_ID`` say, else ``default``.
        store: path of the database, or a history store; by default what ``PERDURE_STORE`` or ``PERDURE_HOME`` say.
        timeout_in_seconds: how long ``run`` waits unless told otherwise.
    """

    def __init__(
        self,
        agent: DurableAgent | None = None,
        *,
        name: str = "agent-runner",
        app_id: str | None = None,
        store: str | os.PathLike[str] | HistoryStore | None = None,
        timeout_in_seconds: float = 600,
    ) -> None:
        self._name = name
        self._app_id = app_id
        self._store = store
        self._timeout = timeout_in_seconds
        self._agents: list[DurableAgent] = []
        self._background: BackgroundRuntime | None = None
        self._here: asyncio.Task[EmbeddedRuntime] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if agent is not None:
            self.workflow(agent)

    # -- running

    def run(
        self,
        agent: DurableAgent,
        payload: Payload | None = None,
        *,
        instance_id: str | None = None,
        wait: bool = True,
        timeout_in_seconds: float | None = None,
    ) -> asyncio.Task[str | None]:
        """Run an agent; await the result.

        The run is scheduled at once, whether the result is awaited or not.

        Args:
            agent: who answers.
            payload: ``{"task": text}``, or the text.
            instance_id: id of the run; the same id with the same payload attaches to the run that exists, so that a
                program started again does not ask twice.
            wait: False returns the run's id as soon as the run is accepted.
            timeout_in_seconds: how long to wait; the run goes on afterwards.

        Returns:
            a task of the final assistant message as JSON text; of None when the time is up; of the run's id with
            ``wait=False``.

        Raises:
            UsageError: no event loop is running; use ``run_sync``.
            RunFailedError: the run failed or was terminated.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("AgentRunner.run needs a running event loop; without one use run_sync(...)") from None
        work = self._run(agent, payload, instance_id, wait=wait, timeout=timeout_in_seconds)
        return loop.create_task(work)

    def run_sync(
        self,
        agent: DurableAgent,
        payload: Payload | None = None,
        *,
        instance_id: str | None = None,
        timeout_in_seconds: float | None = None,
    ) -> str | None:
        """Run an agent and wait for the result, as :meth:`run` does, from a program without event loop.

        Raises:
            UsageError: an event loop is running in this thread; await ``run`` there.
            RunFailedError: the run failed or was terminated.
        """
        _refuse_running_loop("run_sync")
        background = self._in_background(keeps_process=False)
        work = self._run_on(background.runtime, agent, payload, instance_id, wait=True, timeout=timeout_in_seconds)
        return background.call(work)

    async def _run(
        self,
        agent: DurableAgent,
        payload: Payload | None,
        instance_id: str | None,
        *,
        wait: bool,
        timeout: float | None,  # noqa: ASYNC109
    ) -> str | None:
        if self._background is not None:
            work = self._run_on(self._background.runtime, agent, payload, instance_id, wait=wait, timeout=timeout)
            return await asyncio.wrap_future(self._background.submit(work))
        runtime = await self._on_this_loop()
        return await self._run_on(runtime, agent, payload, instance_id, wait=wait, timeout=timeout)

    async def _run_on(
        self,
        runtime: EmbeddedRuntime,
        agent: DurableAgent,
        payload: Payload | None,
        instance_id: str | None,
        *,
        wait: bool,
        timeout: float | None,  # noqa: ASYNC109
    ) -> str | None:
        self.workflow(agent)
        started = await runtime.start(agent.agent_workflow_name, payload, instance_id=instance_id)
        if not wait:
            return started
        try:
            message = await runtime.wait(started, self._timeout if timeout is None else timeout)
        except TimeoutError:
            return None
        return msgspec.json.encode(message).decode()

    # -- hosting

    def workflow(self, agent: DurableAgent) -> Self:
        """Make an agent known, so that its unfinished runs go on; return the runner."""
        agent.register(default_registry)
        if agent not in self._agents:
            self._agents.append(agent)
            self._look_for_work()
        return self

    def start(self) -> Self:
        """Host the agents on a thread of their own until :meth:`shutdown`; return the runner.

        Raises:
            UsageError: no agent was given, or an event loop is running in this thread.
        """
        _refuse_running_loop("start")
        if not self._agents:
            raise UsageError("AgentRunner.start hosts nothing: give it an agent, AgentRunner(agent=...).start()")
        self._in_background(keeps_process=True)
        return self

    def shutdown(self, agent: DurableAgent | None = None) -> None:  # noqa: ARG002 - programs name the agent
        """Finish running activities, give unfinished runs back to the store, and let go of it. Idempotent.

        Inside the runner's event loop, await :meth:`aclose` instead.
        """
        background, self._background = self._background, None
        if background is not None:
            background.close()
        if self._here is not None and self._loop is not None and not self._loop.is_closed():
            closing = self._loop.create_task(self.aclose())
            _keep(closing)

    async def aclose(self) -> None:
        """Do as :meth:`shutdown` does, on the runner's event loop."""
        here, self._here = self._here, None
        runtime: EmbeddedRuntime | None = None
        if here is not None:
            try:
                runtime = await here
            except Exception:  # noqa: BLE001 - told to whoever wanted to run; there is nothing to close
                runtime = None
            if runtime is not None:
                await runtime.close()
        background, self._background = self._background, None
        if background is not None:
            await asyncio.to_thread(background.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    # -- where the runtime lives

    def _new_runtime(self) -> EmbeddedRuntime:
        store = self._store
        if store is None or isinstance(store, (str, os.PathLike)):
            store = SQLiteHistoryStore(store_path(store))
        return EmbeddedRuntime(store, app_id=app_id_of(self._app_id), name=self._name)

    def _in_background(self, *, keeps_process: bool) -> BackgroundRuntime:
        if self._background is None:
            self._background = BackgroundRuntime(self._new_runtime, keeps_process=keeps_process)
        return self._background

    async def _on_this_loop(self) -> EmbeddedRuntime:
        loop = asyncio.get_running_loop()
        if self._here is None or self._loop is not loop:
            self._loop = loop
            self._here = loop.create_task(self._open_here())
        opening = self._here
        try:
            return await asyncio.shield(opening)
        finally:
            if opening.done() and (opening.cancelled() or opening.exception() is not None) and self._here is opening:
                # The next call tries again: a store that could not be opened once may be mended by then.
                self._here = None

    async def _open_here(self) -> EmbeddedRuntime:
        runtime = self._new_runtime()
        await runtime.open()
        return runtime

    def _look_for_work(self) -> None:
        if self._background is not None:
            self._background.submit(_poke(self._background.runtime))
        elif self._here is not None and self._here.done() and not self._here.exception():
            self._here.result().look_for_work()


_closing: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    # The loop itself holds tasks weakly only.
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _poke(runtime: EmbeddedRuntime) -> None:
    runtime.look_for_work()


def _refuse_running_loop(method: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(f"AgentRunner.{method} would block this event loop; use `await runner.run(...)` here")
