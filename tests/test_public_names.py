"""The public surface: complete, documented, lazy, and not larger than it should be."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import perdure
from perdure import _HOME_OF


def test_every_public_name_is_listed_once_and_has_a_home() -> None:
    assert sorted(perdure.__all__) == perdure.__all__
    assert set(perdure.__all__) == set(_HOME_OF)
    assert len(perdure.__all__) <= 40
    assert dir(perdure) == perdure.__all__


@pytest.mark.parametrize("name", perdure.__all__)
def test_a_public_name_is_importable_and_documented(name: str) -> None:
    value = getattr(perdure, name)
    assert value is getattr(importlib.import_module(_HOME_OF[name]), name)
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isclass(value) and value.__module__.startswith("perdure"):
        for method, member in vars(value).items():
            if not method.startswith("_") and callable(member):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{method} has no docstring"


def test_no_module_of_the_package_hides_a_public_name() -> None:
    program = (
        "import perdure.hosting.runner, perdure.cli.main, perdure.testing.openai_server, perdure\n"
        "assert all(not isinstance(getattr(perdure, name), type(perdure)) for name in perdure.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, perdure\n"
        "heavy = {'pydantic', 'openai', 'starlette', 'uvicorn', 'rich', 'typer', 'yaml', 'jinja2', 'sqlite3'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_says_where_the_names_are() -> None:
    with pytest.raises(AttributeError, match=r"perdure\.__all__"):
        _ = perdure.Agnet


def test_every_error_stands_in_the_tree_of_the_modules_docstring() -> None:
    errors = importlib.import_module("perdure.base.errors")
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, BaseException):
            assert name in drawn, f"{name} is not drawn"
