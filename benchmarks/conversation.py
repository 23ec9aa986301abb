"""A long conversation: what the store keeps of it, and whether the engine's part of a turn grows with it.

An agent works through 100 tool calls on about 200,000 tokens of text: a document, and messages of varied size. What
is stored is counted uncompressed, in every column of every table.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    checkpointed_bytes,
    median_ms,
    options,
    progress,
    report,
    run,
)

from perdure import AgentExecutionConfig, AgentRunner, ChatReply, ChatRequest, DurableAgent, tool
from perdure.base.messages import FunctionCall, Message, ToolCall

DOCUMENT_BYTES = 430_000
RESULT_BYTES = 2_000
ENDS = 10

SYLLABLES = tuple(first + vowel for first in "bcdfglmnprstv" for vowel in "aeiou")


class Words:
    """Text of invented words, common and rare ones as in a language; the same on every run."""

    def __init__(self) -> None:
        self._chance = random.Random(5)
        self._words = ["".join(self._chance.choices(SYLLABLES, k=self._chance.randint(1, 5))) for _ in range(8_000)]
        self._weights = [1 / rank for rank in range(1, len(self._words) + 1)]

    def text(self, size: int) -> str:
        words = self._chance.choices(self._words, self._weights, k=size // 4)
        return " ".join(words)[:size]

    def varied(self, median: int) -> int:
        """Return a size around a median: many are small, a few are large."""
        return max(40, int(self._chance.lognormvariate(0, 0.8) * median))


class Reader:
    """Reads on, turn after turn, and notes when the engine was at work: between two of its calls, the tool's apart.

    Args:
        words: makes texts.
        calls: how many tool calls it asks for before it answers.
    """

    provider = "scripted"
    model = "reader"

    def __init__(self, words: Words, calls: int) -> None:
        self._words, self._calls = words, calls
        self._left_at = 0.0
        self._turn = 0
        self.engine: list[float] = []
        self.in_tool = 0.0
        self.messages: list[Message] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        entered = time.perf_counter()
        if self._turn:
            self.engine.append(entered - self._left_at - self.in_tool)
        self.in_tool = 0.0
        self._turn += 1
        said = self._words.text(self._words.varied(180))
        calls: tuple[ToolCall, ...] = ()
        if self._turn <= self._calls:
            arguments = json.dumps({"section": self._turn, "about": self._words.text(60)})
            calls = (
                ToolCall(id=f"call_{self._turn}", function=FunctionCall(name="read_section", arguments=arguments)),
            )
        message = Message(role="assistant", content=said, tool_calls=calls)
        if not calls:
            self.messages = [*request.messages[1:], message]
        reply = ChatReply(message=message, model=self.model)
        self._left_at = time.perf_counter()
        return reply


async def converse(database: Path, calls: int, document_bytes: int) -> Reader:
    words = Words()
    reader = Reader(words, calls)

    @tool
    async def read_section(section: int, about: str) -> str:
        """Return a section of the document."""
        start = time.perf_counter()
        text = f"{section}, {about}: {words.text(words.varied(RESULT_BYTES))}"
        reader.in_tool += time.perf_counter() - start
        return text

    limits = AgentExecutionConfig(max_iterations=calls + 1)
    agent = DurableAgent(name=f"Reader-{database.stem}", tools=[read_section], llm=reader, execution=limits)
    async with AgentRunner(store=database) as runner:
        answer = await runner.run(agent, {"task": f"Work through this document.\n\n{words.text(document_bytes)}"})
    assert answer is not None
    assert len(reader.engine) == calls
    return reader


def stored_bytes(database: Path) -> dict[str, int]:
    """Return the bytes in each table: numbers as text, blobs as long as their content was before compression."""
    found: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            lengths = [f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in columns]
            if table == "blob":
                lengths[columns.index("content")] = "size"
            total: int | None = connection.execute(f"SELECT sum({' + '.join(lengths)}) FROM {table}").fetchone()[0]
            found[table] = total or 0
    return found


async def measure(chosen: Options, phases: Phases) -> tuple[Repeated, dict[str, Any]]:
    calls, document = chosen.size(100, 2 * ENDS), chosen.size(DOCUMENT_BYTES, 20_000)
    repetitions = chosen.size(5, 1)
    figures, more = Repeated(), dict[str, Any]()
    advance = phases.begin(f"{calls} tool calls in one conversation", repetitions)
    raw = RawSqlite(chosen.folder, RESULT_BYTES)
    for number in range(repetitions):
        database = chosen.folder / f"perdure{number}.db"
        reader = await converse(database, calls, document)
        own = len(msgspec.json.encode(reader.messages))
        tables = stored_bytes(database)
        on_disk = checkpointed_bytes(database)
        figures.add(
            stored_over_conversation=sum(tables.values()) / own,
            first_turn_ms=median_ms(reader.engine[:ENDS]),
            last_turn_ms=median_ms(reader.engine[-ENDS:]),
            raw_commit_p50_ms=median_ms(raw.commits(500)),
        )
        sizes = [len(message.content or "") for message in reader.messages[1:]]
        more = {
            "conversation_bytes": own,
            "messages": len(reader.messages),
            "median_message_characters": statistics.median(sizes),
            "largest_message_characters": max(sizes),
            "stored_bytes_by_table": tables,
            "on_disk_bytes": on_disk,
            "on_disk_over_conversation": on_disk / own,
        }
        advance()
    raw.close()
    return figures, more


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            measured, more = run(measure(chosen, phases), chosen)
        found = measured.medians()
        raw = {"raw_commit_p50_ms": found.pop("raw_commit_p50_ms")}
        targets = [Target("stored_over_conversation", 1.3, "1.3")]
        report("conversation", chosen, found, raw=raw, targets=targets, spread=measured.spread(), more=more)


if __name__ == "__main__":
    main()
