"""Descriptions of parameters, from the docstring styles that people use."""

from __future__ import annotations

from inspect import cleandoc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tools.docstring import read_docstring

GOOGLE = """Search the shelves.

    Every shelf is looked at.

    Args:
        query (str): What to look for,
            in plain words.
        limit: How many.

    Returns:
        The titles.

    Raises:
        ValueError: never.
    """

NUMPY = """Search the shelves.

    Every shelf is looked at.

    Parameters
    ----------
    query : str
        What to look for,
        in plain words.
    limit : int, optional
        How many.

    Returns
    -------
    list
        The titles.
    """

REST = """Search the shelves.

    Every shelf is looked at.

    :param str query: What to look for,
        in plain words.
    :param limit: How many.
    :returns: The titles.
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_each_style_gives_descriptions_by_parameter_and_a_description_without_them(docstring):
    documentation = read_docstring(cleandoc(docstring))
    assert documentation.parameters == {"query": "What to look for, in plain words.", "limit": "How many."}
    assert documentation.description.startswith("Search the shelves.\n\nEvery shelf is looked at.")
    assert "The titles." in documentation.description
    assert "What to look for" not in documentation.description
    assert "ValueError" not in documentation.description


def test_parameters_documented_together_share_their_description():
    documentation = read_docstring("Move.\n\nParameters\n----------\nx, y : int\n    Where to.\nz : int\n")
    assert documentation.parameters == {"x": "Where to.", "y": "Where to."}


def test_a_docstring_without_parameters_is_the_description_as_it_stands():
    text = "Search.\n\nNote:\n    Slow: use with care.\n\n    - a\n    - b"
    assert read_docstring(text) == (text, {})


def test_a_docstring_in_no_known_style_is_the_description_as_it_stands():
    text = "Search.\n\n: :"
    assert read_docstring(text) == (text, {})


@given(
    st.text()
    | st.text(alphabet=":@ \n-param")
    | st.text(alphabet=":@ \n\t-axArgsParmR").map(lambda text: f"Do.\n\nArgs:\n{text}")
)
def test_no_docstring_is_too_odd_to_be_read(text):
    documentation = read_docstring(text)
    assert isinstance(documentation.description, str)
