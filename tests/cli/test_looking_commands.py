from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Cli, Done, until
from tests.cli.shop import opened, parked, under

from perdure.base.limits import Limits
from perdure.base.schedule import Schedule
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.context import WorkflowContext
from perdure.workflows.registry import Registry

Command = Callable[..., Done]

HASTY = """
from perdure import workflow

@workflow
async def haste(ctx): ...
"""


@pytest.fixture
def shop(store: Path) -> Path:
    opened(
        store,
        first=("order", 5),
        second=("order", 7),
        slow=("patient", None),
        unlucky=("unlucky", None),
        lost=("broken", None),
        new=("modern", None),
    )

    async def more(runtime: EmbeddedRuntime) -> None:
        await runtime.start("patient", instance_id="later", start_at=3600, attributes={"amount": 5})
        await runtime.suspend("second", "the bank is closed")
        async with asyncio.timeout(20):
            while (await runtime.find("second")).status != "SUSPENDED":  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        await parked(runtime, "second")

    under(store, more)
    return store


def ids(done: Done) -> list[str]:
    assert done.code == 0, done.err
    return [run["id"] for run in done.data]


def test_list_says_what_each_run_waits_for(shop: Path, perdure: Command):
    rows = {row.split()[0]: row for row in perdure("runs", "list").out.splitlines()[1:]}
    assert "waits for event 'approval' or child workflow ship (first:0001)" in rows["first"]
    assert "suspended: the bank is closed" in rows["second"]
    assert "begins in 59 min" in rows["later"]
    assert "pending" in rows["later"]
    assert "waits for a timer in 59 min" in rows["slow"]
    assert "waits for attempt 2 of 4 of lose in" in rows["unlucky"]
    assert "ValueError: no luck" in rows["lost"]
    assert "modern@2" in rows["new"]


def test_what_is_due_says_whether_a_worker_is_there_to_take_it_up(cli: Cli):
    cli.write(HASTY)
    cli("runs", "start", "app.py", "haste", "--id", "due", "--app-id", "mill")

    def reason() -> str:
        found: str = cli.json("runs", "list")[0]["reason"]
        return found

    assert reason() == "waits for its app to run: no worker runs"
    cli.write(HASTY.replace("haste", "other"), "other.py")
    worker = cli.start("work", "other.py")
    until(lambda: reason() == "waits for its app to run: no worker of app mill runs")
    worker.kill()
    worker.wait(10)
    assert reason() == "waits for its app to run: no worker runs"
    cli.start("work", "other.py", "--app-id", "mill")
    until(lambda: reason().startswith("waits until a worker of its app, mill, that knows workflow haste takes it up"))
    assert "it waits until a worker of its app, mill, that knows workflow haste" in cli("runs", "suspend", "due").stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--status", "pending", "--status", "suspended"), ["later", "second"]),
        (("--attribute", "amount=5"), ["later", "first"]),
        (("--attribute", "amount=5", "--attribute", "customer=ann"), ["first"]),
        (("--attribute", 'amount="5"'), []),
        (("--parent", "first"), ["first:0001"]),
        (("--app", "elsewhere"), []),
        (("--app", "shop", "--workflow", "order", "--since", "1h"), ["second", "first"]),
        (("--until", "1h"), []),
        (("--since", "2200-01-01"), []),
        (("--workflow", "modern"), ["new"]),
    ],
)
def test_list_can_be_narrowed_by_many_things(
    shop: Path, perdure: Command, options: tuple[str, ...], expected: list[str]
):
    assert ids(perdure("runs", "list", "--json", *options)) == expected


def test_a_list_goes_on_behind_the_last_run_of_a_page(shop: Path, perdure: Command):
    whole = ids(perdure("runs", "list", "--json"))
    page = perdure("runs", "list", "--limit", "4")
    assert f"--before {whole[3]}" in page.err
    last = perdure("runs", "list", "--limit", "100", "--before", whole[3])
    assert last.err == ""
    shown = [row.split()[0] for done in (page, last) for row in done.out.splitlines()[1:]]
    assert shown == whole


def test_a_list_names_apps_where_there_are_several(shop: Path, perdure: Command):
    assert "shop" not in perdure("runs", "list").out

    async def elsewhere() -> None:
        async with EmbeddedRuntime(SQLiteHistoryStore(shop), app_id="mill", worker=False) as runtime:
            await runtime.start("grind")

    asyncio.run(elsewhere())
    done = perdure("runs", "list")
    assert "mill" in done.out
    assert "shop" in done.out


def test_what_cannot_be_asked_of_a_list_is_refused_in_one_line(shop: Path, perdure: Command):
    for options, told in (
        (("--status", "odd"), "--status is 'odd'; use one of: pending, running, suspended"),
        (("--since", "soon"), "--since is 'soon'; write an ISO time"),
        (("--attribute", "amount"), "--attribute is 'amount'; write name=value"),
        (("--parent", "nobody"), "no instance 'nobody'"),
        (("--before", "nobody"), "no instance 'nobody'"),
        (("--agent", "x" * 70), "--agent: the name"),
    ):
        done = perdure("runs", "list", *options)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert told in done.err


def test_show_has_the_children_the_custom_status_and_the_attributes(shop: Path, perdure: Command):
    out = perdure("runs", "show", "first").out
    for expected in ('{"step":"paying"}', "amount=5, customer=ann", "running: waits for event 'arrival'"):
        assert expected in out
    (row,) = [row for row in out.splitlines() if "child ship" in row]
    assert row.split()[2:6] == ["1", "child", "ship", "(first:0001)"]
    child = perdure("runs", "show", "first:0001").out
    assert "parent" in child
    assert "first" in child


def test_a_schedule_is_found_by_its_name_among_what_it_has_started(store: Path, perdure: Command):
    async def schedule(runtime: EmbeddedRuntime) -> None:
        await runtime.schedule("often", "counting", Schedule(every=3600), 0)
        await runtime.start("counting", 3, instance_id="often/a-moment")

    under(store, schedule)
    assert perdure("runs", "show", "often", "--json").data["id"] == "schedule:often"
    assert perdure("runs", "show", "often/a", "--json").data["id"] == "often/a-moment"


def test_show_says_which_calls_wait_for_their_turn(store: Path, perdure: Command):
    registry = Registry()

    @registry.activity(limits=Limits(concurrency=1))
    async def weigh() -> None:
        await asyncio.Event().wait()

    @registry.workflow
    async def mill(ctx: WorkflowContext) -> None:
        await ctx.call_activity(weigh)

    async def grind(runtime: EmbeddedRuntime) -> None:
        await runtime.start("mill", instance_id="first")
        async with asyncio.timeout(20):
            while len(await runtime.store.rows((await runtime.find("first")).key)) < 2:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        await runtime.start("mill", instance_id="second")
        await parked(runtime, "second")

    under(store, grind, registry)
    (row,) = [
        row for row in perdure("runs", "show", "second").out.splitlines() if row.startswith("+") and "weigh" in row
    ]
    assert row.split()[-5:] == ["weigh", "waits", "for", "its", "turn"]
    (call,) = [step for step in perdure("runs", "show", "second", "--json").data["timeline"] if step["name"] == "weigh"]
    assert call["status"] == "queued"


def test_show_as_json_has_the_same(shop: Path, perdure: Command):
    data = perdure("runs", "show", "first", "--json").data
    assert (data["custom_status"], data["attributes"]) == ({"step": "paying"}, {"customer": "ann", "amount": 5})
    (child,) = [step for step in data["timeline"] if step["kind"] == "child"]
    assert (child["call"], child["instance"], child["instance_status"]) == (1, "first:0001", "RUNNING")
    assert child["instance_reason"] == "waits for event 'arrival'"
    assert perdure("runs", "show", "first:0001", "--json").data["parent"] == "first"
    new = perdure("runs", "show", "new", "--json").data
    assert (new["workflow"], new["version"], new["generation"]) == ("modern", "2", 0)


def test_show_tells_which_generation_it_shows(store: Path, perdure: Command):
    opened(store, counter=("counting", 0))
    assert "generation" in perdure("runs", "show", "counter").out
    assert perdure("runs", "show", "counter", "--json").data["generation"] == 3


def test_a_child_that_was_purged_is_said_to_be_gone(store: Path, perdure: Command):
    opened(store, first=("order", 5))

    async def end(runtime: EmbeddedRuntime) -> None:
        await runtime.raise_event("first:0001", "arrival")
        await runtime.wait("first:0001", 20)
        await runtime.raise_event("first", "approval", "Ann")
        await runtime.wait("first", 20)

    under(store, end)
    assert perdure("runs", "purge", "first:0001", "--yes").code == 0
    data = perdure("runs", "show", "first", "--json").data
    (child,) = [step for step in data["timeline"] if step["kind"] == "child"]
    assert (child["instance_status"], child["output"]) == (None, "5 parcels arrived")


def test_the_tree_has_all_descendants(store: Path, perdure: Command):
    registry = Registry()

    @registry.workflow
    async def branch(ctx: WorkflowContext, depth: int) -> None:
        if depth:
            await ctx.when_all([ctx.call_child_workflow("branch", input=depth - 1) for _ in range(2)])
        else:
            await ctx.wait_for_external_event("stop")

    async def grow(runtime: EmbeddedRuntime) -> None:
        await runtime.start("branch", 2, instance_id="root")
        leaves = [f"root:{a:04x}:{b:04x}" for a in range(2) for b in range(2)]
        await parked(runtime, "root", *leaves)

    under(store, grow, registry)
    lines = perdure("runs", "show", "root", "--tree").out.splitlines()
    assert lines[0].startswith("branch  root  running")
    assert [line.index("branch") for line in lines] == [0, 4, 8, 8, 4, 8, 8]
    assert lines[2].endswith("waits for event 'stop'")
    places = perdure("runs", "show", "root", "--tree", "--json").data
    assert [place["depth"] for place in places] == [0, 1, 2, 2, 1, 2, 2]
    assert places[2]["id"] == "root:0000:0000"
    assert places[2]["parent"] == "root:0000"
    assert "not both" in perdure("runs", "show", "root", "--tree", "--full").err
