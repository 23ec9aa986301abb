"""Templates, rendered on request."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.errors import UsageError
from perdure.prompt.templates import render


def test_jinja2_fills_in_variables_and_keeps_the_text_as_it_is():
    assert render("Hi {{ who.name }} {<b>}\n", {"who": {"name": "<Ann>"}}, "jinja2") == "Hi <Ann> {<b>}\n"
    assert render("{% for x in xs %}{{ x }},{% endfor %}", {"xs": [1, 2], "spare": 0}) == "1,2,"


def test_jinja2_names_a_variable_that_is_missing():
    with pytest.raises(UsageError, match=r"'city' is undefined\. Given: day, hour\."):
        render("{{ city }}", {"hour": 1, "day": 2}, "jinja2")


def test_jinja2_says_where_a_template_is_not_well_formed():
    with pytest.raises(UsageError, match=r"\(line 2\)\. Given: no variables.*raw"):
        render("a\n{% if %}", {}, "jinja2")


@pytest.mark.parametrize(
    "template", ["{{ x.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ x.append(1) }}"]
)
def test_jinja2_reaches_nothing_behind_the_variables_and_changes_none(template):
    values = [0]
    with pytest.raises(UsageError, match="cannot be rendered"):
        render(template, {"x": values}, "jinja2")
    assert values == [0]


def test_f_string_fills_in_names_and_keeps_doubled_braces_as_braces():
    assert render('{who}: {{"a": {n}}}', {"who": "Ann", "n": 1}, "f-string") == 'Ann: {"a": 1}'


def test_f_string_values_are_not_templates_themselves():
    assert render("{a}", {"a": "{b}"}, "f-string") == "{b}"


def test_f_string_names_a_variable_that_is_missing():
    with pytest.raises(UsageError, match=r"needs the variable 'city'\. Given: day\."):
        render("{city}", {"day": 1}, "f-string")


@pytest.mark.parametrize("template", ["{x.real}", "{x[0]}", "{x!r}", "{x:>5}", "{}", "{0}", "{x:{y}}", "{ x }"])
def test_f_string_refuses_anything_but_a_plain_name(template):
    with pytest.raises(UsageError, match=r"only a plain \{name\} is allowed"):
        render(template, {"x": 1, "y": 2}, "f-string")


@pytest.mark.parametrize("template", ["{", "}", "{x", '{"a": 1'])
def test_f_string_says_when_braces_do_not_match(template):
    with pytest.raises(UsageError, match=r"not well-formed.*Write \{\{ and \}\}"):
        render(template, {"x": 1}, "f-string")


def test_an_unknown_format_is_refused_with_the_choices():
    with pytest.raises(UsageError, match="no template format 'mustache': write 'jinja2' or 'f-string'"):
        render("", {}, "mustache")  # type: ignore[arg-type]


@given(st.text())
def test_f_string_text_with_escaped_braces_comes_back_as_it_was(text):
    assert render(text.replace("{", "{{").replace("}", "}}"), {}, "f-string") == text


@given(st.text() | st.text(alphabet="{}x!:[]. "))
def test_f_string_raises_nothing_but_usage_errors(template):
    with contextlib.suppress(UsageError):
        render(template, {"x": 1}, "f-string")
