"""Shipped to users: scripted models, an OpenAI-compatible server, conformance suites."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.llm.scripted import ScriptedModel
    from perdure.testing.openai_server import OpenAIServer

__all__ = ["OpenAIServer", "ScriptedModel"]


def __getattr__(name: str) -> object:
    """Import a name on its first use: the server's module is a command too, and must not be imported before it runs."""
    if name == "ScriptedModel":
        from perdure.llm.scripted import ScriptedModel  # noqa: PLC0415 - on first use

        return ScriptedModel
    if name == "OpenAIServer":
        from perdure.testing.openai_server import OpenAIServer  # noqa: PLC0415 - on first use

        return OpenAIServer
    raise AttributeError(f"module 'perdure.testing' has no attribute {name!r}")
