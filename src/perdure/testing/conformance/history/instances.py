"""Starting, finding and listing instances."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.base.events import (
    HistoryRow,
    Status,
    encode_events,
)
from perdure.ports.history_store import (
    HistoryStore,
    InstanceQuery,
    InstanceRecord,
    Started,
)
from perdure.testing.conformance.history import kit


class Instances(kit.Suite):
    """Starting, finding and listing instances."""

    @kit.on_open_store
    async def test_a_started_instance_is_found_as_it_was_given(self, store: HistoryStore) -> None:
        """A start creates an instance that runs, is due at its start and has one history row."""
        started = await store.start(kit.new("order-1"))
        assert started == Started(
            key=started.key,
            created=True,
            app_id=kit.APP,
            workflow=kit.WORKFLOW,
            events=encode_events([kit.STARTED]),
        )
        assert await kit.record(store, "order-1") == InstanceRecord(
            key=started.key,
            instance_id="order-1",
            app_id=kit.APP,
            workflow=kit.WORKFLOW,
            status=Status.RUNNING,
            created_at=kit.T0,
            due=kit.T0,
        )
        assert await store.load([started.key]) == {started.key: [HistoryRow(0, kit.T0, (kit.STARTED,))]}

    @kit.on_open_store
    async def test_an_unknown_instance_is_not_found(self, store: HistoryStore) -> None:
        """What does not exist is None or left out, never an error."""
        assert await store.find("nobody") is None
        assert await store.find_all(["nobody"]) == {}
        assert await store.find_all([]) == {}
        assert await store.signal("nobody", kit.raised("hello")) is None

    @kit.on_open_store
    async def test_a_start_with_an_existing_id_changes_nothing(self, store: HistoryStore) -> None:
        """The second start returns the first row, and leaves the instance as it was."""
        lease = await store.join("one", kit.APP)
        first = await store.start(kit.new("twice"))
        before = await store.find("twice")
        second = await store.start(kit.new("twice", lease, at=kit.T0 + 9, workflow="another", app_id="another"))
        assert second == Started(
            key=first.key, created=False, app_id=kit.APP, workflow=kit.WORKFLOW, events=first.events
        )
        assert await store.find("twice") == before
        assert len((await store.load([first.key]))[first.key]) == 1

    @kit.on_open_store
    async def test_of_concurrent_starts_with_one_id_exactly_one_creates(self, store: HistoryStore) -> None:
        """However many submit the same id at once, there is one instance."""
        answers = await asyncio.gather(*(store.start(kit.new("race", at=kit.T0 + n)) for n in range(20)))
        assert [answer.created for answer in answers].count(True) == 1
        assert len({answer.key for answer in answers}) == 1
        assert len({answer.events for answer in answers}) == 1

    @kit.on_open_store
    async def test_many_instances_are_found_by_id(self, store: HistoryStore) -> None:
        """find_all returns exactly those that exist."""
        for name in ("a", "b", "c"):
            await store.start(kit.new(name))
        found = await store.find_all(["a", "c", "nobody"])
        assert {name: record.instance_id for name, record in found.items()} == {"a": "a", "c": "c"}

    @kit.on_open_store
    async def test_instances_are_listed_newest_first_in_pages(self, store: HistoryStore) -> None:
        """``before`` is the key of the last one of the page before."""
        for number in range(5):
            await store.start(kit.new(f"n{number}"))
        first = await store.instances(InstanceQuery(limit=2))
        second = await store.instances(InstanceQuery(limit=2, before=first[-1].key))
        third = await store.instances(InstanceQuery(limit=2, before=second[-1].key))
        assert [one.instance_id for one in (*first, *second, *third)] == ["n4", "n3", "n2", "n1", "n0"]
        assert await store.instances(InstanceQuery(before=third[-1].key)) == []

    @kit.on_open_store
    async def test_instances_are_listed_by_status_app_and_workflow(self, store: HistoryStore) -> None:
        """All filters hold together."""
        lease = await store.join("one", kit.APP)
        await kit.parked(store, "done", lease, kit.COMPLETED)
        await store.start(kit.new("running"))
        await store.start(kit.new("other", workflow="other"))
        await store.start(kit.new("foreign", app_id="foreign"))

        async def ids(**filters: Any) -> list[str]:
            return [one.instance_id for one in await store.instances(InstanceQuery(**filters))]

        assert await ids(status=(Status.COMPLETED,)) == ["done"]
        assert await ids(workflow="other") == ["other"]
        assert await ids(app_id="foreign") == ["foreign"]
        assert await ids(status=(Status.RUNNING,), workflow=kit.WORKFLOW) == ["foreign", "running"]
        assert await ids(status=(Status.RUNNING,), app_id=kit.APP, workflow=kit.WORKFLOW) == ["running"]

    @kit.on_open_store
    async def test_the_version_changes_with_every_change(self, store: HistoryStore) -> None:
        """Whoever watches the number misses nothing."""
        seen = [await store.version()]
        await store.start(kit.new("watched"))
        seen.append(await store.version())
        await store.signal("watched", kit.raised("hello"))
        seen.append(await store.version())
        lease = await store.join("one", kit.APP)
        await kit.claim(store, lease)
        seen.append(await store.version())
        assert len(set(seen)) == len(seen)

    @kit.on_open_store
    async def test_a_sound_store_passes_its_own_check(self, store: HistoryStore) -> None:
        """check() counts the instances by status."""
        await store.start(kit.new("counted"))
        assert (await store.check())["instances"] == {"RUNNING": 1}
