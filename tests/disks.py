"""A real disk that is small enough to fill."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def fill_disk(disk: Path) -> Path:
    """Use up all the space of a disk, and return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return ballast
