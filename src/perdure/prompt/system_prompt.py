"""The system prompt of an agent, from what its builder says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def system_prompt(
    *,
    name: str,
    role: str | None = None,
    goal: str | None = None,
    instructions: Sequence[str] | str = (),
    style_guidelines: Sequence[str] | str = (),
    system_prompt: str | None = None,
    today: str | None = None,
) -> str:
    """Return an agent's system prompt; every text is used literally, braces and all.

    Args:
        name: what the agent is called.
        role: what it is.
        goal: what it is there to achieve.
        instructions: what it must do, one point each.
        style_guidelines: how it must speak, one point each.
        system_prompt: replaces all of it, the date included.
        today: the date to tell, decided when the model is called; None tells none.
    """
    if system_prompt is not None:
        return system_prompt
    parts = [f"Today is {today}."] if today else []
    parts += _section("Name", f"You are {name}.")
    parts += _section("Role", role)
    parts += _section("Goal", goal)
    parts += _section("Primary Instructions", _points(instructions))
    parts += _section("Communication Style", _points(style_guidelines))
    return "\n\n".join(parts)


def _section(title: str, text: str | None) -> list[str]:
    return [f"## {title}\n{text}"] if text else []


def _points(texts: Sequence[str] | str) -> str:
    return "\n".join(f"- {text}" for text in ([texts] if isinstance(texts, str) else texts))
