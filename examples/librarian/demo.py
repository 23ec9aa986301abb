"""Pull the plug on an agent in the middle of a tool call, start it again, and prove that nothing ran twice.

    make demo

Uses OpenAI when OPENAI_API_KEY is set, a local Ollama when one answers, and otherwise a scripted model over the same
HTTP wire.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).resolve().parent
QUESTION = "What happens to a tool call that a crash cuts off?"
PATIENCE = 120.0

console = Console(highlight=False)


def main() -> int:
    """Run the demonstration; return 0 when the proof holds."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = {**os.environ, "LIBRARY_LOG": str(folder / "tools.log"), "PERDURE_STORE": str(folder / "demo.db")}
        environment |= model_environment(folder, stack)
        step("1", f'perdure run librarian.py "{QUESTION}"')
        first = subprocess.Popen(
            run_command(), env=environment | {"LIBRARY_DELAY": "30"}, stderr=subprocess.STDOUT, start_new_session=True
        )
        stack.callback(first.kill)
        if not wait_for_tool(folder / "tools.log", "begin read_document", first):
            return fail("the agent ended before it read a document; there was no tool call to interrupt")
        time.sleep(1.0)  # for the eyes: the live view shows the call that is about to be cut off
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        step("2", "killed with SIGKILL in the middle of read_document; started again with the same command")
        before = finished_calls(folder / "tools.log")
        again = subprocess.run(run_command(), env=environment, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
        if again.returncode != 0:
            return fail(f"the second start ended with exit code {again.returncode}")
        step("3", "the timeline of the run")
        return prove(folder, environment, before)


def model_environment(folder: Path, stack: ExitStack) -> dict[str, str]:
    """Choose a model: OpenAI, a local Ollama, or the scripted one behind a real HTTP server."""
    if os.environ.get("OPENAI_API_KEY"):
        console.print(f"model: openai:{os.environ.get('OPENAI_MODEL', 'gpt-4o')}")
        return {"PERDURE_MODEL": f"openai:{os.environ.get('OPENAI_MODEL', 'gpt-4o')}"}
    ollama = ollama_model()
    if ollama:
        console.print(f"model: ollama:{ollama}")
        return {"PERDURE_MODEL": f"ollama:{ollama}"}
    command = [sys.executable, "-m", "perdure.testing.openai_server", "--script", str(HERE / "script.yaml")]
    command += ["--port", "0", "--log", str(folder / "model.log")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    assert server.stdout is not None
    url = server.stdout.readline().split()[-1]
    console.print(
        f"model: scripted, over HTTP at {url} (set OPENAI_API_KEY or start Ollama for a real one)", soft_wrap=True
    )
    return {"PERDURE_MODEL": f"openai-compatible:librarian@{url}"}


def ollama_model() -> str | None:
    """Return the first model of a local Ollama, if one answers."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:11434/api/tags", timeout=0.5) as answer:
            models = json.load(answer)["models"]
    except (OSError, urllib.error.URLError, ValueError, KeyError):
        return None
    return models[0]["name"] if models else None


def run_command() -> list[str]:
    """Return the command that a user would type."""
    return [sys.executable, "-m", "perdure.cli.main", "run", str(HERE / "librarian.py"), QUESTION]


def wait_for_tool(log: Path, line: str, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until a tool call has begun, as long as the process lives."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if log.exists() and line in log.read_text():
            return True
        time.sleep(0.02)
    return False


def finished_calls(log: Path) -> Counter[str]:
    """Return how often each tool call, by its idempotency key, has ended."""
    return Counter(line for line in log.read_text().splitlines() if line.startswith("end "))


def prove(folder: Path, environment: dict[str, str], before: Counter[str]) -> int:
    """Show the timeline, and check it against what the tools and the model's server saw."""
    listing = json.loads(perdure(environment, "runs", "list", "--json"))
    run_id = listing[0]["id"]
    sys.stdout.write(perdure(environment, "runs", "show", run_id))
    after = finished_calls(folder / "tools.log")
    repeated = [call for call, times in after.items() if times > 1]
    if repeated or any(after[call] != times for call, times in before.items()):
        return fail(f"finished tool calls ran again: {repeated}")
    if (folder / "model.log").exists():
        keys = [json.loads(line)["idempotency_key"] for line in (folder / "model.log").read_text().splitlines()]
        if len(keys) != len(set(keys)):
            return fail("a model call was made twice")
        console.print(f"model server: {len(keys)} calls, {len(set(keys))} different ones")
    if len(listing) != 1:
        return fail(f"{len(listing)} runs instead of one")
    console.print(f"tools: {sum(after.values())} calls finished, each exactly once; the interrupted one began again")
    console.print("[bold green]proved:[/] each model call and each finished tool call happened exactly once")
    return 0


def perdure(environment: dict[str, str], *arguments: str) -> str:
    """Run a perdure command and return what it prints."""
    command = [sys.executable, "-m", "perdure.cli.main", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


def step(number: str, text: str) -> None:
    """Announce a step."""
    console.print(f"\n[bold cyan]{number}.[/] [bold]{text}[/]", soft_wrap=True)


def fail(why: str) -> int:
    """Say why the proof does not hold."""
    console.print(f"[bold red]not proved:[/] {why}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
