from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Done
from tests.cli.shop import opened, parked, under

from perdure.runtime.embedded import EmbeddedRuntime

Command = Callable[..., Done]


@pytest.fixture
def shop(store: Path) -> Path:
    opened(store, first=("order", 5), lost=("broken", None), slow=("patient", None))
    return store


def test_a_run_that_has_ended_goes_into_another_store_through_a_file(shop: Path, perdure: Command, tmp_path: Path):
    exported = perdure("runs", "export", "lost", "--output", "lost.json")
    assert (exported.code, exported.out) == (0, "")
    assert "run lost is exported into lost.json" in exported.err
    assert "perdure runs import lost.json" in exported.err
    assert json.loads((tmp_path / "lost.json").read_text())["format"] == "perdure-history"
    other = ("--store", "other.db")
    imported = perdure("runs", "import", "lost.json", *other)
    assert (imported.code, imported.out) == (0, "lost\n")
    assert "run lost of app shop is imported; it is failed: perdure runs show lost --store other.db" in imported.err
    ours, theirs = (
        perdure("runs", "show", "lost", "--json").data,
        perdure("runs", "show", "lost", "--json", *other).data,
    )
    assert ours == theirs


def test_a_run_goes_through_a_pipe(shop: Path, perdure: Command, monkeypatch: pytest.MonkeyPatch):
    document = perdure("runs", "export", "lost")
    assert (document.code, document.err) == (0, "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document.out.encode())))
    imported = perdure("runs", "import", "-", "--id", "copy", "--app-id", "mill", "--json")
    (run,) = imported.data
    assert (run["id"], run["app"], run["status"]) == ("copy", "mill", "FAILED")
    assert perdure("runs", "export", "copy").out != ""


def test_a_run_that_has_not_ended_is_held_until_it_is_resumed(shop: Path, perdure: Command):
    exported = perdure("runs", "export", "slow", "-o", "slow.json")
    assert exported.code == 0
    imported = perdure("runs", "import", "slow.json", "--id", "copy")
    assert imported.out == "copy\n"
    for line in (
        "run copy of app shop is imported; it has not ended, and is held",
        "Once nobody does: perdure runs resume copy",
        "It goes on when its app (shop) runs: perdure work APP --app-id shop",
    ):
        assert line in imported.err
    (copy,) = (run for run in perdure("runs", "list", "--json").data if run["id"] == "copy")
    assert (copy["state"], copy["status"]) == ("stalled", "RUNNING")
    assert "will be tried again" in perdure("runs", "resume", "copy").err

    async def work(runtime: EmbeddedRuntime) -> None:
        await parked(runtime, "copy")

    under(shop, work)
    assert perdure("runs", "show", "copy", "--json").data["reason"].startswith("waits for a timer in 59 min")


def test_the_child_workflows_that_a_document_lacks_are_named(shop: Path, perdure: Command):
    exported = perdure("runs", "export", "first", "-o", "first.json")
    assert "Not in there, each is exported by itself: 1 child workflow, first:0001" in exported.err


def test_an_existing_file_is_overwritten_by_force_only(shop: Path, perdure: Command, tmp_path: Path):
    kept = tmp_path / "kept.json"
    kept.write_text("precious")
    refused = perdure("runs", "export", "lost", "--output", "kept.json")
    assert (refused.code, refused.err) == (
        1,
        "error: --output is 'kept.json', which exists; name another file, or give --force\n",
    )
    assert kept.read_text() == "precious"
    assert perdure("runs", "export", "lost", "--output", "kept.json", "--force").code == 0
    assert json.loads(kept.read_text())["instance_id"] == "lost"


def test_an_import_that_fails_says_which_runs_are_there(shop: Path, perdure: Command, tmp_path: Path):
    for run in ("lost", "slow"):
        perdure("runs", "export", run, "-o", f"{run}.json")
    (tmp_path / "odd.json").write_text('{"format": "other"}')
    for arguments, told in (
        (("lost.json",), "lost.json: instance id 'lost' is taken; give --id NEW"),
        (("odd.json", "--store", "other.db"), "odd.json: this is no exported history"),
        (("gone.json", "--store", "other.db"), "FILE is 'gone.json', which cannot be read: No such file"),
        (("lost.json", "slow.json", "--id", "x"), "--id is 'x' for 2 files; import that run by itself"),
    ):
        done = perdure("runs", "import", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert told in done.err
    half = perdure("runs", "import", "lost.json", "odd.json", "--store", "other.db")
    assert (half.code, half.out) == (1, "")
    assert "imported before that: lost\nerror: odd.json: " in half.err
    nowhere = perdure("runs", "export", "lost", "-o", "no/such/folder.json")
    assert "--output is 'no/such/folder.json', which cannot be written: No such file" in nowhere.err
