"""Executes instances: episode after episode, each one commit, with activities between them.

The life of an instance in a worker's hands: it is taken over (just started, or claimed), its function runs until it
waits, the episode is appended, and only when that is durable do the activities that it decided begin. What they
return makes the next episode. With nothing in flight the last episode *parks* the instance: it belongs to nobody until
a timer or a signal makes it due.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from perdure.base.clock import Clock
from perdure.base.codec import Resolved, encode
from perdure.base.errors import NonDeterminismError, StaleLeaseError, StoreCorruptError, StoreError
from perdure.base.events import (
    AnyEvent,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionTerminated,
    HistoryRow,
    Parent,
    Status,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    decode_events,
    encode_events,
)
from perdure.base.faults import crash_point
from perdure.base.ids import code_text, split_key, version_text
from perdure.base.limits import Limits
from perdure.engine.activity import ActivityCall, ActivityRunner
from perdure.engine.code import Workflow
from perdure.engine.engine_events import INTERRUPTED, NOT_STARTED, QUEUED, STARTED
from perdure.engine.held import Held, Turnout, WorkerOptions, with_note, with_outcomes
from perdure.engine.outward import changes_of, next_generation
from perdure.engine.replay import Decisions, Execution
from perdure.engine.signals import News, suspension_in, take_answers
from perdure.engine.tickets import granted_in, without_ticket
from perdure.engine.values import resolve_history
from perdure.ports.history_store import (
    NO_RESULTS,
    NO_TICKETS,
    Changes,
    Episode,
    HistoryStore,
    Lease,
    Park,
    Results,
    Started,
)

_log = logging.getLogger("perdure.worker")
_RETRY_SECONDS = 0.25
_CANCEL_SECONDS = 2.0

Finished = Callable[[str, ExecutionCompleted, Resolved], None]
"""Told of every instance that ends in this worker: its id, how it ended, and what decoding its result needs."""


class Worker:
    """Executes the instances that its lease owns.

    Args:
        store: where histories are.
        activities: runs what workflows call.
        clock: tells the time of episodes.
        options: sizes and intervals.
        app_id: the app whose instances it executes.
        workflows: what it can execute, by the key of its instances; may grow.
        finished: told of every instance that ends here.
        parked: told when an instance was given back, with its id and the time at which it becomes due.
        lease_lost: told when the store refuses this worker's commits.
        news: told when an episode started or signalled other instances.

    Attributes:
        lease: the right to execute; None before the first and after a lost one.
        held: the instances in hand, by the store's number.
    """

    def __init__(
        self,
        store: HistoryStore,
        activities: ActivityRunner,
        clock: Clock,
        options: WorkerOptions,
        *,
        app_id: str,
        workflows: Mapping[str, Workflow],
        finished: Finished,
        parked: Callable[[str, float | None], None],
        lease_lost: Callable[[], None],
        news: Callable[[], None],
    ) -> None:
        self.lease: Lease | None = None
        self.app_id = app_id
        self.workflows = workflows
        self.held: dict[int, Held] = {}
        self._ids: set[str] = set()
        self._store = store
        self._activities = activities
        self._clock = clock
        self._options = options
        self._finished = finished
        self._parked = parked
        self._lease_lost = lease_lost
        self._news = news
        self._next_grant: float | None = None
        self._stopping = False
        self._store_down = False
        self._warm: OrderedDict[int, Held] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        """Whether this worker takes further instances."""
        return not self._stopping and self.lease is not None and len(self.held) < self._options.max_running

    def limits_of(self, activity: str) -> Limits | None:
        """Return the limits of an activity as this process knows them."""
        return self._activities.limits_of(activity)

    def lease_for(self, started: int) -> Lease | None:
        """Return the lease that one more child starts under, after so many; None when there is no room here."""
        room = self._options.max_running - len(self.held) - started
        return self.lease if self.has_room and room > 0 else None

    def holds(self, instance_id: str) -> bool:
        """Whether this worker has an instance in hand, and so will tell of its end."""
        return instance_id in self._ids

    # -- taking over

    def _hold(self, held: Held) -> None:
        self.held[held.key] = held
        self._ids.add(held.instance_id)

    def _let_go(self, held: Held) -> None:
        # A store may answer late: by then this worker can have claimed the instance once more.
        if self.held.get(held.key) is held:
            del self.held[held.key]
            self._ids.discard(held.instance_id)

    def begin(self, held: Held, row: HistoryRow, resolved: Resolved) -> None:
        """Run an instance that this worker's lease was just given by its start."""
        self._hold(held)
        if self._replayed(held, [row], resolved):
            self._advance(held)

    def take_warm(self, key: int, next_seq: int) -> Held | None:
        """Return a waiting instance from memory, if it still is as the store has it."""
        held = self._warm.pop(key, None)
        if held is not None and held.next_seq != next_seq:
            held.abandon()
            return None
        return held

    def resume(self, held: Held, news: News) -> None:
        """Go on with a claimed instance whose function waited in memory."""
        self._hold(held)
        held.take_in(news)
        self._advance(held)

    def recover(
        self,
        held: Held,
        rows: Sequence[HistoryRow],
        resolved: Resolved,
        news: News,
        tickets: Mapping[int, bool] = NO_TICKETS,
    ) -> None:
        """Go on with a claimed instance from its history.

        Attempts that the history left open were cut off by a crash, unless their worker recorded otherwise, or their
        tickets say that they wait for their turn.
        """
        self._hold(held)
        ends = next((event for event in news.events if isinstance(event, ExecutionTerminated)), None)
        if ends is not None:
            # Needs no replay, which fails where the code that began the run is gone.
            held.execution = Execution(held.workflow, held.instance_id)
            held.execution.parent = parent_in(rows)
            held.enqueue(ends)
            self._advance(held)
            return
        reason = suspension_in(news.events)
        if len(rows) == 1 and reason is not None:
            # It has not begun, and does not until it is resumed; that is in its inbox, for whoever it is then.
            held.busy = True
            waits = msgspec.json.encode({"suspended": reason}).decode()
            self._chore(self._give_back(held, due=None, waits=waits, stalled=True, status=Status.SUSPENDED))
            return
        if not self._replayed(held, rows, resolved):
            return
        if len(rows) > 1:
            # The row of acceptance holds no decisions: what its code asks for now is yet to be recorded, then begun.
            self._find_places(held, news, tickets)
            self._start_interrupted(held, news)
        held.take_in(news)
        self._advance(held)

    def deliver(self, held: Held, news: News) -> None:
        """Give signals to an instance in hand."""
        if self.held.get(held.key) is held:
            held.take_in(news)
            self._advance(held)

    def _replayed(self, held: Held, rows: Sequence[HistoryRow], resolved: Resolved) -> bool:
        if held.is_of_other_code:
            self._begin_stall(held, _other_code(held))
            return False
        execution = Execution(held.workflow, held.instance_id)
        try:
            execution.replay(rows, resolved)
        except NonDeterminismError as error:
            _log.error("%s", error)
            self._begin_stall(held, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - logged, and the instance says why it does not move
            _log.exception("instance %s cannot be replayed", held.instance_id)
            self._begin_stall(held, f"{type(error).__name__}: {error}")
            return False
        execution.queued.difference_update(held.admitted)
        held.execution = execution
        return True

    def _find_places(self, held: Held, news: News, tickets: Mapping[int, bool]) -> None:
        """Tell attempts that wait for their turn from those that a crash cut off after they had got it."""
        execution = held.execution
        assert execution is not None
        held.tickets = frozenset(tickets)
        if not execution.queued:
            return
        told = {one.id for one in granted_in(execution, news.events)}
        held.admit([task for task in execution.queued if tickets.get(task) and task not in told])
        held.to_queue = without_ticket(execution, tickets)
        if held.to_queue:
            # Recorded before they take their tickets: a crash from then on may interrupt them.
            held.enqueue(EventRaised(name=QUEUED, input=encode([task.id for task in held.to_queue]).raw))

    def _start_interrupted(self, held: Held, news: News) -> None:
        assert held.execution is not None
        # A fork brings outcomes along that its source recorded.
        settled = {event.task_id for event in news.events if isinstance(event, TaskCompleted | TaskFailed)}
        for scheduled in held.execution.pending_activities():
            if scheduled.id in settled or scheduled.id in held.execution.queued:
                continue
            if scheduled.id in held.execution.not_started:
                held.to_start.append(scheduled)
            elif scheduled.id not in held.execution.asked:
                held.interrupted.append(scheduled.id)
                self._start(held, scheduled, None, interrupted=True)
        if held.to_start:
            # Recorded before they begin: a crash from then on does interrupt them.
            held.enqueue(EventRaised(name=STARTED, input=encode([task.id for task in held.to_start]).raw))

    def _begin_stall(self, held: Held, why: str) -> None:
        held.busy = True
        self._chore(self.stall(held, why))

    async def stall(self, held: Held, why: str) -> None:
        """Give back an instance that cannot go on by itself, with the reason for people."""
        waits = msgspec.json.encode({"stalled": why}).decode()
        await self._give_back(held, due=None, waits=waits, stalled=True)

    async def _give_back(
        self, held: Held, *, due: float | None, waits: str | None, stalled: bool, status: Status | None = None
    ) -> None:
        held.busy = True
        held.abandon()
        lease = self.lease
        while lease is not None and self.lease is lease:
            try:
                seen = held.seen if stalled else None
                await self._store.release(
                    lease, held.key, due=due, waits=waits, stalled=stalled, seen=seen, status=status
                )
                # What is in its inbox may have made it due at once.
                self._parked(held.instance_id, None if stalled else 0.0)
                break
            except StaleLeaseError:
                self._lease_lost()
                break
            except StoreError as error:
                self._note_outage(error)
                await asyncio.sleep(_RETRY_SECONDS)
        self._let_go(held)

    def _note_outage(self, error: Exception) -> None:
        if not self._store_down:
            self._store_down = True
            _log.warning("the store refuses commits, runs wait for it: %s", error)

    # -- one episode

    def _advance(self, held: Held) -> None:
        """Run the function over what has arrived; append the episode that makes."""
        if held.busy or self.lease is None or self.held.get(held.key) is not held:
            return
        if held.execution is None:
            held.busy = True
            self._chore(self._reload(held))
            return
        now = self._clock.now()
        for firing in held.execution.due_timers(now):
            crash_point("timer.before_fire")
            held.enqueue(firing)
        try:
            turnout, decisions = _decide(held, held.execution, now)
        except Exception as error:  # noqa: BLE001 - logged, and the instance says why it does not move
            # Such as an event that cannot be read: nothing is lost, it stays in the inbox or runs again.
            _log.exception("instance %s cannot go on", held.instance_id)
            self._begin_stall(held, f"{type(error).__name__}: {error}")
            return
        park = self._park(held)
        if not decisions.events and decisions.empty and not turnout.consumed:
            self._nothing_happened(held, park)
            return
        held.busy = True
        execution = held.execution
        events = decisions.events
        if execution.continued is not None:
            held.workflow = held.workflow.newest
            held.keep_under(held.kept_under)
            events = next_generation(execution, held.workflow)
            turnout = held.put_back(turnout, decisions.taken)
        changes = changes_of(execution, decisions, self, held.new_key, tickets=held.tickets, to_queue=held.to_queue)
        if changes is not None and changes.tickets and park is not None:
            park = msgspec.structs.replace(park, unless_granted=True)
        episode = Episode(
            key=held.key,
            seq=held.next_seq,
            at=now,
            events=encode_events(events),
            blobs={**turnout.resolved.blobs, **decisions.blobs} if turnout.resolved.blobs else decisions.blobs,
            links=[*turnout.links, *decisions.links] if turnout.links else decisions.links,
            consumed=turnout.consumed,
            park=park,
            changes=changes,
        )
        if held.new_key is not None:
            held.keep_under(held.new_key)
        crash_point("episode.before_commit")
        self._append(held, episode, decisions)

    def _append(self, held: Held, episode: Episode, decisions: Decisions) -> None:
        # The instance may have gone to another worker while this episode waited for the store.
        if self.lease is not None and self.held.get(held.key) is held:
            self._store.append(self.lease, episode, partial(self._committed, held, episode, decisions))

    def _nothing_happened(self, held: Held, park: Park | None) -> None:
        """What woke the instance does not concern it: go on waiting."""
        if park is None:
            self._arm(held)
        else:
            held.busy = True
            self._chore(self._give_back(held, due=park.due, waits=park.waits, stalled=False))

    def _park(self, held: Held) -> Park | None:
        execution = held.execution
        assert execution is not None
        if execution.completed is not None:
            return Park(status=execution.completed.status)
        if execution.continued is not None or not execution.only_waits or held.runs_any(execution):
            return None
        waits = msgspec.json.encode(execution.waits()).decode()
        status = Status.RUNNING if execution.suspended is None else Status.SUSPENDED
        return Park(status=status, due=execution.next_timer(), waits=waits)

    def _committed(
        self, held: Held, episode: Episode, decisions: Decisions, outcome: Exception | Results | None
    ) -> None:
        """Go on after an episode: begin what it decided, now that it is durable."""
        if outcome is not None and isinstance(outcome, Exception):
            self._refused(held, episode, decisions, outcome)
            return
        crash_point("episode.after_commit")
        results = outcome or NO_RESULTS
        if episode.changes is not None:
            self._begin_children(episode.changes, results.started, decisions.resolved)
            held.note_tickets(episode.changes, results.granted)
        if results.woken or results.next_grant is not None:
            self._note_grants(results)
        if self._store_down:
            self._store_down = False
            _log.warning("the store takes commits again")
        held.busy = False
        held.next_seq += 1
        execution = held.execution
        if execution is None:
            # Abandoned while the commit was on its way.
            return
        if execution.completed is not None:
            self._end(held, execution.completed, decisions.resolved)
        elif execution.continued is not None:
            self._renew(held)
        elif episode.park is not None and not (episode.park.unless_granted and results.granted):
            self._set_aside(held, episode.park)
        else:
            if decisions.cancelled:
                held.cancel(decisions.cancelled)
            self._begin_activities(held, decisions)
            if self._options.put_away and not self._stopping:
                execution.close()
                held.execution = None
            if held.has_news:
                self._advance(held)

    def _begin_children(self, changes: Changes, started: Sequence[Started], resolved: Resolved) -> None:
        for start, outcome in zip(changes.starts, started, strict=True):
            new = start.new
            if not outcome.created or outcome.waits or new.lease is None or new.lease is not self.lease:
                continue
            child = Held(outcome.key, new.instance_id, self.workflows[new.workflow], 1, new.workflow)
            self.begin(child, HistoryRow(0, new.at, decode_events(new.events)), resolved)
        if changes.sends or changes.starts or changes.to_children is not None:
            self._news()

    def _note_grants(self, results: Results) -> None:
        """Have instances taken up that got their turn, and a look planned for when others do."""
        if results.woken or results.next_grant != self._next_grant:
            self._next_grant = results.next_grant
            self._news()

    def _renew(self, held: Held) -> None:
        """Begin the next generation of an instance."""
        held.renew()
        held.busy = True
        self._chore(self._reload(held))

    def _begin_activities(self, held: Held, decisions: Decisions) -> None:
        if self._stopping:
            return
        assert held.execution is not None
        to_start, held.to_start = held.to_start, []
        for scheduled in to_start:
            if held.execution.is_pending(scheduled.id):
                self._start(held, scheduled, None, interrupted=False)
        queued = held.execution.queued
        for action in decisions.actions:
            if type(action) is TaskScheduled and action.id not in decisions.cancelled and action.id not in queued:
                at_hand = decisions.resolved if action.retry_of is None else None
                self._start(held, action, at_hand, interrupted=False)
        self._arm(held)

    def _refused(self, held: Held, episode: Episode, decisions: Decisions, error: Exception) -> None:
        if isinstance(error, StaleLeaseError):
            self._let_go(held)
            held.abandon()
            self._lease_lost()
            return
        if getattr(error, "non_retryable", False):
            self._begin_stall(held, str(error))
            return
        self._note_outage(error)
        self._loop.call_later(_RETRY_SECONDS, self._append, held, episode, decisions)

    def _end(self, held: Held, completed: ExecutionCompleted, resolved: Resolved) -> None:
        self._let_go(held)
        held.abandon()
        crash_point("finish.after_commit")
        self._finished(held.instance_id, completed, resolved)

    def _set_aside(self, held: Held, park: Park) -> None:
        """Keep a waiting instance's function in memory for a while; the least recently used ones make room."""
        self._let_go(held)
        held.disarm()
        held.cancel(list(held.running))
        signalled = held.has_news
        if signalled:
            # The store has the signals still, and has made the instance due because of them.
            held.turn_out()
        held.last_signal = 0
        if held.key in self._warm or held.key in self.held:
            # The store answered late: a younger function of this instance is here.
            held.abandon()
        else:
            self._warm[held.key] = held
        while len(self._warm) > (0 if self._options.put_away else self._options.warm):
            self._warm.popitem(last=False)[1].abandon()
        self._parked(held.instance_id, 0.0 if signalled else park.due)

    async def _reload(self, held: Held) -> None:
        """Bring back a function that was put away while its activities ran."""
        try:
            rows, resolved = await self._read(held)
        except StoreCorruptError as error:
            await self.postpone(held, error)
            return
        if self._replayed(held, rows, resolved):
            held.busy = False
            self._advance(held)

    async def _read(self, held: Held) -> tuple[list[HistoryRow], Resolved]:
        while True:
            try:
                rows = (await self._store.load([held.key]))[held.key]
                return rows, await resolve_history(self._store, rows)
            except StoreCorruptError:
                raise
            except StoreError as error:
                # Given back, its running activities would be cut off, and those that have returned would run again.
                _log.warning("instance %s cannot be read yet: %s", held.instance_id, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def postpone(self, held: Held, error: StoreError) -> None:
        """Give back an instance that cannot be read now; one whose history is damaged waits for a human."""
        _log.error("instance %s cannot be read: %s", held.instance_id, error)
        if isinstance(error, StoreCorruptError):
            await self.stall(held, str(error))
        else:
            await self._give_back(held, due=self._clock.now() + 1.0, waits=None, stalled=False)

    # -- activities and timers

    def _start(self, held: Held, scheduled: TaskScheduled, at_hand: Resolved | None, *, interrupted: bool) -> None:
        assert held.execution is not None
        call = ActivityCall(
            instance_id=held.instance_id,
            scheduled=scheduled,
            input=held.execution.input_of(scheduled),
            resolved=at_hand,
            interrupted=interrupted,
            idempotency_key=held.execution.key_of(scheduled),
        )
        held.running[scheduled.id] = self._loop.create_task(self._perform(held, call))

    async def _perform(self, held: Held, call: ActivityCall) -> None:
        generation = held.generation
        outcome = await self._activities.perform(call, partial(self._is_still_ours, self.lease))
        if held.generation != generation:
            # It was cancelled, and answers nevertheless: to nobody.
            return
        held.running.pop(call.scheduled.id, None)
        held.enqueue(outcome.event, outcome.resolved, outcome.links)
        self._advance(held)

    def _is_still_ours(self, lease: Lease | None) -> bool:
        """Whether no other worker can have the instances of a lease, and perhaps have done what is to begin here."""
        return lease is not None and lease is self.lease and self._store.is_kept(lease)

    def _arm(self, held: Held) -> None:
        if held.timer is not None:
            held.disarm()
        at = held.execution.next_timer() if held.execution is not None else None
        if at is not None:
            held.timer = self._loop.call_later(max(0.0, at - self._clock.now()), self._advance, held)

    def rearm(self) -> None:
        """Arm the wake-ups of all instances in hand anew, after the wall clock has jumped."""
        for held in self.held.values():
            if held.timer is not None:
                self._arm(held)

    # -- the end

    async def stop(self) -> None:
        """Finish or cut off what runs, record what never began, and forget everything."""
        self._stopping = True
        running = [task for held in self.held.values() for task in held.running.values()]
        if running:
            await asyncio.wait(running, timeout=self._options.drain)
        await self._settled()
        for held in list(self.held.values()):
            self._record_not_started(held)
        await self._settled()
        await self.forget()

    async def forget(self) -> None:
        """Drop every instance; the store still has all of them."""
        everything = [*self.held.values(), *self._warm.values()]
        tasks = [task for held in everything for task in held.running.values()] + list(self._chores)
        self.held.clear()
        self._ids.clear()
        self._warm.clear()
        for chore in self._chores:
            chore.cancel()
        for held in everything:
            held.abandon()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
            if stubborn:
                _log.warning("%d activities go on after their cancellation; they are left behind", len(stubborn))

    def _record_not_started(self, held: Held) -> None:
        if held.execution is None or held.busy:
            return
        never = [task.id for task in held.execution.pending_activities() if task.id not in held.running]
        never = [task for task in never if task not in held.execution.asked and task not in held.execution.queued]
        if never:
            event: AnyEvent = EventRaised(name=NOT_STARTED, input=encode(never).raw)
            held.enqueue(event)
            self._advance(held)

    async def _settled(self) -> None:
        """Wait until no episode is on its way any more, but not for ever."""
        for _ in range(200):
            if not any(held.busy for held in self.held.values()):
                return
            await asyncio.sleep(0.005)

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an instance could not be resumed", exc_info=task.exception())


def parent_in(rows: Sequence[HistoryRow]) -> Parent | None:
    """Return who called the instance of a history."""
    started = (event for row in rows for event in row.events if isinstance(event, ExecutionStarted))
    return next(started).parent


def _other_code(held: Held) -> str:
    (_, began), (_, here) = split_key(held.kept_under), split_key(held.workflow.keys[0])
    return (
        f"it began with {code_text(held.kept_under)}, which is not registered here; register that code again, or let "
        f"the one {version_text(here)} take its runs over with @workflow(follows=[{began!r}])"
    )


def _decide(held: Held, execution: Execution, now: float) -> tuple[Turnout, Decisions]:
    turnout = held.turn_out()
    if held.interrupted and turnout.events:
        note = EventRaised(name=INTERRUPTED, input=encode(held.interrupted).raw)
        turnout = with_note(turnout, note)
        held.interrupted = []
    if execution.asked:
        answers = take_answers(execution, turnout.events, turnout.resolved)
        held.to_start.extend(answers.to_start)
        turnout = with_outcomes(turnout, answers.outcomes)
    if execution.queued:
        held.to_start.extend(granted_in(execution, turnout.events))
    return turnout, execution.advance(now, turnout.events, turnout.resolved)
