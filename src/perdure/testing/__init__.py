"""Shipped to users: scripted models, an OpenAI-compatible server, conformance suites."""

from perdure.llm.scripted import ScriptedModel
from perdure.testing.openai_server import OpenAIServer

__all__ = ["OpenAIServer", "ScriptedModel"]
