"""Adds instances whose histories were made elsewhere: forks and imports."""

from __future__ import annotations

import sqlite3

from perdure.components.history.references import holder_of, targets_in, targets_of_links
from perdure.components.history.sqlite.accepting import INSERT_HISTORY, insert_instances
from perdure.components.history.sqlite.parameters import parameter
from perdure.components.history.sqlite.purging import note_references, share_references
from perdure.ports.history_store import Restored

_STAND = """
UPDATE instance SET status = ?, due = ?, waits = ?, base = ?, finished_at = ?, custom_status = ? WHERE key = ?
"""


def restore(connection: sqlite3.Connection, restored: Restored) -> bool:
    """Add an instance with its history; return False when its id is taken."""
    started = insert_instances(connection, [restored.new])[0]
    if not started.created:
        return False
    key, park = started.key, restored.park
    connection.execute(INSERT_HISTORY, parameter([(key, seq, at, events) for seq, at, events in restored.rows[1:]]))
    stands = (park.status, park.due, park.waits, restored.base, restored.finished_at, restored.custom_status, key)
    connection.execute(_STAND, stands)
    mentioned = set(restored.blobs).union(*(targets_in(events) for _, _, events in restored.rows))
    note_references(connection, [(holder_of(key), mentioned), *targets_of_links(restored.links).items()])
    if restored.source is not None:
        share_references(connection, restored.source, key)
    return True
