"""Judges what the store holds when nothing moves any more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.simulation.corpus import Case, Event, workflow_of
from tests.simulation.oracle import Oracle, is_from_outside
from tests.simulation.store import StoreNode
from tests.simulation.world import World

from perdure.base.codec import decode
from perdure.base.events import ExecutionCompleted, HistoryRow, Status, decode_event
from perdure.engine.code import Workflow
from perdure.engine.replay import Execution
from perdure.engine.values import resolve, resolve_history
from perdure.ports.history_store import InstanceQuery, InstanceRecord


def judge(
    world: World, oracle: Oracle, node: StoreNode, cases: Sequence[Case], sent: Mapping[str, Sequence[Event]]
) -> None:
    """Blame the engine for whatever is not as it was promised."""
    records: list[InstanceRecord] = node.look("instances", InstanceQuery(limit=1_000))
    histories = node.look("load", [record.key for record in records])
    known = {case.instance_id: case for case in cases}
    missing = [name for name in (*known, *oracle.books) if name not in {record.instance_id for record in records}]
    if missing:
        world.blame(f"{', '.join(missing)} was accepted and is not in the store")
    for record in records:
        case = known.get(record.instance_id)
        workflow = case.workflow if case is not None else workflow_of(record.workflow)
        judged = Judged(oracle, node, workflow, record, histories[record.key])
        wrong = judged.rows() or judged.end() or judged.events() or judged.replay()
        if not wrong and case is not None and record.status in (Status.COMPLETED, Status.FAILED):
            wrong = judged.result(case, sent[case.instance_id])
        if wrong:
            world.blame(f"{record.instance_id}: {wrong}")


class Judged:
    """One instance before its judge; each question returns what is wrong, or nothing."""

    def __init__(
        self, oracle: Oracle, node: StoreNode, workflow: Workflow, record: InstanceRecord, rows: Sequence[HistoryRow]
    ) -> None:
        self._oracle = oracle
        self._book = oracle.books[record.instance_id]
        self._node = node
        self._workflow = workflow
        self._record = record
        self._rows = rows

    def rows(self) -> str:
        numbers = [row.seq for row in self._rows]
        whole = list(range(numbers[0], self._book.next_seq))
        return "" if numbers == whole else f"its rows are {numbers}, not {whole}"

    def events(self) -> str:
        """The history took the accepted events in their order, each once; as long as it runs, all of them."""
        accepted = [text for text in self._book.accepted if is_from_outside(decode_event(text))]
        taken = self._book.taken
        if not self._record.status.finished:
            fits = taken == accepted
        elif self._record.status is Status.TERMINATED:
            # A termination overtakes events that wait beside it.
            left = list(accepted)
            fits = all(event in left and not left.remove(event) for event in taken)
        else:
            fits = accepted[: len(taken)] == taken
        return "" if fits else f"of the events {accepted} its history has {taken}"

    def replay(self) -> str:
        """The recorded rows lead a fresh function to where the store says that it is."""
        if self._record.status is Status.TERMINATED:
            return ""
        execution = Execution(self._workflow, self._record.instance_id)
        try:
            execution.replay(self._rows, self._node.run(resolve_history(self._node.memory, self._rows)))
        except Exception as error:
            return f"its history does not replay: {error!r}"
        if self._record.status.finished:
            return ""
        waits = execution.waits()
        execution.close()
        return "" if json.loads(self._record.waits or "{}") == waits else f"it says {self._record.waits}, not {waits}"

    def end(self) -> str:
        """An instance that has not ended waits for something that nobody sent; one that has says how."""
        record = self._record
        if not record.status.finished:
            told = f"owner {record.owner}, due {record.due}, waits {record.waits}"
            if not is_quiet(record):
                return f"it does not move: {told}"
            children = [child["instance"] for child in json.loads(record.waits or "{}").get("children", ())]
            ended = [child for child in children if self._oracle.end_of(child) is not None]
            return f"it waits for {ended}, which have ended" if ended else ""
        last = self._rows[-1].events[-1]
        if not isinstance(last, ExecutionCompleted) or self._book.end != last or last.status is not record.status:
            return f"it is {record.status}, and its history ends with {last!r:.200}"
        terminated = any("ExecutionTerminated" in text or "perdure.terminate" in text for text in self._book.accepted)
        if last.status is Status.TERMINATED and not terminated:
            return "it was terminated and nobody said so"
        return ""

    def result(self, case: Case, sent: Sequence[Event]) -> str:
        last = self._rows[-1].events[-1]
        assert isinstance(last, ExecutionCompleted)
        value = decode(last.result, self._node.run(resolve(self._node.memory, [last.result])))
        return case.judge(last, value, self._rows, sent)


def is_quiet(record: InstanceRecord) -> bool:
    """Whether an instance waits for events, or for children, and for nothing else."""
    if record.owner is not None or record.due is not None or record.waits is None:
        return False
    waits = json.loads(record.waits)
    return bool(waits) and set(waits) <= {"events", "children"}
