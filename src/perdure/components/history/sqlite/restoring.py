"""Adds instances whose histories were made elsewhere: forks and imports."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from perdure.base.events import Status
from perdure.components.history.references import holder_of, targets_in, targets_of_links
from perdure.components.history.sqlite.accepting import (
    INSERT_HISTORY,
    existing_instances,
    fill_inboxes,
    insert_instances,
)
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.purging import note_references, share_references
from perdure.ports.history_store import Park, Restored, Started

_STAND = """
UPDATE instance SET status = ?, due = ?, waits = ?, base = ?, finished_at = ?, custom_status = ? WHERE key = ?
"""


def restore(connection: sqlite3.Connection, restored: Sequence[Restored]) -> bool:
    """Add instances with their histories; return False, and add none, when an id is taken."""
    if existing_instances(connection, {one.new.instance_id for one in restored}):
        return False
    ids = {one.new.instance_id for one in restored}
    # One that does not begin by itself, ended or not, needs no turn.
    idle = {one.new.instance_id for one in restored if one.park.due is None}
    started = insert_instances(connection, [one.new for one in restored], never_refused=ids, unlimited=idle)
    for one, outcome in zip(restored, started, strict=True):
        assert isinstance(outcome, Started)
        _fill(connection, outcome, one)
    return True


def _fill(connection: sqlite3.Connection, started: Started, restored: Restored) -> None:
    key = started.key
    park = restored.park if not started.waits else Park(status=Status.PENDING)
    # The first row happened when it did, not now.
    connection.execute("UPDATE history SET at = ? WHERE instance = ? AND seq = 0", (restored.rows[0][1], key))
    connection.execute(INSERT_HISTORY, parameter([(key, seq, at, events) for seq, at, events in restored.rows[1:]]))
    stands = (park.status, park.due, park.waits, restored.base, restored.finished_at, restored.custom_status, key)
    connection.execute(_STAND, stands)
    texts = [*(events for _, _, events in restored.rows), *restored.inbox]
    mentioned = set(restored.blobs).union(*map(targets_in, texts))
    note_references(connection, [(holder_of(key), mentioned), *targets_of_links(restored.links).items()])
    if restored.source is not None:
        share_references(connection, restored.source, key)
    asleep = {key} if started.waits else ()
    fill_inboxes(connection, [(key, event) for event in restored.inbox], asleep)
