"""Looks at a run: its timeline with the values decoded, an agent's turns, what it cost, what it waits for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.base.codec import Resolved, decode
from perdure.base.errors import InstanceNotFoundError
from perdure.base.events import ExecutionStarted, HistoryRow
from perdure.engine.values import merged, resolve
from perdure.ports.history_store import HistoryStore, InstanceRecord
from perdure.runtime.timeline import Entry, Kind, Progress, timeline, values

_AGENT = re.compile(r"dapr\.agents\.(?P<agent>.+)\.workflow")
_MODEL = re.compile(r"dapr\.agents\..+\.call_llm")
_TOOL = re.compile(r"dapr\.agents\..+\.run_tool")


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry with its values decoded.

    Attributes:
        entry: the entry.
        role: "model" or "tool" for the calls of an agent, otherwise the entry's kind.
        name: of the tool, the activity or the event, for people.
        turn: number of the model call, or of the one that asked for this tool call; 0 outside an agent's turns.
        input: the decoded input; of a tool, its arguments as the model wrote them.
        output: the decoded output; of a model, the text it said; of a tool, the text that the model read.
        model: the model that answered.
        input_tokens: tokens of the question.
        output_tokens: tokens of the answer.
        told: whether a tool failed and the model was told so.
    """

    entry: Entry
    role: str
    name: str
    turn: int = 0
    input: Any = None
    output: Any = None
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    told: bool = False


class Totals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a run has cost so far.

    Attributes:
        model_calls: model calls whose outcome is recorded.
        tool_calls: tool calls whose outcome is recorded.
        activity_calls: other activity calls whose outcome is recorded.
        open_calls: calls without an outcome yet.
        retries: attempts beyond the first ones.
        interruptions: how often a crash cut a call off and it was begun again.
        input_tokens: tokens of all questions.
        output_tokens: tokens of all answers.
        once: whether no call's result is recorded twice.
    """

    model_calls: int = 0
    tool_calls: int = 0
    activity_calls: int = 0
    open_calls: int = 0
    retries: int = 0
    interruptions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    once: bool = True


class Inspection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run at one moment.

    Attributes:
        record: what the store knows of it.
        steps: its timeline, decoded.
        totals: what it has cost.
        generation: how often it has continued as new.
    """

    record: InstanceRecord
    steps: Sequence[Step]
    totals: Totals
    generation: int = 0

    @property
    def asks(self) -> list[Step]:
        """The calls that a crash cut off and a human is asked about."""
        calls = [step for step in self.steps if step.entry.kind is Kind.ACTIVITY]
        return [step for step in calls if step.entry.progress is Progress.ASKS]

    @property
    def end(self) -> Step | None:
        """How it ended, or None."""
        return self.steps[-1] if self.steps and self.steps[-1].entry.kind is Kind.END else None

    @property
    def answer(self) -> Any:
        """The result of a run that completed: of an agent, the text of its final message; otherwise None."""
        if self.end is None or self.end.entry.progress is not Progress.COMPLETED:
            return None
        result = self.end.output
        is_message = agent_of(self.record.workflow) is not None and isinstance(result, dict) and "content" in result
        return result["content"] if is_message else result


def agent_of(workflow: str) -> str | None:
    """Return the name of the agent whose loop a workflow is, or None."""
    found = _AGENT.fullmatch(workflow)
    return None if found is None else found["agent"]


def described(workflow: str) -> str:
    """Return what a run's code is and the name that people know it by: ``agent 'Ada'``, ``workflow 'order'``."""
    agent = agent_of(workflow)
    return f"workflow {workflow!r}" if agent is None else f"agent {agent!r}"


def is_tool_call(activity: str) -> bool:
    """Whether an activity is an agent's tool call."""
    return _TOOL.fullmatch(activity) is not None


class Inspector:
    """Looks at one run again and again; what a look has decoded, the next one need not fetch.

    Args:
        store: where the run is.
        instance_id: its id.
    """

    def __init__(self, store: HistoryStore, instance_id: str) -> None:
        self._store = store
        self._instance_id = instance_id
        self._resolved = Resolved()
        self._seen = 0
        self._begins = 0

    async def look(self) -> Inspection:
        """Return the run as it is now.

        Raises:
            InstanceNotFoundError: there is none with this id.
        """
        # The record first: then the history is at least as far as the record says.
        record = await self._store.find(self._instance_id)
        if record is None:
            raise InstanceNotFoundError(self._instance_id)
        rows = (await self._store.load([record.key]))[record.key]
        begins = rows[0].seq if rows else 0
        if begins != self._begins:
            # It has continued as new: these are other rows than the ones seen.
            self._begins, self._seen = begins, 0
        fresh = await resolve(self._store, map(unfollowed, values(rows[self._seen :])))
        self._resolved = merged(self._resolved, fresh)
        self._seen = len(rows)
        return inspection(record, rows, self._resolved)


def unfollowed(value: msgspec.Raw) -> bytes:
    """Return an encoded value with its conversations as plain data: showing one needs its length only, not its links.

    The bytes replaced cannot occur inside a JSON string, where quotes are escaped.
    """
    return bytes(value).replace(b'{"$conversation":', b'{"conversation":')


def inspection(record: InstanceRecord, rows: Sequence[HistoryRow], resolved: Resolved) -> Inspection:
    """Return a run as its history tells it."""
    steps: list[Step] = []
    names: dict[int | None, str] = {}
    turn = 0
    for entry in _waiting(timeline(rows, resolved, record.instance_id), record.waits):
        if entry.kind is Kind.ACTIVITY and _MODEL.fullmatch(entry.name):
            turn += 1
        step = _step(entry, turn, resolved)
        names.update((attempt.task, step.name) for attempt in entry.attempts)
        if entry.task in names:
            step = msgspec.structs.replace(step, name=names[entry.task])
        steps.append(step)
    started = (event for row in rows[:1] for event in row.events if isinstance(event, ExecutionStarted))
    generation = next((event.generation for event in started), 0)
    return Inspection(record=record, steps=steps, totals=_totals(steps), generation=generation)


def _waiting(entries: list[Entry], waits: str | None) -> list[Entry]:
    """Return entries with those as waiting for their turn that a parked run says wait for it.

    The history does not tell which tickets were granted at once; those that were not came last.
    """
    queued = msgspec.json.decode(waits).get("queued", ()) if waits else ()
    number = {calls["activity"]: calls.get("calls", 1) for calls in queued}
    found: list[Entry] = []
    for entry in reversed(entries):
        waits_for_turn = entry.progress is Progress.RUNNING and entry.may_wait and number.get(entry.name, 0) > 0
        if waits_for_turn:
            number[entry.name] -= 1
        found.append(msgspec.structs.replace(entry, progress=Progress.QUEUED) if waits_for_turn else entry)
    return found[::-1]


def _step(entry: Entry, turn: int, resolved: Resolved) -> Step:
    given = _decoded(entry.input, resolved)
    came = _decoded(entry.output, resolved)
    if entry.kind is Kind.ACTIVITY and _MODEL.fullmatch(entry.name):
        return _model_step(entry, turn, given, came if isinstance(came, dict) else {})
    if entry.kind is Kind.ACTIVITY and is_tool_call(entry.name) and isinstance(given, dict):
        return _tool_step(entry, turn, given, came if isinstance(came, dict) else {})
    return Step(entry=entry, role=entry.kind, name=entry.name, input=given, output=came)


def _model_step(entry: Entry, turn: int, given: Any, came: dict[str, Any]) -> Step:
    usage = came.get("usage", {})
    conversation = given.get("conversation") if isinstance(given, dict) else None
    length = conversation["conversation"][1] if isinstance(conversation, dict) else None
    return Step(
        entry=entry,
        role="model",
        name="model",
        turn=turn,
        input=None if length is None else f"a conversation of {length} message{'s' if length != 1 else ''}",
        output=_said(came.get("message", {})),
        model=came.get("model", ""),
        input_tokens=usage.get("input_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
    )


def _said(message: dict[str, Any]) -> str | None:
    """Return what a model said, the tool calls that it asked for included."""
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())]
    parts = [message.get("content"), "calls " + ", ".join(calls) if calls else None]
    return "\n".join(part for part in parts if part) or None


def _tool_step(entry: Entry, turn: int, given: dict[str, Any], came: dict[str, Any]) -> Step:
    function = given["tool_call"]["function"]
    return Step(
        entry=entry,
        role="tool",
        name=function["name"],
        turn=turn,
        input=function.get("arguments", "{}"),
        output=came.get("content"),
        told=bool(came.get("failed", False)),
    )


def _decoded(value: msgspec.Raw | None, resolved: Resolved) -> Any:
    if value is None:
        return None
    try:
        return decode(unfollowed(value), resolved)
    except KeyError:
        return "(a large value that holds a conversation)"


def _totals(steps: Iterable[Step]) -> Totals:
    counts = {"model": 0, "tool": 0, Kind.ACTIVITY.value: 0}
    calls = [step for step in steps if step.entry.kind is Kind.ACTIVITY]
    for step in calls:
        counts[step.role] += step.entry.progress in {Progress.COMPLETED, Progress.FAILED}
    return Totals(
        model_calls=counts["model"],
        tool_calls=counts["tool"],
        activity_calls=counts[Kind.ACTIVITY],
        open_calls=sum(step.entry.is_open for step in calls),
        retries=sum(len(step.entry.attempts) - 1 for step in calls),
        interruptions=sum(step.entry.interruptions for step in calls),
        input_tokens=sum(step.input_tokens for step in calls),
        output_tokens=sum(step.output_tokens for step in calls),
        once=all(step.entry.recorded <= 1 for step in calls),
    )
