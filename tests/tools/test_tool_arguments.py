"""From a signature to a JSON schema, and from a model's text to the function's values."""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, Json, SecretStr

from perdure.base.errors import ToolError
from perdure.tools.tool import FunctionTool, tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    title: str = "home"


@dataclass
class Point:
    x: int
    y: int


class Unequal:
    """Compares with nothing."""

    def __eq__(self, other: object) -> bool:
        raise AttributeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


@tool
def everything(
    text: str,
    number: int,
    ratio: float,
    flag: bool,
    names: list[str],
    table: dict[str, int],
    when: dt.datetime,
    colour: Colour,
    address: Address,
    point: Point,
    size: Literal["small", "large"],
    note: Optional[str],  # noqa: UP045 - people write it so
    untyped,
    count: int | None = None,
) -> tuple[Any, ...]:
    """Take every kind of argument."""
    return (text, number, ratio, flag, names, table, when, colour, address, point, size, note, untyped, count)


@tool
def search(query: str, limit: int = 5) -> list[str]:
    """Search.

    Args:
        query: What to look for,
            in plain words.
        limit (int): How many at most.
    """
    return [query] * limit


WRITTEN: dict[str, Any] = {
    "text": "t",
    "number": 1,
    "ratio": 0.5,
    "flag": True,
    "names": ["a"],
    "table": {"k": 1},
    "when": "2026-01-02T03:04:05",
    "colour": "blue",
    "address": {"street": "Elm"},
    "point": {"x": 1, "y": 2},
    "size": "small",
    "note": None,
    "untyped": "u",
}


def function_of(annotation: Any, default: Any = ...) -> FunctionTool[..., Any]:
    """Make a tool with one parameter ``x`` that gives back what reaches the function."""

    def give(x):
        return x

    give.__annotations__ = {"x": annotation}
    if default is not ...:
        give.__defaults__ = (default,)
    return tool(description="Give it back.")(give)


def test_the_schema_has_no_titles_but_keeps_parameters_and_values_of_that_name():
    schema = everything.definition.parameters
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert "title" not in schema
    assert schema["properties"]["untyped"] == {"type": "string"}
    assert schema["properties"]["count"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    assert schema["$defs"]["Address"] == {
        "description": "Where somebody lives.",
        "properties": {"street": {"type": "string"}, "title": {"default": "home", "type": "string"}},
        "required": ["street"],
        "type": "object",
    }
    assert schema["required"] == [*WRITTEN]
    table = function_of(dict[str, str], {"title": "x"}).definition.parameters
    assert table["properties"]["x"]["default"] == {"title": "x"}


def test_validated_arguments_are_plain_and_reach_the_function_in_its_types():
    arguments = everything.validate(json.dumps(WRITTEN))
    assert arguments == WRITTEN | {"address": {"street": "Elm", "title": "home"}, "count": None}
    assert everything.invoke(arguments) == (
        *("t", 1, 0.5, True, ["a"], {"k": 1}, dt.datetime(2026, 1, 2, 3, 4, 5), Colour.BLUE),  # noqa: DTZ001
        *(Address(street="Elm"), Point(1, 2), "small", None, "u", None),
    )


def test_values_are_taken_from_what_models_write_for_them():
    assert search.validate('{"query": 12, "limit": "3"}') == {"query": "12", "limit": 3}
    assert search.validate('{"query": "two\nlines"}') == {"query": "two\nlines", "limit": 5}


@pytest.mark.parametrize("text", ["", "  \n", "{}"])
def test_empty_text_counts_as_no_arguments(text):
    @tool
    def now() -> str:
        """Tell the time."""
        return "noon"

    assert now.definition.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert now.validate(text) == {}
    assert now.invoke({}) == "noon"


def test_a_lone_kwargs_object_is_unwrapped():
    assert search.validate('{"kwargs": {"query": "a"}}') == {"query": "a", "limit": 5}


def test_a_kwargs_object_stays_where_the_tool_has_such_a_parameter():
    @tool
    def call(kwargs: dict[str, int]) -> dict[str, int]:
        """Call."""
        return kwargs

    assert call.validate('{"kwargs": {"a": 1}}') == {"kwargs": {"a": 1}}


def test_a_function_with_any_keywords_takes_them_wrapped_or_not():
    @tool
    def call(**kwargs: int) -> dict[str, int]:
        """Call."""
        return kwargs

    assert call.definition.parameters["additionalProperties"] is True
    for text in ('{"kwargs": {"a": 1}}', '{"a": 1}'):
        assert call.invoke(call.validate(text)) == {"a": 1}


def test_null_for_an_optional_parameter_without_default_is_passed_on():
    note = function_of(Optional[str])  # noqa: UP045
    assert note.validate('{"x": null}') == {"x": None}
    assert note.invoke({"x": None}) is None
    with pytest.raises(ToolError, match="x: missing, and it is required"):
        note.validate("{}")


def test_null_where_the_type_allows_none_counts_as_not_given_when_there_is_a_default():
    assert search.validate('{"query": "a", "limit": null}') == {"query": "a", "limit": 5}
    untold = function_of(str, None)
    assert untold.invoke(untold.validate('{"x": null}')) is None
    with pytest.raises(ToolError, match="query: got null; input should be a valid string"):
        search.validate('{"query": null, "limit": null}')


@pytest.mark.parametrize("name", ["_id", "json", "schema", "model_config", "model_fields", "copy", "p0", "self", "cls"])
def test_a_parameter_may_have_any_name(name):
    namespace: dict[str, Any] = {}
    exec(f"def f({name}: int, p1: int = 0):\n    'Give it back.'\n    return {name} + p1", namespace)
    made = tool(namespace["f"])
    assert list(made.definition.parameters["properties"]) == [name, "p1"]
    arguments = made.validate(json.dumps({name: 5}))
    assert arguments == {name: 5, "p1": 0}
    assert made.invoke(arguments) == 5


def test_descriptions_and_limits_come_from_the_annotation_before_the_docstring():
    @tool
    def pick(a: Annotated[int, Field(description="annotated", ge=1)], b: int = Field(default=2, description="given")):
        """Pick.

        Args:
            a: documented
            b: documented
        """
        return a, b

    properties = pick.definition.parameters["properties"]
    assert properties["a"] == {"description": "annotated", "minimum": 1, "type": "integer"}
    assert properties["b"] == {"description": "given", "default": 2, "type": "integer"}
    assert pick.invoke(pick.validate('{"a": 1}')) == (1, 2)


def test_a_default_that_json_lacks_stays_with_the_function():
    marker = object()
    given_back = function_of(Any, marker)
    assert "default" not in given_back.definition.parameters["properties"]["x"]
    assert given_back.validate("{}") == {}
    assert given_back.invoke({}) is marker


def test_errors_name_tool_field_value_and_what_is_expected_one_line_each():
    with pytest.raises(ToolError) as raised:
        search.validate('{"limit": "ten", "colour": "blue"}')
    assert str(raised.value).splitlines() == [
        "Invalid arguments for tool 'search':",
        "- query: missing, and it is required",
        '- limit: got "ten"; input should be a valid integer, unable to parse string as an integer',
        '- colour: got "blue", but there is no such parameter; the parameters are: query, limit',
    ]


def test_errors_in_nested_fields_name_their_path():
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        street: str

    nested = function_of(list[Strict])
    with pytest.raises(ToolError) as raised:
        nested.validate('{"x": [{"street": "Elm"}, {"street": [1], "city": 2}]}')
    assert str(raised.value).splitlines()[1:] == [
        "- x.1.street: got [1]; input should be a valid string",
        "- x.1.city: got 2, but there is no such parameter",
    ]


def test_long_values_and_many_errors_are_cut_short():
    numbers = function_of(list[int])
    with pytest.raises(ToolError) as raised:
        numbers.validate(json.dumps({"x": ["a" * 500] * 100}))
    lines = str(raised.value).splitlines()
    assert len(lines) == 14
    assert lines[-1] == "- and 88 more"
    assert max(map(len, lines)) < 250


@pytest.mark.parametrize(
    ("text", "found"),
    [("{", "not JSON"), ("[1]", r"they are \[1\]"), ("null", "they are null"), ('"a"', 'they are "a"')],
)
def test_text_that_is_no_json_object_is_refused_with_what_to_write(text, found):
    with pytest.raises(
        ToolError, match=rf"'search': .*{found}.*JSON object with the parameters: query \(required\), limit"
    ):
        search.validate(text)


def test_a_tool_without_parameters_asks_for_an_empty_object():
    with pytest.raises(ToolError, match="Write one JSON object without anything in it"):
        tool(description="Do nothing.")(lambda: None).validate("[]")


def test_arguments_nested_too_deeply_are_the_models_error():
    with pytest.raises(ToolError, match="nested too deeply"):
        function_of(Any).validate('{"x": ' + "[" * 200_000)


def test_whatever_a_users_validator_raises_is_the_models_error():
    def explode(value: object) -> object:
        raise KeyError(value)

    with pytest.raises(ToolError, match="'give':\n- KeyError: 'a'"):
        function_of(Annotated[str, BeforeValidator(explode)]).validate('{"x": "a"}')


def test_arguments_that_do_not_survive_being_written_down_stay_as_the_model_wrote_them():
    secret = function_of(SecretStr)
    assert secret.validate('{"x": "hunter2"}') == {"x": "hunter2"}
    assert secret.invoke({"x": "hunter2"}).get_secret_value() == "hunter2"

    counted = function_of(Annotated[int, AfterValidator(lambda value: value + 1)])
    assert counted.validate('{"x": 5}') == {"x": 5}
    assert counted.invoke(counted.validate('{"x": 5}')) == 6

    encoded = function_of(Json[list[int]])
    assert encoded.invoke(encoded.validate('{"x": "[1, 2]"}')) == [1, 2]

    unequal = function_of(Annotated[Any, AfterValidator(lambda value: Unequal())])
    assert unequal.validate('{"x": 1}') == {"x": 1}


def test_an_args_model_wins_over_the_signature():
    class Query(BaseModel):
        query: str = Field(description="From the model.")
        limit: int = Field(default=7, le=9)

    @tool(args_model=Query)
    def find(query, limit=1):
        """Find.

        Args:
            query: From the docstring.
            limit: How many.
        """
        return query, limit

    assert find.definition.parameters["properties"] == {
        "query": {"type": "string", "description": "From the model."},
        "limit": {"type": "integer", "default": 7, "maximum": 9, "description": "How many."},
    }
    assert find.invoke(find.validate('{"query": "a"}')) == ("a", 7)
    with pytest.raises(ToolError, match=r"limit: got 10; input should be less than or equal to 9"):
        find.validate('{"query": "a", "limit": 10}')


def test_an_args_model_may_leave_out_what_the_function_has_a_default_for():
    class Query(BaseModel):
        query: str
        deep: bool = True

    @tool(args_model=Query)
    def find(query: str, limit: int = 3, deep: bool = False) -> tuple[str, int, bool]:
        """Find."""
        return query, limit, deep

    assert find.invoke(find.validate('{"query": "a"}')) == ("a", 3, True)


def test_aliases_of_an_args_model_are_for_the_model_and_its_names_for_the_function():
    class Query(BaseModel):
        text: str = Field(alias="q")
        limit: int = Field(default=1, validation_alias=AliasChoices("n", "max"))

    @tool(args_model=Query)
    def find(text: str, limit: int) -> tuple[str, int]:
        """Find."""
        return text, limit

    assert "q" in find.definition.parameters["properties"]
    arguments = find.validate('{"q": "a", "max": 3}')
    assert arguments == {"text": "a", "limit": 3}
    assert find.invoke(arguments) == ("a", 3)


def test_an_args_model_may_have_more_fields_than_a_function_that_takes_any_keyword():
    class Query(BaseModel):
        model_config = ConfigDict(extra="allow")
        text: str
        page: int = 1

    @tool(args_model=Query)
    def find(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
        """Find."""
        return text, more

    assert find.invoke(find.validate('{"text": "a", "deep": true}')) == ("a", {"page": 1, "deep": True})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
almost = st.dictionaries(st.sampled_from([*WRITTEN, "kwargs", "p0", "other"]), json_values)
complete = almost.map(lambda some: WRITTEN | some)


@given(st.text() | json_values.map(json.dumps) | almost.map(json.dumps) | complete.map(json.dumps))
def test_validate_raises_nothing_but_a_sendable_tool_error_on_any_text(text):
    try:
        arguments = everything.validate(text)
    except ToolError as error:
        refusal = str(error).encode()
    else:
        refusal = None
        everything.invoke(arguments)
    assert refusal is None or refusal.startswith(b"Invalid arguments for tool 'everything'")


TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, st.text()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False)),
    (list[int], st.lists(st.integers())),
    (dict[str, float], st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False))),
    (Optional[int], st.none() | st.integers()),  # noqa: UP045
    (int | str, st.integers() | st.text()),
    (Any, json_values),
]


@given(st.data())
def test_what_fits_the_schema_reaches_the_function_unchanged(data):
    annotation, values = data.draw(st.sampled_from(TYPES))
    made = function_of(annotation)
    value = data.draw(values)
    arguments = made.validate(json.dumps({"x": value}))
    received = made.invoke(arguments)
    assert json.dumps(received) == json.dumps(value)
    assert type(received) is type(value)


@given(complete.map(json.dumps))
def test_validated_arguments_validate_again_to_themselves(text):
    try:
        arguments = everything.validate(text)
    except ToolError:
        return
    again = everything.validate(json.dumps(arguments))
    assert json.dumps(again) == json.dumps(arguments)
