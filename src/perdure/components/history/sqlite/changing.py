"""Applies what episodes change beyond their rows: children, events for others, generations, what people see."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice

import msgspec

from perdure.base.errors import BacklogFullError
from perdure.components.history.sqlite.accepting import (
    INSERT_ATTRIBUTES,
    attribute_rows,
    fill_inboxes,
    insert_instances,
    send_events,
)
from perdure.components.history.sqlite.parameters import parameter
from perdure.ports.history_store import Changes, Episode, Started, not_started

_UNFINISHED_CHILDREN = """
SELECT child.key, value->>1 FROM json_each(?)
JOIN instance AS parent ON parent.key = value->>0
JOIN instance AS child ON child.parent = parent.id AND child.finished_at IS NULL
"""
_RENEW = "UPDATE instance SET base = value->>1 FROM json_each(?) WHERE instance.key = value->>0"
_FORGET_GENERATION = """
DELETE FROM history WHERE pos IN (
    SELECT history.pos FROM json_each(?)
    JOIN history ON history.instance = value->>0 AND history.seq > 0 AND history.seq < value->>1
)
"""
_RESTATE = """
UPDATE instance SET
    workflow = coalesce(value->>1, workflow),
    status = coalesce(value->>2, status),
    custom_status = coalesce(value->>3, custom_status)
FROM json_each(?) WHERE instance.key = value->>0
"""


def apply_changes(connection: sqlite3.Connection, episodes: Sequence[Episode]) -> list[tuple[Started, ...] | None]:
    """Apply what episodes change beyond their rows; return how the child starts of each fared."""
    changes = [(episode, episode.changes) for episode in episodes if episode.changes is not None]
    inbox: list[tuple[int, str]] = []
    told = _start_children(connection, changes, inbox)
    sends = [(send.instance_id, send.event, episode.blobs) for episode, change in changes for send in change.sends]
    if sends:
        send_events(connection, sends)
    to_children = [(episode.key, change.to_children) for episode, change in changes if change.to_children is not None]
    if to_children:
        inbox.extend(connection.execute(_UNFINISHED_CHILDREN, parameter(to_children)).fetchall())
    fill_inboxes(connection, inbox)
    renewed = [(episode.key, episode.seq) for episode, change in changes if change.renews]
    restated = [
        (episode.key, change.workflow, change.status, change.custom_status)
        for episode, change in changes
        if not (change.workflow is None and change.status is None and change.custom_status is None)
    ]
    attributes = [row for episode, change in changes for row in attribute_rows(episode.key, change.attributes)]
    for statement, rows in (
        (_RENEW, renewed),
        (_FORGET_GENERATION, renewed),
        (_RESTATE, restated),
        (INSERT_ATTRIBUTES, attributes),
    ):
        if rows:
            connection.execute(statement, parameter(rows))
    return told


def _start_children(
    connection: sqlite3.Connection, changes: Sequence[tuple[Episode, Changes]], inbox: list[tuple[int, str]]
) -> list[tuple[Started, ...] | None]:
    calls = [(episode, start) for episode, change in changes for start in change.starts]
    if not calls:
        return [None] * len(changes)
    # Nobody could be told that a backlog is full.
    detached = {start.new.instance_id for _, start in calls if start.crowded is None}
    # What a child's input refers to, however deep, is among the content that came with the episode.
    news = [msgspec.structs.replace(start.new, blobs=episode.blobs) for episode, start in calls]
    started = insert_instances(connection, news, never_refused=detached)
    told: list[Started] = []
    for (episode, start), outcome in zip(calls, started, strict=True):
        if isinstance(outcome, BacklogFullError):
            told.append(not_started(start.new))
            failure = start.crowded
        else:
            told.append(outcome)
            failure = None if outcome.created else start.refused
        if failure is not None:
            inbox.append((episode.key, failure))
    outcomes = iter(told)
    return [tuple(islice(outcomes, len(change.starts))) or None for _, change in changes]
