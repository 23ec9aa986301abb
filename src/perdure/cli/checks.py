"""What ``perdure doctor`` looks at."""

from __future__ import annotations

import http.client
import os
import platform
import re
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec

import perdure
from perdure.base.errors import StoreError, StoreLockedError
from perdure.base.events import UNFINISHED
from perdure.cli.formats import plural
from perdure.cli.options import looking
from perdure.cli.standing import standing
from perdure.components.history.sqlite.connection import MINIMUM_SQLITE, connect, log_of
from perdure.components.history.sqlite.errors import translation
from perdure.components.history.sqlite.turns import holder_pid
from perdure.llm.resolve import MODEL_VARIABLE
from perdure.ports.history_store import InstanceQuery
from perdure.runtime.embedded import EmbeddedRuntime

Verdict = Literal["ok", "warn", "fail"]

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_COMMITS = 20
_SLOW_COMMIT_MS = 20.0
_LITTLE_SPACE, _NO_SPACE = 1 << 30, 64 << 20
_OLLAMA = ("127.0.0.1", 11434)
_LOOKED_AT = 500
_LARGE_LOG = 100 << 20
_PATIENCE = 1.0


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: what it is.
        verdict: "ok", "warn" or "fail".
        finding: what was found.
        remedy: what to do; empty when all is well.
    """

    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""


def programs() -> list[Check]:
    """Return how Python, SQLite, Perdure and its optional packages stand."""
    python_ok = sys.version_info >= (3, 11)
    sqlite_ok = sqlite3.sqlite_version_info >= MINIMUM_SQLITE
    least = ".".join(map(str, MINIMUM_SQLITE))
    return [
        Check(
            "Python",
            "ok" if python_ok else "fail",
            platform.python_version(),
            "" if python_ok else "use 3.11 or newer",
        ),
        Check(
            "SQLite",
            "ok" if sqlite_ok else "fail",
            sqlite3.sqlite_version,
            "" if sqlite_ok else f"use a Python that is built with SQLite {least} or newer",
        ),
        Check("perdure", "ok", perdure.__version__),
        _extra("openai", "model providers need it: pip install 'perdure[openai]'"),
        _extra("uvloop", "faster where it exists: pip install 'perdure[uvloop]'"),
    ]


def _extra(package: str, remedy: str) -> Check:
    if find_spec(package) is not None:
        return Check(f"extra {package}", "ok", "installed")
    return Check(f"extra {package}", "ok", "not installed", remedy)


def environment() -> list[Check]:
    """Return the variables of Perdure that are set, without that of the model; of secrets the names only."""
    found: list[Check] = []
    for name in sorted(key for key in os.environ if key.startswith("PERDURE_") and key != MODEL_VARIABLE):
        value = "set" if _SECRET.search(name) else os.environ[name]
        if name == "PERDURE_CRASH_AT":
            found.append(Check(name, "warn", value, "it ends every process at a test's crash point: unset it"))
        else:
            found.append(Check(name, "ok", value))
    return found


def disk(path: Path) -> list[Check]:
    """Return the free space of the store's folder, and how long a commit takes there."""
    folder = path.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "make the folder, or choose another store with --store or PERDURE_HOME"
        return [Check("store folder", "fail", f"{folder}: {error.strerror}", remedy)]
    verdict: Verdict = "fail" if free < _NO_SPACE else "warn" if free < _LITTLE_SPACE else "ok"
    space = Check("free disk space", verdict, _size(free), "" if verdict == "ok" else "free some space")
    return [space, _commits(folder)]


def _commits(folder: Path) -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix=".perdure-doctor-", dir=folder) as temporary:
            took = _commit_times(Path(temporary) / "doctor.db")
    except (OSError, StoreError) as error:
        finding, _, remedy = str(error).partition("; ")
        otherwise = "make the folder writable, or choose another store with --store or PERDURE_HOME"
        return Check("commit", "fail", f"{folder} cannot be written: {finding}", remedy or otherwise)
    median = statistics.median(took) * 1000
    finding = f"{median:.2f} ms (median of {_COMMITS}, each flushed to disk)"
    if median <= _SLOW_COMMIT_MS:
        return Check("commit", "ok", finding)
    return Check("commit", "warn", finding, "every step waits this long: keep the store on a local disk")


def _commit_times(path: Path) -> list[float]:
    with closing(connect(path, busy_timeout=5.0)) as connection, translation(str(path)):
        connection.execute("CREATE TABLE sample (content TEXT)")
        took: list[float] = []
        for _ in range(_COMMITS):
            begun = time.perf_counter()
            connection.execute("INSERT INTO sample VALUES ('a step of a run')")
            took.append(time.perf_counter() - begun)
        return took


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def ollama() -> Check:
    """Return whether a local Ollama answers at its default address; asks this machine only."""
    connection = http.client.HTTPConnection(*_OLLAMA, timeout=0.3)
    try:
        connection.request("GET", "/api/version")
        answered = connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        answered = False
    finally:
        connection.close()
    finding = f"answers at {_OLLAMA[0]}:{_OLLAMA[1]}" if answered else "does not answer here"
    return Check("Ollama", "ok", finding, "" if answered else "only for local models: https://ollama.com")


async def store_checks(path: Path) -> list[Check]:
    """Return how a store that exists and its unfinished runs stand."""
    try:
        async with looking(path) as runtime:
            facts = await runtime.store.check()
            return [*_facts(path, facts), _log(path), _write_lock(path), *await _unfinished(runtime)]
    except StoreError as error:
        finding, _, remedy = str(error).partition("; ")
        return [Check("store", "fail", finding, remedy or "see the message")]


def _facts(path: Path, facts: dict[str, Any]) -> Sequence[Check]:
    counts = ", ".join(f"{number} {status.lower()}" for status, number in sorted(facts["instances"].items()))
    return [
        Check("store", "ok", f"{path}, whole, {_size(facts['bytes'])}"),
        Check("schema", "ok", f"version {facts['schema']}"),
        Check("runs", "ok", counts or "none"),
        Check("workers", "ok", plural(facts["workers"], "lease")),
    ]


def _log(path: Path) -> Check:
    log = log_of(path)
    size = log.stat().st_size if log.exists() else 0
    if size <= _LARGE_LOG:
        return Check("log", "ok", _size(size))
    remedy = "look for a process that reads for very long, and at the disk's health; it shrinks by itself afterwards"
    return Check("log", "warn", f"{_size(size)}: what was committed cannot be moved into the database file", remedy)


def _write_lock(path: Path) -> Check:
    """Look whether somebody keeps the store locked: every start, event and step waits for that."""
    try:
        with closing(connect(path, busy_timeout=_PATIENCE)) as connection, translation(str(path)):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except StoreLockedError:
        holder = holder_pid(path)
        who = "another process" if holder is None else f"process {holder}"
        remedy = f"end {who}, or wait until it has finished writing; what waits for it goes on by itself"
        return Check("write lock", "warn", f"{who} has kept the store locked for {_PATIENCE:.0f} s or longer", remedy)
    return Check("write lock", "ok", "free")


async def _unfinished(runtime: EmbeddedRuntime) -> list[Check]:
    records = await runtime.store.instances(InstanceQuery(status=UNFINISHED, limit=_LOOKED_AT))
    states = [standing(record, time.time()).state for record in records]
    found: list[Check] = []
    for state, text, remedy in (
        ("stalled", "stalled", "restore their code, then `perdure runs resume ID`; `perdure runs list` says why"),
        ("asks", "waiting for you", "`perdure runs resume ID` shows what to answer"),
        ("ready", "unfinished and executed by nobody", "run their app: perdure work APP"),
    ):
        number = states.count(state)  # type: ignore[arg-type]
        if number:
            found.append(Check("runs", "warn", f"{plural(number, 'run')} {text}", remedy))
    return found
