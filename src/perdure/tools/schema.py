"""The pydantic model behind a tool's arguments, and its JSON schema as a model is to read it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs"})
_DATA = frozenset({"default", "examples", "enum", "const"})


def model_from_signature(signature: inspect.Signature) -> type[BaseModel]:
    """Return a model whose fields have the parameters as aliases; ``**kwargs`` lets it take anything more."""
    fields: dict[str, Any] = {}
    is_open = False
    for number, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
            continue
        # Behind an alias, so that a parameter may carry any name, such as _id, json or model_config.
        alias = Field(alias=parameter.name)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"p{number}"] = (Annotated[parameter.annotation, alias], default)
    config = ConfigDict(extra="allow" if is_open else "forbid", coerce_numbers_to_str=True)
    return create_model("Arguments", __config__=config, **fields)


def model_by_name(args_model: type[BaseModel]) -> type[BaseModel]:
    """Return a user's model made readable by the names of its fields, next to their aliases.

    Raises:
        TypeError: it is not a pydantic model.
    """
    if not (isinstance(args_model, type) and issubclass(args_model, BaseModel)):
        raise TypeError(f"args_model is {args_model!r}, which is not a pydantic model")

    class Arguments(args_model):  # type: ignore[misc, valid-type]
        model_config = ConfigDict(populate_by_name=True)

    return Arguments


class _QuietSchema(GenerateJsonSchema):
    # A default that JSON lacks is left out of the schema without a warning: the function still has it.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as its base declares it


def json_schema(model: type[BaseModel], descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema of a model's input, without titles.

    Args:
        model: the arguments.
        descriptions: by parameter, for those that do not describe themselves.
    """
    schema: dict[str, Any] = _without_titles(model.model_json_schema(schema_generator=_QuietSchema))
    for name, described in schema.setdefault("properties", {}).items():
        if name in descriptions:
            described.setdefault("description", descriptions[name])
    return schema


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS:
            cleaned[key] = {name: _without_titles(item) for name, item in value.items()}
        elif key != "title":
            cleaned[key] = value if key in _DATA else _without_titles(value)
    return cleaned
