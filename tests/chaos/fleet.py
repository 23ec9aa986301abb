"""What the soak's worker processes run: agents, and workflows beside them. Every run of an activity leaves its lines.

A line ``begin`` comes before the effect and a line ``end`` after it, each in a single append, in a file for each life
of a process. What a run returns carries the run's name, so a history tells which run its outcome is from.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perdure import DurableAgent, Interrupted, current_activity, tool
from perdure.base.errors import StoreError
from perdure.base.events import RetryPolicy
from perdure.base.messages import FunctionCall, Message, ToolCall
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.engine.held import WorkerOptions
from perdure.llm.scripted import ScriptedModel, turn_of
from perdure.ports.chat_model import ChatReply, ChatRequest
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

APP = "fleet"
LEASE = 1.5
"""Seconds that a worker of the soak may be silent."""

LETTERS = 4
MODEL_CALLS, TOOL_CALLS = 3, 2


class Place:
    """Where a wave happens: the store, and beside it what its processes leave."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "perdure.db"
        self.effects = folder / "effects"
        self.payments = folder / "payments"
        self.logs = folder / "logs"
        self.accepted = folder / "accepted"
        for needed in (self.effects, self.payments, self.logs):
            needed.mkdir(parents=True, exist_ok=True)

    def history_store(self, busy_timeout: float = 5.0) -> SQLiteHistoryStore:
        return SQLiteHistoryStore(self.store, lease_seconds=LEASE, busy_timeout=busy_timeout)


@dataclass
class _Here:
    """This process, as its activities know it."""

    place: Place
    life: int
    runtime: EmbeddedRuntime
    runs: Iterator[int] = field(default_factory=itertools.count)

    @property
    def token(self) -> int:
        """The fencing token that this process's worker believes in."""
        worker = self.runtime._worker
        return worker.lease.token if worker is not None and worker.lease is not None else 0


_here: _Here


def _append(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


@contextmanager
def _effect(name: str) -> Iterator[str]:
    """Leave the lines of one run, and yield the run's name."""
    call, lines = current_activity(), _here.place.effects / str(_here.life)
    run = f"by-{_here.life}.{next(_here.runs)}"
    # The monotonic clock is one for all processes of a machine.
    of = f"{call.instance_id} {call.idempotency_key} {call.attempt} {name}"
    _append(lines, f"begin {run} {_here.token} {time.monotonic()} {of}")
    yield run
    _append(lines, f"end {run}")


# -- the agent


@tool
async def look_up(number: int) -> dict[str, Any]:
    """Look up the price of a journey, which takes a while."""
    with _effect("look_up") as run:
        await asyncio.sleep(random.uniform(0.05, 0.8))
        return {"price": 2 * number, "by": run}


def _payment(place: Place, key: str) -> Path:
    return place.payments / quote(key, safe="")


def _book(run: str, amount: int) -> bool:
    """Book a payment under its key, as payment services do: the second one of a key is none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = os.open(_payment(_here.place, current_activity().idempotency_key), flags, 0o600)
    except FileExistsError:
        return False
    os.write(file, json.dumps({"run": run, "amount": amount}).encode())
    os.close(file)
    return True


def _already_paid(interrupted: Interrupted) -> Any:
    if _payment(_here.place, interrupted.idempotency_key).exists():
        return interrupted.completed({"paid": interrupted.arguments["amount"]})
    return interrupted.retry()


@tool(on_crash=_already_paid)
def pay(amount: int) -> dict[str, Any]:
    """Book a payment, on a thread."""
    with _effect("pay") as run:
        time.sleep(random.uniform(0, 0.1))
        if not _book(run, amount):
            _append(_here.place.effects / str(_here.life), f"refused {run}")
        time.sleep(random.uniform(0, 0.1))
        return {"paid": amount, "by": run}


async def _reply(request: ChatRequest) -> ChatReply:
    """Look the price up, pay it, and tell what was paid."""
    turn = turn_of(request)
    with _effect("model") as run:
        await asyncio.sleep(random.uniform(0.2, 1.5))
        if turn == TOOL_CALLS:
            message = Message(role="assistant", content=str(_last(request)["paid"]))
        else:
            name, argument = ("look_up", {"number": _task(request)}) if turn == 0 else ("pay", _amount(request))
            call = FunctionCall(name=name, arguments=json.dumps(argument))
            message = Message(role="assistant", tool_calls=(ToolCall(id=f"call_{turn}", function=call),))
        return ChatReply(message=message, model=run)


def _task(request: ChatRequest) -> int:
    return next(int(message.content or "") for message in request.messages if message.role == "user")


def _last(request: ChatRequest) -> Any:
    return json.loads(request.messages[-1].content or "")


def _amount(request: ChatRequest) -> dict[str, int]:
    return {"amount": _last(request)["price"]}


def fleet_agent() -> DurableAgent:
    """Return the agent that the whole fleet is made of."""
    return DurableAgent(name="Fleet", tools=[look_up, pay], llm=ScriptedModel(_reply))


# -- workflows beside it


async def step(number: int) -> dict[str, Any]:
    with _effect("step") as run:
        await asyncio.sleep(random.uniform(0.05, 0.5))
        return {"value": number + 1, "by": run}


def step_on_a_thread(number: int) -> dict[str, Any]:
    with _effect("step_on_a_thread") as run:
        time.sleep(random.uniform(0.01, 0.2))
        return {"value": number + 1, "by": run}


async def flaky(number: int) -> dict[str, Any]:
    with _effect("flaky") as run:
        if current_activity().attempt == 1:
            raise ConnectionError(f"the line is busy, says {run}")
        return {"value": number + 1, "by": run}


async def family(ctx: Any, number: int) -> int:
    children = [ctx.call_child_workflow(child, input=number + place) for place in range(3)]
    return sum(await ctx.when_all(children))


async def child(ctx: Any, number: int) -> int:
    await ctx.create_timer(0.2 * (number % 4))
    done = await ctx.call_activity(step, input=number)
    return (await ctx.call_activity(step_on_a_thread, input=done["value"]))["value"]


async def letters(ctx: Any, read: list[int]) -> list[int]:
    """Read one letter a generation."""
    letter = await ctx.wait_for_external_event("letter")
    done = await ctx.call_activity(step, input=letter)
    read = [*read, done["value"]]
    if len(read) < LETTERS:
        ctx.continue_as_new(read)
        return []
    return read


async def alarms(ctx: Any, number: int) -> list[Any]:
    for _ in range(3):
        await ctx.create_timer(0.3)
        number = (await ctx.call_activity(step, input=number))["value"]
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.2)
    number = (await ctx.call_activity(flaky, input=number, retry_policy=policy))["value"]
    never, alarm = ctx.wait_for_external_event("never"), ctx.create_timer(0.3)
    return [number, "too late" if await ctx.when_any([never, alarm]) is alarm else "in time"]


async def held(ctx: Any, number: int) -> int:
    """Make steps, some of them while it is suspended, and end with the event that comes after that."""
    for _ in range(4):
        number = (await ctx.call_activity(step, input=number))["value"]
    return number + await ctx.wait_for_external_event("last")


def fleet_registry() -> Registry:
    """Return a registry with the fleet's agent and the workflows beside it."""
    registry = Registry()
    fleet_agent().register(registry)
    for workflow in (family, child, letters, alarms, held):
        registry.add_workflow(workflow)
    for activity in (step, step_on_a_thread, flaky):
        registry.add_activity(activity)
    return registry


# -- the process


def work(folder: Path, life: int) -> None:
    """Execute the fleet's instances until SIGTERM comes."""
    place = Place(folder)
    logging.basicConfig(filename=place.logs / str(life), level=logging.WARNING)
    asyncio.run(_work(place, life))


async def _work(place: Place, life: int) -> None:
    global _here  # noqa: PLW0603 - activities are plain functions
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    # Every fourth process puts each function away after each step, which must change nothing.
    options = WorkerOptions(reap=0.1, put_away=life % 4 == 0)
    runtime = EmbeddedRuntime(
        place.history_store(), app_id=APP, registry=fleet_registry(), options=options, name=f"life-{life}"
    )
    _here = _Here(place, life, runtime)
    async with runtime:
        await _start_one(runtime, place, life)
        await told.wait()


async def _start_one(runtime: EmbeddedRuntime, place: Place, life: int) -> None:
    """Start an agent from here; what is not answered before this process dies was never accepted."""
    instance_id = f"agent-of-life-{life}"
    with contextlib.suppress(StoreError):
        await runtime.start(fleet_agent().agent_workflow_name, {"task": str(life)}, instance_id=instance_id)
        _append(place.accepted, instance_id)
