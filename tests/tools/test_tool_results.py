"""What a model reads of results and errors."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from perdure.tools.results import as_text, error_text, unknown_tool_text


class Flight(BaseModel):
    airline: str
    price: Decimal = Decimal("1.50")


@dataclasses.dataclass
class Seat:
    row: int
    flight: Flight | None = None


class Plane(msgspec.Struct):
    seats: list[Seat]


class Level(enum.StrEnum):
    HIGH = "high"


class Number(enum.Enum):
    ONE = 1


class CallToolResult(BaseModel):
    """Has the shape of the MCP SDK's class, alias and all."""

    content: list[dict[str, Any]]
    structured_content: dict[str, Any] | None = Field(default=None, alias="structuredContent")
    is_error: bool = Field(default=False, alias="isError")


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Polite:
    def __str__(self) -> str:
        return "polite"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("a text", "a text"),
        ('{"isError": true}', '{"isError": true}'),
        ("", ""),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ([1, None, "é"], '[1, null, "é"]'),
        ((1, 2), "[1, 2]"),
        ({"b", "a"}, '["a", "b"]'),
        (frozenset({2, 1}), "[1, 2]"),
        ({"city": "Ōsaka", 1: False}, '{"city": "Ōsaka", "1": false}'),
        (MappingProxyType({"a": 1}), '{"a": 1}'),
        (Flight(airline="SkyHigh"), '{"airline": "SkyHigh", "price": "1.50"}'),
        ([Flight(airline="Ü")], '[{"airline": "Ü", "price": "1.50"}]'),
        (Seat(1, Flight(airline="X")), '{"row": 1, "flight": {"airline": "X", "price": "1.50"}}'),
        (Plane([Seat(2)]), '{"seats": [{"row": 2, "flight": null}]}'),
        (Level.HIGH, "high"),
        (Number.ONE, "1"),
        ([Number.ONE, Level.HIGH], '[1, "high"]'),
        (Decimal("1.5"), "1.5"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        ({"on": dt.date(2026, 1, 2)}, '{"on": "2026-01-02"}'),
        (Polite(), "polite"),
        ([Polite()], '["polite"]'),
        (Polite, str(Polite)),
        (Hostile(), "<Hostile>"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
    ],
)
def test_a_result_reads_as(result, text):
    assert as_text(result) == text


def test_a_result_that_contains_itself_is_still_text():
    loop: list[Any] = []
    loop.append(loop)
    assert as_text(loop) == "[[...]]"


def test_an_mcp_result_reads_as_its_text():
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert as_text({"content": blocks, "isError": False}) == "one\ntwo"
    assert as_text({"content": blocks, "isError": True, "structuredContent": None}) == "Error: one\ntwo"
    assert as_text(CallToolResult(content=blocks, isError=True)) == "Error: one\ntwo"


def test_blocks_that_are_no_text_are_named_or_give_the_text_they_hold():
    blocks = [
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
        {"type": "resource_link", "uri": "file:///b"},
    ]
    assert as_text({"content": blocks, "isError": False}) == "[image]\ninside\nfile:///b"


def test_an_mcp_result_with_structured_content_only_reads_as_that():
    assert as_text({"content": [], "isError": False, "structuredContent": {"a": 1}}) == '{"a": 1}'
    assert as_text({"content": [], "isError": False}) == ""


@pytest.mark.parametrize(
    "result",
    [
        {"isError": True},
        {"isError": True, "content": "text"},
        {"isError": True, "content": ["text"]},
        {"isError": True, "content": [{"text": "no type"}]},
        {"isError": "yes", "content": [{"type": "text", "text": "a"}]},
        {"content": [{"type": "text", "text": "a"}]},
        {"isError": False, "content": [{"type": "text", "text": "a"}], "order": 7},
    ],
)
def test_a_dict_that_merely_resembles_an_mcp_result_is_left_as_it_is(result):
    assert json.loads(as_text(result)) == result


def test_half_characters_that_no_wire_carries_are_written_out():
    assert as_text("a\udc80") == "a\\udc80"
    assert as_text(["\ud800"]) == '["\\ud800"]'
    assert error_text("t", ValueError("\udc80")) == "Error executing tool 't': ValueError: \\udc80"


def test_an_error_names_tool_kind_and_message_in_plain_text():
    assert error_text("pay", ValueError("no money")) == "Error executing tool 'pay': ValueError: no money"
    assert error_text("pay", TimeoutError()) == "Error executing tool 'pay': TimeoutError"


def test_an_error_without_a_readable_message_is_still_text():
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert error_text("pay", HostileError()) == "Error executing tool 'pay': HostileError: <HostileError>"


def test_an_unknown_tool_is_answered_with_the_tools_that_exist():
    assert unknown_tool_text("fly", ["search", "pay"]) == (
        "Error executing tool 'fly': AgentToolExecutorError: Tool 'fly' not found. "
        "The tools that exist are: search, pay."
    )
    assert unknown_tool_text("fly", []).endswith("not found. There are no tools: answer without one.")


@given(st.from_type(type).flatmap(st.from_type) | st.recursive(st.none() | st.text() | st.binary(), st.lists))
def test_any_result_gives_a_sendable_text(result):
    as_text(result).encode()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_what_json_has_reads_back_as_it_was(result):
    text = as_text(result)
    assert (text if isinstance(result, str) else json.loads(text)) == result
