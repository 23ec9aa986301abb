"""A workflow's code as the engine sees it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import msgspec

from perdure.engine.requests import Requests
from perdure.engine.rules import Rules

_DAY = 86_400.0

Steps = Generator[Any, Any, Any]
"""A workflow function in progress; a coroutine sends and throws alike."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long instances are kept after their end, in seconds; None keeps them for ever.

    Attributes:
        completed: those that completed; 30 days by default.
        failed: those that failed.
        terminated: those that were ended from outside.
    """

    completed: float | None = 30 * _DAY
    failed: float | None = None
    terminated: float | None = None


class Workflow(Protocol):
    """A workflow function as the engine sees it."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """What instances that it executes are kept under: its own key, then those of the versions that it follows."""
        ...

    @property
    def rules(self) -> Rules | None:
        """Its limits, or None."""
        ...

    @property
    def newest(self) -> Workflow:
        """What instances go on with that continue as new."""
        ...

    @property
    def retention(self) -> Retention | None:
        """How long its instances are kept after their end; None for the worker's own rule."""
        ...

    def begin(self, execution: Requests, argument: Any) -> Steps:
        """Return the function's steps: a generator, or a coroutine, which sends and throws alike."""
        ...
