"""External events of the engine's own: they are part of histories, and workflow code never sees them."""

from __future__ import annotations

ENGINE_EVENT = "perdure."
"""External events whose name begins like this are the engine's own; workflow code never sees them."""

ASKED = "perdure.asked"
"""A human is asked what became of an interrupted activity; the input is its attempt's id."""

ANSWERED = "perdure.answered"
"""A human has said so; the input is an object with the attempt's id as ``task``."""

RESUMED = "perdure.resumed"
"""A human asked for another try of a stalled instance."""

NOT_STARTED = "perdure.not_started"
"""A worker stopped before it began these attempts; the input is the list of their ids."""

STARTED = "perdure.started"
"""Attempts that were recorded as not started begin now; the input is the list of their ids."""
