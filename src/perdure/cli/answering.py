"""What humans send to runs: answers about interrupted calls, another try, events, a hold, a cancellation.

Commands only write signals. The process that executes the run reads them, now or when it is started again.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec

from perdure.agents.turn import ToolOutcome
from perdure.base.errors import UsageError
from perdure.base.events import EventRaised, Status, decode_event
from perdure.cli import ending, terminal
from perdure.cli.find_runs import run_by_prefix
from perdure.cli.formats import cleaned
from perdure.cli.given import json_value
from perdure.cli.options import looking
from perdure.cli.standing import standing, worker_command
from perdure.engine.engine_events import ANSWERED
from perdure.ports.history_store import HistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.inspect import Inspection, Inspector, Step, is_tool_call
from perdure.tools.results import as_text

_PATIENCE = 0.5
"""Seconds that a command waits to see whether a running app takes its signal."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A human's answer.

    Attributes:
        decision: "retry", "completed", "failed", or None when no option was given.
        value: the result, or the reason.
        task: the attempt that it is about; None for all.
    """

    decision: str | None = None
    value: Any = None
    task: int | None = None

    @classmethod
    def of(cls, *, retry: bool, result: str | None, fail: str | None, task: int | None) -> Answer:
        """Return what the options of ``perdure runs resume`` say.

        Raises:
            UsageError: several answers at once, or a result that is no JSON.
        """
        if sum((retry, result is not None, fail is not None)) > 1:
            raise UsageError("give one of --retry, --result and --fail")
        if retry:
            return cls(decision="retry", task=task)
        if fail is not None:
            return cls(decision="failed", value=fail, task=task)
        if result is None:
            return cls(task=task)
        return cls(decision="completed", value=json_value("--result", result), task=task)


class _Told(msgspec.Struct):
    """What a recorded answer says, but for the result."""

    task: int
    decision: str


async def answer_run(store: Path | None, named: str | None, run: str, answer: Answer) -> int:
    """Answer what a run asks, or try a stalled one again; return 0, or 1 when an answer is still missing.

    Raises:
        UsageError: the run has ended, or does not ask this.
    """
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        inspection = await Inspector(runtime.store, record.instance_id).look()
        if record.status.finished:
            raise UsageError(f"run {cleaned(record.instance_id)} is {record.status.lower()}; it cannot be resumed")
        if record.status is Status.SUSPENDED and answer.decision is None and answer.task is None:
            await _resume(runtime, inspection, "will go on")
            return 0
        if inspection.asks:
            return await _answer_asks(runtime, inspection, answer, named)
        stands = standing(record, time.time(), inspection)
        if answer.decision is not None or answer.task is not None:
            raise UsageError(f"run {cleaned(record.instance_id)} asks nothing; it {_is(stands.reason)}")
        if stands.state != "stalled":
            terminal.note(f"run {cleaned(record.instance_id)} needs no answer; it {_is(stands.reason)}")
            return 0
        await _resume(runtime, inspection, "will be tried again")
        return 0


async def _resume(runtime: EmbeddedRuntime, inspection: Inspection, what: str) -> None:
    await runtime.resume(inspection.record.instance_id)
    await report_effect(runtime.store, inspection, what)


def _is(reason: str) -> str:
    return cleaned(reason if reason.startswith("waits") else f"is {reason}")


async def _answer_asks(runtime: EmbeddedRuntime, inspection: Inspection, answer: Answer, named: str | None) -> int:
    asked = [step for step in inspection.asks if answer.task in {None, ending.task_of(step)}]
    if not asked:
        tasks = ", ".join(str(ending.task_of(step)) for step in inspection.asks)
        raise UsageError(f"task {answer.task} asks nothing; these do: {tasks}")
    given = await _answers_on_their_way(runtime.store, inspection.record.key)
    for step in asked:
        if (earlier := given.get(ending.task_of(step))) is not None:
            raise UsageError(
                f"{cleaned(step.name)} is answered already ({earlier}), and the first answer counts; it takes effect "
                f"when the run's app runs: {worker_command(inspection.record)}"
            )
    if answer.decision is None:
        ending.report_wait(inspection, named)
        return 1
    for step in asked:
        value = _as_recorded(step, answer)
        await runtime.answer(inspection.record.instance_id, ending.task_of(step), answer.decision, value)
    names = ", ".join(step.name for step in asked)
    meaning = {"retry": "runs again", "completed": "counts as done", "failed": "counts as failed"}[answer.decision]
    await report_effect(runtime.store, inspection, f"is answered: {cleaned(names)} {meaning}")
    return 0


async def _answers_on_their_way(store: HistoryStore, key: int) -> dict[int, str]:
    """Return the answers that a run has got and not read, by task."""
    found: dict[int, str] = {}
    for text in await store.waiting(key):
        event = decode_event(text)
        if isinstance(event, EventRaised) and event.name == ANSWERED:
            # Nothing but the result may refer to content beside the event.
            told = msgspec.json.decode(event.input, type=_Told)
            found.setdefault(told.task, told.decision)
    return found


def _as_recorded(step: Step, answer: Answer) -> Any:
    """Return the value that the call would have recorded itself: a tool call records what the model reads."""
    if answer.decision == "completed" and is_tool_call(step.entry.name):
        return msgspec.to_builtins(ToolOutcome(content=as_text(answer.value)))
    return answer.value


async def suspend_run(store: Path | None, run: str, reason: str) -> None:
    """Ask for a run to be held; say whether it has taken effect."""
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        if record.status is Status.SUSPENDED:
            terminal.note(f"run {cleaned(record.instance_id)} is suspended already")
            return
        inspection = await Inspector(runtime.store, record.instance_id).look()
        await runtime.suspend(record.instance_id, reason)
        await report_effect(runtime.store, inspection, "will be suspended")


async def raise_event(store: Path | None, run: str, name: str, data: Any) -> None:
    """Send an event to a run; say whether it has arrived."""
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        inspection = await Inspector(runtime.store, record.instance_id).look()
        await runtime.raise_event(record.instance_id, name, data)
        await report_effect(runtime.store, inspection, f"gets event {cleaned(repr(name))}")


async def cancel_run(store: Path | None, run: str, reason: str, *, children: bool) -> None:
    """Ask for the end of a run, and of its child workflows if wanted; say whether it has taken effect."""
    async with looking(store) as runtime:
        record = await run_by_prefix(runtime.store, run)
        if record.status.finished:
            terminal.note(f"run {cleaned(record.instance_id)} is {record.status.lower()} already; nothing to cancel")
            return
        inspection = await Inspector(runtime.store, record.instance_id).look()
        await runtime.terminate(record.instance_id, reason, recursive=children)
        await report_effect(runtime.store, inspection, "will be cancelled")


async def report_effect(store: HistoryStore, before: Inspection, what: str, whose: str = "") -> None:
    """Say what comes of a signal: at once where the app runs, otherwise when it does.

    Args:
        store: where the run is.
        before: the run before the signal.
        what: what the signal leads to.
        whose: what people know the run as; by default as a run.
    """
    run = before.record.instance_id
    whose = whose or f"run {cleaned(run)}"
    until, now = time.monotonic() + _PATIENCE, before
    while time.monotonic() < until:
        now = await Inspector(store, run).look()
        if now.record.status.finished:
            terminal.note(f"{whose} is {now.record.status.lower()}")
            return
        moved = (now.generation, len(now.steps)) != (before.generation, len(before.steps))
        # One that ended between the two reads of a look says so at the next one.
        if moved and now.end is None:
            terminal.note(f"{whose} {what}; {cleaned(standing(now.record, time.time(), now).reason)}")
            return
        await asyncio.sleep(0.05)
    terminal.note(f"{whose} {what}")
    apps = await store.working_apps()
    if now.record.app_id in apps:
        reason = standing(now.record, time.time(), now, apps).reason
        terminal.note(f"This takes effect when a worker takes it up; it {_is(reason)}")
        return
    takes = f"this takes effect when its app ({cleaned(before.record.app_id)}) runs"
    terminal.note(f"Nobody executes it now; {takes}: {worker_command(before.record)}")
