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
    opened(store, first=("order", 5), slow=("patient", None))
    return store


def worked(store: Path, *runs: str) -> None:
    """Let a worker take up what was sent, until these runs wait or have ended."""

    async def work(runtime: EmbeddedRuntime) -> None:
        await parked(runtime, *runs)

    under(store, work)


def reason(perdure: Command, run: str) -> str:
    reason: str = perdure("runs", "show", run, "--json").data["reason"]
    return reason


def test_a_run_is_suspended_and_resumed_when_its_app_runs(shop: Path, perdure: Command):
    done = perdure("runs", "suspend", "first", "--reason", "the bank is closed")
    assert done.code == 0
    assert "run first will be suspended" in done.err
    assert "takes effect when its app (shop) runs: perdure work APP --app-id shop" in done.err
    worked(shop, "first")
    assert reason(perdure, "first") == "suspended: the bank is closed"
    assert "suspended already" in perdure("runs", "suspend", "first").err

    perdure("runs", "event", "first", "approval", '{"by": "Ann"}')
    worked(shop, "first")
    assert perdure("runs", "show", "first", "--json").data["status"] == "SUSPENDED"

    assert "run first will go on" in perdure("runs", "resume", "first").err
    worked(shop, "first")
    assert reason(perdure, "first") == "waits for child workflow ship (first:0001)"
    steps = perdure("runs", "show", "first", "--json").data["timeline"]
    assert [step["kind"] for step in steps if step["kind"] in {"suspend", "event", "resume"}] == [
        "suspend",
        "event",
        "resume",
    ]


def test_an_event_is_kept_until_the_run_takes_it(shop: Path, perdure: Command):
    assert "gets event 'arrival'" in perdure("runs", "event", "first:0001", "arrival").err
    worked(shop, "first:0001")
    assert perdure("runs", "show", "first:0001", "--json").data["answer"] == "5 parcels arrived"


@pytest.mark.parametrize(("options", "child"), [((), "TERMINATED"), (("--no-children",), "RUNNING")])
def test_a_cancelled_run_takes_its_children_along_unless_told_otherwise(
    shop: Path, perdure: Command, options: tuple[str, ...], child: str
):
    assert perdure("runs", "cancel", "first", "--reason", "too late", *options).code == 0
    worked(shop, "first", "first:0001")
    assert reason(perdure, "first") == "cancelled: too late"
    assert perdure("runs", "show", "first:0001", "--json").data["status"] == child
    again = perdure("runs", "cancel", "first")
    assert (again.code, again.err) == (0, "run first is terminated already; nothing to cancel\n")


def test_what_has_ended_takes_no_signal(shop: Path, perdure: Command):
    perdure("runs", "cancel", "slow")
    worked(shop, "slow")
    for command, told in (
        (("suspend", "slow"), "cannot be suspended any more"),
        (("resume", "slow"), "it cannot be resumed"),
        (("event", "slow", "approval"), "it takes no events any more"),
    ):
        done = perdure("runs", *command)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert told in done.err


def test_events_that_cannot_be_are_refused_in_one_line(shop: Path, perdure: Command):
    for command, told in (
        (("first", "approval", "yes"), "JSON is not JSON"),
        (("first", "perdure.answered"), "are the engine's own"),
        (("nobody", "approval"), "no instance 'nobody'"),
    ):
        done = perdure("runs", "event", *command)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert told in done.err
