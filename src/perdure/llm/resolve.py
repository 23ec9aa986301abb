"""From what a user writes for a model, such as ``"openai:gpt-5"``, to a chat model."""

from __future__ import annotations

import os
import re

from perdure.base.errors import UsageError
from perdure.llm.echo import EchoModel
from perdure.llm.openai import OpenAIChatModel
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
    """
    if spec is None:
        spec = os.environ.get(MODEL_VARIABLE) or "echo"
    if isinstance(spec, str):
        return _named(spec.strip())
    if isinstance(spec, type) or not isinstance(spec, ChatModel):
        raise UsageError(
            f"{spec!r} is no chat model: give a text such as 'openai:gpt-5' or 'echo', or an object with provider, "
            "model and an async complete(request)."
        )
    return spec


def _named(spec: str) -> ChatModel:
    provider, _, name = spec.partition(":")
    if provider == "echo" and not name:
        return EchoModel()
    if provider == "scripted":
        if not name:
            raise UsageError(f"{spec!r} names no script: write 'scripted:file.yaml'")
        return ScriptedModel.from_file(name)
    if provider not in PROVIDERS:
        raise UsageError(f"{unknown('model provider', provider, _KNOWN)} Write 'provider:model', not {spec!r}.")
    located = _AT_URL.fullmatch(name)
    if located is None:
        return OpenAIChatModel(name or None, provider=provider)
    return OpenAIChatModel(located["model"] or None, provider=provider, base_url=located["base_url"])
