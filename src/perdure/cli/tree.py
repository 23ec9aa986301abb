"""A run with its descendants: child workflows, theirs, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.text import Text
from rich.tree import Tree

from perdure.cli.formats import cleaned, shortened
from perdure.cli.listing import reason_of
from perdure.cli.standing import Standing, owner_name
from perdure.cli.tables import record_data, status_text
from perdure.ports.history_store import HistoryStore, InstanceQuery, InstanceRecord
from perdure.runtime.pages import every_instance

_REASON = 120


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a tree.

    Attributes:
        record: the run.
        stands: how it stands.
        depth: how many calls lead to it; 0 for the run at the top.
    """

    record: InstanceRecord
    stands: Standing
    depth: int


async def descendants(store: HistoryStore, record: InstanceRecord) -> list[Place]:
    """Return a run and all its descendants in the store, each behind its parent, siblings in the order of the calls."""
    found: list[Place] = []
    # An id may be used again, so that a run may seem to descend from itself.
    seen = {record.key}
    waiting = [(record, 0)]
    apps = await store.working_apps()
    while waiting:
        run, depth = waiting.pop()
        found.append(Place(record=run, stands=await reason_of(store, run, apps), depth=depth))
        called = every_instance(store, InstanceQuery(parent=run.instance_id))
        children = [child async for child in called if child.key not in seen]
        seen.update(child.key for child in children)
        waiting.extend((child, depth + 1) for child in children)
    return found


def tree_of(places: Sequence[Place]) -> Tree:
    """Return the tree as a terminal shows it."""
    branches: list[Tree] = []
    for place in places:
        del branches[place.depth :]
        label = _label(place)
        branches.append(branches[-1].add(label) if branches else Tree(label, guide_style="dim"))
    return branches[0]


def _label(place: Place) -> Text:
    record, stands = place.record, place.stands
    label = Text(cleaned(owner_name(record.workflow)), style="bold")
    label.append(f"  {cleaned(record.instance_id)}  ", style="not bold dim").append_text(status_text(record.status))
    return label.append(f"  {shortened(stands.reason, _REASON)}".rstrip(), style="not bold")


def tree_data(places: Sequence[Place]) -> list[dict[str, Any]]:
    """Return the tree as ``perdure runs show --tree --json`` has it: a list, in which depths make the tree."""
    return [{"depth": place.depth, **record_data(place.record, place.stands)} for place in places]
