"""The manifest and the tests are tied both ways."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "src" / "perdure" / "testing" / "conformance" / "workflows"
MANIFESTS = sorted(Path(__file__).parent.glob("*.toml"))


def requirements() -> list[dict[str, Any]]:
    return [one for manifest in MANIFESTS for one in tomllib.loads(manifest.read_text())["requirement"]]


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the tests that a file defines, those of its classes included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def located(test: str) -> tuple[Path, str]:
    file, _, name = test.partition("::")
    path = SUITE / file.removeprefix("suite/") if file.startswith("suite/") else ROOT / file
    return path, name


@pytest.mark.parametrize("requirement", requirements(), ids=lambda one: one["id"])
def test_a_requirement_has_a_source_and_tests_that_are_there(requirement: dict[str, Any]) -> None:
    assert requirement["source"]
    assert requirement["says"].endswith(".")
    assert requirement["tests"], "no test states it"
    for test in requirement["tests"]:
        path, name = located(test)
        assert path.exists(), f"{test}: there is no such file"
        assert name in names_in(path), f"{test}: there is no such test"


def test_requirements_have_names_of_their_own() -> None:
    assert [name for name, count in Counter(one["id"] for one in requirements()).items() if count > 1] == []


def test_every_test_of_the_workflows_suite_belongs_to_a_requirement() -> None:
    named = {located(test) for one in requirements() for test in one["tests"]}
    there = {(path, name) for path in SUITE.glob("*.py") for name in names_in(path)}
    assert sorted(f"{path.name}::{name}" for path, name in there - named) == []
