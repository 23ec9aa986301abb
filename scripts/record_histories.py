"""Records a history of each shape of the corpus that has none yet, for tests/histories/; run it from anywhere.

What is recorded stays: files are added, never written again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests import shapes  # noqa: E402 - found through the path above
from tests.histories import FOLDER, FORMAT, path_of  # noqa: E402

from perdure.base.errors import RunFailedError  # noqa: E402
from perdure.components.history.memory import MemoryHistoryStore  # noqa: E402
from perdure.engine.held import WorkerOptions  # noqa: E402
from perdure.runtime.archive import export_instance  # noqa: E402
from perdure.runtime.embedded import EmbeddedRuntime  # noqa: E402


async def recorded(shape: shapes.Shape) -> list[bytes]:
    """Run a shape and return the documents of the instance and of those that it started, when all have ended."""
    options = WorkerOptions(poll=0.01)
    async with EmbeddedRuntime(MemoryHistoryStore(), registry=shapes.REGISTRY, options=options) as runtime:
        # A name without a folder: a recorded history tells nothing of the machine.
        await runtime.start(shape.workflow, shape.input("effects.log"), instance_id=shape.name)
        for name, data in shape.events:
            await runtime.raise_event(shape.name, name, data)
        for instance_id in shape.expected_counts():
            while await runtime.find(instance_id) is None:
                await asyncio.sleep(0.01)
            try:
                await runtime.wait(instance_id, 30)
            except RunFailedError as error:
                print(f"  {error}")
        return [await export_instance(runtime.store, one) for one in sorted(shape.expected_counts())]


def without_stacks(document: Any) -> Any:
    """Return a document without tracebacks, which name the machine's folders and are of no use to a replay."""
    if isinstance(document, dict):
        return {key: without_stacks(value) for key, value in document.items() if key != "stack"}
    return [without_stacks(item) for item in document] if isinstance(document, list) else document


def main() -> None:
    """Record what is missing."""
    # Long enough to be stored beside the history, short enough for a repository.
    shapes._WORDS = 500
    folder = FOLDER / f"v{FORMAT}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [shape for shape in shapes.ALL if not path_of(shape.name).exists()]
    with tempfile.TemporaryDirectory() as effects:
        os.chdir(effects)
        for shape in missing:
            documents = [without_stacks(json.loads(document)) for document in asyncio.run(recorded(shape))]
            path_of(shape.name).write_text(json.dumps(documents, indent=1, ensure_ascii=False) + "\n")
            print(f"recorded {shape.name}")
    if not missing:
        print("every shape has a recorded history")


if __name__ == "__main__":
    main()
