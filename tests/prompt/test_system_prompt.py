"""The system prompt of an agent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.prompt.system_prompt import system_prompt


def test_all_sections_stand_in_order_after_the_date():
    prompt = system_prompt(
        name="Ann",
        role="Planner",
        goal="Good trips",
        instructions=["Ask first.", "Be exact."],
        style_guidelines=["Short."],
        system_prompt=None,
        today="2026-08-23",
    )
    assert prompt == (
        "Today is 2026-08-23.\n\n"
        "## Name\nYou are Ann.\n\n"
        "## Role\nPlanner\n\n"
        "## Goal\nGood trips\n\n"
        "## Primary Instructions\n- Ask first.\n- Be exact.\n\n"
        "## Communication Style\n- Short."
    )


def test_sections_without_content_are_left_out():
    assert system_prompt(name="Ann") == "## Name\nYou are Ann."
    assert system_prompt(name="Ann", role="", goal=None, instructions=[]) == "## Name\nYou are Ann."


def test_a_single_text_is_one_point():
    assert system_prompt(name="Ann", instructions="Ask first.").endswith("## Primary Instructions\n- Ask first.")


def test_a_given_system_prompt_replaces_all_of_it():
    assert system_prompt(name="Ann", role="x", system_prompt="Just {this}.", today="2026-08-23") == "Just {this}."
    assert system_prompt(name="Ann", system_prompt="") == ""


@given(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1))
def test_every_text_is_used_literally(text, instructions):
    prompt = system_prompt(name=text, role=text, goal=text, instructions=instructions, style_guidelines=[text])
    assert prompt.count(text) >= 4
    assert all(f"- {instruction}" in prompt for instruction in instructions)
