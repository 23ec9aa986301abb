from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Cli, Done, until
from tests.cli.shop import opened, under

from perdure.runtime.embedded import EmbeddedRuntime

Command = Callable[..., Done]


@pytest.fixture
def shop(store: Path) -> Path:
    opened(store, first=("order", 5), lost=("broken", None), missed=("broken", None), slow=("patient", None))
    return store


def left(perdure: Command) -> set[str]:
    return {run["id"] for run in perdure("runs", "list", "--json").data}


def end_of_first(store: Path) -> None:
    async def end(runtime: EmbeddedRuntime) -> None:
        await runtime.raise_event("first:0001", "arrival")
        await runtime.raise_event("first", "approval", "Ann")
        await runtime.wait("first", 20)

    under(store, end)


def test_a_run_is_purged_with_its_children(shop: Path, perdure: Command):
    end_of_first(shop)
    looked = perdure("runs", "purge", "first", "--dry-run")
    assert looked.err == "would purge 2 runs: 2 completed\n"
    assert {"first", "first:0001"} <= left(perdure)
    assert perdure("runs", "purge", "first", "--yes").err == "purged 2 runs\n"
    assert left(perdure) == {"lost", "missed", "slow"}


def test_what_ended_long_ago_is_purged_together(shop: Path, perdure: Command):
    everything = left(perdure)
    assert perdure("runs", "purge", "--older-than", "30d", "--yes").err == "no runs to purge\n"
    options = ("--older-than", "0s", "--json")
    data = perdure("runs", "purge", *options, "--dry-run").data
    assert data == {"found": 2, "by_status": {"FAILED": 2}, "purged": 0, "dry_run": True}
    for other in (("--status", "completed"), ("--workflow", "order"), ("--app", "mill")):
        assert perdure("runs", "purge", *options, *other, "--yes").data["purged"] == 0
    assert left(perdure) == everything
    chosen = ("--status", "failed", "--workflow", "broken", "--app", "shop")
    assert perdure("runs", "purge", *options, *chosen, "--yes").data["purged"] == 2
    assert left(perdure) == everything - {"lost", "missed"}


def test_nothing_is_deleted_without_a_yes(shop: Path, perdure: Command):
    everything = left(perdure)
    for what in (("--older-than", "0s"), ("lost",)):
        done = perdure("runs", "purge", *what)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert "give --yes" in done.err
    assert left(perdure) == everything


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say what to purge"),
        (("first", "--older-than", "3d"), "say what to purge"),
        (("lost", "--status", "failed"), "--status, --workflow and --app choose among"),
        (("--older-than", "long"), "--older-than is 'long'"),
        (("--older-than", "3d", "--status", "running"), "--status is 'running'; use one of: completed"),
        (("slow", "--yes"), "run slow is running; only runs that have ended are purged"),
        (("nobody", "--yes"), "no instance 'nobody'"),
    ],
)
def test_a_purge_of_what_cannot_be_is_refused_in_one_line(
    shop: Path, perdure: Command, arguments: tuple[str, ...], told: str
):
    done = perdure("runs", "purge", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err


@pytest.mark.parametrize(("said", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_asks_first(cli: Cli, said: str, code: int):
    cli.store.parent.mkdir()
    opened(cli.store, lost=("broken", None))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "perdure.cli.main", "runs", "purge", "lost"]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, cwd=cli.folder, env=cli.environment, **streams)
    os.close(theirs)
    try:
        told = b""
        end = time.monotonic() + 20
        while b"for good?" not in told:
            assert time.monotonic() < end
            told += os.read(ours, 1000)
        os.write(ours, f"{said}\n".encode())
        until(lambda: process.poll() is not None)
        assert process.returncode == code
        assert len(cli.json("runs", "list")) == code
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)
