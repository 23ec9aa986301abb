"""Perdure: AI agents and workflows that survive crashes.

The names below are the public ones; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.agents.agent import DurableAgent
    from perdure.agents.configs import AgentExecutionConfig, ToolExecutionMode, WorkflowRetryPolicy
    from perdure.base.errors import (
        ActivityFailedError,
        AgentError,
        ChildWorkflowFailedError,
        InstanceError,
        ModelError,
        ModelUnavailableError,
        NonDeterminismError,
        PerdureError,
        RunFailedError,
        StoreError,
        ToolError,
        UsageError,
    )
    from perdure.base.events import Failure, RetryPolicy, Status
    from perdure.base.limits import Limits, Rate
    from perdure.base.schedule import Schedule
    from perdure.components.history.sqlite import SQLiteHistoryStore
    from perdure.engine.activity import ActivityContext, current_activity
    from perdure.engine.held import WorkerOptions
    from perdure.engine.tasks import Task
    from perdure.hosting.runner import AgentRunner
    from perdure.llm.echo import EchoModel
    from perdure.llm.openai import OpenAIChatModel
    from perdure.llm.tasks import task
    from perdure.ports.chat_model import ChatModel, ChatReply, ChatRequest
    from perdure.ports.toolset import Interrupted
    from perdure.runtime.embedded import EmbeddedRuntime
    from perdure.tools.tool import tool
    from perdure.workflows.context import WorkflowContext
    from perdure.workflows.decorators import activity, workflow

_HOMES = {
    "perdure.agents.agent": ["DurableAgent"],
    "perdure.agents.configs": ["AgentExecutionConfig", "ToolExecutionMode", "WorkflowRetryPolicy"],
    "perdure.base.errors": [
        "ActivityFailedError",
        "AgentError",
        "ChildWorkflowFailedError",
        "InstanceError",
        "ModelError",
        "ModelUnavailableError",
        "NonDeterminismError",
        "PerdureError",
        "RunFailedError",
        "StoreError",
        "ToolError",
        "UsageError",
    ],
    "perdure.base.events": ["Failure", "RetryPolicy", "Status"],
    "perdure.base.limits": ["Limits", "Rate"],
    "perdure.base.schedule": ["Schedule"],
    "perdure.components.history.sqlite": ["SQLiteHistoryStore"],
    "perdure.engine.activity": ["ActivityContext", "current_activity"],
    "perdure.engine.held": ["WorkerOptions"],
    "perdure.engine.tasks": ["Task"],
    "perdure.hosting.runner": ["AgentRunner"],
    "perdure.llm.echo": ["EchoModel"],
    "perdure.llm.openai": ["OpenAIChatModel"],
    "perdure.llm.tasks": ["task"],
    "perdure.ports.chat_model": ["ChatModel", "ChatReply", "ChatRequest"],
    "perdure.ports.toolset": ["Interrupted"],
    "perdure.runtime.embedded": ["EmbeddedRuntime"],
    "perdure.tools.tool": ["tool"],
    "perdure.workflows.context": ["WorkflowContext"],
    "perdure.workflows.decorators": ["activity", "workflow"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "ActivityContext",
    "ActivityFailedError",
    "AgentError",
    "AgentExecutionConfig",
    "AgentRunner",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "ChildWorkflowFailedError",
    "DurableAgent",
    "EchoModel",
    "EmbeddedRuntime",
    "Failure",
    "InstanceError",
    "Interrupted",
    "Limits",
    "ModelError",
    "ModelUnavailableError",
    "NonDeterminismError",
    "OpenAIChatModel",
    "PerdureError",
    "Rate",
    "RetryPolicy",
    "RunFailedError",
    "SQLiteHistoryStore",
    "Schedule",
    "Status",
    "StoreError",
    "Task",
    "ToolError",
    "ToolExecutionMode",
    "UsageError",
    "WorkerOptions",
    "WorkflowContext",
    "WorkflowRetryPolicy",
    "activity",
    "current_activity",
    "task",
    "tool",
    "workflow",
]


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}; the public names are in perdure.__all__")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
