"""A librarian: answers questions about the Markdown files of a folder by listing, searching and reading them.

    perdure run examples/librarian/librarian.py "What happens to a tool call that a crash cuts off?"

The folder is ``docs/`` of this repository, or what LIBRARY says. LIBRARY_DELAY makes reading take that many seconds, so
that there is time to pull the plug; LIBRARY_LOG names a file to which every tool call writes when it begins and ends.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure import DurableAgent, ToolError, current_activity, tool

LIBRARY = Path(os.environ.get("LIBRARY") or Path(__file__).resolve().parents[2] / "docs")


@contextmanager
def logged(name: str) -> Iterator[None]:
    """Write down when a tool call begins and when it ends, with its idempotency key."""
    log = os.environ.get("LIBRARY_LOG")
    key = current_activity().idempotency_key
    if log:
        with Path(log).open("a") as file:
            file.write(f"begin {name} {key}\n")
    yield
    if log:
        with Path(log).open("a") as file:
            file.write(f"end {name} {key}\n")


@tool
def list_documents() -> list[str]:
    """List the names of all documents."""
    with logged("list_documents"):
        return sorted(str(path.relative_to(LIBRARY)) for path in LIBRARY.rglob("*.md"))


@tool
def search_documents(words: str) -> list[str]:
    """Find the lines that contain a text.

    Args:
        words: the text to look for; upper and lower case are the same.
    """
    with logged("search_documents"):
        found = [
            f"{path.relative_to(LIBRARY)}:{number}: {line.strip()}"
            for path in sorted(LIBRARY.rglob("*.md"))
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if words.casefold() in line.casefold()
        ]
        return found[:20]


@tool
def read_document(name: str) -> str:
    """Read one document as a whole.

    Args:
        name: a name from list_documents.
    """
    with logged("read_document"):
        path = (LIBRARY / name).resolve()
        if not path.is_relative_to(LIBRARY.resolve()) or not path.is_file():
            raise ToolError(f"There is no document {name!r}; list_documents names them all.")
        time.sleep(float(os.environ.get("LIBRARY_DELAY", "0")))
        return path.read_text()


librarian = DurableAgent(
    name="Librarian",
    role="Librarian of a small technical library",
    goal="Answer questions from the documents of the library, and from nothing else",
    instructions=[
        "List the documents, search them, and read the most promising one before you answer.",
        "Name the document that your answer comes from.",
    ],
    tools=[list_documents, search_documents, read_document],
)
