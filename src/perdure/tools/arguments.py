"""The arguments of one tool: from the text that a model wrote to the values that a function takes.

This module and the schema's import pydantic; they are themselves imported when the first schema is needed.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from perdure.base.errors import ToolError, UsageError
from perdure.tools.results import sendable
from perdure.tools.schema import json_schema, model_by_name, model_from_signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_LINES = 12
_MAX_VALUE = 120


class Arguments:
    """What one tool takes.

    Attributes:
        schema: JSON schema of the arguments, an object without pydantic's titles.
    """

    def __init__(
        self,
        tool: str,
        signature: inspect.Signature,
        args_model: type[BaseModel] | None,
        descriptions: Mapping[str, str],
    ) -> None:
        """Read what a tool takes.

        Args:
            tool: name of the tool, for the texts of errors.
            signature: the parameters of its function, annotations resolved.
            args_model: declares the arguments instead of the annotations; its fields are the parameters.
            descriptions: by parameter, for those that do not describe themselves.

        Raises:
            UsageError: a parameter has no JSON schema, or the model's fields are not the function's parameters.
        """
        self._tool, self._signature = tool, signature
        try:
            self._model = model_from_signature(signature) if args_model is None else model_by_name(args_model)
            self.schema = json_schema(self._model, descriptions)
        except (PydanticUserError, NameError, TypeError) as error:
            reason, _, _ = str(error).partition(". ")
            raise UsageError(
                f"tool {tool!r}: its parameters have no JSON schema: {reason}. Annotate them with str, int, float, "
                "bool, list, dict, an enum, a dataclass or a pydantic model, or give args_model=<a pydantic model>."
            ) from error
        fields = self._model.model_fields.items()
        self._names = {field: str(info.alias) if args_model is None else field for field, info in fields}
        _require_same_names(tool, signature, set(self._names.values()))

    def read(self, text: str) -> dict[str, Any]:
        """Return the arguments by parameter as plain data, from the JSON text that a model wrote.

        They are as validation leaves them, defaults included, wherever reading that again gives the same values;
        otherwise (a secret, a validator that changes what it sees) they are what the model wrote.

        Raises:
            ToolError: not JSON, not an object, or against the schema; the text tells the model what to mend.
        """
        try:
            written = self._parsed(text)
            return self._plain(self._validated(written), written)
        except RecursionError:
            raise ToolError(f"Invalid arguments for tool {self._tool!r}: they are nested too deeply.") from None

    def bind(self, plain: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return what to call the function with, in the types that it declares.

        Raises:
            ToolError: the data are against the schema.
        """
        validated = self._validated(dict(plain))
        values = {name: getattr(validated, field) for field, name in self._names.items()}
        bound = self._signature.bind_partial()
        # In the order of the signature: it decides what goes by position.
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = values | (validated.model_extra or {})
            elif name in values:
                bound.arguments[name] = values.pop(name)
        return bound

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            # Not strict: models do write line breaks into strings.
            written = json.loads(text, strict=False) if text.strip() else {}
        except ValueError as error:
            raise self._not_an_object(f"they are not JSON ({error})") from None
        if not isinstance(written, dict):
            raise self._not_an_object(f"they are {_shown(written)}")
        wrapped = written.get("kwargs")
        if len(written) == 1 and isinstance(wrapped, dict) and "kwargs" not in self._names.values():
            return wrapped
        return written

    def _validated(self, data: dict[str, Any]) -> BaseModel:
        try:
            return self._model.model_validate(data)
        except ValidationError as error:
            refused = error
        except Exception as error:
            # A validator that the user wrote may raise anything.
            raise self._error([f"{type(error).__name__}: {error}"]) from error
        omitted = self._meant_as_omitted(refused, data)
        if not omitted:
            raise self._error(self._complaints(refused))
        return self._validated({name: value for name, value in data.items() if name not in omitted})

    def _meant_as_omitted(self, refused: ValidationError, data: dict[str, Any]) -> set[str]:
        """Return the refused nulls of parameters that have a default: models write null for "not given"."""
        optional = {
            name
            for field, info in self._model.model_fields.items()
            if not info.is_required()
            for name in (field, info.alias)
        }
        wrong = {str(detail["loc"][0]) for detail in refused.errors() if detail["loc"]}
        return {name for name in wrong & optional if data.get(name, ...) is None}

    def _plain(self, validated: BaseModel, written: dict[str, Any]) -> dict[str, Any]:
        try:
            dumped = validated.model_dump(mode="json", warnings=False)
            plain = {self._names.get(field, field): value for field, value in dumped.items()}
            return plain if self._validated(plain) == validated else written
        except Exception:  # noqa: BLE001 - serialisers and comparisons that the user wrote may raise anything
            return written

    def _complaints(self, refused: ValidationError) -> Iterable[str]:
        for detail in refused.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in detail["loc"]) or "all together"
            if detail["type"] == "missing":
                yield f"{field}: missing, and it is required"
            elif detail["type"] == "extra_forbidden":
                known = ", ".join(self.schema["properties"]) or "none"
                which = f"; the parameters are: {known}" if len(detail["loc"]) == 1 else ""
                yield f"{field}: got {_shown(detail['input'])}, but there is no such parameter{which}"
            else:
                yield f"{field}: got {_shown(detail['input'])}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"

    def _error(self, complaints: Iterable[str]) -> ToolError:
        lines = list(complaints)
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES:] = [f"and {len(lines) - _MAX_LINES} more"]
        text = "".join(f"\n- {line}" for line in lines)
        return ToolError(sendable(f"Invalid arguments for tool {self._tool!r}:{text}"))

    def _not_an_object(self, found: str) -> ToolError:
        required = self.schema.get("required", [])
        known = [f"{name} (required)" if name in required else name for name in self.schema["properties"]]
        wanted = f"with the parameters: {', '.join(known)}" if known else "without anything in it"
        text = f"Invalid arguments for tool {self._tool!r}: {found}. Write one JSON object {wanted}."
        return ToolError(sendable(text))


def _require_same_names(tool: str, signature: inspect.Signature, declared: set[str]) -> None:
    named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    is_open = len(named) < len(signature.parameters)
    strange = set() if is_open else declared - {parameter.name for parameter in named}
    missing = {parameter.name for parameter in named if parameter.default is parameter.empty} - declared
    if strange or missing:
        raise UsageError(
            f"tool {tool!r}: its declared arguments must be the function's parameters. Arguments without a parameter: "
            f"{', '.join(sorted(strange)) or 'none'}; parameters without an argument: "
            f"{', '.join(sorted(missing)) or 'none'}. Rename or add them on one side, or leave out the alias."
        )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
