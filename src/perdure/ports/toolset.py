"""The contract between an agent and its tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from perdure.ports.chat_model import ToolDefinition


class Interrupted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tool call that a crash cut off: whether its effect took place is not known.

    Attributes:
        tool: name of the tool.
        arguments: the validated arguments by name.
        idempotency_key: the key that the cut-off call saw.
    """

    tool: str
    arguments: dict[str, Any]
    idempotency_key: str

    def completed(self, result: object) -> Reconciled:
        """Say that the effect took place and gave this result."""
        return Reconciled(decision="completed", result=result)

    def retry(self) -> Reconciled:
        """Say that the effect did not take place: call the tool again."""
        return Reconciled(decision="retry")

    def ask(self) -> Reconciled:
        """Say that only a human can tell."""
        return Reconciled(decision="ask")


class Reconciled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a reconcile function found out about an interrupted call."""

    decision: Literal["completed", "retry", "ask"]
    result: Any = None


Reconcile = Callable[[Interrupted], Reconciled | Awaitable[Reconciled]]
"""Finds out, after a crash, whether a cut-off call had its effect."""

OnCrash = Literal["retry", "ask"] | Reconcile
"""``"retry"``, ``"ask"`` or a reconcile function."""


class Tool(Protocol):
    """Something that a model can call.

    Attributes:
        definition: name, description and JSON schema of the arguments.
        on_crash: what a crash in the middle of a call means.
        timeout: seconds that one call may take, or None.
    """

    @property
    def definition(self) -> ToolDefinition:
        """Name, description and JSON schema of the arguments."""
        ...

    @property
    def on_crash(self) -> OnCrash:
        """What a crash in the middle of a call means."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds that one call may take, or None for no limit."""
        ...

    def validate(self, arguments: str) -> dict[str, Any]:
        """Return the arguments by name from the JSON text that the model wrote.

        Raises:
            ToolError: not JSON, not an object, or against the schema; the text tells the model what to mend.
        """
        ...

    @property
    def is_async(self) -> bool:
        """Whether :meth:`invoke` returns an awaitable; otherwise it blocks and belongs on a thread."""
        ...

    def invoke(self, arguments: dict[str, Any]) -> Any:
        """Call the tool with validated arguments; return its result, or an awaitable of it when :attr:`is_async`.

        Raises:
            Exception: whatever the tool raises.
        """
        ...
