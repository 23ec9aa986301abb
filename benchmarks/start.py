"""Starting: what importing costs, how long a first run takes from nothing, and how much a base install is.

Everything is measured in processes of their own. Unless it is --quick, they run in a fresh virtual environment that
holds the wheel built from this folder's project and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

from _common import (
    Options,
    Phases,
    RawSqlite,
    Repeated,
    Target,
    median_ms,
    options,
    parted,
    progress,
    report,
)

PROJECT = Path(__file__).resolve().parent.parent
TOOLS = ("pip", "setuptools", "wheel")
"""What an environment has before anything is installed."""

TOOL_FILES = (*TOOLS, "pkg_resources", "_distutils_hack", "distutils-precedence")
ROW_BYTES = 100

FIRST_RUN = """
import sys
from perdure import AgentRunner, DurableAgent
with AgentRunner(store=sys.argv[1]) as runner:
    print(runner.run_sync(DurableAgent(name="Echo"), "hello"))
"""


def timed(python: Path, code: str, *arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([python, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def fresh_install(folder: Path) -> Path:
    """Build the wheel, install it into an environment of its own, and return that environment's interpreter."""
    wheels, environment = folder / "wheels", folder / "venv"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(PROJECT)]
    subprocess.run(build, check=True, stdout=sys.stderr)
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *map(str, wheels.iterdir()),
    ]
    subprocess.run(install, check=True, stdout=sys.stderr)
    return python


def install_size(python: Path) -> dict[str, float]:
    """Return the number of packages and the megabytes on disk that an environment has, its tools apart."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True).stdout
    names = [package["name"] for package in json.loads(listed) if package["name"] not in TOOLS]
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    blocks = 0
    for entry in site.iterdir():
        if entry.name.partition("-")[0].partition(".")[0] not in TOOL_FILES:
            blocks += sum(file.stat().st_blocks for file in (entry, *entry.rglob("*")))
    return {"packages": len(names), "install_mb": blocks * 512 / 1e6}


def times(python: Path, chosen: Options, phases: Phases) -> Repeated:
    repetitions = chosen.size(10, 3)
    advance = phases.begin("interpreters start", repetitions + 1)
    figures = Repeated()
    for number in range(-1, repetitions):
        bare = timed(python, "pass")
        found = {
            "raw_interpreter_ms": bare * 1000,
            "import_ms": (timed(python, "import perdure") - bare) * 1000,
            "import_agent_ms": (timed(python, "from perdure import AgentRunner, DurableAgent, tool") - bare) * 1000,
            "cold_start_ms": timed(python, FIRST_RUN, str(chosen.folder / f"cold{number}.db")) * 1000,
        }
        # The first round reads everything from disk, and is not counted.
        if number >= 0:
            figures.add(**found)
        advance()
    return figures


def main() -> None:
    with options(__doc__) as chosen:
        with progress() as phases:
            size: dict[str, float] = {}
            python = Path(sys.executable)
            if not chosen.quick:
                phases.begin("the wheel is built and installed", 1)
                python = fresh_install(chosen.folder)
                size = install_size(python)
            measured = times(python, chosen, phases)
            raw_sqlite = RawSqlite(chosen.folder, ROW_BYTES)
            measured.add(raw_commit_p50_ms=median_ms(raw_sqlite.commits(500)))
            raw_sqlite.close()
        found, raw = parted(measured.medians())
        found |= size
        more = {"import_agent_ms": found.pop("import_agent_ms")}
        targets = [Target("import_ms", 150, "150"), Target("cold_start_ms", 300, "300")]
        if size:
            targets += [Target("packages", 25, "25"), Target("install_mb", 40, "40")]
        report("start", chosen, found, raw=raw, targets=targets, spread=measured.spread(), more=more)


if __name__ == "__main__":
    main()
