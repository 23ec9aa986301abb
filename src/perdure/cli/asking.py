"""Asks an agent and follows the run to its end: what ``perdure run`` does once its options are read."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from perdure.agents.agent import DurableAgent
from perdure.base.codec import encode
from perdure.base.errors import UsageError
from perdure.base.events import UNFINISHED, ExecutionStarted, Status
from perdure.base.ids import new_instance_id
from perdure.cli import ending, terminal
from perdure.cli.formats import ago, cleaned, command, plural
from perdure.cli.live import Story
from perdure.cli.watching import follow
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.runtime.inspect import Inspection, Inspector
from perdure.runtime.location import app_id_of, store_path
from perdure.runtime.pages import every_instance
from perdure.workflows.registry import default_registry

_LOOKS_BACK = 20
"""The newest runs that have ended, of which a question may be one."""

ECHO = "echo"
"""Provider and name of the model that stands in where none is given."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for.

    Attributes:
        app: the APP argument.
        question: what to ask; None goes on with all unfinished runs.
        store: the --store option.
        app_id: the --app-id option.
        model: the --model option.
        instance_id: the --id option.
        new: the --new option.
        as_json: the --json option.
        quiet: the --quiet option.
    """

    app: str
    question: str | None
    store: Path | None
    app_id: str | None
    model: str | None
    instance_id: str | None
    new: bool
    as_json: bool
    quiet: bool

    @property
    def payload(self) -> dict[str, str]:
        """The input of the run."""
        return {"task": self.question or ""}

    @property
    def named_store(self) -> str | None:
        """The --store option, for commands that are suggested."""
        return None if self.store is None else str(self.store)


class Asking:
    """One ``perdure run``.

    Args:
        agent: who answers.
        order: what the command line asks for.
        results: where the answer goes.
    """

    def __init__(self, agent: DurableAgent, order: Order, results: TextIO) -> None:
        self._agent = agent
        self._order = order
        self._results = results
        self._app_id = app_id_of(order.app_id)
        self._story = Story(quiet=order.quiet)

    async def run(self) -> int:
        """Ask, follow, report; return the exit code."""
        self._agent.register(default_registry)
        path = store_path(self._order.store)
        # Before any worker begins: a run that it finishes at once would otherwise be asked a second time.
        async with EmbeddedRuntime(SQLiteHistoryStore(path), worker=False) as runtime:
            unfinished = await unfinished_runs(runtime.store, self._app_id, self._agent.agent_workflow_name)
            chosen = await self._chosen(runtime.store, unfinished)
            taken_up = unfinished if self._order.question is None else [] if chosen is None else [chosen]
            if self._agent.model.provider == ECHO and self._order.model is None:
                await self._mind_the_echo(runtime.store, taken_up)
            if self._order.question is not None and chosen is None and not self._order.new:
                await self._mention_an_answer(runtime.store)
        if self._order.question is None:
            if not unfinished:
                return self._nothing_to_do(path)
            only = None
        else:
            # Others were begun with a question, and perhaps a model, of their own.
            only = self._order.instance_id or (new_instance_id() if chosen is None else chosen.instance_id)
        with self._story:
            async with EmbeddedRuntime(SQLiteHistoryStore(path), app_id=self._app_id, only=only) as runtime:
                ends = await self._follow_all(runtime, unfinished, chosen, only)
        return self._finish(ends, resumed=chosen is not None)

    async def _mention_an_answer(self, store: HistoryStore) -> None:
        """Say that this question was answered before: whoever gives a command again may not want to pay again."""
        query = InstanceQuery(
            status=(Status.COMPLETED,), app_id=self._app_id, workflow=self._agent.agent_workflow_name, limit=_LOOKS_BACK
        )
        answered = await _with_input(store, await store.instances(query), self._order.payload)
        if answered:
            record, now = answered[0], time.time()
            ended = ago(record.finished_at or now, now)
            shown = command("runs", "show", record.instance_id, store=self._order.named_store)
            self._story.say(f"this question was answered {ended} ({shown}); it is asked again")

    async def _mind_the_echo(self, store: HistoryStore, taken_up: Sequence[InstanceRecord]) -> None:
        """Say that only the echo answers; refuse to let it finish what another model began."""
        for record in taken_up:
            inspection = await Inspector(store, record.instance_id).look()
            begun_with = {step.model for step in inspection.steps if step.model} - {ECHO}
            if begun_with:
                raise UsageError(
                    f"run {record.instance_id} was begun with the model {begun_with.pop()!r}, and no model is given "
                    "now, so the echo model would finish it. Give --model, or set PERDURE_MODEL, as when it was begun; "
                    "--model echo if that is what you want"
                )
        self._story.say(
            "no model is given: the echo model only repeats the question. Give --model openai:gpt-4o, "
            "--model ollama:llama3.2 or --model scripted:FILE, or set PERDURE_MODEL"
        )

    async def _chosen(self, store: HistoryStore, unfinished: Sequence[InstanceRecord]) -> InstanceRecord | None:
        """Return the run that this command attaches to, or None to begin one."""
        order = self._order
        if order.question is None:
            return None
        if order.instance_id is not None:
            found = await store.find(order.instance_id)
            if found is not None and order.new:
                raise UsageError(f"run {order.instance_id!r} exists; leave --new out to attach to it, or change --id")
            return found
        same = [] if order.new else await _with_input(store, unfinished, order.payload)
        if len(same) > 1:
            self._story.say(f"{len(same)} unfinished runs have this question; this is the newest one")
        return same[0] if same else None

    async def _follow_all(
        self,
        runtime: EmbeddedRuntime,
        unfinished: Sequence[InstanceRecord],
        chosen: InstanceRecord | None,
        only: str | None,
    ) -> list[Inspection]:
        try:
            if only is None:
                return await self._follow_unfinished(runtime, unfinished)
            return [await self._follow_one(runtime, unfinished, chosen, only)]
        except asyncio.CancelledError:
            self._say_goodbye()
            raise

    async def _follow_unfinished(
        self, runtime: EmbeddedRuntime, unfinished: Sequence[InstanceRecord]
    ) -> list[Inspection]:
        self._story.since = time.time()
        for record in unfinished:
            self._say_resuming(record)
        if len(unfinished) > 1:
            self._story.tell_together()
        works = [follow(runtime.store, record.instance_id, self._story, until_human=True) for record in unfinished]
        return list(await asyncio.gather(*works))

    async def _follow_one(
        self,
        runtime: EmbeddedRuntime,
        unfinished: Sequence[InstanceRecord],
        chosen: InstanceRecord | None,
        wanted: str,
    ) -> Inspection:
        # Where the id is taken this attaches, or refuses when the run is of something else.
        if chosen is None or self._order.instance_id is not None:
            await runtime.start(self._agent.agent_workflow_name, self._order.payload, instance_id=wanted)
        if chosen is None:
            self._story.say(f"run {cleaned(wanted)} of {self._agent.name}")
        else:
            self._story.since = time.time()
            self._say_resuming(chosen)
        others = sum(record.instance_id != wanted for record in unfinished)
        if others:
            on = command("run", self._order.app, store=self._order.named_store)
            verb = "waits" if others == 1 else "wait"
            self._story.say(f"{plural(others, 'other unfinished run')} of {self._agent.name} {verb}: {on} goes on")
        return await follow(runtime.store, wanted, self._story, until_human=True)

    def _say_resuming(self, record: InstanceRecord) -> None:
        now = time.time()
        if record.status.finished:
            ended = ago(record.finished_at or now, now)
            self._story.say(f"run {cleaned(record.instance_id)} ended {ended}; this is what it said")
        else:
            self._story.say(f"resuming run {cleaned(record.instance_id)}, begun {ago(record.created_at, now)}")

    def _say_goodbye(self) -> None:
        again = ["perdure", *sys.argv[1:]]
        self._story.__exit__(None, None, None)
        terminal.note("Interrupted. Nothing is lost: the run goes on when the same command is given again:")
        terminal.note(f"  {shlex.join(again)}")
        terminal.note("What runs at this moment may finish first, for up to 10 s; Ctrl-C again leaves at once.")

    def _nothing_to_do(self, path: Path) -> int:
        if self._order.as_json:
            terminal.write_json([], self._results)
        self._story.say(f"no unfinished run of {self._agent.name} in {path}")
        self._story.say(f'To ask something: perdure run {shlex.quote(self._order.app)} "..."')
        return 0

    def _finish(self, ends: Sequence[Inspection], *, resumed: bool) -> int:
        if self._order.as_json:
            self._write_json(ends, resumed=resumed)
        for inspection in ends:
            code = ending.exit_code(inspection)
            if code == 1:
                ending.report_failure(inspection, self._order.named_store)
            elif code:
                ending.report_wait(inspection, self._order.named_store)
                terminal.note("Then give this command again." if self._order.question else "Then run the app again.")
            else:
                self._write_answer(inspection, several=len(ends) > 1)
        codes = {ending.exit_code(inspection) for inspection in ends}
        return 1 if 1 in codes else max(codes)

    def _write_answer(self, inspection: Inspection, *, several: bool) -> None:
        if not self._order.as_json:
            name = f"{inspection.record.instance_id}: " if several else ""
            text = ending.answer_text(inspection)
            # Into a pipe exactly as the model wrote it; on a terminal without what would command the terminal.
            self._results.write(name + (cleaned(text) if self._results.isatty() else text) + "\n")
            self._results.flush()
        self._story.say(ending.summary(inspection))

    def _write_json(self, ends: Sequence[Inspection], *, resumed: bool) -> None:
        if self._order.question is None:
            data: Any = [ending.run_data(inspection, resumed=True) for inspection in ends]
        else:
            data = ending.run_data(ends[0], resumed=resumed)
        terminal.write_json(data, self._results)


async def unfinished_runs(store: HistoryStore, app_id: str, workflow: str) -> list[InstanceRecord]:
    """Return all unfinished runs of a workflow of an app, the newest first."""
    query = InstanceQuery(status=UNFINISHED, app_id=app_id, workflow=workflow)
    return [record async for record in every_instance(store, query)]


async def _with_input(
    store: HistoryStore, records: Sequence[InstanceRecord], payload: dict[str, str]
) -> list[InstanceRecord]:
    # Equal values have equal bytes, so that nothing needs to be fetched and decoded.
    wanted = bytes(encode(payload, "the question").raw)
    histories = await store.load([record.key for record in records])
    found: list[InstanceRecord] = []
    for record in records:
        start = histories[record.key][0].events[0]
        if isinstance(start, ExecutionStarted) and bytes(start.input) == wanted:
            found.append(record)
    return found
