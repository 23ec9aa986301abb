from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import until, waits_of

from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.checking import Checked, Verdict, check_instances, open_instances
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

Code = Callable[..., Any]


def registry(trip: Code | None = None, **options: Any) -> Registry:
    made = Registry()
    for name in ("book", "cancel", "insure"):
        made.add_activity(lambda given=None: given, name=name)
    made.add_workflow(trip or original, name="trip", **options)
    return made


async def original(ctx: WorkflowContext, place: str) -> None:
    await ctx.call_activity("book", input=place)
    await ctx.call_activity("insure", input="x" * 2000)
    await ctx.wait_for_external_event("back")


async def renamed(ctx: WorkflowContext, place: str) -> None:
    await ctx.call_activity("book", input=place)
    await ctx.call_activity("cancel")
    await ctx.wait_for_external_event("back")


async def shorter(ctx: WorkflowContext, place: str) -> str:
    await ctx.call_activity("book", input=place)
    return "done"


async def longer(ctx: WorkflowContext, place: str) -> None:
    await original(ctx, place[:2])
    raise AssertionError("never reached: the event has not come")


async def hasty(ctx: WorkflowContext, place: str) -> None:
    ctx.call_activity("book", input=place)
    ctx.call_activity("insure")
    await ctx.wait_for_external_event("back")


async def failing(ctx: WorkflowContext, place: str) -> None:
    raise ValueError("new code, new faults")


async def opened(store: SQLiteHistoryStore, code: Registry, **starts: Any) -> None:
    async with EmbeddedRuntime(store, registry=code, app_id="agency") as runtime:
        await runtime.start("trip", "Rome", instance_id="one", **starts)
        if not starts:
            await until(lambda: waits_of(runtime, "one"))


async def checked(store: SQLiteHistoryStore, code: Registry, app_id: str | None = None) -> list[Checked]:
    await store.open()
    try:
        chosen = await open_instances(store, app_id)
        return [each async for each in check_instances(store, chosen, code.workflows)]
    finally:
        await store.close()


def verdict(tmp_path: Path, old: Registry, new: Registry, **starts: Any) -> Checked:
    async def run() -> Checked:
        store = SQLiteHistoryStore(tmp_path / "history.db")
        await opened(store, old, **starts)
        (only,) = await checked(store, new)
        return only

    return asyncio.run(run())


def test_code_that_decides_the_same_fits(tmp_path: Path):
    found = verdict(tmp_path, registry(), registry(longer))
    assert (found.verdict, found.row, found.app_id, found.workflow) == (Verdict.FITS, None, "agency", "trip")
    assert not found.verdict.breaks


@pytest.mark.parametrize(
    ("code", "row", "recorded", "requested"),
    [
        (renamed, 2, "call_activity 'insure' as #1", "call_activity 'cancel' as #1"),
        (shorter, 2, "call_activity 'insure' as #1", "end of the workflow: COMPLETED"),
        (hasty, 2, "TaskCompleted", "call_activity 'insure' as #1"),
        (failing, 1, "call_activity 'book' as #0", "end of the workflow: FAILED"),
    ],
)
def test_code_that_decides_otherwise_differs_at_a_row(
    tmp_path: Path, code: Code, row: int, recorded: str, requested: str
):
    found = verdict(tmp_path, registry(), registry(code))
    assert found.verdict is Verdict.DIFFERS
    assert (found.row, found.recorded, found.requested) == (row, recorded, requested)


def test_a_workflow_that_is_not_there_is_missing(tmp_path: Path):
    found = verdict(tmp_path, registry(), Registry())
    assert (found.verdict, found.detail) == (Verdict.MISSING, "there is no workflow 'trip'")


def test_a_version_that_is_not_there_is_missing_unless_another_one_follows_it(tmp_path: Path):
    old, new = registry(version="1"), registry(version="2")
    found = verdict(tmp_path, old, new)
    assert (found.verdict, found.version) == (Verdict.MISSING, "1")
    assert found.detail == "it began with workflow 'trip' of version '1', which is not there; there is: of version '2'"
    assert verdict(tmp_path, old, registry(version="2", follows=["1"])).verdict is Verdict.FITS


def test_code_without_a_version_is_not_the_newest_version_once_a_run_has_begun(tmp_path: Path):
    found = verdict(tmp_path, registry(), registry(version="2"))
    assert found.verdict is Verdict.MISSING
    assert found.detail.startswith("it began with workflow 'trip' without a version")


def test_what_has_not_begun_fits_any_code_of_its_name(tmp_path: Path):
    assert verdict(tmp_path, registry(), registry(failing), start_at=3600).verdict is Verdict.NOT_BEGUN
    assert verdict(tmp_path, registry(), Registry(), start_at=3600).verdict is Verdict.MISSING


def test_a_damaged_history_is_told_and_the_others_are_checked(tmp_path: Path):
    async def run() -> dict[str, Checked]:
        store = SQLiteHistoryStore(tmp_path / "history.db")
        await opened(store, registry())
        async with EmbeddedRuntime(store, registry=registry()) as runtime:
            await runtime.start("trip", "Oslo", instance_id="two")
            await until(lambda: waits_of(runtime, "two"))
        connection = sqlite3.connect(tmp_path / "history.db")
        chosen = "instance = (SELECT key FROM instance WHERE id = 'one')"
        connection.execute(f"UPDATE history SET events = '[{{]' WHERE seq = 1 AND {chosen}")
        connection.commit()
        connection.close()
        return {each.instance_id: each for each in await checked(store, registry())}

    found = asyncio.run(run())
    assert found["one"].verdict is Verdict.UNREADABLE
    assert found["one"].detail
    assert found["two"].verdict is Verdict.FITS


def test_instances_of_one_app_can_be_checked_alone(tmp_path: Path):
    async def run() -> list[int]:
        store = SQLiteHistoryStore(tmp_path / "history.db")
        await opened(store, registry())
        return [len(await checked(store, registry(), app)) for app in (None, "agency", "mill")]

    assert asyncio.run(run()) == [1, 1, 0]


def test_what_has_ended_is_not_checked(tmp_path: Path):
    async def run() -> list[Checked]:
        store = SQLiteHistoryStore(tmp_path / "history.db")
        await opened(store, registry())
        async with EmbeddedRuntime(store, registry=registry(), app_id="agency") as runtime:
            chosen = await open_instances(store)
            await runtime.raise_event("one", "back")
            await runtime.wait("one", 15)
            return [each async for each in check_instances(store, [*chosen, "purged"], registry().workflows)]

    assert asyncio.run(run()) == []


def test_a_check_calls_no_activity(tmp_path: Path):
    called: list[object] = []
    watched = Registry()
    for name in ("book", "insure"):
        watched.add_activity(called.append, name=name)
    watched.add_workflow(original, name="trip")
    assert verdict(tmp_path, watched, watched).verdict is Verdict.FITS
    assert called == ["Rome", "x" * 2000]
