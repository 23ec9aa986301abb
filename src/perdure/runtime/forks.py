"""Forks instances: another one goes on from any call of a history, with another input or outcome of that call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.base.codec import Encoded, encode
from perdure.base.errors import InstanceExistsError, InstanceNotFoundError, UsageError
from perdure.base.events import (
    AnyEvent,
    ExecutionStarted,
    HistoryRow,
    Parent,
    Status,
    SubOrchestrationInstanceCreated,
    begins_generation,
    decode_events,
    encode_event,
    encode_events,
)
from perdure.base.ids import new_execution_id, split_key
from perdure.engine.forking import Cut, answered, cut, goes_its_own_way, recalled, taken_over
from perdure.engine.rules import ticket_of
from perdure.ports.history_store import HistoryStore, InstanceRecord, NewInstance, Park, Restored
from perdure.ports.tickets import Ticket

FORKED_FROM = "perdure.forked_from"
"""The custom attribute that names the instance that a fork comes from."""


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """What is different in a fork; with neither, the call is made again as it was.

    Attributes:
        output: what the call is taken to have returned.
        input: what the call is made again with.
    """

    output: Any = msgspec.UNSET
    input: Any = msgspec.UNSET

    def __post_init__(self) -> None:
        """Refuse both at once."""
        if self.output is not msgspec.UNSET and self.input is not msgspec.UNSET:
            raise UsageError("give a fork an output or an input of the call, not both")


def path_of(at: int | Sequence[int]) -> list[int]:
    """Return the ids of calls that lead to where a fork is made.

    Raises:
        UsageError: there is none, or something else.
    """
    path = list(at) if isinstance(at, Sequence) else [at]
    if not path or not all(type(one) is int for one in path):
        raise UsageError(
            f"at is {at!r:.80}; use the number of a call, as the run's timeline shows it, or a list of them"
        )
    return path


async def fork(
    store: HistoryStore, instance_id: str, path: Sequence[int], edit: Edit, *, new_id: str, now: float
) -> None:
    """Add an instance that goes on from a call of another one.

    Args:
        store: where both are.
        instance_id: the other one.
        path: ids of calls: all but the last one are child workflows, each called by the one before.
        edit: what is different.
        new_id: the new instance's id.
        now: seconds since the epoch.

    Raises:
        InstanceNotFoundError: no such instance, or a child workflow on the path is gone.
        InstanceError: other calls of the kept history have no outcome.
        InstanceExistsError: the new id is taken.
        UsageError: no such call, or one whose outcome did not matter.
    """
    restored = await _Fork(store, edit, now).of(instance_id, path, new_id, None)
    if not await store.restore(restored):
        raise InstanceExistsError(new_id, "a fork begins as a new run")


class _Fork:
    def __init__(self, store: HistoryStore, edit: Edit, now: float) -> None:
        self._store = store
        self._edit = edit
        self._now = now
        self._execution_id = new_execution_id()

    async def of(self, instance_id: str, path: Sequence[int], new_id: str, parent: Parent | None) -> list[Restored]:
        record = await self._store.find(instance_id)
        if record is None:
            raise InstanceNotFoundError(instance_id)
        first, *rows = [
            HistoryRow(seq, at, decode_events(events)) for seq, at, events in await self._store.rows(record.key)
        ]
        # Without generations, the very first row is also the first one of the history.
        base = rows[0].seq if rows and begins_generation(rows[0].events) else 0
        history = rows if base else [first, *rows]
        made = cut(instance_id, history, path[0])
        child = f"{new_id}:{made.generation}:{path[0]:04x}" if made.generation else f"{new_id}:{path[0]:04x}"
        inbox, content, others = await self._beyond(made, path, new_id, child)
        kept = made.rows
        if self._edit.output is msgspec.UNSET or len(path) > 1:
            kept = recalled(made, self._now, given=None if content is None else content.raw, child=child)
        kept = taken_over(kept if not base else [first, *kept], instance_id, parent, self._execution_id)
        inbox = [goes_its_own_way(new_id, self._execution_id), *inbox]
        fork = self._restored(record, new_id, kept, parent, base=base, inbox=inbox, content=content)
        return [fork, *others]

    async def _beyond(
        self, made: Cut, path: Sequence[int], new_id: str, child: str
    ) -> tuple[list[AnyEvent], Encoded | None, list[Restored]]:
        """Return the events that wait for the fork, the edited value, and the children that begin with it."""
        call, edit = made.call, self._edit
        caller = Parent(instance_id=new_id, task_id=call.id, generation=made.generation)
        if len(path) > 1:
            if not isinstance(call, SubOrchestrationInstanceCreated):
                raise UsageError(f"call #{call.id} is an activity; only inside child workflows a fork goes deeper")
            return made.settled, None, await self.of(call.instance_id, path[1:], child, caller)
        if edit.output is not msgspec.UNSET:
            content = encode(edit.output, "the edited output", references=False)
            return [answered(made, content.raw), *made.settled], content, []
        given = None
        if edit.input is not msgspec.UNSET:
            given = encode(edit.input, "the edited input", references=False)
        if not isinstance(call, SubOrchestrationInstanceCreated):
            return made.settled, given, []
        return made.settled, given, [await self._called_anew(call, given, child, caller)]

    async def _called_anew(
        self, call: SubOrchestrationInstanceCreated, given: Encoded | None, child: str, caller: Parent
    ) -> Restored:
        record = await self._store.find(call.instance_id)
        if record is None:
            raise InstanceNotFoundError(call.instance_id)
        name, version = split_key(record.workflow)
        if name != split_key(call.name)[0]:
            raise UsageError(
                f"call #{call.id} {call.name!r} was refused, for its id {call.instance_id!r} was taken; give the fork "
                "an output of the call, or fork at an earlier one"
            )
        raw = call.input if given is None else given.raw
        begins = ExecutionStarted(name=name, version=version, input=raw, parent=caller, execution_id=self._execution_id)
        row = HistoryRow(0, self._now, (begins,))
        # It begins: what the recorded child has set is not its own.
        fresh = msgspec.structs.replace(record, attributes={})
        return self._restored(fresh, child, [row], caller, content=given)

    def _restored(
        self,
        record: InstanceRecord,
        new_id: str,
        rows: Sequence[HistoryRow],
        parent: Parent | None,
        *,
        base: int = 0,
        inbox: Sequence[AnyEvent] = (),
        content: Encoded | None = None,
    ) -> Restored:
        new = NewInstance(
            instance_id=new_id,
            app_id=record.app_id,
            workflow=record.workflow,
            at=self._now,
            events=encode_events(rows[0].events),
            parent=None if parent is None else parent.instance_id,
            attributes={**record.attributes, FORKED_FROM: record.instance_id},
            ticket=_ticket_of(record, rows[0]),
        )
        return Restored(
            new=new,
            rows=[(row.seq, row.at, encode_events(row.events)) for row in rows],
            park=Park(status=Status.RUNNING, due=self._now),
            base=base,
            # An earlier generation may have set it, and the fork knows none of those.
            custom_status=record.custom_status if base else None,
            blobs={} if content is None else content.blobs,
            inbox=tuple(encode_event(event) for event in inbox),
            source=record.key,
        )


def _ticket_of(record: InstanceRecord, first: HistoryRow) -> Ticket | None:
    """Return the ticket that a fork takes as the run that it comes from did."""
    admissions = [event.admission for event in first.events if isinstance(event, ExecutionStarted)]
    if not admissions or admissions[0] is None:
        return None
    return ticket_of(record.app_id, split_key(record.workflow)[0], admissions[0], None)
