"""What a worker does, as lines: from the episodes that its store makes durable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
from rich.text import Text

from perdure.base.codec import decode
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    Failure,
    HistoryRow,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    decode_events,
)
from perdure.cli.formats import cleaned, duration, short_id, shortened
from perdure.cli.standing import activity_name, kind_and_name, owner_name, wait_reason
from perdure.engine.engine_events import ENGINE_EVENT, FORKED, GRANTED, NOT_STARTED, STARTED
from perdure.ports.history_store import Episode, Results
from perdure.runtime.inspect import is_tool_call

_BEGINS_LATER = {GRANTED, NOT_STARTED, STARTED}
_PER_SECOND = 100
_MESSAGE = 200
_REMEMBERED = 1000


class _Call(msgspec.Struct, frozen=True, gc=False):
    """A call whose outcome is awaited."""

    name: str
    at: float


class _Run(msgspec.Struct):
    """A run in this worker's hands."""

    instance_id: str
    workflow: str
    calls: dict[int, _Call]


class Journal:
    """Turns what happens to a worker's runs into lines.

    Args:
        say: takes a line.
        clock: tells the time, in seconds; at most a hundred lines are said in one of them.

    Attributes:
        ends: how many runs ended here, by status.
    """

    def __init__(self, say: Callable[[Text], None], clock: Callable[[], float] = time.time) -> None:
        self.ends: Counter[Status] = Counter()
        self._say = say
        self._clock = clock
        self._runs: dict[int, _Run] = {}
        self._parked: dict[int, _Run] = {}
        self._second = 0
        self._said = 0
        self._unsaid = 0

    def taken_up(self, key: int, instance_id: str, workflow: str, *, begins: bool) -> None:
        """Take note that a run is in this worker's hands from now on."""
        run = self._runs[key] = self._parked.pop(key, _Run(instance_id, workflow, {}))
        self._line(run, Text("begins" if begins else "goes on", style="dim"))

    def read(self, key: int, rows: Iterable[HistoryRow]) -> None:
        """Take note of the calls in a history whose outcomes may come here."""
        run = self._runs.get(key)
        if run is not None:
            for row in rows:
                for event in row.events:
                    _note_call(run, event, row.at)

    def recorded(self, episode: Episode, results: Results) -> None:
        """Say what an episode that is durable now has brought about."""
        run = self._runs.get(episode.key)
        if run is None:
            return
        forked = False
        for event in decode_events(episode.events):
            forked = forked or (isinstance(event, EventRaised) and event.name == FORKED)
            is_said_below = episode.park is not None and isinstance(event, TimerCreated)
            # What a fork has from the run that it comes from took no time.
            text = None if is_said_below else _text(run, event, None if forked else episode.at)
            _note_call(run, event, episode.at)
            if text is not None:
                self._line(run, text)
            if isinstance(event, ExecutionCompleted):
                self.ends[event.status] += 1
        changes = episode.changes
        for start, outcome in zip(() if changes is None else changes.starts, results.started, strict=False):
            if outcome.created and not outcome.waits and start.new.lease is not None:
                self.taken_up(outcome.key, start.new.instance_id, start.new.workflow, begins=True)
        park = episode.park
        if park is not None and not (park.unless_granted and results.granted):
            self._park(episode.key, park.waits)

    def given_back(self, key: int, waits: str | None, *, stalled: bool) -> None:
        """Take note that a run was given back without an episode."""
        if not stalled:
            self._park(key, waits)
            return
        run = self._runs.pop(key, None)
        if run is not None:
            self._line(run, Text(f"stalled; perdure runs show {cleaned(run.instance_id)} says why", style="red"))

    def _park(self, key: int, waits: str | None) -> None:
        run = self._runs.pop(key, None)
        if run is None or waits is None:
            return
        self._line(run, Text(cleaned(wait_reason(waits, self._clock())), style="yellow"))
        # What it calls is remembered for a while; these are only names.
        self._parked[key] = run
        if len(self._parked) > _REMEMBERED:
            del self._parked[next(iter(self._parked))]

    def _line(self, run: _Run, text: Text) -> None:
        now = self._clock()
        if int(now) != self._second:
            self._second, self._said = int(now), 0
        self._said += 1
        if self._said > _PER_SECOND:
            self._unsaid += 1
            return
        self.catch_up()
        at = time.strftime("%H:%M:%S", time.localtime(now))
        line = Text(f"{at}  {short_id(run.instance_id)}  ", style="dim")
        self._say(line.append(f"{cleaned(owner_name(run.workflow))}: ", style="not dim").append_text(text))

    def catch_up(self) -> None:
        """Say how many lines were too many to be said."""
        unsaid, self._unsaid = self._unsaid, 0
        if unsaid:
            self._say(Text(f"… {unsaid:,} more lines in between", style="dim"))


def _note_call(run: _Run, event: AnyEvent, at: float) -> None:
    match event:
        case TaskScheduled() | SubOrchestrationInstanceCreated(detached=False):
            run.calls[event.id] = _Call(_call_name(event), at)
        case TaskCompleted() | TaskFailed() | SubOrchestrationInstanceCompleted() | SubOrchestrationInstanceFailed():
            run.calls.pop(event.task_id, None)
        case EventRaised(name=name) if name in _BEGINS_LATER:
            told = decode(event.input)
            for task in told["tasks"] if name == GRANTED else told:
                if task in run.calls:
                    run.calls[task] = msgspec.structs.replace(run.calls[task], at=at)
        case _:
            return


def _call_name(event: TaskScheduled | SubOrchestrationInstanceCreated) -> str:
    if isinstance(event, TaskScheduled):
        return _tool_in(event.input) if is_tool_call(event.name) else activity_name(event.name)
    return f"child {kind_and_name(event.name)} ({event.instance_id})"


class _Function(msgspec.Struct):
    name: str


class _ToolCall(msgspec.Struct):
    function: _Function


class _ToolInput(msgspec.Struct):
    tool_call: _ToolCall


_tool_input = msgspec.json.Decoder(_ToolInput)


def _tool_in(given: msgspec.Raw) -> str:
    """Return the name of the tool that an agent's tool call is about."""
    try:
        return f"tool {_tool_input.decode(given).tool_call.function.name}"
    except msgspec.DecodeError:
        # Stored by content, as large inputs are.
        return "a tool call"


def _text(run: _Run, event: AnyEvent, at: float | None) -> Text | None:
    """Return what there is to say of an event, or None; ``at`` is None for one that took no time."""
    match event:
        case TaskCompleted() | SubOrchestrationInstanceCompleted():
            return _outcome(run.calls.get(event.task_id), at, None)
        case TaskFailed() | SubOrchestrationInstanceFailed():
            return _outcome(run.calls.get(event.task_id), at, event.failure)
        case SubOrchestrationInstanceCreated():
            verb = "starts" if event.detached else "calls child"
            return Text(cleaned(f"→ {verb} {kind_and_name(event.name)} ({event.instance_id})"), style="cyan")
        case TimerCreated(retry_of=int()) if at is not None:
            return Text(f"↻ the next attempt is in {duration(max(0.0, event.fire_at - at))}", style="yellow")
        case EventRaised() if not event.name.startswith(ENGINE_EVENT):
            return Text(f"event {shortened(event.name, 60)}", style="cyan")
        case _:
            return _turning_point(event)


def _turning_point(event: AnyEvent) -> Text | None:
    match event:
        case ExecutionStarted(generation=generation) if generation:
            return Text(f"continues as new, generation {generation}", style="cyan")
        case ExecutionSuspended():
            return Text("is suspended", style="magenta")
        case ExecutionResumed():
            return Text("is resumed", style="magenta")
        case ExecutionCompleted(status=Status.COMPLETED):
            return Text("completed", style="bold green")
        case ExecutionCompleted():
            why = _reason(event.failure)
            return Text(f"{event.status.lower()}{': ' if why else ''}{why}", style="bold red")
        case _:
            return None


def _outcome(call: _Call | None, at: float | None, failure: Failure | None) -> Text:
    name = "a call" if call is None else shortened(call.name, 80)
    if failure is not None:
        return Text("✗ ", style="red").append(f"{name}  {_reason(failure)}")
    took = "" if call is None or at is None else f"  {duration(max(0.0, at - call.at))}"
    return Text("✓ ", style="green").append(name, style="not green").append(took, style="dim")


def _reason(failure: Failure | None) -> str:
    if failure is None:
        return ""
    text = f"{failure.error_type}: {failure.message}" if failure.error_type != "Terminated" else failure.message
    return shortened(text, _MESSAGE)
