"""Shows runs while they go on: on a terminal with what happens at this moment, elsewhere as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from perdure.cli import terminal
from perdure.cli.formats import cleaned, short_id
from perdure.cli.lines import lines, under_way
from perdure.cli.standing import Standing, standing
from perdure.runtime.inspect import Inspection
from perdure.runtime.timeline import Attempt

_ANNOUNCED_AFTER = 1.0
"""Seconds after which plain lines say what is still going on."""


class Story:
    """Tells of runs, each thing once.

    Args:
        quiet: says nothing at all.
        since: when this command began to look at runs that existed before.
        clock: tells the time.
    """

    def __init__(
        self, *, quiet: bool = False, since: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.since = since
        self._quiet = quiet
        self._clock = clock
        self._console: Console = terminal.err()
        self._said: set[Hashable] = set()
        self._now: dict[str, Inspection] = {}
        self._together = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._present, console=self._console, refresh_per_second=10, transient=True
            )
            self._live.start()
            # A process that is killed leaves the terminal as it is: with its cursor.
            self._console.show_cursor(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def tell_together(self) -> None:
        """Begin every line with the run that it is about."""
        self._together = True

    def say(self, text: str | Text) -> None:
        """Say something that is not in any history."""
        if not self._quiet:
            self._console.print(text, soft_wrap=True)

    def tell(self, inspection: Inspection) -> None:
        """Say what is new in a run."""
        self._now[inspection.record.instance_id] = inspection
        for line in lines(inspection, self.since):
            self._say_once(inspection, line.key, line.text)
        self.tick()

    def tick(self) -> None:
        """Say, where no terminal shows it, what goes on for a while or waits."""
        if self._live is not None or self._quiet:
            return
        now = self._clock()
        for inspection in self._now.values():
            stands = standing(inspection.record, now, inspection)
            if stands.state in {"waiting", "stalled"}:
                self._say_once(inspection, (stands.state, inspection.record.waits), Text(cleaned(stands.reason)))
            for step, text in under_way(inspection, now):
                begun = step.entry.attempts[-1]
                if now - begun.started_at > _ANNOUNCED_AFTER and step.entry.due is None:
                    goes_on = (
                        "cut off by a crash, running again" if self._is_cut_off(inspection, begun) else "still running"
                    )
                    self._say_once(inspection, ("goes on", begun.task), text.append(f"  {goes_on}", style="dim"))

    def _is_cut_off(self, inspection: Inspection, begun: Attempt) -> bool:
        since = self.since
        return since is not None and begun.started_at < since and inspection.record.recoveries > 0

    def _say_once(self, inspection: Inspection, key: Hashable, text: Text) -> None:
        key = (inspection.record.instance_id, inspection.generation, key)
        if key not in self._said:
            self._said.add(key)
            self.say(self._addressed(inspection, text))

    def _addressed(self, inspection: Inspection, text: Text) -> Text:
        if not self._together:
            return text
        return Text(f"{short_id(inspection.record.instance_id)}  ", style="dim").append_text(text)

    def _present(self) -> RenderableType:
        """Return what goes on now; called by the thread that draws."""
        now = self._clock()
        shown: list[RenderableType] = []
        for inspection in list(self._now.values()):
            for _, text in under_way(inspection, now):
                shown.append(Spinner("dots", self._addressed(inspection, text), style="cyan"))
            reason = _waiting(standing(inspection.record, now, inspection))
            if reason:
                shown.append(Spinner("dots", self._addressed(inspection, Text(reason, style="yellow")), style="yellow"))
        return Group(*shown)


def _waiting(stands: Standing) -> str:
    return cleaned(stands.reason) if stands.state in {"waiting", "ready", "stalled", "asks"} else ""
