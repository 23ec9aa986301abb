"""A logger for workflow code: it keeps silent while history is replayed (dapr-ai-docs 2.4, Replay-Aware Logging)."""

from __future__ import annotations

import logging

from perdure.engine.replay import replaying_now


def not_replaying(_: logging.LogRecord) -> bool:
    """Whether workflow code runs for the first time: a filter for loggers and handlers."""
    return not replaying_now.get()


def get_context_aware_logger(name: str) -> logging.Logger:
    """Return the logger of this name, which says each thing once however often a run is replayed.

    In activities and everywhere else it is an ordinary logger.
    """
    logger = logging.getLogger(name)
    if not_replaying not in logger.filters:
        logger.addFilter(not_replaying)
    return logger
