"""What programs, disks and users do to a runtime, and what it must do then."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    ActivityFailedError,
    AgentRunner,
    DurableAgent,
    EmbeddedRuntime,
    SQLiteHistoryStore,
    WorkflowContext,
)
from perdure.base.conversation import Conversation
from perdure.base.errors import NotSerializableError, StoreFullError
from perdure.base.events import Status
from perdure.base.messages import Message
from perdure.engine.held import WorkerOptions
from perdure.workflows.registry import Registry

PATIENCE = 3.0


def _on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


async def _quick(n: int) -> int:
    return n


async def _waits(ctx: WorkflowContext, _: Any) -> str:
    await ctx.call_activity(_quick, input=1)
    return str(await ctx.wait_for_external_event("e"))


def _registry(*workflows: Any, activities: tuple[Any, ...] = ()) -> Registry:
    registry = Registry()
    for function in workflows:
        registry.add_workflow(function)
    for function in activities:
        registry.add_activity(function)
    return registry


def _open(path: Path | SQLiteHistoryStore, registry: Registry, **options: Any) -> EmbeddedRuntime:
    store = path if isinstance(path, SQLiteHistoryStore) else SQLiteHistoryStore(path)
    return EmbeddedRuntime(store, registry=registry, options=WorkerOptions(**options))


class _Flaky(SQLiteHistoryStore):
    """A store that fails some calls, as a full or sick disk would."""

    releases_to_fail = 0
    reads_to_fail = 0

    async def release(self, *args: Any, **named: Any) -> None:
        if self.releases_to_fail:
            self.releases_to_fail -= 1
            raise StoreFullError(self.name, "the disk is full")
        await super().release(*args, **named)

    async def blobs(self, digests: Any) -> dict[str, bytes]:
        if digests and self.reads_to_fail:
            self.reads_to_fail -= 1
            raise StoreFullError(self.name, "the disk does not answer")
        return await super().blobs(digests)


_OWNER = """
    import asyncio, sys
    from perdure import EmbeddedRuntime, SQLiteHistoryStore
    async def main():
        async with EmbeddedRuntime(SQLiteHistoryStore("store.db")) as runtime:
            print("ready", flush=True)
            await asyncio.sleep(60)
    asyncio.run(main())
"""


@_on_a_loop
async def test_a_living_worker_that_opened_the_store_by_a_relative_path_is_not_reaped(tmp_path: Path) -> None:
    code = textwrap.dedent(_OWNER)
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        store = SQLiteHistoryStore(tmp_path / "store.db")
        await store.open()
        try:
            assert (await store.check())["workers"] == 1
            await store.reap()
            assert (await store.check())["workers"] == 1
        finally:
            await store.close()
    finally:
        owner.kill()
        owner.communicate()


@dataclasses.dataclass(frozen=True)
class _Point:
    x: int


@_on_a_loop
async def test_an_event_that_cannot_be_read_back_neither_stops_its_run_nor_others(tmp_path: Path) -> None:
    registry = _registry(_waits, activities=(_quick,))
    async with _open(tmp_path / "s.db", registry) as runtime:
        for run in ("bad", "good"):
            await runtime.start("_waits", instance_id=run)
        await asyncio.sleep(0.4)
        try:
            # Encoded as a set of dicts, which nothing can decode: either refuse it here ...
            await runtime.raise_event("bad", "e", {_Point(1)})
        except NotSerializableError:
            await runtime.terminate("bad")
        await runtime.raise_event("good", "e", "fine")
        assert await runtime.wait("good", PATIENCE) == "fine"
        # ... or let the run see an error, or stall with a reason.
        await asyncio.sleep(0.5)
        record = await runtime.find("bad")
        assert record is not None
        assert record.status.finished or "stalled" in (record.waits or "")


@_on_a_loop
async def test_a_read_that_fails_once_does_not_leave_claimed_instances_behind(tmp_path: Path) -> None:
    registry = _registry(_waits, activities=(_quick,))
    store = _Flaky(tmp_path / "s.db")
    async with _open(store, registry) as runtime:
        runs = [await runtime.start("_waits") for _ in range(3)]
        await asyncio.sleep(0.4)
        store.reads_to_fail = 1
        await asyncio.gather(*(runtime.raise_event(run, "e", "x" * 2000) for run in runs))
        for run in runs:
            assert await runtime.wait(run, PATIENCE) == "x" * 2000


@_on_a_loop
async def test_an_instance_whose_giving_back_failed_once_is_not_kept_for_ever(tmp_path: Path) -> None:
    async with _open(tmp_path / "s.db", _registry(_waits, activities=(_quick,))) as runtime:
        run = await runtime.start("_waits")
        await asyncio.sleep(0.4)

    async def _waits_otherwise(ctx: WorkflowContext, _: Any) -> None:
        await ctx.create_timer(1)

    changed = Registry()
    changed.add_workflow(_waits_otherwise, "_waits")
    store = _Flaky(tmp_path / "s.db")
    store.releases_to_fail = 1
    async with _open(store, changed) as runtime:
        await runtime.raise_event(run, "e", "x")
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            record = await runtime.find(run)
            assert record is not None
            if "stalled" in (record.waits or ""):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"it still belongs to {record.owner}, which does not hold it; it waits for {record.waits}")


class _Awkward(Exception):  # noqa: N818
    @property
    def retry_after(self) -> float:
        raise ValueError("no such header")


async def _raises_awkward(_: Any) -> None:
    raise _Awkward


async def _calls_awkward(ctx: WorkflowContext, _: Any) -> str:
    try:
        await ctx.call_activity(_raises_awkward)
    except ActivityFailedError as error:
        return error.failure.error_type
    return "nothing"


@_on_a_loop
async def test_an_exception_whose_attributes_raise_is_still_a_failure(tmp_path: Path) -> None:
    registry = _registry(_calls_awkward, activities=(_raises_awkward,))
    async with _open(tmp_path / "s.db", registry, drain=0.1) as runtime:
        run = await runtime.start("_calls_awkward")
        assert await runtime.wait(run, PATIENCE) == "_Awkward"


def _blocks(n: int) -> int:
    time.sleep(0.3)
    return n


async def _fans_out(ctx: WorkflowContext, n: int) -> int:
    return len(await ctx.when_all([ctx.call_activity(_blocks, input=i, timeout=1) for i in range(n)]))


@_on_a_loop
async def test_the_time_limit_of_an_attempt_does_not_run_while_it_waits_for_a_thread(tmp_path: Path) -> None:
    registry = _registry(_fans_out, activities=(_blocks,))
    async with _open(tmp_path / "s.db", registry, threads=2, drain=0.1) as runtime:
        assert await runtime.wait(await runtime.start("_fans_out", 12), 10) == 12


async def _large(n: int) -> bytes:
    return os.urandom(n)


async def _takes_large(ctx: WorkflowContext, n: int) -> int:
    return len(await ctx.call_activity(_large, input=n))


@_on_a_loop
async def test_a_value_too_large_for_the_store_fails_its_run_and_no_other(tmp_path: Path) -> None:
    registry = _registry(_takes_large, activities=(_large,))
    store = SQLiteHistoryStore(tmp_path / "s.db")
    async with _open(store, registry, drain=0.1) as runtime:
        for connection in store._connections:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)  # stands for SQLite's 1 GB
        run = await runtime.start("_takes_large", 2_000_000)
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            record = await runtime.find(run)
            assert record is not None
            if record.status is Status.FAILED or "stalled" in (record.waits or ""):
                return
            await asyncio.sleep(0.05)
        pytest.fail("the commit is tried again for ever, and nothing says so")


async def _stubborn(_: Any) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if _stubborn_may_end.is_set():
                raise


_stubborn_may_end = threading.Event()


async def _calls_stubborn(ctx: WorkflowContext, _: Any) -> None:
    await ctx.call_activity(_stubborn)


@_on_a_loop
async def test_close_does_not_wait_for_ever_for_an_activity_that_ignores_its_cancellation(tmp_path: Path) -> None:
    registry = _registry(_calls_stubborn, activities=(_stubborn,))
    runtime = _open(tmp_path / "s.db", registry, drain=0.1)
    await runtime.open()
    await runtime.start("_calls_stubborn")
    await asyncio.sleep(0.2)
    closing = asyncio.create_task(runtime.close())
    done, _ = await asyncio.wait([closing], timeout=PATIENCE)
    _stubborn_may_end.set()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # let the test itself end
        if task is not closing:
            task.cancel()
    await closing
    assert done, "close() waits for it without limit"


async def _sequence(ctx: WorkflowContext, n: int) -> int:
    for i in range(n):
        await ctx.call_activity(_quick, input=i)
    return n


@_on_a_loop
async def test_a_store_locked_by_another_process_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    registry = _registry(_sequence, activities=(_quick,))
    async with _open(tmp_path / "s.db", registry, drain=0.1) as runtime:
        run = await runtime.start("_sequence", 3000)
        await asyncio.sleep(0.2)

        def lock() -> None:
            connection = sqlite3.connect(tmp_path / "s.db", isolation_level=None, timeout=5)
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(2)
            connection.execute("ROLLBACK")
            connection.close()

        thread = threading.Thread(target=lock)
        thread.start()
        worst = 0.0
        while thread.is_alive():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - began)
        assert await runtime.wait(run, 20) == 3000
        assert worst < 0.5


@_on_a_loop
async def test_a_start_is_not_acknowledged_when_the_store_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    registry = _registry(_waits, activities=(_quick,))
    async with _open(path, registry) as runtime:
        await runtime.start("_waits", instance_id="before")
        for file in tmp_path.glob("s.db*"):
            file.unlink()
        await asyncio.sleep(2.5)
        try:
            await runtime.start("_waits", instance_id="after")
        except Exception:
            return
    async with _open(path, registry) as runtime:
        assert await runtime.find("after") is not None


@_on_a_loop
async def test_a_runner_whose_store_could_not_be_opened_once_can_be_used_later(tmp_path: Path) -> None:
    runner = AgentRunner(store=tmp_path / "later" / "s.db")
    agent = DurableAgent(name="ReviewLater", llm="echo")
    with pytest.raises(Exception, match="does not exist"):
        await runner.run(agent, {"task": "hello"})
    (tmp_path / "later").mkdir()
    assert "hello" in str(await runner.run(agent, {"task": "hello"}))
    await runner.aclose()


@_on_a_loop
async def test_who_waits_for_a_run_when_the_runtime_closes_is_told_so_not_cancelled(tmp_path: Path) -> None:
    async with _open(tmp_path / "s.db", _registry(_waits, activities=(_quick,))) as runtime:
        run = await runtime.start("_waits")
        waiting = asyncio.create_task(runtime.wait(run))
        await asyncio.sleep(0.3)
    await asyncio.wait([waiting], timeout=PATIENCE)
    assert waiting.done()
    assert not waiting.cancelled(), "nobody cancelled it"


_FORKS = """
    import os, signal, sys
    from perdure import AgentRunner, DurableAgent
    runner = AgentRunner(store=sys.argv[1])
    agent = DurableAgent(name="Forked", llm="echo")
    runner.run_sync(agent, {"task": "parent"})
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        try:
            runner.run_sync(agent, {"task": "child"}, timeout_in_seconds=1)
        except Exception:
            pass
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
"""


def test_a_forked_process_is_refused_or_served_but_does_not_hang(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_FORKS), str(tmp_path / "s.db")]
    ended = subprocess.run(command, timeout=30, check=False)
    assert ended.returncode != (-signal.SIGALRM) & 0xFF, "the child waited for a thread that it does not have"
    assert ended.returncode == 0


@_on_a_loop
async def test_a_conversation_that_todays_code_writes_otherwise_is_still_complete_in_the_store(tmp_path: Path) -> None:
    # What the next version of Perdure may do to a message, while a run of this version is in flight.
    text = {"of": "an old wording"}
    asleep = asyncio.Event()

    async def reads(conversation: Any) -> list[str | None]:
        if len(conversation.messages()) == 2 and not asleep.is_set():
            asleep.set()
            await asyncio.sleep(60)
        return [message.content for message in conversation.messages()]

    async def talks(ctx: WorkflowContext, _: Any) -> list[str | None]:
        conversation = Conversation(ctx.instance_id).append(Message(role="user", content=text["of"]))
        await ctx.call_activity("reads", input=conversation)
        await ctx.wait_for_external_event("e")
        conversation = conversation.append(Message(role="user", content="and more"))
        return list(await ctx.call_activity("reads", input=conversation))

    registry = _registry(talks, activities=(reads,))
    async with _open(tmp_path / "s.db", registry) as runtime:
        run = await runtime.start("talks")
        await asyncio.sleep(0.4)
    text["of"] = "a new wording"
    async with _open(tmp_path / "s.db", registry, drain=0.1) as runtime:
        await runtime.raise_event(run, "e")
        await asyncio.wait_for(asleep.wait(), PATIENCE)
    async with _open(tmp_path / "s.db", registry) as runtime:
        assert len(await runtime.wait(run, PATIENCE)) == 2
