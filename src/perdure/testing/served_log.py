"""A file with one JSON line for every answered request: proof of what was asked, and how often, across crashes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from perdure.base.clock import SystemClock
from perdure.base.errors import UsageError


class ServedLog:
    """Appends lines that are durable before the answer is sent.

    Args:
        path: the file; it is created, or continued.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = Path(path).open("ab")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise UsageError(f"{os.fspath(path)}: the log cannot be written: {error.strerror}") from None

    def write(self, number: int, status: int, idempotency_key: str | None, body: Any) -> None:
        """Append the line of one request: what tells it apart, never its content or its key to the provider."""
        known = body if isinstance(body, dict) else {}
        messages = known.get("messages")
        line = {
            "request": number,
            "at": SystemClock().now(),
            "status": status,
            "idempotency_key": idempotency_key,
            "model": known.get("model"),
            "messages": len(messages) if isinstance(messages, list) else None,
        }
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
