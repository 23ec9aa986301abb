"""Switches for the faults of ``shim.c``: a disk that fails, fills or forgets, and a clock that jumps, per process."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")
HOUR = 3600.0
ALWAYS = 1000
"""Odds of a fault that strikes every time."""

_LAYOUT = struct.Struct("=256siiiiiiq")
_PATTERN, _SYNC, _WRITE, _COUNTS, _CLOCK = 0, 256, 264, 272, 280


def compiled(folder: Path) -> Path:
    """Return the shim, compiled; skip the test where that cannot be done."""
    if sys.platform != "linux":
        pytest.skip("faults are injected with LD_PRELOAD, on Linux only")
    compiler = shutil.which("cc") or shutil.which("gcc") or _installed_compiler()
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return library


def _installed_compiler() -> str:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("no C compiler here, and no way to install one (apt-get as root)")
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "gcc", "libc6-dev"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            pytest.skip(f"no C compiler here, and {' '.join(command)} failed: {done.stderr[-200:]}")
    return "gcc"


class Faults:
    """The faults of one or more processes; they may be changed while those run.

    Args:
        library: the compiled shim.
        control: the file that the processes watch.
        pattern: part of the paths of the files that are struck.
    """

    def __init__(self, library: Path, control: Path, pattern: str) -> None:
        self._library = library
        self._path = control
        control.write_bytes(_LAYOUT.pack(pattern.encode(), 0, 0, 0, 0, 0, 0, 0))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)

    def environment(self, image: Path | None = None) -> dict[str, str]:
        """Return the environment of a process with these faults.

        Args:
            image: the folder of what the disk really holds; None when nobody asks.
        """
        shown = {} if image is None else {"FAULTS_IMAGE": str(image)}
        return {**os.environ, "LD_PRELOAD": str(self._library), "FAULTS_CONTROL": str(self._path), **shown}

    def strike(self, pattern: str) -> None:
        """Choose the files that are struck."""
        self._memory[_PATTERN:_SYNC] = pattern.encode().ljust(_SYNC, b"\0")

    def fail_flushes(self, odds: int = ALWAYS) -> None:
        """Let fsync and fdatasync return EIO for so many of 1000 calls."""
        struct.pack_into("=ii", self._memory, _SYNC, errno.EIO, odds)

    def fail_writes(self, error: int = errno.ENOSPC, odds: int = ALWAYS) -> None:
        """Let writes return an error for so many of 1000 calls."""
        struct.pack_into("=ii", self._memory, _WRITE, error, odds)

    def heal(self) -> None:
        """Let flushes and writes work again."""
        struct.pack_into("=iiii", self._memory, _SYNC, 0, 0, 0, 0)

    def set_clock(self, seconds: float) -> None:
        """Let the wall clock be wrong by so many seconds."""
        struct.pack_into("=q", self._memory, _CLOCK, int(seconds * 1e9))

    @property
    def failed_flushes(self) -> int:
        """How many flushes have failed so far."""
        return int(struct.unpack_from("=ii", self._memory, _COUNTS)[0])

    @property
    def failed_writes(self) -> int:
        """How many writes have failed so far."""
        return int(struct.unpack_from("=ii", self._memory, _COUNTS)[1])

    def close(self) -> None:
        """Let go of the control file."""
        self._memory.close()
