"""External events of the engine's own: they are part of histories, and workflow code never sees them."""

from __future__ import annotations

ENGINE_EVENT = "perdure."
"""External events whose name begins like this are the engine's own; workflow code never sees them."""

ASKED = "perdure.asked"
"""A human is asked what became of an interrupted activity; the input is its attempt's id."""

ANSWERED = "perdure.answered"
"""A human has said so; the input is an object with the attempt's id as ``task``."""

PATCHED = "perdure.patched"
"""The code asked for the first time whether a patch applies, and it does; the input is the patch's name."""

CANCELLED = "perdure.cancelled"
"""The code cancelled a call of an activity; the input is the id of its first attempt."""

TERMINATE = "perdure.terminate"
"""Sent to a child workflow: its caller needs it no longer."""

FORKED = "perdure.forked"
"""A fork goes its own way from here; the input is what its identifiers and random numbers are made of from now on."""

GRANTED = "perdure.granted"
"""Attempts that waited for their turn got it; the input is an object with their ids as ``tasks``."""

QUEUED = "perdure.queued"
"""Attempts that had lost their place wait for their turn anew; the input is the list of their ids."""

INTERRUPTED = "perdure.interrupted"
"""Attempts that a crash had cut off were begun again; the input is the list of their ids. It is recorded with whatever
the instance records next, so it does not tell of crashes that nothing followed."""

NOTES = frozenset({PATCHED, CANCELLED, INTERRUPTED})
"""Events that change nothing by themselves: for people, and for what the code asks at a later replay."""

NOT_STARTED = "perdure.not_started"
"""A worker stopped before it began these attempts; the input is the list of their ids."""

STARTED = "perdure.started"
"""Attempts that were recorded as not started begin now; the input is the list of their ids."""
