"""The lines in which a run tells its story: pure, from an inspection."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from rich.text import Text

from perdure.cli.formats import as_text, call_text, duration, moment, plural, shortened
from perdure.runtime.inspect import Inspection, Step, Totals
from perdure.runtime.timeline import Attempt, Entry, Kind, Origin, Progress


class Line(msgspec.Struct, frozen=True, gc=False):
    """Something to say once.

    Attributes:
        key: the same for the same thing, however often a run is looked at.
        at: when it happened.
        text: what to say.
    """

    key: tuple[int, int | str]
    at: float
    text: Text


_Said = tuple[int | str, float, Text]
"""What a line is about, within its step; when; the text."""


def lines(inspection: Inspection, since: float | None = None) -> list[Line]:
    """Return what there is to say of a run so far, in the order in which it happened.

    Args:
        inspection: the run.
        since: when this command began to look; what ended before is marked as recorded earlier.
    """
    found: list[Line] = []
    for place, step in enumerate(inspection.steps):
        for what, at, text in _lines_of(step):
            if since is not None and at < since:
                text.append("  recorded earlier", style="dim italic")
            found.append(Line((place, what), at, text))
    # What an answer leads to is recorded together with it: the answer comes first.
    return sorted(found, key=lambda line: (line.at, line.key[1] != "answer"))


def under_way(inspection: Inspection, now: float) -> list[tuple[Step, Text]]:
    """Return what is not over at this moment, with the time it has taken so far."""
    found: list[tuple[Step, Text]] = []
    for step in inspection.steps:
        entry = step.entry
        if entry.kind is not Kind.ACTIVITY or entry.progress not in {Progress.RUNNING, Progress.RETRYING}:
            continue
        text = Text(_indent(step)).append(_doing(step))
        if entry.progress is Progress.RETRYING and entry.due is not None:
            text.append(f"  attempt {len(entry.attempts) + 1} in {duration(max(0.0, entry.due - now))}", style="yellow")
        else:
            text.append(f"  {duration(max(0.0, now - entry.attempts[-1].started_at))}", style="dim")
        found.append((step, text))
    return found


def proof(totals: Totals) -> str:
    """Return how many calls there were, and that each result is recorded once."""
    counts = [
        (totals.model_calls, "model call"),
        (totals.tool_calls, "tool call"),
        (totals.activity_calls, "activity call"),
    ]
    agents = totals.model_calls or totals.tool_calls
    shown = [plural(number, noun) for number, noun in counts if number or (noun != "activity call" and agents)]
    text = ", ".join(shown or ["no calls"])
    if shown:
        text += ", each recorded once" if totals.once else ", SOME RECORDED TWICE: please report this"
    if totals.interruptions:
        text += f"; {plural(totals.interruptions, 'call')} cut off by a crash and begun again"
    return text + (f"; {plural(totals.open_calls, 'call')} not over yet" if totals.open_calls else "")


def took(entry: Entry) -> str:
    """Return how long something took; of a call that a fork has not made, where its outcome is from."""
    return duration(entry.duration) if entry.origin is Origin.OWN else entry.origin


def tokens(read: int, written: int) -> str:
    """Return a number of tokens, in and out."""
    return f"{read:,} in, {written:,} out tokens"


def title(step: Step) -> str:
    """Return a step's name as people know it: a tool with its arguments."""
    if step.role == "tool":
        return call_text(step.name, step.input)
    return "model" if step.role == "model" else step.name


def _indent(step: Step) -> str:
    return "  " if step.role == "tool" else ""


def _doing(step: Step) -> str:
    return f"turn {step.turn}: asking the model" if step.role == "model" else title(step)


def _lines_of(step: Step) -> Iterator[_Said]:
    entry = step.entry
    at = entry.started_at
    if entry.kind in {Kind.ACTIVITY, Kind.CHILD}:
        yield from _attempts(step)
        if entry.ended_at is not None and not entry.is_open:
            yield "end", entry.ended_at, _model_end(step) if step.role == "model" else _call_end(step)
    elif entry.kind is Kind.TIMER and entry.due is not None:
        yield "timer", at, Text(f"waits until {moment(entry.due)}", style="yellow")
    elif entry.kind is Kind.EVENT:
        text = f"event {shortened(entry.name, 60)} {shortened(as_text(step.input), 80)}"
        yield "event", at, Text(text, style="cyan")
    elif entry.kind is Kind.QUESTION:
        text = f"? a crash cut off {step.name} (task {entry.task}): `perdure runs resume` says what became of it"
        yield "question", at, Text(text, style="magenta")
    elif entry.kind is Kind.ANSWER:
        decision = step.input.get("decision", "") if isinstance(step.input, dict) else ""
        yield "answer", at, Text(f"! {step.name} (task {entry.task}): a human says {decision}", style="magenta")
    elif entry.kind is Kind.SENT:
        text = f"sent {shortened(entry.name, 60)} to {entry.instance} {shortened(as_text(step.input), 80)}"
        yield "sent", at, Text(text, style="cyan")
    elif entry.kind is Kind.SUSPEND:
        yield "suspend", at, Text(f"held: {entry.name}", style="magenta")
    elif entry.kind is Kind.RESUME:
        yield "resume", at, Text(f"let go on: {entry.name}", style="magenta")


def _attempts(step: Step) -> Iterator[_Said]:
    attempts = step.entry.attempts
    for attempt in attempts:
        is_last = attempt is attempts[-1]
        if attempt.failure is None or (is_last and step.entry.progress is not Progress.RETRYING):
            continue
        following = None if is_last else attempts[attempts.index(attempt) + 1]
        yield attempt.number, attempt.ended_at or attempt.started_at, _retry(step, attempt, following)


def _retry(step: Step, attempt: Attempt, following: Attempt | None) -> Text:
    at = step.entry.due if following is None else following.started_at
    wait = "" if at is None or attempt.ended_at is None else f" in {duration(max(0.0, at - attempt.ended_at))}"
    failure = attempt.failure
    why = "" if failure is None else shortened(f"{failure.error_type}: {failure.message}", 160)
    text = Text(_indent(step)).append("↻ ", style="yellow").append(f"{step.name} failed: {why}")
    return text.append(f"; attempt {attempt.number + 1}{wait}", style="yellow")


def _model_end(step: Step) -> Text:
    if step.entry.progress is not Progress.COMPLETED:
        return _failed(step)
    text = Text(f"turn {step.turn}", style="bold")
    used = tokens(step.input_tokens, step.output_tokens)
    details = f"  {step.model}  {used}  {took(step.entry)}"
    return text.append(details, style="not bold dim")


def _call_end(step: Step) -> Text:
    if step.entry.progress is not Progress.COMPLETED:
        return _failed(step)
    text = Text(_indent(step)).append("✗ " if step.told else "✓ ", style="red" if step.told else "green")
    text.append(title(step)).append(f"  {took(step.entry)}", style="dim")
    if step.told:
        text.append(f"  the model was told: {shortened(as_text(step.output), 160)}", style="red")
    return text


def _failed(step: Step) -> Text:
    failure = step.entry.failure
    why = "cancelled" if failure is None else shortened(f"{failure.error_type}: {failure.message}", 300)
    text = Text(_indent(step)).append("✗ ", style="red").append(title(step))
    return text.append(f"  {why}", style="red")
