"""The one place that reads the wall clock, so that tests can turn it by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, in seconds since the Unix epoch."""

    def now(self) -> float:
        """Return the present moment, in seconds since the Unix epoch."""
        ...


class SystemClock:
    """The wall clock of this machine."""

    def now(self) -> float:
        """Return the present moment, in seconds since the Unix epoch."""
        return time.time()
