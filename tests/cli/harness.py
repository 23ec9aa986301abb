from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

APP = """
import time
from pathlib import Path
from typing import Any, NamedTuple
from perdure import DurableAgent, tool
from perdure.llm.scripted import ScriptedModel, turn_of

HERE = Path(__file__).parent

def note(line):
    with (HERE / "log").open("a") as file:
        file.write(line + "\\n")

@tool
def lookup(word: str) -> str:
    "Look a word up."
    note(f"lookup {word}")
    print("printed by a tool")
    return f"{word} is found"

@tool(on_crash="@on_crash@")
def deliver(parcel: str) -> str:
    "Deliver a parcel."
    note(f"deliver {parcel}")
    while not (HERE / "go").exists():
        time.sleep(0.005)
    return f"{parcel} is delivered"

SCRIPT = [
    {"tool": "lookup", "arguments": {"word": "address"}},
    {"tool": "deliver", "arguments": {"parcel": "box"}},
]

def answer(request):
    turn = turn_of(request)
    note(f"model {turn}")
    if turn < len(SCRIPT):
        return SCRIPT[turn]
    return f"The model read: {request.messages[-1].content}"

agent = DurableAgent(name="Courier", tools=[lookup, deliver], llm=ScriptedModel(answer))
"""

WHOLE_LOG = ["model 0", "lookup address", "model 1", "deliver box", "model 2"]
ANSWER = "The model read: box is delivered"


def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)


class Cli:
    """The real command, in processes of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        outer = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_")}
        self.environment = {**outer, "PERDURE_HOME": str(folder / "home"), "PYTHONUTF8": "1"}
        self.store = folder / "home" / "perdure.db"
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(arguments), **self._where(), timeout=30, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(self._command(arguments), **self._where())
        self.started.append(process)
        return process

    def json(self, *arguments: str):
        done = self(*arguments, "--json")
        return msgspec.json.decode(done.stdout)

    def write(self, text: str, name: str = "app.py") -> None:
        (self.folder / name).write_text(text)

    def app(self, on_crash: str = "retry") -> None:
        self.write(APP.replace("@on_crash@", on_crash))

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def killed_in_delivery(self, *arguments: str) -> None:
        """Run the app, and kill it in the middle of its second tool call."""
        before = self.log().count("deliver box")
        process = self.start("run", "app.py", *arguments)
        until(lambda: self.log().count("deliver box") > before)
        process.kill()
        process.communicate(timeout=10)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "perdure.cli.main", *arguments]

    def _where(self):
        return {
            "cwd": self.folder,
            "env": self.environment,
            "text": True,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }


class Done(NamedTuple):
    """What a command in this process did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return msgspec.json.decode(self.out)
