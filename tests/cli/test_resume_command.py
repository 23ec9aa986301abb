from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from tests.cli.harness import ANSWER, Cli, until


def asking(cli: Cli) -> str:
    """Kill the app in a call that only a human can judge, and let it notice."""
    cli.app(on_crash="ask")
    cli.killed_in_delivery("deliver it")
    done = cli("run", "app.py", "deliver it")
    assert (done.returncode, done.stdout) == (3, "")
    assert 'a crash cut off deliver(parcel="box")' in done.stderr
    found = re.search(r"perdure runs resume (\w+) --retry", done.stderr)
    assert found is not None
    for option in ("--result", "--fail"):
        assert f"perdure runs resume {found[1]} {option}" in done.stderr
    return found[1]


def test_retry_runs_the_call_again(cli: Cli):
    run = asking(cli)
    assert cli.log().count("deliver box") == 1
    resumed = cli("runs", "resume", run, "--retry")
    assert resumed.returncode == 0
    assert "Nobody executes it now" in resumed.stderr
    cli.let_go()
    done = cli("run", "app.py", "deliver it")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert cli.log().count("deliver box") == 2


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (("--result", '"it lies in the hall"'), "The model read: it lies in the hall"),
        (("--result", '{"place": "hall"}'), 'The model read: {"place": "hall"}'),
        (("--fail", "the box is lost"), "The model read: Error: Interrupted: the box is lost"),
    ],
)
def test_a_result_or_a_failure_stands_for_the_call(cli: Cli, answer: tuple[str, str], read: str):
    run = asking(cli)
    assert cli("runs", "resume", run, *answer).returncode == 0
    done = cli("run", "app.py", "deliver it")
    assert (done.returncode, done.stdout) == (0, read + "\n")
    assert cli.log().count("deliver box") == 1


def test_an_answer_reaches_an_app_that_runs(cli: Cli):
    run = asking(cli)
    cli.let_go()
    watching = cli.start("runs", "watch", run)
    assert watching.stdout is not None
    # An app that hosts the agent and asks nothing itself.
    cli.write(
        "import time, app\n"
        "from perdure import AgentRunner\n"
        "runner = AgentRunner(app.agent).start()\n"
        "while True:\n    time.sleep(0.01)\n",
        "host.py",
    )
    host = subprocess.Popen([sys.executable, "host.py"], cwd=cli.folder, env=cli.environment)
    try:
        resumed = cli("runs", "resume", run, "--retry")
        assert resumed.returncode == 0
        out, err = watching.communicate(timeout=20)
    finally:
        host.kill()
        host.wait(timeout=10)
    assert (watching.returncode, out) == (0, ANSWER + "\n")
    assert "a human says retry" in err


def test_without_an_option_the_three_answers_are_explained(cli: Cli):
    run = asking(cli)
    (listed,) = cli.json("runs", "list")
    assert (listed["id"], listed["status"], listed["state"]) == (run, "RUNNING", "asks")
    assert "deliver (task 3)" in listed["reason"]
    done = cli("runs", "resume", run[:14])
    assert done.returncode == 3
    for option in ("--retry", "--result", "--fail"):
        assert option in done.stderr


def test_a_second_answer_is_refused_for_the_first_one_counts(cli: Cli):
    run = asking(cli)
    assert cli("runs", "resume", run, "--result", '"flying"').returncode == 0
    for option in (("--retry",), ()):
        again = cli("runs", "resume", run, *option)
        assert again.returncode == 1
        assert "is answered already (completed), and the first answer counts" in again.stderr


def test_an_answer_to_a_task_that_asks_nothing_is_refused(cli: Cli):
    done = cli("runs", "resume", asking(cli), "--task", "99", "--retry")
    assert done.returncode == 1
    assert "task 99 asks nothing; these do: 3" in done.stderr


def test_suggested_commands_name_the_store_that_was_named(cli: Cli):
    cli.app(on_crash="ask")
    store = str(cli.folder / "a store.db")
    cli.killed_in_delivery("deliver it", "--store", store)
    done = cli("run", "app.py", "deliver it", "--store", store)
    line = next(line for line in done.stderr.splitlines() if "--retry" in line)
    words = shlex.split(line, comments=True)
    assert words[-2:] == ["--store", store]
    assert cli(*words[1:]).returncode == 0


def test_runs_that_ask_nothing_need_no_answer(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    (run,) = cli.json("runs", "list")
    done = cli("runs", "resume", run["id"])
    assert done.returncode == 0
    assert "waits for its app to run" in done.stderr
    refused = cli("runs", "resume", run["id"], "--retry")
    assert refused.returncode == 1
    assert "asks nothing" in refused.stderr
    cli.let_go()
    cli("run", "app.py")
    ended = cli("runs", "resume", run["id"])
    assert ended.returncode == 1
    assert "cannot be resumed" in ended.stderr


def test_a_cancelled_run_ends_when_its_app_runs(cli: Cli):
    cli.app()
    cli.killed_in_delivery("deliver it")
    (run,) = cli.json("runs", "list")
    cancelled = cli("runs", "cancel", run["id"], "--reason", "asked twice")
    assert cancelled.returncode == 0
    assert "Nobody executes it now" in cancelled.stderr
    cli.let_go()
    done = cli("run", "app.py", "deliver it")
    assert done.returncode == 1
    assert "was cancelled: asked twice" in done.stderr
    assert cli.log().count("model 2") == 0
    again = cli("runs", "cancel", run["id"])
    assert again.returncode == 0
    assert "nothing to cancel" in again.stderr


def test_a_running_app_takes_a_cancellation_at_once(cli: Cli):
    cli.app()
    process = cli.start("run", "app.py", "deliver it")
    until(lambda: "deliver box" in cli.log())
    (run,) = cli.json("runs", "list")
    assert run["state"] == "executing"
    assert "is terminated" in cli("runs", "cancel", run["id"]).stderr
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was cancelled" in err


OLD = """
from perdure import activity, workflow

@activity
def pack(_): ...

@workflow
async def trip(ctx):
    await ctx.call_activity(pack)
    return await ctx.wait_for_external_event("go")
"""
NEW = """
from perdure import workflow

@workflow(version="2")
async def trip(ctx): ...
"""


def test_a_run_whose_code_is_missing_names_it_and_goes_on_once_it_is_restored(cli: Cli):
    def reason() -> str:
        found: str = cli.json("runs", "show", "t")["reason"]
        return found

    def worked(app: str) -> None:
        for process in cli.started:
            process.kill()
            process.wait(10)
        cli.write(app)
        cli.start("work", "app.py", "--quiet")

    cli.write(OLD)
    cli("runs", "start", "app.py", "trip", "--id", "t")
    worked(OLD)
    until(lambda: reason() == "waits for event 'go'")
    worked(NEW)
    cli("runs", "event", "t", "other")
    until(lambda: reason().startswith("stalled"))
    assert reason() == (
        "stalled: it began with workflow 'trip' without a version, which is not registered here; register that code "
        "again, or let the one of version '2' take its runs over with @workflow(follows=[''])"
    )
    assert "stalled: it began with workflow 'trip' without a version" in cli("runs", "list").stdout
    worked(OLD)
    assert reason().startswith("stalled")
    resumed = cli("runs", "resume", "t")
    assert resumed.returncode == 0
    assert "run t will be tried again" in resumed.stderr
    until(lambda: reason() == "waits for event 'go'")
    cli("runs", "event", "t", "go", '"by train"')
    until(lambda: cli.json("runs", "show", "t")["answer"] == "by train")
