from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.harness import Done

from perdure.cli.main import app
from perdure.cli.runs import runs
from perdure.cli.schedules import schedules
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry

Command = Callable[..., Done]

AGENT = "from perdure import DurableAgent\n"


def refused(done: Done) -> str:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


def test_a_missing_file_is_named_with_those_that_exist(perdure: Command, tmp_path: Path):
    (tmp_path / "app.py").touch()
    assert "there is no file ap.py. Python files there: app.py" in refused(perdure("run", "ap.py", "x"))
    assert "no file and no module 'nowhere.to.be'" in refused(perdure("run", "nowhere.to.be", "x"))


def test_an_app_without_an_agent_lists_what_it_holds(perdure: Command, tmp_path: Path):
    (tmp_path / "none.py").write_text("def helper(): ...\nanswer = 42\n")
    assert "holds no DurableAgent in its globals. Found: helper, answer" in refused(perdure("run", "none.py", "x"))
    (tmp_path / "class_only.py").write_text(f"{AGENT}class Mine(DurableAgent): ...\n")
    assert "make an instance, agent = Mine()" in refused(perdure("run", "class_only.py", "x"))


def test_of_several_agents_one_is_to_be_named(perdure: Command, tmp_path: Path):
    text = f"{AGENT}one = DurableAgent(name='One', llm='echo')\ntwo = DurableAgent(name='Two', llm='echo')\nx = 1\n"
    (tmp_path / "several.py").write_text(text)
    message = refused(perdure("run", "several.py", "hi"))
    assert "several.py:one (One), several.py:two (Two)" in message
    assert "there is no such name. Found: several.py:one" in refused(perdure("run", "several.py:three", "hi"))
    assert "it holds 1" in refused(perdure("run", "several.py:x", "hi"))
    assert perdure("run", "several.py:two", "hi").out == "You said: hi\n"
    assert perdure("run", "several:one", "hi").out == "You said: hi\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_this\n", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero (bad.py, line 2)"),
        ("def (:\n", "SyntaxError: invalid syntax (bad.py, line 1)\n"),
        ("from perdure import DurableAgnet\n", "(bad.py, line 1); did you mean 'DurableAgent'?"),
        ("from perdure import nothing_at_all_like_it\n", "(bad.py, line 1)\n"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (f"{AGENT}DurableAgent()\n", "DurableAgent needs a name"),
    ],
)
def test_an_app_that_cannot_be_loaded_says_where(perdure: Command, tmp_path: Path, text: str, message: str):
    (tmp_path / "bad.py").write_text(text)
    told = refused(perdure("run", "bad.py", "x"))
    assert "bad.py could not be loaded" in told
    assert message in told


WORKFLOWS = "from perdure import workflow\n@workflow\nasync def season(ctx): ...\n"
OWN = "from perdure.workflows.registry import Registry\nmine = Registry()\n@mine.workflow\nasync def year(ctx): ...\n"


@pytest.mark.parametrize(
    ("text", "app", "workflow"), [(WORKFLOWS, "garden.py", "season"), (OWN, "garden.py:mine", "year")]
)
def test_a_file_of_workflows_names_the_commands_for_them(
    perdure: Command, tmp_path: Path, text: str, app: str, workflow: str
):
    (tmp_path / "garden.py").write_text(text)
    told = refused(perdure("run", "garden.py", "q"))
    assert f"It holds the workflows: {workflow}; `perdure work {app}` executes them" in told
    assert f"`perdure runs start {app} {workflow}` starts one" in told


@pytest.fixture
def hotel(store: Path, tmp_path: Path) -> str:
    (tmp_path / "hotel.py").write_text(f"{AGENT}agent = DurableAgent(name='Hotel')\n")
    return "hotel.py"


@pytest.mark.parametrize(
    ("model", "key", "told"),
    [
        ("openai:gpt-4o", None, "no API key for 'openai': set OPENAI_API_KEY in the environment"),
        ("openai:gpt-4o", "two words", "OPENAI_API_KEY for 'openai' holds characters that no API key has"),
        ("openai:", None, "'openai:' names no model: write openai:NAME"),
    ],
)
def test_a_model_that_cannot_answer_is_refused_before_a_run_begins(
    perdure: Command, store: Path, hotel: str, monkeypatch: pytest.MonkeyPatch, model: str, key: str | None, told: str
):
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    assert told in refused(perdure("run", hotel, "hi", "--model", model))
    monkeypatch.setenv("PERDURE_MODEL", model)
    assert told in refused(perdure("run", hotel, "hi"))
    assert not store.exists()


def test_the_missing_extra_is_told_before_all_else(
    perdure: Command, store: Path, hotel: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "openai", None)
    for model in ("openai:", "openai:gpt-4o", "ollama:llama3.2"):
        assert "pip install 'perdure[openai]'" in refused(perdure("run", hotel, "hi", "--model", model))
    assert not store.exists()


def test_a_wrong_variable_is_blamed_and_not_the_file(perdure: Command, hotel: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PERDURE_MODEL", "gpt-4o")
    told = refused(perdure("run", hotel, "hi"))
    assert told.startswith("error: the environment variable PERDURE_MODEL is 'gpt-4o': unknown model provider")
    assert hotel not in told


def test_a_store_that_is_named_and_not_there_is_refused(perdure: Command, store: Path, tmp_path: Path):
    assert "there is no store at nowhere.db" in refused(perdure("runs", "list", "--store", "nowhere.db"))
    usual = perdure("runs", "list")
    assert (usual.code, usual.out) == (0, "")
    assert f"no runs: there is no store at {store} yet" in usual.err


def test_bad_options_are_refused_in_one_line(perdure: Command, tmp_path: Path):
    (tmp_path / "echo.py").write_text(f"{AGENT}agent = DurableAgent(name='Echo', llm='echo')\n")
    assert "unknown model provider 'foo'" in refused(perdure("run", "echo.py", "x", "--model", "foo"))
    assert "the question is empty" in refused(perdure("run", "echo.py", "  "))
    assert "--status is 'odd'" in refused(perdure("runs", "list", "--status", "odd"))
    assert "not both" in refused(perdure("runs", "list", "--agent", "a", "--workflow", "b"))
    assert "give one of" in refused(perdure("runs", "resume", "x", "--retry", "--fail", "no"))
    assert "--result is not JSON" in refused(perdure("runs", "resume", "x", "--result", "done"))


def test_a_file_that_is_no_store_is_refused(perdure: Command, store: Path):
    store.write_bytes(b"this is no database" * 100)
    assert "not a database" in refused(perdure("runs", "list"))
    report = perdure("doctor")
    assert report.code == 1
    assert "fail" in report.out
    assert "move this file away" in report.out


def test_the_store_of_a_newer_version_is_refused(perdure: Command, store: Path):
    database = sqlite3.connect(store)
    database.execute("PRAGMA application_id = 0x50657264")
    database.execute("PRAGMA user_version = 999")
    database.execute("CREATE TABLE future (x)")
    database.close()
    assert "schema is version 999" in refused(perdure("runs", "show", "x"))


def test_debug_shows_the_traceback(perdure: Command, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Exception, match="no file"):
        perdure("run", "gone.py", "x", "--debug")
    monkeypatch.setenv("PERDURE_DEBUG", "1")
    with pytest.raises(Exception, match="no file"):
        perdure("run", "gone.py", "x")


def test_doctor_is_content_where_all_is_well(perdure: Command, store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PERDURE_FUTURE_TOKEN", "do-not-show")
    fresh = perdure("doctor")
    assert fresh.code == 0
    assert "does not exist yet" in fresh.out
    assert "do-not-show" not in fresh.out
    assert not store.exists()
    (store.parent / "echo.py").write_text(f"{AGENT}agent = DurableAgent(name='Echo', llm='echo')\n")
    assert perdure("run", "echo.py", "hi").code == 0
    checks = {check["name"]: check for check in perdure("doctor", "--json").data}
    assert {check["verdict"] for check in checks.values()} <= {"ok", "warn"}
    assert checks["runs"]["finding"] == "1 completed"
    assert "ms" in checks["commit"]["finding"]
    assert checks["PERDURE_FUTURE_TOKEN"]["finding"] == "set"
    assert not list(store.parent.glob(".perdure-doctor-*"))


def test_doctor_fails_where_the_folder_is_missing(perdure: Command, tmp_path: Path):
    report = perdure("doctor", "--store", str(tmp_path / "gone" / "perdure.db"))
    assert report.code == 1
    assert "make the folder" in report.out


RUNS = (
    *("list", "show", "watch", "start", "event", "suspend", "resume", "cancel", "fork", "rerun"),
    *("export", "import", "purge"),
)
SCHEDULES = ("list", "show", "add", "pause", "resume", "remove")


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("run",),
        ("work",),
        ("check",),
        ("doctor",),
        ("version",),
        *(("runs", name) for name in RUNS),
        *(("schedules", name) for name in SCHEDULES),
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(perdure: Command, command: tuple[str, ...]):
    done = perdure(*command, "--help")
    assert done.code == 0
    assert " ".join(["Example: perdure", *command]) in done.out


def test_the_list_of_commands_with_help_is_complete(perdure: Command):
    assert {command.name for command in runs.registered_commands} == set(RUNS)
    assert {command.name for command in schedules.registered_commands} == set(SCHEDULES)
    assert {command.name or command.callback.__name__ for command in app.registered_commands if command.callback} == {
        "run",
        "work",
        "check",
        "doctor",
        "version",
    }


def test_the_version_is_shown_by_an_option_too(perdure: Command):
    assert perdure("--version").out == perdure("version").out


HEAVY = ["openai", "starlette", "uvicorn", "jinja2", "ruamel"]


# Newer versions of typer read options with pydantic themselves.
@pytest.mark.parametrize(("arguments", "heavy"), [(("--help",), [*HEAVY, "pydantic"]), (("runs", "list"), HEAVY)])
def test_looking_around_imports_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...], heavy: list[str]):
    program = (
        "import sys\nfrom perdure.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.exit(', '.join(set({heavy}) & set(sys.modules)) or None)\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    environment = {"PERDURE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_whose_history_does_not_fit_its_agent_stalls_and_says_what_to_do(
    perdure: Command, store: Path, tmp_path: Path
):
    async def another(ctx):
        await ctx.create_timer(3600)

    async def begin() -> None:
        registry = Registry()
        registry.add_workflow(another, name="dapr.agents.Echo.workflow")
        async with EmbeddedRuntime(SQLiteHistoryStore(store), registry=registry) as runtime:
            await runtime.start("dapr.agents.Echo.workflow", {"task": "hi"}, instance_id="odd")
            while (await runtime.find("odd")).waits is None:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        # Once nobody executes it: whoever takes the event up finds another history than its code's.
        async with EmbeddedRuntime(SQLiteHistoryStore(store), worker=False) as runtime:
            await runtime.raise_event("odd", "other")

    asyncio.run(begin())
    (tmp_path / "echo_late.py").write_text(f"{AGENT}agent = DurableAgent(name='Echo', llm='echo')\n")
    done = perdure("run", "echo_late.py", "hi")
    assert (done.code, done.out) == (3, "")
    assert "run odd is stalled" in done.err
    assert "perdure runs resume odd" in done.err
