"""Decides when instances are taken up: what is due, what was signalled, what a dead worker left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from perdure.base.clock import Clock
from perdure.base.errors import StaleLeaseError, StoreCorruptError, StoreError
from perdure.base.events import HistoryRow
from perdure.base.faults import crash_point
from perdure.engine.code import Workflow
from perdure.engine.held import Held, WorkerOptions
from perdure.engine.retention import purge_expired
from perdure.engine.signals import read_signals
from perdure.engine.values import resolve_history
from perdure.engine.worker import Worker
from perdure.ports.history_store import Claimed, HistoryStore, Signal

_log = logging.getLogger("perdure.scheduler")
_FIRST_PORTION, _LARGEST_PORTION = 8, 256
"""Instances claimed at once: few at first, so that idle workers find some, too; more where there are many."""

_BREATH = 0.001
"""Seconds that a worker which has a portion in hand waits before it claims: who has less is served first."""

_FULL_POLL = 0.1
"""Seconds between two looks of a worker that has all in hand that it may, for what it can take up again."""

_JUMP_SECONDS = 0.1
"""The wall clock has jumped when it moved by this much beside the event loop's."""


class Scheduler:
    """Keeps a worker supplied.

    Args:
        store: where instances are.
        worker: executes them.
        worker_name: name of the lease, for people.
        app_id: the app whose instances the worker executes.
        workflows: what this worker can execute, by name; may grow.
        clock: tells what is due.
        options: sizes and intervals.
        poll: seconds between two looks for what nobody tells of.
        family: an instance id: nothing but that instance and the child workflows below it is taken up; None for all.
    """

    def __init__(
        self,
        store: HistoryStore,
        worker: Worker,
        *,
        worker_name: str,
        app_id: str,
        workflows: Mapping[str, Workflow],
        clock: Clock,
        options: WorkerOptions,
        poll: float,
        family: str | None = None,
    ) -> None:
        self._store = store
        self._worker = worker
        self._worker_name = worker_name
        self._app_id = app_id
        self._workflows = workflows
        self._clock = clock
        self._options = options
        self._poll = poll
        self._family = family
        self._loop = asyncio.get_running_loop()
        self._look_at = 0.0
        self._news = asyncio.Event()
        self._planned: float | None = None
        self._reap_at = 0.0
        self._sweep_at = 0.0
        self._sweep: asyncio.Task[None] | None = None
        self._seen_version = -1
        self._was_full = False
        self._lease_lost = False
        self._drift = 0.0

    def poke(self) -> None:
        """Look for work at once: something was started, signalled or registered in this process."""
        self._news.set()

    def note_due(self, due: float | None) -> None:
        """Take note that a parked instance becomes due at this time."""
        if due is not None and (self._planned is None or due < self._planned):
            self._news.set()

    def note_lease_lost(self) -> None:
        """Take note that the store refused a commit of the worker."""
        self._lease_lost = True
        self._news.set()

    async def run(self) -> None:
        """Supply the worker until cancelled."""
        try:
            await self._run_for_ever()
        finally:
            if self._sweep is not None:
                self._sweep.cancel()

    async def _run_for_ever(self) -> None:
        while True:
            try:
                await self._round()
            except StaleLeaseError:
                self.note_lease_lost()
            except StoreError as error:
                _log.warning("the store does not answer, trying again: %s", error)
                await asyncio.sleep(self._options.reap)
            except Exception:  # noqa: BLE001 - whatever it is, the other instances are to be supplied
                _log.exception("instances could not be taken up, trying again")
                await asyncio.sleep(self._options.reap)
            await self._pause()

    async def _pause(self) -> None:
        now = self._clock.now()
        wait = min(self._look_at - self._loop.time(), self._reap_at - now)
        if self._planned is not None:
            wait = min(wait, self._planned - now)
        # Not wait_for: before Python 3.12 it loses a cancellation that comes in the turn in which the time is up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await self._news.wait()

    def _note_jump(self) -> None:
        """Arm wake-ups anew after a jump of the wall clock: they run by the event loop's clock, which never jumps."""
        drift = self._clock.now() - asyncio.get_running_loop().time()
        if abs(drift - self._drift) > _JUMP_SECONDS:
            self._drift = drift
            self._worker.rearm()

    async def _round(self) -> None:
        self._note_jump()
        if self._lease_lost:
            await self._rejoin()
        told = self._news.is_set()
        self._news.clear()
        # Until its end, for a round that an error of the store cuts off has seen nothing.
        seen, self._seen_version = self._seen_version, -1
        await self._reap()
        self._sweep_expired()
        due = self._planned is not None and self._planned <= self._clock.now()
        has_new_room = self._was_full and self._worker.has_room
        if told or due or has_new_room or self._loop.time() >= self._look_at:
            await self._look(seen, certainly=told or due or has_new_room)
        else:
            self._seen_version = seen

    async def _look(self, seen: int, *, certainly: bool) -> None:
        """Take up what there is, if anything was changed or there is another reason."""
        # With another reason the number is not worth its time: the next look of its own accord finds it changed.
        version = seen if certainly else await self._store.version()
        if certainly or version != seen:
            delivered = await self._deliver_signals()
            await self._claim()
            self._was_full = not self._worker.has_room
            lease = None if self._was_full else self._worker.lease
            self._planned = None
            if lease is not None:
                self._planned = await self._store.next_due(lease, self._workflows, self._family)
            self._seen_version = version if delivered else -1
        else:
            self._seen_version = seen
        self._look_at = self._loop.time() + (min(self._poll, _FULL_POLL) if self._was_full else self._poll)

    async def _rejoin(self) -> None:
        """Begin again under a new lease; what the worker had in hand is the store's to give."""
        _log.warning("the lease of worker %s was lost; its instances are claimed anew", self._worker_name)
        await self._worker.forget()
        if self._worker.lease is not None:
            await self._store.leave(self._worker.lease)
        self._worker.lease = await self._store.join(self._worker_name, self._app_id)
        self._lease_lost = False
        self._news.set()

    async def _reap(self) -> None:
        now = self._clock.now()
        if now < self._reap_at and self._reap_at - now <= self._options.reap:
            return
        self._reap_at = now + self._options.reap
        if await self._store.reap():
            self._news.set()

    def _sweep_expired(self) -> None:
        """Purge beside everything else what need not be kept any longer."""
        now = self._clock.now()
        if (now < self._sweep_at <= now + self._options.sweep) or (self._sweep is not None and not self._sweep.done()):
            return
        self._sweep_at = now + self._options.sweep
        self._sweep = asyncio.create_task(self._purge_expired(now))

    async def _purge_expired(self, now: float) -> None:
        options, worker = self._options, self._worker
        workflows = list(self._workflows.values())
        try:
            await purge_expired(
                self._store, app_id=worker.app_id, workflows=workflows, default=options.retention, now=now
            )
        except StoreError as error:
            _log.warning("instances that ended long ago could not be purged yet: %s", error)

    async def _deliver_signals(self) -> bool:
        """Give signals to the instances in hand; return whether all of them could be read."""
        delivered = True
        assert self._worker.lease is not None
        by_instance: dict[int, list[Signal]] = {}
        for signal in await self._store.inbox(self._worker.lease):
            by_instance.setdefault(signal.key, []).append(signal)
        for key, signals in by_instance.items():
            held = self._worker.held.get(key)
            if held is None or signals[-1].position <= held.last_signal:
                continue
            held.see(signals)
            try:
                self._worker.deliver(held, await read_signals(self._store, signals))
            except StoreCorruptError as error:
                await self._worker.postpone(held, error)
            except StoreError as error:
                # Giving the instance back would cut off its running activities.
                _log.warning("the signals of instance %s cannot be read yet: %s", held.instance_id, error)
                delivered = False
            except Exception as error:  # noqa: BLE001 - logged, and the instance says why it does not move
                _log.exception("the signals of instance %s cannot be read", held.instance_id)
                await self._worker.stall(held, f"{type(error).__name__}: {error}")
        return delivered

    async def _claim(self) -> None:
        portion = _FIRST_PORTION
        while self._worker.has_room:
            if len(self._worker.held) >= _FIRST_PORTION:
                await asyncio.sleep(_BREATH)
            assert self._worker.lease is not None
            limit = max(1, min(portion, self._options.max_running - len(self._worker.held)))
            now, family = self._clock.now(), self._family
            claimed = await self._store.claim(self._worker.lease, self._workflows, now, limit, family)
            if claimed:
                crash_point("claim.after_commit")
                await self._take_up(claimed)
            if len(claimed) < limit:
                return
            portion = min(2 * portion, _LARGEST_PORTION)

    async def _take_up(self, claimed: Sequence[Claimed]) -> None:
        cold: list[Claimed] = []
        for instance in claimed:
            held = self._worker.take_warm(instance.key, instance.next_seq)
            if held is None:
                cold.append(instance)
            else:
                held.see(instance.signals)
                await self._guarded(held, self._resume(held, instance))
        histories: dict[int, list[HistoryRow]] = {}
        for instance in cold:
            code = self._workflows[instance.workflow]
            held = Held(instance.key, instance.instance_id, code, instance.next_seq, instance.workflow)
            held.see(instance.signals)
            await self._guarded(held, self._recover(held, instance, cold, histories))

    async def _guarded(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """Take one instance up; whatever is wrong with it, it is not kept in hand unseen, nor are the others."""
        try:
            await work
        except StoreError as error:
            await self._worker.postpone(held, error)
        except Exception as error:  # noqa: BLE001 - logged, and the instance says why it does not move
            _log.exception("instance %s cannot be taken up", held.instance_id)
            await self._worker.stall(held, f"{type(error).__name__}: {error}")
        except BaseException:
            # Nobody else knows of it yet, and its function is not for the garbage collector to unwind.
            held.abandon()
            raise

    async def _resume(self, held: Held, instance: Claimed) -> None:
        self._worker.resume(held, await read_signals(self._store, instance.signals))

    async def _recover(
        self, held: Held, instance: Claimed, cold: Sequence[Claimed], histories: dict[int, list[HistoryRow]]
    ) -> None:
        if instance.key not in histories:
            histories.update(await self._store.load([other.key for other in cold]))
        rows = histories[instance.key]
        resolved = await resolve_history(self._store, rows)
        news = await read_signals(self._store, instance.signals)
        self._worker.recover(held, rows, resolved, news, instance.tickets)
