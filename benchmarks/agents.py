"""Agent runs of three model calls and two tool calls, on a scripted model: in this process, and over HTTP.

Each run is accepted durably, records every call, and returns its answer; the limits beside it are SQLite's alone and,
over HTTP, the model client's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    history_rows,
    mean_row_bytes,
    median_ms,
    options,
    parted,
    progress,
    report,
    run,
)

from perdure import AgentRunner, ChatModel, ChatRequest, DurableAgent, OpenAIChatModel, tool
from perdure.llm.scripted import ScriptedModel, ScriptedReply

AT_ONCE = 50
MODEL_CALLS = 3

SCRIPT: list[ScriptedReply] = [
    {"tool": "stock_of", "arguments": {"article": "lamp"}},
    {"tool": "price_of", "arguments": {"article": "lamp", "pieces": 12}},
    "There are 12 lamps in stock; together they cost 348 euros.",
]


@tool
async def stock_of(article: str) -> str:
    """Return how many pieces of an article there are."""
    return f"{article}: 12 pieces"


@tool
async def price_of(article: str, pieces: int) -> str:
    """Return the price of some pieces of an article."""
    return f"{pieces} x {article}: {29 * pieces} euros"


@tool(name="stock_of")
def stock_of_in_thread(article: str) -> str:
    """Return how many pieces of an article there are."""
    return f"{article}: 12 pieces"


@tool(name="price_of")
def price_of_in_thread(article: str, pieces: int) -> str:
    """Return the price of some pieces of an article."""
    return f"{pieces} x {article}: {29 * pieces} euros"


def clerk(name: str, model: ChatModel, *, threads: bool = False) -> DurableAgent:
    tools = (stock_of_in_thread, price_of_in_thread) if threads else (stock_of, price_of)
    return DurableAgent(name=name, role="Clerk", goal="Answer questions about the stock", tools=tools, llm=model)


async def one_run(runner: AgentRunner, agent: DurableAgent) -> None:
    answer = await runner.run(agent, {"task": "How many lamps are there, and what do they cost?"})
    assert answer is not None
    assert json.loads(answer)["content"] == SCRIPT[-1]


async def rate(work: Callable[[], Awaitable[object]], count: int) -> float:
    """Return how often the work is done per second, with at most so many under way at once."""
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await work()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - start)


async def alone(work: Callable[[], Awaitable[object]], count: int) -> list[float]:
    taken: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - start)
    return taken


@contextlib.contextmanager
def model_server(folder: Path) -> Iterator[str]:
    """Serve the script over the OpenAI wire from a process of its own; yield its base URL."""
    script = folder / "replies.json"
    script.write_text(json.dumps(SCRIPT))
    command = [sys.executable, "-m", "perdure.testing.openai_server", "--script", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def in_process(chosen: Options, phases: Phases, figures: Repeated) -> None:
    count, repetitions = chosen.size(1_500, 50), chosen.size(5, 3)
    advance = phases.begin(f"{AT_ONCE} agent runs at once, and one alone", repetitions)
    database = chosen.folder / "perdure.db"
    async with AgentRunner(store=database) as runner:
        agent = clerk("Clerk", ScriptedModel(SCRIPT))
        threaded = clerk("ThreadClerk", ScriptedModel(SCRIPT), threads=True)
        for warming in (agent, threaded):
            await rate(lambda warming=warming: one_run(runner, warming), count // 3)  # type: ignore[misc]
        raw = RawSqlite(chosen.folder, mean_row_bytes(database))
        for _ in range(repetitions):
            figures.add(
                raw_commit_p50_ms=median_ms(raw.commits(chosen.size(500, 50))),
                raw_group_rows_per_s=raw.group_rate(chosen.size(50_000, 1_000)),
                runs_per_s=await rate(lambda: one_run(runner, agent), count),
                run_p50_ms=median_ms(await alone(lambda: one_run(runner, agent), chosen.size(200, 10))),
                thread_tools_runs_per_s=await rate(lambda: one_run(runner, threaded), count),
                thread_tools_run_p50_ms=median_ms(await alone(lambda: one_run(runner, threaded), chosen.size(200, 10))),
            )
            advance()
        raw.close()


async def over_http(chosen: Options, phases: Phases, figures: Repeated) -> None:
    count, repetitions = chosen.size(300, 50), 3
    advance = phases.begin(f"{AT_ONCE} agent runs at once, the model over HTTP", repetitions)
    with model_server(chosen.folder) as url:
        model = OpenAIChatModel("scripted", base_url=url, api_key="none")
        async with AgentRunner(store=chosen.folder / "http.db") as runner:
            requests = await requests_of_a_run(runner)

            async def calls_alone() -> None:
                for request in requests:
                    await model.complete(request)

            agent = clerk("HttpClerk", model)
            await rate(lambda: one_run(runner, agent), count // 3)
            for _ in range(repetitions):
                figures.add(
                    raw_model_call_triples_per_s_http=await rate(calls_alone, count),
                    runs_per_s_http=await rate(lambda: one_run(runner, agent), count),
                )
                advance()


async def requests_of_a_run(runner: AgentRunner) -> list[ChatRequest]:
    """Return what an agent asks its model in one run."""
    model = ScriptedModel(SCRIPT)
    await one_run(runner, clerk("Asker", model))
    assert len(model.calls) == MODEL_CALLS
    return model.calls


async def measure(chosen: Options, phases: Phases) -> Repeated:
    figures = Repeated()
    await in_process(chosen, phases, figures)
    await over_http(chosen, phases, figures)
    return figures


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            figures = run(measure(chosen, phases), chosen)
        found, raw = parted(figures.medians())
        more = {name: found.pop(name) for name in list(found) if name.startswith("thread_tools_")}
        rows = history_rows(chosen.folder / "perdure.db")
        more |= {
            "commits_of_a_run": rows,
            "run_p50_over_its_raw_commits": found["run_p50_ms"] / (rows * raw["raw_commit_p50_ms"]),
            "http_runs_over_raw_model_calls": found["runs_per_s_http"] / raw["raw_model_call_triples_per_s_http"],
        }
        targets = [Target("runs_per_s", 1_500, "1500", at_least=True)]
        report("agents", chosen, found, raw=raw, targets=targets, spread=figures.spread(), more=more)


if __name__ == "__main__":
    main()
