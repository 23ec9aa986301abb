from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from perdure.base.errors import UsageError
from perdure.engine.activity import ActivityContext, _Running, _running
from perdure.workflows.adapt import converter, input_converter, one_input, result_converter, takes_argument

if TYPE_CHECKING:
    from nowhere import Missing


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    text: str


CALL = ActivityContext(instance_id="one", activity="act", idempotency_key="one/0")


@pytest.fixture(autouse=True)
def _inside_an_activity():
    token = _running.set(_Running(CALL))
    yield
    _running.reset(token)


def test_a_model_annotation_converts_the_input():
    def act(point: Point):
        return point

    assert one_input(act, "activity 'act'")({"x": 1, "y": 2}) == Point(1, 2)


def test_nothing_stays_nothing_whatever_the_annotation():
    def act(point: Point | None = None):
        return point

    assert one_input(act, "activity 'act'")(None) is None


def test_a_context_comes_first_if_it_is_asked_for_by_name_or_annotation():
    def named(ctx, value):
        return ctx, value

    def annotated(call: ActivityContext, point: Point):
        return call, point

    def alone(ctx):
        return ctx

    assert one_input(named, "")(5) == (CALL, 5)
    assert one_input(annotated, "")({"x": 1, "y": 2}) == (CALL, Point(1, 2))
    assert one_input(alone, "")(5) is CALL


def test_a_function_without_parameters_gets_no_input():
    assert one_input(lambda: "none", "")(5) == "none"


def test_further_parameters_may_have_defaults_only():
    assert one_input(lambda value, more=2: (value, more), "")(1) == (1, 2)
    with pytest.raises(UsageError, match="takes 2 inputs"):
        one_input(lambda ctx, a, b: None, "activity 'act'")


def test_annotations_that_cannot_be_evaluated_convert_nothing():
    def act(value: Missing) -> Missing:
        return value

    assert one_input(act, "")({"x": 1}) == {"x": 1}
    assert result_converter(act) is None


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (Model, {"text": "a"}, Model(text="a")),
        (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
        (dict[str, Model], {"k": {"text": "a"}}, {"k": Model(text="a")}),
        (Point | None, None, None),
    ],
    ids=str,
)
def test_models_are_found_inside_their_containers(annotation, given, expected):
    convert = converter(annotation)
    assert convert is not None
    assert convert(given) == expected


@pytest.mark.parametrize("annotation", [None, Any, int, str, list[int], dict[str, Any], int | None], ids=str)
def test_plain_annotations_convert_nothing(annotation):
    assert converter(annotation) is None


def test_data_that_does_not_fit_is_an_error_of_the_converter():
    convert = converter(Point)
    with pytest.raises(ValidationError):
        convert({"x": "no number"})


def test_a_workflow_has_an_input_if_it_has_a_second_parameter():
    def without(ctx):
        return None

    def with_one(ctx, point: Point):
        return None

    assert not takes_argument(without)
    assert takes_argument(with_one)
    assert input_converter(without) is None
    assert input_converter(with_one)({"x": 1, "y": 2}) == Point(1, 2)
