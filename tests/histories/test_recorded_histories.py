from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.histories import FOLDER, path_of
from tests.shapes import ALL, BY_NAME, REGISTRY

from perdure.base.codec import Resolved, decode
from perdure.base.events import Action, ExecutionCompleted, HistoryRow
from perdure.components.history.memory import MemoryHistoryStore
from perdure.engine.replay import Decisions, Execution
from perdure.engine.values import merged, resolve, resolve_history
from perdure.ports.history_store import InstanceRecord
from perdure.runtime.archive import import_instance

FILES = sorted(FOLDER.glob("v*/*.json"))

History = tuple[InstanceRecord, list[HistoryRow], Resolved]


async def _imported(path: Path) -> list[History]:
    store = MemoryHistoryStore()
    await store.open()
    found: list[History] = []
    for document in json.loads(path.read_text()):
        record = await store.find(await import_instance(store, json.dumps(document)))
        assert record is not None
        rows = (await store.load([record.key]))[record.key]
        end = rows[-1].events[-1]
        assert isinstance(end, ExecutionCompleted)
        found.append((record, rows, merged(await resolve_history(store, rows), await resolve(store, [end.result]))))
    await store.close()
    return found


@contextlib.contextmanager
def _replayed(record: InstanceRecord, rows: Sequence[HistoryRow], resolved: Resolved) -> Iterator[Execution]:
    execution = Execution(REGISTRY.workflows[record.workflow], record.instance_id)
    execution.replay(rows, resolved)
    yield execution
    execution.close()


def _gone_on(execution: Execution, row: HistoryRow, resolved: Resolved) -> Decisions:
    """Let what reached an instance in a recorded row reach an execution that has not seen it."""
    incoming = [event for event in row.events if not isinstance(event, Action)]
    return execution.advance(row.at, incoming, resolved)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recorded_history_replays_to_its_recorded_end(path: Path) -> None:
    for record, rows, resolved in asyncio.run(_imported(path)):
        last = rows[-1].events[-1]
        assert isinstance(last, ExecutionCompleted)
        with _replayed(record, rows[:-1], resolved) as execution:
            decisions = _gone_on(execution, rows[-1], resolved)
            end = execution.completed
        assert end is not None
        assert end.status is last.status is record.status
        assert _told(end, merged(resolved, decisions.resolved)) == _told(last, resolved)
        with _replayed(record, rows, resolved) as execution:
            assert execution.completed == last


def _told(end: ExecutionCompleted, resolved: Resolved) -> Any:
    failure = None if end.failure is None else (end.failure.error_type, end.failure.message, end.failure.non_retryable)
    return failure, decode(end.result, resolved)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_beginning_of_a_recorded_history_goes_on_as_it_was_recorded(path: Path) -> None:
    for record, rows, resolved in asyncio.run(_imported(path)):
        for length in range(1, len(rows)):
            with _replayed(record, rows[:length], resolved) as execution:
                decided = _gone_on(execution, rows[length], resolved).actions
            recorded = [event for event in rows[length].events if isinstance(event, Action)]
            assert [_what(action) for action in decided] == [_what(action) for action in recorded]


def _what(action: Action) -> tuple[object, ...]:
    return type(action), *(getattr(action, name, None) for name in ("id", "name", "instance_id", "status"))


def test_every_shape_of_the_corpus_has_a_recorded_history() -> None:
    missing = [shape.name for shape in ALL if not path_of(shape.name).exists()]
    assert not missing, f"run scripts/record_histories.py: it records {missing}"


def test_every_recorded_history_is_one_of_a_shape() -> None:
    assert {path.stem for path in FILES} <= set(BY_NAME)
