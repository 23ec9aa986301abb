"""What a docstring says about a function and about each of its parameters."""

from __future__ import annotations

from typing import NamedTuple

from docstring_parser import compose, parse
from docstring_parser.common import DocstringParam, DocstringRaises


class Documentation(NamedTuple):
    """A docstring, taken apart.

    Attributes:
        description: what the function does; without the section of its parameters.
        parameters: what each parameter means, by name, each on one line.
    """

    description: str
    parameters: dict[str, str]


def read_docstring(text: str) -> Documentation:
    """Take a docstring apart; Google, NumPy, reST and Epydoc sections are understood.

    A docstring without described parameters, or in no known style, is a description as it stands.
    """
    try:
        documentation = _parsed(text)
    except Exception:  # noqa: BLE001 - prose that only looks like a section can trip the parser in any way
        return Documentation(text, {})
    return documentation if documentation.parameters else Documentation(text, {})


def _parsed(text: str) -> Documentation:
    docstring = parse(text)
    parameters = {
        name.strip(): " ".join(parameter.description.split())
        for parameter in docstring.params
        for name in parameter.arg_name.split(",")
        if parameter.description
    }
    docstring.meta = [part for part in docstring.meta if not isinstance(part, (DocstringParam, DocstringRaises))]
    return Documentation(compose(docstring).strip(), parameters)
