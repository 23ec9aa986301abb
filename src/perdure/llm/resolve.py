"""From what a user writes for a model, such as ``"openai:gpt-5"``, to a chat model."""

from __future__ import annotations

import os
import re

from perdure.base.errors import SettingError, UsageError
from perdure.llm.echo import EchoModel
from perdure.llm.openai import OpenAIChatModel, require_sdk
from perdure.llm.providers import PROVIDERS, unknown
from perdure.llm.scripted import ScriptedModel
from perdure.ports.chat_model import ChatModel

MODEL_VARIABLE = "PERDURE_MODEL"
"""Environment variable of the model to use where a program names none."""

_AT_URL = re.compile(r"(?P<model>.*?)@(?P<base_url>https?://.+)")
_KNOWN = (*PROVIDERS, "scripted", "echo")


def resolve_model(spec: str | ChatModel | None = None) -> ChatModel:
    """Return the chat model that a user means.

    Args:
        spec: "provider:model" ("openai:gpt-5", "ollama:llama3.2", "openai-compatible:model@http://host/v1"),
            "provider" for its default model, "scripted:file.yaml", "echo", or a chat model itself. None stands for
            what the environment variable ``PERDURE_MODEL`` says, and for "echo" when it says nothing.

    Raises:
        UsageError: the provider is unknown, or its model or address is missing.
        SettingError: so it is with what ``PERDURE_MODEL`` says.
    """
    if spec is None:
        return _of_environment()
    if isinstance(spec, str):
        return _named(spec.strip())
    if isinstance(spec, type) or not isinstance(spec, ChatModel):
        raise UsageError(
            f"{spec!r} is no chat model: give a text such as 'openai:gpt-5' or 'echo', or an object with provider, "
            "model and an async complete(request)."
        )
    return spec


def ready_model(spec: str) -> ChatModel:
    """Return the chat model that a user means, if its first call can be made.

    Args:
        spec: as for :func:`resolve_model`.

    Raises:
        MissingExtraError: its SDK is not installed.
        UsageError: the provider is unknown, or its model or address is missing.
        ModelError: it needs a key, and there is none.
    """
    provider = spec.strip().partition(":")[0]
    if provider in PROVIDERS:
        # First of all: once it is installed, the user gets to what else is wrong.
        require_sdk(provider)
    model = resolve_model(spec)
    require_ready(model)
    return model


def require_ready(model: ChatModel) -> None:
    """Refuse a model whose first call could not be made, as far as that can be told without asking its provider.

    Raises:
        MissingExtraError: its SDK is not installed.
        ModelError: it needs a key, and there is none.
    """
    if isinstance(model, OpenAIChatModel):
        model.require_ready()


def _of_environment() -> ChatModel:
    spec = os.environ.get(MODEL_VARIABLE)
    try:
        return _named((spec or "echo").strip())
    except UsageError as error:
        raise SettingError(MODEL_VARIABLE, spec or "", str(error)) from None


def _named(spec: str) -> ChatModel:
    provider, colon, name = spec.partition(":")
    if provider == "echo" and not name:
        return EchoModel()
    if provider == "scripted":
        if not name:
            raise UsageError(f"{spec!r} names no script: write 'scripted:file.yaml'")
        return ScriptedModel.from_file(name)
    if provider not in PROVIDERS:
        raise UsageError(f"{unknown('model provider', provider, _KNOWN)} Write 'provider:model', not {spec!r}.")
    if colon and not name:
        variable = PROVIDERS[provider].model_variable
        raise UsageError(
            f"{spec!r} names no model: write {spec}NAME, such as openai:gpt-4o or ollama:llama3.2; {provider!r} alone "
            f"stands for the model that {variable} names."
        )
    located = _AT_URL.fullmatch(name)
    if located is None:
        return OpenAIChatModel(name or None, provider=provider)
    return OpenAIChatModel(located["model"] or None, provider=provider, base_url=located["base_url"])
