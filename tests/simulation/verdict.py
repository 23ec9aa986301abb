"""Judges what the store holds when nothing moves any more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.simulation.corpus import Case, Event
from tests.simulation.oracle import Oracle
from tests.simulation.store import StoreNode
from tests.simulation.world import World

from perdure.base.codec import decode
from perdure.base.events import EventRaised, ExecutionCompleted, ExecutionTerminated, HistoryRow, Status, encode_event
from perdure.engine.engine_events import ASKED, NOT_STARTED, STARTED
from perdure.engine.replay import Execution
from perdure.engine.values import resolve, resolve_history
from perdure.ports.history_store import InstanceRecord

_FROM_THE_ENGINE = frozenset({ASKED, NOT_STARTED, STARTED})


def judge(
    world: World, oracle: Oracle, node: StoreNode, cases: Sequence[Case], sent: Mapping[str, Sequence[Event]]
) -> None:
    """Blame the engine for whatever is not as it was promised."""
    records: list[InstanceRecord] = node.look("instances", limit=1_000)
    by_id = {record.instance_id: record for record in records}
    histories = node.look("load", [record.key for record in records])
    for case in cases:
        record = by_id.get(case.instance_id)
        if record is None:
            world.blame(f"{case.instance_id} was accepted and is not in the store")
            continue
        rows = histories[record.key]
        judged = Judged(oracle, node, case, record, rows)
        wrong = judged.rows() or judged.events() or judged.replay() or judged.end(sent[case.instance_id])
        if wrong:
            world.blame(f"{case.instance_id}: {wrong}")


class Judged:
    """One instance before its judge; each question returns what is wrong, or nothing."""

    def __init__(
        self, oracle: Oracle, node: StoreNode, case: Case, record: InstanceRecord, rows: Sequence[HistoryRow]
    ) -> None:
        self._oracle = oracle
        self._node = node
        self._case = case
        self._record = record
        self._rows = rows

    def rows(self) -> str:
        numbers = [row.seq for row in self._rows]
        return "" if numbers == list(range(len(numbers))) else f"its rows are {numbers}"

    def events(self) -> str:
        """The history has the accepted events in their order, each once; as long as it runs, all of them."""
        accepted = self._oracle.accepted[self._case.instance_id]
        taken = [
            encode_event(event)
            for row in self._rows
            for event in row.events
            if isinstance(event, ExecutionTerminated)
            or (isinstance(event, EventRaised) and event.name not in _FROM_THE_ENGINE)
        ]
        if not self._record.status.finished and taken != accepted:
            return f"of the events {accepted} its history has {taken}"
        if self._record.status is Status.TERMINATED:
            # A termination overtakes events that wait beside it.
            left = list(accepted)
            return "" if all(event in left and not left.remove(event) for event in taken) else f"it took {taken}"
        return "" if accepted[: len(taken)] == taken else f"of the events {accepted} its history has {taken}"

    def replay(self) -> str:
        """The recorded rows lead a fresh function to where the store says that it is."""
        if self._record.status is Status.TERMINATED:
            return ""
        execution = Execution(self._case.workflow, self._case.instance_id)
        try:
            execution.replay(self._rows, self._node.run(resolve_history(self._node.memory, self._rows)))
        except Exception as error:
            return f"its history does not replay: {error!r}"
        if self._record.status.finished:
            return ""
        waits = execution.waits()
        execution.close()
        return "" if json.loads(self._record.waits or "{}") == waits else f"it says {self._record.waits}, not {waits}"

    def end(self, sent: Sequence[Event]) -> str:
        record, ends = self._record, self._oracle.ends.get(self._case.instance_id)
        if not record.status.finished:
            quiet = record.owner is None and record.due is None and set(json.loads(record.waits or "{}")) == {"events"}
            return "" if quiet else f"it does not move: owner {record.owner}, due {record.due}, waits {record.waits}"
        last = self._rows[-1].events[-1]
        if not isinstance(last, ExecutionCompleted) or ends != last or last.status is not record.status:
            return f"it is {record.status}, and its history ends with {last!r:.200}"
        if last.status is Status.TERMINATED:
            told = any('"ExecutionTerminated"' in text for text in self._oracle.accepted[self._case.instance_id])
            return "" if told else "it was terminated and nobody said so"
        result = decode(last.result, self._node.run(resolve(self._node.memory, [last.result])))
        return self._case.judge(last, result, self._rows, sent)
