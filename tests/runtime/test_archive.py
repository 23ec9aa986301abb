from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import Place, registry_of, until, waits_of
from tests.shapes import BY_NAME, REGISTRY

from perdure import DurableAgent, InstanceError, UsageError, tool
from perdure.components.history.memory import MemoryHistoryStore
from perdure.llm.scripted import ScriptedModel
from perdure.runtime.archive import export_instance, import_instance
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: " + "a long story " * 100


async def _ran(runtime: EmbeddedRuntime, name: str, log: Path) -> str:
    shape = BY_NAME[name]
    await runtime.start(shape.workflow, shape.input(log), instance_id=name)
    for event, data in shape.events:
        await runtime.raise_event(name, event, data)
    shape.check(await runtime.wait(name, 15))
    return name


@pytest.mark.parametrize("name", ["large-values", "three-generations", "patched", "typed"])
def test_an_export_can_be_imported_into_another_store(name: str, opened: Callable[..., Any], tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(REGISTRY) as runtime:
            await _ran(runtime, name, tmp_path / "log")
            document = await export_instance(runtime.store, name)
            before = await runtime.find(name)
        other = MemoryHistoryStore()
        async with EmbeddedRuntime(other, registry=REGISTRY) as runtime:
            assert await import_instance(other, document) == name
            BY_NAME[name].check(await runtime.wait(name, 5))
            after = await runtime.find(name)
            assert (after.status, after.finished_at, after.custom_status, after.attributes) == (
                before.status,
                before.finished_at,
                before.custom_status,
                before.attributes,
            )
            assert await export_instance(other, name) == document

    asyncio.run(run())


def test_an_agents_conversation_goes_along(place: Place) -> None:
    registry = Registry()
    replies = [{"tool": "look_up", "arguments": {"word": "ibis"}}, {"tool": "look_up", "arguments": {"word": "gnu"}}]
    agent = DurableAgent(name="Reader", tools=[look_up], llm=ScriptedModel([*replies, "Both are animals."]))
    agent.register(registry)

    async def run() -> None:
        async with EmbeddedRuntime(place.store(), registry=registry) as runtime:
            run_id = await runtime.start(agent.agent_workflow_name, {"task": "What are ibis and gnu?"})
            result = await runtime.wait(run_id, 10)
            document = await export_instance(runtime.store, run_id)
        assert len(json.loads(document)["links"]) >= 4
        other = MemoryHistoryStore()
        async with EmbeddedRuntime(other, registry=registry) as runtime:
            await import_instance(other, document, instance_id="copy")
            assert await runtime.wait("copy", 5) == result
            fork = await runtime.fork("copy", 2, output={"content": "an ungulate"})
            await until(lambda: runtime.find(fork))

    asyncio.run(run())


def test_an_unfinished_import_waits_until_it_is_resumed(place: Place) -> None:
    async def flow(ctx: Any) -> list[Any]:
        return [await ctx.wait_for_external_event("first"), await ctx.wait_for_external_event("second")]

    registry = registry_of(flow)

    async def run() -> None:
        store = place.store()
        async with EmbeddedRuntime(store, registry=registry) as runtime:
            await runtime.start(flow, instance_id="one")
            await runtime.raise_event("one", "first", 1)
            await until(lambda: waits_of(runtime, "one"))
            document = await export_instance(store, "one")
            await import_instance(store, document, instance_id="two", app_id="default")
            assert "resume it" in (await waits_of(runtime, "two"))["stalled"]
            await runtime.raise_event("two", "second", 2)
            await runtime.resume("two")
            assert await runtime.wait("two", 5) == [1, 2]
            record = await runtime.find("one")
            assert not record.status.finished

    asyncio.run(run())


def _raised(document: dict[str, Any]) -> list[int]:
    events = [event for _, _, row in document["rows"] for event in row] + document["inbox"]
    return [event["input"] for event in events if event["type"] == "EventRaised"]


def test_an_event_that_is_taken_while_it_is_exported_is_in_the_document_once(place: Place) -> None:
    async def flow(ctx: Any) -> list[Any]:
        return [await ctx.wait_for_external_event("event") for _ in range(200)]

    registry = registry_of(flow)

    async def run() -> None:
        store = place.store()
        async with EmbeddedRuntime(store, registry=registry) as runtime:
            await runtime.start(flow, instance_id="one")

            async def raise_all() -> None:
                for number in range(200):
                    await runtime.raise_event("one", "event", number)

            raising = asyncio.create_task(raise_all())
            seen = 0
            while not raising.done():
                with suppress(UsageError):
                    document = await export_instance(store, "one")
                    raised = _raised(json.loads(document))
                    assert raised == list(range(len(raised)))
                    seen = max(seen, len(raised))
            await raising
            assert seen > 0
            assert await runtime.wait("one", 10) == list(range(200))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda document: document[: len(document) // 2], "no exported history"),
        (lambda document: document.replace(b"perdure-history", b"another-history"), "no exported history"),
        (lambda document: document.replace(b'"ExecutionStarted"', b'"Whatever"'), "no exported history"),
        (lambda _: b'{"format": "perdure-history"}', "no exported history"),
        (lambda _: b"\xff\xfe", "no exported history"),
    ],
)
def test_garbage_is_refused(change: Callable[[bytes], bytes], says: str, tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryHistoryStore()
        async with EmbeddedRuntime(store, registry=REGISTRY) as runtime:
            document = await export_instance(store, await _ran(runtime, "typed", tmp_path / "log"))
            with pytest.raises(UsageError, match=says):
                await import_instance(store, change(document), instance_id="another")

    asyncio.run(run())


def test_an_edited_content_and_a_missing_row_are_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryHistoryStore()
        async with EmbeddedRuntime(store, registry=REGISTRY) as runtime:
            document = json.loads(await export_instance(store, await _ran(runtime, "large-values", tmp_path / "log")))
        address = next(iter(document["blobs"]))
        edited = json.dumps({**document, "blobs": {**document["blobs"], address: "AAAA"}})
        torn = json.dumps({**document, "rows": document["rows"][:1] + document["rows"][2:]})
        await store.open()
        with pytest.raises(UsageError, match="does not match its digest"):
            await import_instance(store, edited, instance_id="another")
        with pytest.raises(UsageError, match="no whole history"):
            await import_instance(store, torn, instance_id="another")
        with pytest.raises(InstanceError, match="is taken"):
            await import_instance(store, json.dumps(document))

    asyncio.run(run())


def test_a_run_that_continued_in_its_first_episode_goes_along(opened: Callable[..., Any]) -> None:
    async def flow(ctx: Any, number: int) -> Any:
        if number == 0:
            ctx.continue_as_new(1)
            return None
        return await ctx.wait_for_external_event("go")

    async def run() -> None:
        registry = registry_of(flow)
        async with opened(registry) as runtime:
            await runtime.start(flow, 0, instance_id="one")
            await until(lambda: waits_of(runtime, "one"))
            document = await export_instance(runtime.store, "one")
        other = MemoryHistoryStore()
        async with EmbeddedRuntime(other, registry=registry) as runtime:
            await import_instance(other, document)
            await runtime.resume("one")
            await runtime.raise_event("one", "go", 5)
            assert await runtime.wait("one", 5) == 5

    asyncio.run(run())


def test_a_run_that_was_put_off_begins_when_it_is_resumed(opened: Callable[..., Any]) -> None:
    async def flow(ctx: Any) -> str:
        return "begun"

    async def run() -> None:
        registry = registry_of(flow)
        async with opened(registry) as runtime:
            await runtime.start(flow, instance_id="one", start_at=3600)
            document = await export_instance(runtime.store, "one")
        other = MemoryHistoryStore()
        async with EmbeddedRuntime(other, registry=registry) as runtime:
            await import_instance(other, document)
            assert "resume it" in (await runtime.find("one")).waits
            await runtime.resume("one")
            assert await runtime.wait("one", 5) == "begun"

    asyncio.run(run())
