from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.harness import Cli, Done

from perdure.cli.main import main
from perdure.workflows.registry import Registry, default_registry


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    command = Cli(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "perdure.db"
    monkeypatch.setenv("PERDURE_STORE", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "OLLAMA_")) or name == "PERDURE_MODEL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def perdure(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: quicker where no process needs to die."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, empty in vars(Registry()).items():
        monkeypatch.setattr(default_registry, name, empty)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Done(code, *capsys.readouterr())

    return call
