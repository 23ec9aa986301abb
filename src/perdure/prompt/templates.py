"""Templates, rendered only where somebody asks for it: text that is no template keeps its braces."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING, Literal

from perdure.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TemplateFormat = Literal["jinja2", "f-string"]
"""``jinja2`` (sandboxed) or ``f-string`` (``{name}``, with ``{{`` and ``}}`` for braces)."""


def render(template: str, variables: Mapping[str, object], format: TemplateFormat = "jinja2") -> str:  # noqa: A002
    """Return a template with its variables filled in.

    Args:
        template: the text.
        variables: values by name; more than the template uses is no error.
        format: how variables are written in the template.

    Raises:
        UsageError: a variable is missing, or the template is not well-formed or asks for what it may not; the text
            names the place.
    """
    if format == "jinja2":
        return _jinja2(template, variables)
    if format == "f-string":
        return _f_string(template, variables)
    raise UsageError(f"no template format {format!r}: write 'jinja2' or 'f-string'.")


def _jinja2(template: str, variables: Mapping[str, object]) -> str:
    from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    try:
        return environment.from_string(template).render(dict(variables))
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line is not None else ""
        raise UsageError(
            f"the jinja2 template cannot be rendered: {error}{where}. {_given(variables)} Write "
            "{% raw %}...{% endraw %} around braces that are meant literally."
        ) from error


def _f_string(template: str, variables: Mapping[str, object]) -> str:
    parts: list[str] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(template):
            parts.append(literal)
            if name is not None:
                parts.append(_variable(name, bool(spec or conversion), variables))
    except ValueError as error:
        raise UsageError(
            f"the f-string template is not well-formed: {error}. Write {{{{ and }}}} for braces that are meant "
            "literally."
        ) from error
    return "".join(parts)


def _variable(name: str, has_format: bool, variables: Mapping[str, object]) -> str:
    if has_format or not name.isidentifier():
        raise UsageError(
            f"the f-string template has {{{name}}}: only a plain {{name}} is allowed, without attribute, index, "
            "conversion or format. Give the finished value as a variable, or write {{ and }} for literal braces."
        )
    if name not in variables:
        raise UsageError(
            f"the f-string template needs the variable {name!r}. {_given(variables)} Write {{{{ and }}}} for braces "
            "that are meant literally."
        )
    return str(variables[name])


def _given(variables: Mapping[str, object]) -> str:
    return f"Given: {', '.join(sorted(variables)) or 'no variables'}."
