from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Cli, Done, until
from tests.cli.shop import opened

from perdure.components.history.sqlite import connection as database

Command = Callable[..., Done]

CODE = """
from perdure import activity, workflow

@activity
def pay(amount): return {"paid": amount}

@workflow
async def order(ctx, amount):
    print("printed by workflow code")
    paid = await ctx.call_activity(pay, input=amount)
    ship = ctx.call_child_workflow("ship", input=f"{paid['paid']} parcels")
    await ctx.wait_for_external_event("approval")

@workflow
async def ship(ctx, what):
    await ctx.call_activity(pay, input=1)
    await ctx.wait_for_external_event("arrival")
"""


@pytest.fixture
def shop(store: Path) -> Path:
    opened(store, first=("order", 5), second=("order", 7), lost=("broken", None))
    return store


def contents(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def test_code_that_fits_all_open_runs_passes(shop: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "fits.py").write_text(CODE)
    done = perdure("check", "fits.py")
    assert (done.code, done.out, done.err) == (0, "4 open runs: 4 fit\n", "")


def test_code_that_would_break_runs_is_told_with_the_place_and_the_difference(
    shop: Path, perdure: Command, tmp_path: Path
):
    (tmp_path / "breaks.py").write_text(CODE.replace("pay, input=1", "'weigh', input=1"))
    done = perdure("check", "breaks.py", "--store", str(shop))
    assert done.code == 1
    assert done.out == (
        "second:0001  ship (app shop), row 1: differs\n"
        "  - recorded:  call_activity 'pay' as #0\n"
        "  + requested: call_activity 'weigh' as #0\n"
        "first:0001  ship (app shop), row 1: differs\n"
        "  - recorded:  call_activity 'pay' as #0\n"
        "  + requested: call_activity 'weigh' as #0\n"
        "4 open runs: 2 differ, 2 fit\n"
    )


def test_code_that_is_missing_breaks_runs(shop: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "half.py").write_text(CODE.partition("@workflow\nasync def ship")[0])
    done = perdure("check", "half.py")
    assert done.code == 1
    assert "first:0001  ship (app shop): missing\n  there is no workflow 'ship'\n" in done.out
    data = perdure("check", "half.py", "--json").data
    assert (data["checked"], data["counts"]["missing"], data["counts"]["fits"]) == (4, 2, 2)
    assert data["breaks"][0] == {
        "id": "second:0001",
        "app": "shop",
        "agent": None,
        "workflow": "ship",
        "version": None,
        "problem": "missing",
        "row": None,
        "recorded": None,
        "requested": None,
        "detail": "there is no workflow 'ship'",
    }
    assert perdure("check", "half.py", "--app", "mill").out == "0 open runs\n"


def test_a_check_changes_nothing_and_executes_nothing(cli: Cli):
    cli.write(CODE.replace("def pay(amount): return", "def pay(amount): return print('paying') or"))
    cli("runs", "start", "app.py", "order", "--input", "5", "--id", "first")
    worker = cli.start("work", "app.py")
    until(lambda: any("event 'arrival'" in run["reason"] for run in cli.json("runs", "list")))
    # A dead worker's lease: whoever wants to execute runs ends it first, and takes up what is due.
    worker.kill()
    worker.wait(10)
    cli("runs", "start", "app.py", "order", "--input", "7", "--id", "second")
    before = contents(cli.store)
    assert 'INSERT INTO "worker"' in before
    done = cli("check", "app.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 open runs: 2 fit, 1 not begun\n", "")
    assert contents(cli.store) == before


def test_a_store_of_an_earlier_version_is_checked_as_a_copy(
    store: Path, perdure: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    connection = sqlite3.connect(store)
    connection.executescript(database.migrations()[0])
    connection.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    started = '[{"type": "ExecutionStarted", "name": "gone"}]'
    connection.execute(
        "INSERT INTO instance (key, id, app_id, workflow, status, created_at) "
        "VALUES (1, 'old', 'shop', 'gone', 'RUNNING', 0)"
    )
    connection.execute("INSERT INTO history (instance, seq, at, events) VALUES (1, 0, 0, ?)", (started,))
    connection.commit()
    connection.close()
    (tmp_path / "app.py").write_text(CODE)
    before = contents(store)
    done = perdure("check", "app.py")
    assert done.code == 1
    assert "old  gone (app shop): missing" in done.out
    assert contents(store) == before


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1\n", "registers no workflow and holds no DurableAgent"),
        ("import nothing_like_this\n", "could not be loaded"),
    ],
)
def test_an_app_without_code_is_refused_in_one_line(shop: Path, perdure: Command, tmp_path: Path, code: str, told: str):
    (tmp_path / "bare.py").write_text(code)
    done = perdure("check", "bare.py")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert told in done.err


def test_a_store_that_is_none_is_refused_in_one_line(store: Path, perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").write_text(CODE)
    assert "there is no store at" in perdure("check", "app.py").err
    store.write_bytes(b"this is no database" * 100)
    done = perdure("check", "app.py")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "not a database" in done.err
