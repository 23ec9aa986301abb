from __future__ import annotations

import datetime as dt
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Cli, Done, until

Command = Callable[..., Done]

APP = """
import time
from pathlib import Path
from perdure import activity, workflow
from perdure.workflows.registry import Registry

HERE = Path(__file__).parent

def note(line):
    with (HERE / "log").open("a") as file:
        file.write(line + "\\n")

@activity
def pack(what):
    note(f"pack {what}")
    while not (HERE / "go").exists():
        time.sleep(0.005)
    return f"{what} is packed"

@activity
def fail(_):
    raise OSError("no \\x1b[31mpaper")

@workflow
async def parcel(ctx, what):
    packed = await ctx.call_activity(pack, input=what)
    await ctx.call_child_workflow(stamp, input=what)
    return packed

@workflow
async def stamp(ctx, what):
    await ctx.wait_for_external_event("stamp")
    return what

@workflow
async def doomed(ctx):
    await ctx.call_activity(fail)

own = Registry()

@own.workflow
async def apart(ctx):
    return "apart"

class Odd: ...
odd = Odd()
"""


def status(cli: Cli, run: str) -> str:
    found: str = cli.json("runs", "show", run)["status"]
    return found


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    return process.returncode, err


def test_a_worker_executes_what_was_started_and_tells_of_it(cli: Cli):
    cli.write(APP)
    cli.let_go()
    started = cli("runs", "start", "app.py", "parcel", "--input", '"box"', "--id", "p", "--attribute", "size=3")
    assert (started.returncode, started.stdout) == (0, "p\n")
    assert "run p of app default is accepted\nExecuted by: perdure work app.py" in started.stderr
    assert cli.json("runs", "list", "--attribute", "size=3")[0]["id"] == "p"
    cli("runs", "start", "app.py", "doomed")
    worker = cli.start("work", "app.py")
    until(lambda: any("event 'stamp'" in run["reason"] for run in cli.json("runs", "list")))
    assert cli("runs", "event", "p:0001", "stamp").returncode == 0
    until(lambda: status(cli, "p") == "COMPLETED")
    code, told = ended(worker, signal.SIGTERM)
    assert code == 0
    for line in (
        "worker of app default on",
        "doomed, parcel, stamp",
        "p  parcel: begins",
        "p  parcel: ✓ pack",
        "p  parcel: → calls child workflow stamp (p:0001)",
        "p:0001  stamp: waits for event 'stamp'",
        "p:0001  stamp: event stamp",
        "p  parcel: ✓ child workflow stamp (p:0001)",
        "p  parcel: completed",
        r"doomed: failed: ActivityFailedError: activity 'fail' failed: OSError: no \x1b[31mpaper",
        "2 runs completed, 1 run failed",
    ):
        assert line in told
    assert "\x1b" not in told


def test_a_worker_lets_what_runs_finish_before_it_ends(cli: Cli):
    cli.write(APP)
    cli("runs", "start", "app.py", "parcel", "--input", '"box"', "--id", "p")
    worker = cli.start("work", "app.py", "--quiet")
    until(lambda: "pack box" in cli.log())
    worker.send_signal(signal.SIGINT)
    cli.let_go()
    out, err = worker.communicate(timeout=20)
    assert (worker.returncode, out, err) == (0, "", "")
    (pack,) = [step for step in cli.json("runs", "show", "p")["timeline"] if step["name"] == "pack"]
    assert (pack["output"], cli.log()) == ("box is packed", ["pack box"])


def test_a_worker_that_is_told_twice_leaves_at_once(cli: Cli):
    cli.write(APP)
    cli("runs", "start", "app.py", "parcel", "--input", '"box"', "--id", "p")
    worker = cli.start("work", "app.py")
    until(lambda: "pack box" in cli.log())
    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    until(lambda: "again leaves at once" in worker.stderr.readline())  # type: ignore[union-attr]
    worker.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    worker.communicate(timeout=10)
    assert worker.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 5


def test_several_workers_share_a_store_and_one_takes_over_from_one_that_was_killed(cli: Cli):
    cli.write(APP)
    names = [f"p{number}" for number in range(3)]
    workers = [cli.start("work", "app.py", "--quiet") for _ in range(2)]
    for name in names:
        cli("runs", "start", "app.py", "parcel", "--input", f'"{name}"', "--id", name)
    until(lambda: len(cli.log()) == len(names))
    owners = {run["owner"] for run in cli.json("runs", "list")}
    assert all(owner.startswith("default@") for owner in owners)
    workers[0].kill()
    workers[0].wait(10)
    cli.let_go()
    until(lambda: len(cli.json("runs", "list", "--workflow", "stamp")) == len(names))
    for name in names:
        cli("runs", "event", f"{name}:0001", "stamp")
    until(lambda: {run["status"] for run in cli.json("runs", "list")} == {"COMPLETED"})
    assert {run["owner"] for run in cli.json("runs", "list")} == {None}
    assert ended(workers[1], signal.SIGTERM)[0] == 0


def test_a_worker_executes_the_registry_that_is_named(cli: Cli):
    cli.write(APP)
    cli("runs", "start", "app.py:own", "apart", "--id", "a")
    worker = cli.start("work", "app.py:own")
    until(lambda: status(cli, "a") == "COMPLETED")
    code, told = ended(worker, signal.SIGINT)
    assert code == 0
    assert "perdure.db: apart\n" in told


def test_a_start_can_be_put_off(store: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").write_text(APP)
    later = perdure("runs", "start", "app.py", "parcel", "--in", "10m", "--id", "later")
    assert "begins in 9 min" in later.err
    moment = dt.datetime(2199, 7, 1, 12, tzinfo=dt.UTC)
    fixed = perdure("runs", "start", "app.py", "parcel", "--at", "2199-07-01T12:00:00Z", "--json").data
    assert (fixed["status"], fixed["begins_at"], fixed["created"]) == ("PENDING", moment.timestamp(), True)
    named = perdure("runs", "start", "app.py", "parcel", "--app-id", "mill", "--store", "other place.db")
    assert "Executed by: perdure work app.py --app-id mill --store 'other place.db'" in named.err
    past = perdure("runs", "start", "app.py", "parcel", "--at", "2001-01-01", "--json").data
    assert past["status"] == "RUNNING"


def test_an_id_that_is_taken_is_used_as_wanted(store: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").write_text(APP)

    def start(*options: str, given: str = '"box"') -> Done:
        return perdure("runs", "start", "app.py", "parcel", "--id", "p", "--input", given, *options)

    assert start("--json").data["created"]
    again = start()
    assert (again.code, again.out) == (0, "p\n")
    assert "the run exists already; it is running, and nothing was started" in again.err
    for refused, told in (
        (start(given='"bag"'), "with another input"),
        (start("--reuse", "refuse"), "instance id 'p' is taken"),
        (start("--reuse", "replace"), "has not finished"),
    ):
        assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert told in refused.err
    assert not start("--reuse", "ignore", "--json", given="1").data["created"]


def test_a_start_terminates_the_run_that_has_its_id_with_a_workers_help(cli: Cli):
    cli.write(APP)
    cli("runs", "start", "app.py", "stamp", "--input", "1", "--id", "s")
    worker = cli.start("work", "app.py", "--quiet")
    done = cli("runs", "start", "app.py", "stamp", "--input", "2", "--id", "s", "--reuse", "terminate")
    assert (done.returncode, done.stdout) == (0, "s\n")
    assert "this waits until a worker of its app has done that" in done.stderr
    assert cli.json("runs", "show", "s")["timeline"][0]["input"] == 2
    assert ended(worker, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("app.py", "percel"), "app.py holds no workflow 'percel'; it holds: doomed, parcel, stamp"),
        (("app.py:own", "parcel"), "app.py:own holds no workflow 'parcel'; it holds: apart"),
        (("app.py:odd", "parcel"), "app.py:odd is neither a DurableAgent nor a Registry"),
        (("gone.py", "parcel"), "there is no file gone.py"),
        (("app.py", "parcel", "--input", "box"), "--input is not JSON"),
        (("app.py", "parcel", "--at", "noon"), "--at is 'noon'; write an ISO time"),
        (("app.py", "parcel", "--in", "soon"), "--in is 'soon'"),
        (("app.py", "parcel", "--in", "99999999h"), "--in is '99999999h'; that is after the year 9999"),
        (("app.py", "parcel", "--in", "1h", "--at", "2030-01-01"), "give --at or --in, not both"),
        (("app.py", "parcel", "--reuse", "odd"), "reuse is 'odd'; use one of: attach, refuse"),
        (("app.py", "parcel", "--attribute", "size"), "write name=value"),
        (("app.py", "parcel", "--attribute", "x" * 70 + "=1"), "the attribute name"),
        (("app.py", "parcel", "--id", ""), "use 1 to 256 characters"),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_one_line(
    store: Path, perdure: Command, tmp_path: Path, arguments: tuple[str, ...], told: str
):
    (tmp_path / "app.py").write_text(APP)
    done = perdure("runs", "start", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err


def test_agents_are_started_and_executed_like_workflows(cli: Cli):
    cli.app()
    cli.let_go()
    assert cli("runs", "start", "app.py", "Courier", "--input", '{"task": "go"}', "--id", "c").stdout == "c\n"
    worker = cli.start("work", "app.py")
    until(lambda: status(cli, "c") == "COMPLETED")
    code, told = ended(worker, signal.SIGTERM)
    assert code == 0
    for line in ("c  Courier: ✓ the model call", "c  Courier: ✓ tool deliver", "printed by a tool"):
        assert line in told


LIMITED = """
from perdure import Limits, workflow

@workflow(limits=Limits(concurrency=2, per_key=1), key=lambda order: order["tenant"])
async def stay(ctx, order):
    await ctx.wait_for_external_event("leave")

@workflow
async def free(ctx): ...
"""


def test_a_start_says_what_the_run_counts_for_and_how_urgent_it_is(store: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").write_text(LIMITED)

    def start(run: str, *options: str) -> Done:
        return perdure("runs", "start", "app.py", "stay", "--input", '{"tenant": "acme"}', "--id", run, *options)

    for run, options in (
        ("first", ()),
        ("of-another-key", ("--key", "zoe")),
        ("usual", ()),
        ("urgent", ("--priority", "7")),
    ):
        done = start(run, *options)
        assert (done.code, done.out) == (0, f"{run}\n")
        assert "change nothing" not in done.err
    runs = {run["id"]: run for run in perdure("runs", "list", "--json").data}
    assert [runs[run]["status"] for run in ("first", "of-another-key")] == ["RUNNING", "RUNNING"]
    limit = "waits for the turn of workflow stay (2 at a time, 1 for each key, about"
    assert runs["usual"]["reason"] == f"{limit} 1 before it)"
    assert runs["urgent"]["reason"] == f"{limit} 0 before it)"
    refused = start("odd", "--priority", "2000")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "the priority of workflow 'stay' is 2000; use a whole number from -1000 to 1000" in refused.err


def test_a_start_says_when_its_priority_changes_nothing(store: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").write_text(LIMITED)
    done = perdure("runs", "start", "app.py", "free", "--priority", "7")
    assert done.code == 0
    assert "app.py declares no limits of free: --key and --priority change nothing; see docs/queues.md" in done.err
