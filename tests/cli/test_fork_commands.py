from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Done
from tests.cli.shop import opened, parked, under

from perdure.runtime.embedded import EmbeddedRuntime

Command = Callable[..., Done]


@pytest.fixture
def shop(store: Path) -> Path:
    opened(store, first=("order", 5))
    return store


def taken_up(store: Path, *runs: str) -> None:
    async def work(runtime: EmbeddedRuntime) -> None:
        await parked(runtime, *runs)

    under(store, work)


def step(perdure: Command, run: str, call: int) -> dict[str, object]:
    steps = perdure("runs", "show", run, "--json").data["timeline"]
    (found,) = [step for step in steps if step["call"] == call]
    return found


def test_a_fork_takes_a_call_to_have_returned_something_else(shop: Path, perdure: Command):
    done = perdure("runs", "fork", "first", "--at", "0", "--output", '{"paid": 99}', "--id", "second")
    assert (done.code, done.out) == (0, "second\n")
    assert "run second goes on from call #0 of run first" in done.err
    assert "It goes on when its app (shop) runs: perdure work APP --app-id shop" in done.err
    assert "perdure runs show second" in done.err
    taken_up(shop, "second")
    assert step(perdure, "second", 0)["output"] == {"paid": 99}
    assert step(perdure, "second", 1)["input"] == "99 parcels"
    assert step(perdure, "first", 0)["output"] == {"paid": 5}
    (row,) = [row for row in perdure("runs", "show", "second").out.splitlines() if " pay " in row]
    assert " completed  given " in row
    given = step(perdure, "second", 0)
    assert (given["origin"], given["duration"]) == ("given", None)


def test_a_fork_makes_a_call_again_with_something_else(shop: Path, perdure: Command):
    data = perdure("runs", "fork", "first", "--at", "0", "--input", "7", "--json").data
    assert (data["forked_from"], data["at"], data["edited"], data["app"]) == ("first", [0], "input", "shop")
    assert (data["agent"], data["workflow"]) == (None, "order")
    taken_up(shop, data["id"])
    made = step(perdure, data["id"], 0)
    assert (made["output"], made["origin"]) == ({"paid": 7}, "own")


def test_a_path_leads_into_a_child(shop: Path, perdure: Command):
    done = perdure("runs", "fork", "first", "--at", "1.0", "--output", "null", "--id", "other")
    assert done.code == 0
    taken_up(shop, "other", "other:0001")
    assert step(perdure, "other:0001", 0)["output"] is None


def test_a_rerun_makes_the_call_again_as_it_was(shop: Path, perdure: Command):
    new = perdure("runs", "rerun", "first", "--at", "0").out.strip()
    taken_up(shop, new)
    assert step(perdure, new, 0)["output"] == {"paid": 5}
    forks = perdure("runs", "list", "--attribute", "perdure.forked_from=first", "--json").data
    assert [run["id"] for run in forks] == [new]
    head, *rows = perdure("runs", "list", "--workflow", "order").out.splitlines()
    assert head.split()[:3] == ["id", "fork", "of"]
    assert [row.split()[1] for row in rows] == ["first", "order"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody", "--at", "0"), "no instance 'nobody'"),
        (("first", "--at", "x"), "--at is 'x'"),
        (("first", "--at", "9"), "has no call #9; its calls are: #0 pay, #1 ship"),
        (("first", "--at", "0.1"), "call #0 is an activity"),
        (("first", "--at", "0", "--output", "{"), "--output is not JSON"),
        (("first", "--at", "0", "--output", "1", "--input", "2"), "give --output or --input, not both"),
        (("first", "--at", "0", "--id", "first"), "instance id 'first' is taken"),
        (("first", "--at", "0", "--id", "x" * 300), "use 1 to 256 characters"),
    ],
)
def test_a_fork_that_cannot_be_is_refused_in_one_line(
    shop: Path, perdure: Command, arguments: tuple[str, ...], told: str
):
    done = perdure("runs", "fork", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err
