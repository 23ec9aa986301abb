from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from tests.cli.harness import Cli, Done, until
from tests.cli.shop import SHOP, parked, under

from perdure.base.schedule import Schedule
from perdure.runtime.embedded import EmbeddedRuntime

Command = Callable[..., Done]

APP = """
from perdure import workflow

@workflow
async def report(ctx, team):
    return f"report for {team}"

@workflow(version="2")
async def digest(ctx): ...
"""

FAR = 4_000_000_000.0


@pytest.fixture
def app(store: Path, tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return store


def worked(store: Path, *names: str) -> None:
    """Let a worker of the app ``shop`` execute schedules until each one waits or has ended."""

    async def work(runtime: EmbeddedRuntime) -> None:
        await parked(runtime, *(f"schedule:{name}" for name in names))

    under(store, work)


def added(perdure: Command, name: str, *options: str) -> Done:
    return perdure("schedules", "add", name, "app.py", "report", "--app-id", "shop", *options)


def shown(perdure: Command, name: str) -> dict[str, object]:
    data: dict[str, object] = perdure("schedules", "show", name, "--json").data
    return data


def test_a_schedule_that_was_added_fires_under_a_worker(cli: Cli):
    cli.write(APP)
    done = cli("schedules", "add", "tick", "app.py", "report", "--every", "0.2", "--input", '"sales"')
    assert (done.returncode, done.stdout) == (0, "tick\n")
    assert "schedule tick of app default is accepted: it starts report, every 0.2 s\n" in done.stderr
    assert "Executed by: perdure work app.py\n" in done.stderr
    (before,) = cli.json("schedules", "list")
    assert (before["state"], before["fired"], before["worker"]) == ("active", 0, False)
    cli.start("work", "app.py", "--quiet")
    until(lambda: cli.json("schedules", "show", "tick")["fired"] >= 2)
    view = cli.json("schedules", "show", "tick")
    assert view["worker"]
    assert view["last_run"]["id"].startswith("tick/")
    until(lambda: cli.json("runs", "show", view["last_run"]["id"])["answer"] == "report for sales")
    assert "schedule tick is terminated" in cli("schedules", "remove", "tick").stderr
    assert cli.json("schedules", "list") == []


def test_a_schedule_is_listed_with_what_it_starts_and_when(app: Path, perdure: Command):
    when = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--ends", "2096-10-02T08:00")
    added(perdure, "nightly", *when, "--repeats", "5")
    added(perdure, "hourly", "--every", "3600")
    header, hourly, nightly = perdure("schedules", "list").out.splitlines()
    columns = ["name", "starts", "when", "state", "next firing", "last firing", "worker"]
    assert [column.strip() for column in header.split("  ") if column.strip()] == columns
    for expected in ("hourly", "report", "every 1 h", "active", "in ", "none runs"):
        assert expected in hourly
    assert "cron 30 2 * * *, Europe/Berlin, until 2096-10-02" in nightly
    assert "5 times in all" in nightly
    data = perdure("schedules", "list", "--json").data[1]
    assert (data["name"], data["id"], data["app"], data["workflow"]) == (
        "nightly",
        "schedule:nightly",
        "shop",
        "report",
    )
    assert data["schedule"]["ends"] == dt.datetime(2096, 10, 2, 8, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert data["next"] > time.time()
    assert perdure("schedules", "list", "--app", "mill", "--json").data == []


def test_show_has_the_firings_that_come_and_the_one_that_was(store: Path, perdure: Command):
    async def work(runtime: EmbeddedRuntime) -> None:
        past = Schedule(every=86_400.0, at=time.time() - 5, repeats=3)
        await runtime.schedule("daily", "order", past, 5)
        await parked(runtime, "schedule:daily")

    under(store, work)
    data = shown(perdure, "daily")
    assert (data["fired"], data["input"], data["state"]) == (1, 5, "active")
    out = perdure("schedules", "show", "daily").out
    assert "every 1 d, first, at " in out
    assert "run_once: of missed firings the latest is run, for all" in out
    (then,) = (line for line in out.splitlines() if line.startswith("then"))
    assert then.count(";") == 0
    assert "running: perdure runs show daily/" in out
    assert "none runs: perdure work APP --app-id shop" in out
    assert "perdure runs show schedule:daily" in out


def test_a_schedule_is_paused_resumed_and_removed_when_its_app_runs(app: Path, perdure: Command):
    added(perdure, "nightly", "--at", "2096-10-02T08:00")
    paused = perdure("schedules", "pause", "nightly", "--reason", "holidays")
    assert "schedule nightly will be paused" in paused.err
    assert "takes effect when its app (shop) runs: perdure work APP --app-id shop" in paused.err
    assert shown(perdure, "nightly")["asked"] == "pause"
    assert "active, will be paused when its app runs" in perdure("schedules", "list").out
    worked(app, "nightly")
    assert "paused: holidays" in perdure("schedules", "list").out
    assert (shown(perdure, "nightly")["state"], shown(perdure, "nightly")["next"]) == ("paused", None)
    assert perdure("schedules", "pause", "nightly").err == "schedule nightly is paused already\n"

    assert "schedule nightly will go on" in perdure("schedules", "resume", "nightly").err
    assert shown(perdure, "nightly")["asked"] == "resume"
    worked(app, "nightly")
    assert (shown(perdure, "nightly")["state"], shown(perdure, "nightly")["asked"]) == ("active", None)
    assert perdure("schedules", "resume", "nightly").err == "schedule nightly is active already\n"

    assert "schedule nightly will be removed" in perdure("schedules", "remove", "nightly", "--reason", "done").err
    assert shown(perdure, "nightly")["asked"] == "remove"
    worked(app, "nightly")
    assert perdure("schedules", "list").out == ""
    assert "removed: done" in perdure("schedules", "list", "--all").out
    assert perdure("schedules", "remove", "nightly").err == "schedule nightly is removed already; nothing to remove\n"
    late = perdure("schedules", "pause", "nightly")
    assert (late.code, late.out, late.err.count("\n")) == (1, "", 1)
    assert "schedule nightly is removed; it cannot be paused. It begins anew with: perdure schedules add" in late.err


def test_a_schedule_that_was_removed_or_has_ended_can_be_added_again(app: Path, perdure: Command):
    once = ("--at", "2001-01-31T08:00", "--json")
    assert added(perdure, "once", *once).data["outcome"] == "added"
    worked(app, "once")
    ended = shown(perdure, "once")
    assert (ended["state"], ended["next"], ended["fired"]) == ("ended", None, 1)
    again = added(perdure, "once", *once).data
    assert (again["outcome"], again["state"], again["fired"]) == ("added", "active", 0)


def test_the_same_schedule_again_changes_nothing(app: Path, perdure: Command):
    added(perdure, "hourly", "--every", "1h")
    again = added(perdure, "hourly", "--every", "3600")
    assert (again.code, again.out) == (0, "hourly\n")
    assert again.err == "schedule hourly of app shop says so already, and nothing was changed\n"
    assert added(perdure, "hourly", "--every", "1h", "--json").data["outcome"] == "unchanged"


def test_another_schedule_takes_the_place_of_one_with_a_workers_help(cli: Cli):
    cli.write(APP)
    cli("schedules", "add", "tick", "app.py", "report", "--every", "1h")
    cli.start("work", "app.py", "--quiet")
    done = cli("schedules", "add", "tick", "app.py", "digest", "--every", "2h")
    assert (done.returncode, done.stdout) == (0, "tick\n")
    assert "schedule tick is there already, and is ended first" in done.stderr
    (view,) = cli.json("schedules", "list")
    assert (view["workflow"], view["when"]) == ("digest", "every 2 h")


def test_a_schedule_that_stalled_says_so_and_is_resumed(app: Path, perdure: Command, tmp_path: Path):
    added(perdure, "hourly", "--every", "1h")
    worked(app, "hourly")
    perdure("runs", "export", "schedule:hourly", "-o", "hourly.json")
    other = ("--store", "other.db")
    assert perdure("runs", "import", "hourly.json", *other).code == 0
    assert "active: stalled: it was imported" in perdure("schedules", "list", *other).out
    assert "schedule hourly will go on" in perdure("schedules", "resume", "hourly", *other).err
    worked(tmp_path / "other.db", "hourly")
    assert perdure("schedules", "show", "hourly", "--json", *other).data["reason"].startswith("waits for a timer")


def test_a_firing_that_was_skipped_is_not_the_last_one(store: Path, perdure: Command):
    async def work(runtime: EmbeddedRuntime) -> None:
        await runtime.schedule("late", "order", Schedule(every=FAR / 2, at=time.time() - 3600, missed="skip"), 5)
        await parked(runtime, "schedule:late")

    assert "order" in SHOP.workflows
    under(store, work)
    view = shown(perdure, "late")
    assert (view["last"], view["last_run"], view["fired"], view["state"]) == (None, None, 0, "active")


def test_without_schedules_it_says_so(store: Path, perdure: Command):
    done = perdure("schedules", "list")
    assert (done.code, done.out) == (0, "")
    assert "no schedules: there is no store at" in done.err
    assert perdure("schedules", "list", "--json").data == []
    assert not store.exists()
    named = perdure("schedules", "list", "--store", "nowhere.db")
    assert (named.code, named.out) == (1, "")
    assert "there is no store at nowhere.db" in named.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("x", "app.py", "report"), "say when it fires: --cron '30 2 * * *', --every 3600 or --at"),
        (("x", "app.py", "report", "--cron", "99 * * * *"), "--cron is '99 * * * *'; bad minute"),
        (("x", "app.py", "report", "--every", "soon"), "--every is 'soon'; write numbers with units"),
        (("x", "app.py", "report", "--every", "0"), "--every is 0.0; write seconds, from 0.001"),
        (("x", "app.py", "report", "--every", "1h", "--cron", "@daily"), "write one of the two"),
        (("x", "app.py", "report", "--at", "noon"), "--at is 'noon'; write an ISO time"),
        (("x", "app.py", "report", "--cron", "@daily", "--timezone", "Mars"), "--timezone is 'Mars'; write a name"),
        (("x", "app.py", "report", "--at", "2030-01-01", "--timezone", "Mars"), "--timezone is 'Mars'; write a name"),
        (
            ("x", "app.py", "report", "--every", "1h", "--missed", "odd"),
            "--missed is 'odd'; write one of skip, run_once",
        ),
        (("x", "app.py", "report", "--every", "1h", "--grace", "long"), "--grace is 'long'"),
        (("x", "app.py", "report", "--every", "1h", "--repeats", "0"), "--repeats is 0; write a whole number"),
        (("x", "app.py", "report", "--every", "1h", "--input", "sales"), "--input is not JSON"),
        (("x", "app.py", "repport", "--every", "1h"), "app.py holds no workflow 'repport'; it holds: digest, report"),
        (("x", "app.py", "digest@2", "--every", "1h"), "a schedule starts the newest version: write 'digest'"),
        (("", "app.py", "report", "--every", "1h"), "NAME is ''; use 1 to 256 characters"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_line(
    app: Path, perdure: Command, arguments: tuple[str, ...], told: str
):
    done = perdure("schedules", "add", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err


def test_an_unknown_name_is_refused_with_those_that_are_there(app: Path, perdure: Command):
    added(perdure, "nightly", "--every", "1h")
    for command in ("show", "pause", "resume", "remove"):
        done = perdure("schedules", command, "nightli")
        assert (done.code, done.err) == (1, "error: there is no schedule 'nightli'; there are: nightly\n")
    taken = perdure("schedules", "add", "nightly", "app.py", "report", "--every", "1h", "--app-id", "mill")
    assert taken.err == "error: schedule 'nightly' is one of app shop; give --app-id shop, or another NAME\n"
