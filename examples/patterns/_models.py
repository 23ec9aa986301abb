"""The model of the examples: what PERDURE_MODEL names, or a script, so that they run without a key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from perdure import ChatModel
from perdure.llm.resolve import resolve_model
from perdure.llm.scripted import ScriptedModel


def model(answer: Callable[[str], str]) -> ChatModel:
    """Return the model that PERDURE_MODEL names, or one that answers each prompt with ``answer(prompt)``."""
    named = os.environ.get("PERDURE_MODEL")
    if named:
        return resolve_model(named)

    def reply(request: Any) -> str:
        return answer(request.messages[-1].content or "")

    return ScriptedModel(reply)
