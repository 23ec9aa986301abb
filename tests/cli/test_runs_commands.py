from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.harness import Done

from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

Command = Callable[..., Done]


def registry(step: str = "pay") -> Registry:
    def pay(amount: int) -> dict[str, Any]:
        return {"paid": amount, "note": "x" * 1000}

    async def order(ctx, amount):
        await ctx.call_activity(step, input=amount)
        decision = await ctx.wait_for_external_event("approval")
        return f"approved by {decision}"

    async def broken(ctx):
        raise ValueError("no \x1b[31mluck")

    async def patient(ctx):
        await ctx.create_timer(3600)

    made = Registry()
    for name in ("pay", "charge"):
        made.add_activity(pay, name=name)
    for function in (order, broken, patient):
        made.add_workflow(function)
    return made


def under(store: Path, work: Callable[[EmbeddedRuntime], Awaitable[object]], step: str = "pay") -> None:
    async def run() -> None:
        async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=registry(step), app_id="shop") as runtime:
            await work(runtime)

    asyncio.run(run())


async def waits(runtime: EmbeddedRuntime, *runs: str) -> None:
    async def parked(run: str) -> bool:
        record = await runtime.find(run)
        return record is not None and record.owner is None and (record.status.finished or bool(record.waits))

    async with asyncio.timeout(10):
        for run in runs:
            while not await parked(run):
                await asyncio.sleep(0.005)


@pytest.fixture
def shop(store: Path) -> Path:
    async def work(runtime: EmbeddedRuntime) -> None:
        for number, workflow in enumerate(["order", "broken", "patient", "order"]):
            await runtime.start(workflow, 5 if workflow == "order" else None, instance_id=f"run-{number}")
        await waits(runtime, "run-0", "run-1", "run-2", "run-3")
        await runtime.raise_event("run-3", "approval", "Ann")
        await runtime.wait("run-3", 10)

    under(store, work)
    return store


def test_list_shows_the_newest_first_with_what_each_waits_for(shop: Path, perdure: Command):
    done = perdure("runs", "list")
    rows = done.out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["run-3", "run-2", "run-1", "run-0"]
    assert "completed" in rows[0]
    assert "waits for a timer in" in rows[1]
    assert r"ValueError: no \x1b[31mluck" in rows[2]
    assert "waits for event 'approval'" in rows[3]
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--status", "running"), ["run-2", "run-0"]),
        (("--status", "FAILED"), ["run-1"]),
        (("--workflow", "order"), ["run-3", "run-0"]),
        (("--workflow", "order", "--limit", "1"), ["run-3"]),
        (("--agent", "order"), []),
    ],
)
def test_list_can_be_narrowed(shop: Path, perdure: Command, options: tuple[str, ...], expected: list[str]):
    assert [run["id"] for run in perdure("runs", "list", "--json", *options).data] == expected


def test_list_as_json_has_the_facts(shop: Path, perdure: Command):
    done = perdure("runs", "list", "--json", "--status", "running")
    facts = done.data[1]
    assert (facts["workflow"], facts["agent"], facts["app"]) == ("order", None, "shop")
    assert (facts["state"], facts["reason"]) == ("waiting", "waits for event 'approval'")
    assert done.err == ""


def test_without_a_store_there_are_no_runs(store: Path, perdure: Command):
    done = perdure("runs", "list")
    assert (done.code, done.out) == (0, "")
    assert "there is no store" in done.err
    assert perdure("runs", "list", "--json").data == []
    assert not store.exists()
    assert perdure("runs", "show", "x").code == 1


def test_show_has_every_step_and_the_proof(shop: Path, perdure: Command):
    done = perdure("runs", "show", "run-3")
    assert done.code == 0
    for expected in ("completed", "start order", "pay", "event approval", "approved by Ann", "(app shop)"):
        assert expected in done.out
    assert "1 activity call, each recorded once" in done.out
    assert "x" * 200 not in re.sub(r"\s", "", done.out)
    assert "x" * 1000 in re.sub(r"\s", "", perdure("runs", "show", "run-3", "--full").out)


def test_show_as_json_has_whole_values(shop: Path, perdure: Command):
    data = perdure("runs", "show", "run-3", "--json").data
    pay = next(step for step in data["timeline"] if step["name"] == "pay")
    assert pay["output"] == {"paid": 5, "note": "x" * 1000}
    assert (pay["input"], pay["attempts"], pay["status"]) == (5, 1, "completed")
    assert [step["kind"] for step in data["timeline"]] == ["start", "activity", "event", "end"]
    assert data["answer"] == "approved by Ann"


def test_an_id_may_be_cut_short_while_it_is_unique(store: Path, perdure: Command):
    async def work(runtime: EmbeddedRuntime) -> None:
        for name in ("alpha", "alps", "beta"):
            await runtime.start("broken", instance_id=name)
        await waits(runtime, "alpha", "alps", "beta")

    under(store, work)
    assert perdure("runs", "show", "b", "--json").data["id"] == "beta"
    assert perdure("runs", "show", "alph", "--json").data["id"] == "alpha"
    several = perdure("runs", "show", "al")
    assert several.code == 1
    assert several.err == "error: 2 runs begin with 'al': alps, alpha. Give more of the id.\n"
    assert perdure("runs", "show", "gamma").err.startswith("error: no instance 'gamma'")


def test_watch_ends_with_the_run(shop: Path, perdure: Command):
    done = perdure("runs", "watch", "run-3")
    assert (done.code, done.out) == (0, "approved by Ann\n")
    assert "event approval" in done.err
    failed = perdure("runs", "watch", "run-1", "--json")
    assert failed.code == 1
    assert failed.data["failure"] == {"type": "ValueError", "message": "no \x1b[31mluck"}


def test_a_stalled_run_says_why_and_can_be_tried_again(shop: Path, perdure: Command):
    async def wake(runtime: EmbeddedRuntime) -> None:
        await runtime.raise_event("run-0", "other")
        async with asyncio.timeout(10):
            while "stalled" not in ((await runtime.find("run-0")).waits or ""):  # type: ignore[union-attr]
                await asyncio.sleep(0.005)

    under(shop, wake, step="charge")
    (run, *_) = [run for run in perdure("runs", "list", "--json").data if run["id"] == "run-0"]
    assert run["state"] == "stalled"
    assert "code changed" in run["reason"]
    assert "will be tried again" in perdure("runs", "resume", "run-0").err

    async def approve(runtime: EmbeddedRuntime) -> None:
        await runtime.raise_event("run-0", "approval", "Bob")
        await runtime.wait("run-0", 10)

    under(shop, approve)
    assert perdure("runs", "show", "run-0", "--json").data["answer"] == "approved by Bob"


def test_json_holds_values_that_json_lacks(store: Path, perdure: Command):
    async def work(runtime: EmbeddedRuntime) -> None:
        await runtime.start("order", {("a", 1): {1, 2}, "raw": b"\x00\xff", "deep": float("nan")}, instance_id="odd")
        await waits(runtime, "odd")

    under(store, work)
    data = msgspec.json.decode(perdure("runs", "show", "odd", "--json").out)
    assert "input" in data["timeline"][0]
    assert perdure("runs", "show", "odd").code == 0
