from __future__ import annotations

from typing import Any

import pytest

from perdure.base.errors import UsageError
from perdure.workflows.registry import Registry


def _flow(name: str) -> Any:
    async def flow(ctx: Any) -> str:
        return name

    return flow


def _registry(*versions: str, **options: Any) -> Registry:
    registry = Registry()
    for version in versions:
        registry.add_workflow(_flow(version), "flow", version=version, **(options if version == versions[-1] else {}))
    return registry


def _key(registry: Registry, key: str) -> str:
    return registry.workflows[key].keys[0]


def test_each_version_has_a_key_and_the_name_stands_for_the_last_one():
    registry = _registry("1", "2")
    assert registry.newest("flow") == "flow@2"
    assert [_key(registry, key) for key in ("flow@1", "flow@2", "flow")] == ["flow@1", "flow@2", "flow@2"]


def test_runs_of_code_without_a_version_keep_it_while_it_is_known():
    registry = _registry("", "1")
    assert registry.newest("flow") == "flow@1"
    assert _key(registry, "flow") == "flow"


def test_a_version_that_is_not_the_latest_changes_no_name():
    registry = _registry("1", "2", latest=False)
    assert registry.newest("flow") == "flow@1"
    assert _key(registry, "flow") == "flow@1"
    assert _key(registry, "flow@2") == "flow@2"


def test_a_version_takes_over_the_runs_of_those_it_follows_but_not_of_known_code():
    registry = _registry("3", follows=["1", "2", ""])
    assert [_key(registry, key) for key in ("flow@1", "flow@2", "flow")] == ["flow@3"] * 3
    registry.add_workflow(_flow("2"), "flow", version="2", latest=False)
    assert [_key(registry, key) for key in ("flow@1", "flow@2")] == ["flow@3", "flow@2"]
    assert registry.newest("flow") == "flow@3"


@pytest.mark.parametrize("versions", [("1", "2"), ("", "1", "2"), ("2",)])
def test_whatever_began_a_run_it_continues_as_new_with_the_newest(versions):
    registry = _registry(*versions)
    assert {workflow.newest.keys[0] for workflow in registry.workflows.values()} == {"flow@2"}


def test_the_only_version_that_is_not_the_latest_is_its_own_newest():
    registry = _registry("1", latest=False)
    assert registry.workflows["flow@1"].newest.keys[0] == "flow@1"


def test_a_name_and_a_version_leave_the_mark_between_them_out():
    for name, version in (("a@b", ""), ("a", "1@2")):
        with pytest.raises(UsageError, match="leave it out of both"):
            Registry().add_workflow(_flow("x"), name, version=version)


def test_a_version_belongs_to_one_function():
    registry = _registry("1")
    with pytest.raises(UsageError, match="'flow@1' belongs to"):
        registry.add_workflow(_flow("another"), "flow", version="1")
