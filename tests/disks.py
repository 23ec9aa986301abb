"""A real disk that is small enough to fill."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def succeeds(*command: str | Path) -> bool:
    """Whether a command exists here and ends well."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def mounted_disk(place: Path, size: str = "8m") -> Iterator[Path]:
    """Mount a file system of a given size at a new folder; skip the test where that is not possible."""
    place.mkdir()
    if not succeeds("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place):
        pytest.skip("a small disk cannot be mounted here (tmpfs needs root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
