"""The tools of one agent, by name."""

from __future__ import annotations

import pytest

from perdure.base.errors import UsageError
from perdure.tools.tool import tool
from perdure.tools.toolset import Toolset


@tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return city


def book_flight(to: str) -> str:
    """Book a flight."""
    return to


def test_tools_and_documented_callables_are_found_in_the_order_given():
    tools = Toolset([get_weather, book_flight])
    assert [definition.name for definition in tools.definitions()] == ["get_weather", "book_flight"]
    assert [one.definition for one in tools] == tools.definitions()
    assert len(tools) == 2


@pytest.mark.parametrize("name", ["get_weather", "GetWeather", "get weather", "GET__WEATHER", "getweather "])
def test_a_tool_is_found_without_regard_to_case_spaces_and_underscores(name):
    assert Toolset([get_weather]).find(name) is get_weather


@pytest.mark.parametrize("name", ["", "weather", "get-weather"])
def test_a_name_that_no_tool_has_finds_nothing(name):
    assert Toolset([get_weather]).find(name) is None


def test_an_empty_toolset_has_no_definitions():
    assert Toolset().definitions() == []


def test_two_names_that_a_model_cannot_tell_apart_are_refused_with_both():
    @tool(name="GetWeather")
    def other(city: str) -> str:
        """Tell the weather too."""
        return city

    with pytest.raises(UsageError, match=r"'get_weather' and 'GetWeather'.*Rename one"):
        Toolset([get_weather, other])


def test_what_is_no_tool_is_refused_when_the_toolset_is_made():
    with pytest.raises(UsageError, match="is not a tool"):
        Toolset([42])  # type: ignore[list-item]
