"""Where recorded histories are."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FORMAT = 1
"""The version of the documents that new recordings are written in; each version has a folder of its own."""


def path_of(shape: str) -> Path:
    """Return where the recorded history of a shape is, or would be."""
    return FOLDER / f"v{FORMAT}" / f"{shape}.json"
