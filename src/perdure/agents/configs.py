"""How an agent executes; names and defaults are those of the documents (reference: api.md, agents.configs)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from perdure.base.errors import UsageError
from perdure.base.events import RetryPolicy


class ToolExecutionMode(StrEnum):
    """How the tool calls of one turn run (reference: dapr-ai-docs 2.4, Tool Execution Modes)."""

    PARALLEL = "parallel"
    """All at once."""

    SEQUENTIAL = "sequential"
    """One by one, in the order in which the model wrote them; each begins when the one before is recorded."""


@dataclass(frozen=True, kw_only=True)
class AgentExecutionConfig:
    """Limits and modes of an agent's loop.

    Attributes:
        max_iterations: model calls in one run at most; at least 1.
        tool_choice: "auto", "none", "required" or the name of one tool; ignored without tools.
        tool_execution_mode: parallel or sequential tool calls.

    Raises:
        UsageError: max_iterations is below 1, or the mode is unknown.
    """

    max_iterations: int = 10
    tool_choice: str | None = "auto"
    tool_execution_mode: ToolExecutionMode = field(default=ToolExecutionMode.PARALLEL)

    def __post_init__(self) -> None:
        """Refuse what makes no loop."""
        if self.max_iterations < 1:
            raise UsageError(f"AgentExecutionConfig.max_iterations is {self.max_iterations}; it must be at least 1")
        modes = [mode.value for mode in ToolExecutionMode]
        if self.tool_execution_mode not in modes:
            raise UsageError(
                f"AgentExecutionConfig.tool_execution_mode is {self.tool_execution_mode!r}; use one of {modes}"
            )


@dataclass(frozen=True, kw_only=True)
class WorkflowRetryPolicy:
    """How often an agent's model calls are tried again, in the words of the documents.

    Attributes:
        max_attempts: calls in all; at least 1.
        initial_backoff_seconds: wait before the second attempt.
        max_backoff_seconds: the longest wait.
        backoff_multiplier: each wait is this many times the one before.
        retry_timeout: seconds after which no further attempt begins; None for no limit.
    """

    max_attempts: int = 3
    initial_backoff_seconds: float = 5
    max_backoff_seconds: float = 30
    backoff_multiplier: float = 1.5
    retry_timeout: float | None = None

    def as_retry_policy(self) -> RetryPolicy:
        """Return it as the engine's policy.

        Raises:
            UsageError: a number makes no policy.
        """
        try:
            return RetryPolicy(
                max_attempts=self.max_attempts,
                initial_backoff=self.initial_backoff_seconds,
                max_backoff=self.max_backoff_seconds,
                multiplier=self.backoff_multiplier,
                total_timeout=self.retry_timeout,
            )
        except ValueError as error:
            raise UsageError(f"retry_policy: {error}") from None
