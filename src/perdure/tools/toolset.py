"""The tools of one agent, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.base.errors import UsageError
from perdure.tools.tool import as_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from perdure.ports.chat_model import ToolDefinition
    from perdure.ports.toolset import Tool


class Toolset:
    """The tools of one agent, in the order in which they were given.

    Names are compared without case, spaces and underscores, because models miswrite them so.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., object]] = ()) -> None:
        """Collect tools and documented callables.

        Raises:
            UsageError: something is no tool, or two names are the same to a model.
        """
        self._tools: dict[str, Tool] = {}
        for candidate in tools:
            added = as_tool(candidate)
            name = added.definition.name
            taken = self.find(name)
            if taken is not None:
                raise UsageError(
                    f"two tools have the same name to a model: {taken.definition.name!r} and {name!r} (case, spaces "
                    "and underscores do not count). Rename one with @tool(name=...)."
                )
            self._tools[_key(name)] = added

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def find(self, name: str) -> Tool | None:
        """Return the tool that a model means by a name, or None."""
        return self._tools.get(_key(name))

    def definitions(self) -> list[ToolDefinition]:
        """Return what a model is told of the tools."""
        return [tool.definition for tool in self]


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " _")
