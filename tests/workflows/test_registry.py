from __future__ import annotations

import functools
import gc
import importlib.util
import weakref
from typing import Any

import pytest

from perdure.base.errors import UsageError
from perdure.workflows.decorators import activity, workflow
from perdure.workflows.registry import Registry, default_registry, registered_name


def _make(number):
    def made(_):
        return number

    return made


def _make_recursive():
    def countdown(number):
        return number and countdown(number - 1)

    return countdown


def _with_default(given):
    def defaulted(_, number=given):
        return number

    return defaulted


def _wrapped(function):
    @functools.wraps(function)
    def wrapper(value):
        return function(value)

    return wrapper


class Bank:
    def pay(self, amount):
        return amount


def test_a_function_may_be_registered_again():
    registry = Registry()
    assert registry.add_activity(_make(1)) == registry.add_activity(_make(1)) == "made"
    assert registry.add_activity(_make_recursive()) == registry.add_activity(_make_recursive()) == "countdown"
    bank = Bank()
    assert registry.add_activity(bank.pay) == registry.add_activity(bank.pay) == "pay"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_make(1), _make(2)),
        (_make(1), _make(True)),
        (_make([1]), _make([1])),
        (_with_default(1), _with_default(2)),
        (_wrapped(_make(1)), _wrapped(_make(2))),
        (Bank().pay, Bank().pay),
    ],
    ids=["closure", "type", "object", "default", "wrapper", "method"],
)
def test_the_same_code_over_other_values_is_another_function(one, other):
    registry = Registry()
    name = registry.add_activity(one)
    with pytest.raises(UsageError, match=f"the activity name '{name}' belongs to"):
        registry.add_activity(other)


def test_a_module_that_is_imported_twice_may_register_twice(tmp_path):
    path = tmp_path / "twice.py"
    path.write_text(
        "import functools\n"
        "def traced(f):\n    @functools.wraps(f)\n    def call(x):\n        return f(x)\n    return call\n"
        "@traced\ndef act(x):\n    return x\n"
        "def flow(ctx):\n    return 1\n"
    )
    registry = Registry()
    for name in ("twice", "__main_again__"):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert registry.add_activity(module.act) == "act"
        assert registry.add_workflow(module.flow) == "flow"


def test_a_workflow_name_that_belongs_to_another_function_is_refused():
    registry = Registry()
    registry.add_workflow(_make(1), "flow")
    with pytest.raises(UsageError, match=r"the workflow name 'flow' belongs to .*_make.*@workflow\(name=...\)"):
        registry.add_workflow(_make(2), "flow")


def test_a_workflow_object_keeps_its_name():
    class Custom:
        name, keys, retention = "custom", ("custom",), None

        def begin(self, execution: Any, argument: Any) -> Any:
            raise NotImplementedError

    registry = Registry()
    registry.workflows["custom"] = Custom()
    with pytest.raises(UsageError, match="belongs to"):
        registry.add_workflow(_make(1), "custom")


def test_a_callable_without_a_name_is_refused_with_a_remedy():
    with pytest.raises(UsageError, match="wrap it in a function"):
        Registry().add_activity(functools.partial(_make, 1))


def test_an_async_function_that_yields_is_no_workflow():
    async def flow(ctx):
        yield 1

    with pytest.raises(UsageError, match="workflow 'flow' is async and yields"):
        Registry().add_workflow(flow)


def test_an_activity_takes_one_input():
    def two(a, b):
        return a + b

    with pytest.raises(UsageError, match=r"activity 'two' takes 2 inputs \(a, b\); an activity takes one"):
        Registry().add_activity(two)


@pytest.fixture
def names():
    before = set(default_registry.workflows), set(default_registry.activities)
    yield
    for kept, current in zip(before, (default_registry.workflows, default_registry.activities), strict=True):
        for name in set(current) - kept:
            del current[name]
            default_registry._functions.pop(name, None)


def test_the_decorators_register_under_the_functions_name_or_a_given_one(names):
    @workflow
    def some_flow(ctx):
        return 1

    @workflow(name="flow-of-another-name")
    def named_flow(ctx):
        return 1

    @activity
    def some_act(_):
        return 1

    @activity(name="act-of-another-name", on_crash="ask")
    def named_act(_):
        return 1

    assert default_registry.workflows["some_flow"].function is some_flow
    assert default_registry.workflows["flow-of-another-name"].function is named_flow
    assert registered_name(named_flow) == "flow-of-another-name"
    assert default_registry.activities["some_act"].on_crash == "retry"
    assert default_registry.activities["act-of-another-name"].on_crash == "ask"
    assert default_registry.callee(named_act) == ("act-of-another-name", None, None)
    assert default_registry.callee("by name") == ("by name", None, None)


def test_on_crash_is_a_known_word_or_a_function():
    with pytest.raises(UsageError, match="on_crash is 'guess'; use 'retry', 'ask' or a function"):
        activity(on_crash="guess")


def _registry_that_its_activity_refers_to():
    registry = Registry()

    async def count(_):
        return len(registry.activities)

    registry.add_activity(count)
    return weakref.ref(registry)


def test_a_registry_whose_activity_refers_to_it_does_not_live_for_ever():
    registry = _registry_that_its_activity_refers_to()
    gc.collect()
    assert registry() is None
