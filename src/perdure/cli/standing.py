"""How a run stands, in words: who executes it, what it waits for, what helps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from perdure.base.events import Status
from perdure.base.ids import split_key
from perdure.cli.formats import cleaned, command, duration, moment, shortened
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.inspect import Inspection, agent_of
from perdure.runtime.location import app_id_of

_NOTABLY_LATE = 5.0
"""Seconds after which it is said how long nobody has taken a run up."""

State = Literal["finished", "executing", "ready", "asks", "stalled", "held", "waiting"]


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a run stands.

    Attributes:
        state: "ready" for one that could go on and that nobody executes.
        reason: why it is not moving, or how it ended.
    """

    state: State
    reason: str

    @property
    def needs_human(self) -> bool:
        """Whether it goes on only after ``perdure runs resume``."""
        return self.state in {"asks", "stalled", "held"}


def standing(
    record: InstanceRecord, now: float, inspection: Inspection | None = None, apps: Collection[str] | None = None
) -> Standing:
    """Return how a run stands.

    Args:
        record: what the store knows of it.
        now: seconds since the epoch.
        inspection: the run itself, which knows the names of interrupted calls and the reason of a failure.
        apps: those that have a worker; None when nobody has looked.
    """
    if record.status.finished:
        return Standing("finished", _end(record, inspection))
    if record.owner is not None:
        return Standing("executing", f"executed by {record.owner}")
    if record.status is Status.PENDING and record.due is not None and record.due > now:
        return Standing("waiting", f"begins in {duration(record.due - now)}, at {moment(record.due)}")
    if record.due is not None and record.due <= now:
        return Standing("ready", _taken_up(record, now, apps))
    if record.status is Status.PENDING and record.due is None and record.waits is None:
        return Standing("waiting", "waits for its turn")
    return _parked(msgspec.json.decode(record.waits) if record.waits else {}, now, inspection)


def _taken_up(record: InstanceRecord, now: float, apps: Collection[str] | None) -> str:
    if apps is None:
        return "waits for its app to run"
    if not apps:
        return "waits for its app to run: no worker runs"
    if record.app_id not in apps:
        return f"waits for its app to run: no worker of app {record.app_id} runs"
    name, version = split_key(record.workflow)
    code = kind_and_name(name) + (f", version {version}," if version else "")
    text = f"waits until a worker of its app, {record.app_id}, that knows {code} takes it up"
    # Due at once, whenever that was, has no time.
    late = now - record.due if record.due else 0.0
    return f"{text}; none has for {duration(late)}" if late >= _NOTABLY_LATE else text


def _parked(waits: dict[str, Any], now: float, inspection: Inspection | None) -> Standing:
    if "stalled" in waits:
        return Standing("stalled", f"stalled: {waits['stalled']}")
    if "suspended" in waits:
        return Standing("held", _held(waits["suspended"]))
    if "asks" in waits:
        return Standing("asks", _asks(waits["asks"], inspection))
    return Standing("waiting", _waits(waits, now) or "waits for its app to run")


def worker_command(record: InstanceRecord, store: str | None = None) -> str:
    """Return the command that executes a run, as far as the store knows it: the file of its app is not in there.

    Args:
        record: the run.
        store: the --store option that the command repeats, or None.
    """
    verb = "work" if agent_of(record.workflow) is None else "run"
    located = () if record.app_id == app_id_of() else ("--app-id", cleaned(record.app_id))
    return command(verb, "APP", *located, store=store)


def owner_name(workflow: str) -> str:
    """Return the name that people know a run's code by: its agent's, or the workflow's."""
    return agent_of(workflow) or workflow


def kind_and_name(workflow: str) -> str:
    """Return that a run's code is an agent or a workflow, and the name that people know it by."""
    return f"{'workflow' if agent_of(workflow) is None else 'agent'} {owner_name(workflow)}"


def _end(record: InstanceRecord, inspection: Inspection | None) -> str:
    failure = None if inspection is None or inspection.end is None else inspection.end.entry.failure
    if failure is None:
        return ""
    if record.status is Status.TERMINATED:
        return f"cancelled: {failure.message}" if failure.message else "cancelled"
    return f"{failure.error_type}: {failure.message}"


def _held(reason: str) -> str:
    return f"suspended: {reason}" if reason else "suspended"


def _asks(asked: list[dict[str, Any]], inspection: Inspection | None) -> str:
    names = {attempt.task: step.name for step in _steps(inspection) for attempt in step.entry.attempts}
    listed = [f"{names.get(ask['task'], ask['activity'])} (task {ask['task']})" for ask in asked]
    return f"asks you what became of {', '.join(listed)}"


def _steps(inspection: Inspection | None) -> Any:
    return () if inspection is None else inspection.steps


def _waits(waits: dict[str, Any], now: float) -> str:
    limits = [*([waits["limit"]] if "limit" in waits else ()), *waits.get("queued", ())]
    found: list[str] = [_turn(limit, now) for limit in limits]
    found += [f"event {name!r}" for name in waits.get("events", ())]
    for child in waits.get("children", ()):
        where = f" of app {child['app']!r}" if "app" in child else ""
        found.append(f"child {kind_and_name(child['workflow'])}{where} ({child['instance']})")
    for retry in waits.get("retries", ()):
        wait = duration(max(0.0, retry["at"] - now))
        of = f" of {retry['of']}" if "of" in retry else ""
        what = activity_name(retry["activity"]) if "activity" in retry else owner_name(retry["workflow"])
        found.append(f"attempt {retry['attempt']}{of} of {what} in {wait}, at {moment(retry['at'])}")
    if "timer" in waits:
        found.append(f"a timer in {duration(max(0.0, waits['timer'] - now))}, until {moment(waits['timer'])}")
    if "stuck" in waits:
        found.append(f"stuck on {shortened(str(waits['stuck']), 80)}")
    return "waits for " + " or ".join(found) if found else ""


def _turn(limit: dict[str, Any], now: float) -> str:
    """Return what limit a run or its calls wait for, and how long the line is."""
    what = kind_and_name(limit["workflow"]) if "workflow" in limit else activity_name(limit["activity"])
    calls = f"{limit['calls']} calls of " if limit.get("calls", 1) > 1 else ""
    facts = [f"{limit['concurrency']} at a time"] if "concurrency" in limit else []
    facts += [f"{limit['per_key']} for each key"] if "per_key" in limit else []
    facts += [f"{limit['rate']['count']} in {duration(limit['rate']['per'])}"] if "rate" in limit else []
    facts += [f"the next in {duration(max(0.0, limit['until'] - now))}"] if "until" in limit else []
    facts += [f"about {limit['ahead']} before it"] if "ahead" in limit else []
    return f"the turn of {calls}{what}" + (f" ({', '.join(facts)})" if facts else "")


def wait_reason(waits: str, now: float) -> str:
    """Return what a run waits for that has just been parked, from what the store keeps of it."""
    return _parked(msgspec.json.decode(waits), now, None).reason


def activity_name(name: str) -> str:
    """Return an activity's name for people: an agent's two activities have other ones."""
    return {"call_llm": "the model call", "run_tool": "a tool call"}.get(name.rpartition(".")[2], name)
