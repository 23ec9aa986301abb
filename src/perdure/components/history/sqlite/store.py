"""The history store on SQLite: the port's calls, mapped to the writer thread and a reader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perdure.base.codec import ConversationKey, Link
from perdure.base.errors import StaleLeaseError, StoreCorruptError, StoreError, StoreUnavailableError
from perdure.base.events import AnyEvent, HistoryRow, Status, decode_events
from perdure.base.ids import digest
from perdure.base.limits import Limits
from perdure.components.history.sqlite.connection import (
    connect,
    file_identity,
    log_of,
    migrate,
    preallocate_log,
    rewrite_log,
)
from perdure.components.history.sqlite.errors import translation
from perdure.components.history.sqlite.group import Append, Run, Send, blob_contents
from perdure.components.history.sqlite.lease_keeper import LeaseKeeper
from perdure.components.history.sqlite.leases import WorkerLock, end_leases, remove_lock
from perdure.components.history.sqlite.listing import expired_keys, in_line, records, records_by_id
from perdure.components.history.sqlite.purging import purge
from perdure.components.history.sqlite.queues import NEXT_TURN, declare, differs, grant_due, tickets_of
from perdure.components.history.sqlite.restoring import restore
from perdure.components.history.sqlite.writer import Writer
from perdure.ports.history_store import (
    EVERYTHING,
    NO_BLOBS,
    NO_TICKETS,
    Appended,
    Claimed,
    Episode,
    InstanceQuery,
    InstanceRecord,
    Lease,
    NewInstance,
    Restored,
    Signal,
    Started,
)
from perdure.ports.tickets import Queue

T = TypeVar("T")

_CLAIM = """
UPDATE instance SET
    owner = :token, due = coalesce(due, 0), status = CASE status WHEN 'PENDING' THEN 'RUNNING' ELSE status END
WHERE key IN (
    SELECT key FROM instance INDEXED BY instance_due
    WHERE owner IS NULL AND due <= :now AND workflow IN (SELECT value FROM json_each(:workflows))
    ORDER BY due, key LIMIT :limit
)
RETURNING key
"""
_CLAIMED = """
SELECT json_group_array(json_array(
    key, id, workflow, (SELECT max(seq) + 1 FROM history WHERE history.instance = taken.key)
)) FROM (SELECT * FROM instance WHERE key IN (SELECT value FROM json_each(?)) ORDER BY due, key) AS taken
"""
_SIGNALS = """
SELECT json_group_array(json_array(pos, instance, event))
FROM (SELECT * FROM inbox WHERE instance IN (SELECT value FROM json_each(?)) ORDER BY pos)
"""
_OWNED_SIGNALS = """
SELECT json_group_array(json_array(pos, inbox.instance, event))
FROM (SELECT * FROM inbox ORDER BY pos) AS inbox
JOIN instance ON instance.key = inbox.instance AND instance.owner = ?
"""
_HISTORY = """
SELECT json_group_array(json_array(instance, seq, format('%!.17g', at), events))
FROM (
    SELECT instance, seq, at, events FROM json_each(?)
    JOIN instance ON instance.key = value
    JOIN history ON history.instance = instance.key AND history.seq >= instance.base
    ORDER BY instance, seq
)
"""
_ROWS = """
SELECT seq, at, events FROM history JOIN instance ON instance.key = history.instance
WHERE instance = ? AND (seq = 0 OR seq >= base) ORDER BY seq
"""
_PURGED_AT_ONCE = 100
_RELEASE = """
UPDATE instance SET
    owner = NULL, waits = :waits,
    due = CASE
        WHEN NOT :stalled AND EXISTS (SELECT 1 FROM inbox WHERE inbox.instance = instance.key) THEN 0
        ELSE :due
    END
WHERE key = :key AND owner = :token
"""


class SQLiteHistoryStore:
    """A history store in one SQLite file.

    Args:
        path: the file; created when missing, in a folder that exists.
        lease_seconds: a worker that has not renewed its lease for this long counts as dead.
        busy_timeout: seconds to wait for another process's write lock.
    """

    def __init__(self, path: str | Path, *, lease_seconds: float = 10.0, busy_timeout: float = 5.0) -> None:
        self._name = str(path)
        # Neither a change of the working folder nor a symbolic link may lead to other files beside it.
        self._path = Path(os.path.realpath(path))
        self._lease_seconds = lease_seconds
        self._busy_timeout = busy_timeout
        self._leases = LeaseKeeper(self._path, lease_seconds)
        self._identity: tuple[int, int] | None = None
        self._replaced = False
        self._log_is_doubtful = False
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._connections: list[sqlite3.Connection] = []
        self._readers: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """The path of the database file, as it was given."""
        return self._name

    async def open(self) -> None:
        """Open or create the file; see the port for the errors."""
        self._log_is_doubtful = log_of(self._path).exists()
        writing = connect(self._path, busy_timeout=self._busy_timeout)
        self._connections.append(writing)
        try:
            migrate(writing, self.name)
            preallocate_log(writing, self._path)
            self._reader = connect(self._path, busy_timeout=self._busy_timeout)
            self._connections.append(self._reader)
            self._identity, self._replaced = file_identity(self._path), False
        except BaseException:
            self._close_connections()
            raise
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="perdure-reader")
        self._writer = Writer(
            writing,
            self.name,
            busy_timeout=self._busy_timeout,
            guard=self._before_commit,
            idle=self._renew,
            idle_every=self._lease_seconds / 5,
        )

    async def close(self) -> None:
        """Commit what was submitted, then close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if self._leases.locks:
                await self._give_up_leases(writer)
            await writer.close()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        self._close_connections()

    async def _give_up_leases(self, writer: Writer) -> None:
        """End what nobody left: whoever looks for dead workers need not wait for their time limit."""
        try:
            await writer.request(Run(self._leases.give_up))
        except StoreError:
            end = WorkerLock.abandon
        else:
            end = WorkerLock.release
        for lock in self._leases.locks.values():
            end(lock)
        self._leases.locks.clear()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _writing(self) -> Writer:
        if self._writer is None:
            raise StoreUnavailableError(self.name, "the store is not open")
        return self._writer

    async def _change(
        self,
        change: Callable[[sqlite3.Connection], T],
        blobs: Mapping[str, bytes] = NO_BLOBS,
        links: Sequence[Link] = (),
    ) -> T:
        result: T = await self._writing().request(Run(change, blobs, links))
        return result

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            assert self._reader is not None
            self._require_file()
            with translation(self.name):
                return query(self._reader)

        if self._readers is None:
            raise StoreUnavailableError(self.name, "the store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    def _require_file(self) -> None:
        """Refuse to go on with a file that nobody else would find: what is committed to it is lost."""
        if not self._replaced:
            # Another error of input and output (no access for a moment) is SQLite's to report.
            with contextlib.suppress(OSError):
                self._replaced = file_identity(self._path) != self._identity
        if self._replaced:
            raise StoreUnavailableError(
                self.name,
                "the database file was removed or replaced while in use; end the program, put the file back or choose "
                "another with --store, and start again",
            )

    def _before_commit(self) -> None:
        """Refuse commits that would not last: to a file that is gone, behind a log that may be on no disk."""
        self._require_file()
        if self._log_is_doubtful:
            rewrite_log(self._connections[0], self._path)
            self._log_is_doubtful = False

    # -- leases

    async def join(self, worker: str) -> Lease:
        """Register a worker under a kernel lock and a lease in the file."""
        lock = WorkerLock(self._path)

        def insert(connection: sqlite3.Connection) -> int:
            statement = "INSERT INTO worker (name, lock_file, lease_seconds) VALUES (?, ?, ?)"
            return connection.execute(statement, (worker, lock.path.name, self._lease_seconds)).lastrowid or 0

        try:
            token = await self._change(insert)
        except BaseException:
            lock.release()
            raise
        self._leases.locks[token] = lock
        return Lease(token, worker)

    async def leave(self, lease: Lease) -> None:
        """End a lease; its instances are free at once."""
        await self._change(lambda connection: end_leases(connection, [lease.token], recovered=False))
        lock = self._leases.locks.pop(lease.token, None)
        if lock is not None:
            lock.release()

    async def reap(self) -> int:
        """End the leases of workers whose process is gone or silent."""
        dead = await self._read(self._leases.dead)
        if not dead:
            return 0
        # Whatever comes of it: who is not ended now is watched anew.
        self._leases.watch_anew()
        freed, ended = await self._change(partial(self._leases.end, dead=dead, asked_at=time.monotonic()))
        for row in ended:
            remove_lock(self._path.parent / row.lock_file)
        return freed

    def _renew(self, connection: sqlite3.Connection) -> None:
        if not self._leases.wants_renewal:
            return
        try:
            self._require_file()
            self._leases.renew(connection)
        except (sqlite3.Error, StoreError):
            # The disk is full or the store is locked for a moment: the lease is renewed at the next occasion. Nobody
            # else can renew his meanwhile: that silence is not counted.
            self._leases.watch_anew()

    # -- instances

    async def start(self, new: NewInstance) -> Started:
        """Accept an instance, or find the one that has its id already."""
        outcome: Started = await self._writing().request(new)
        return outcome

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Add an episode to the next group commit."""
        self._writing().submit(Append(lease, episode), done)

    async def release(self, lease: Lease, key: int, *, due: float | None, waits: str | None, stalled: bool) -> None:
        """Give an instance back without a history row."""

        def give_back(connection: sqlite3.Connection) -> StaleLeaseError | None:
            parameters = {"due": due, "waits": waits, "stalled": stalled, "key": key, "token": lease.token}
            if connection.execute(_RELEASE, parameters).rowcount == 1:
                return None
            # Returned, not raised: what was refused must not roll the rest of its group back.
            return StaleLeaseError(self.name, f"instance {key} does not belong to worker {lease.worker!r} any more")

        await self._change(give_back)

    async def signal(self, instance_id: str, event: str, blobs: Mapping[str, bytes] = NO_BLOBS) -> Status | None:
        """Put an event into an inbox."""
        outcome: Status | None = await self._writing().request(Send(instance_id, event, blobs))
        return outcome

    async def declare(self, limits: Mapping[Queue, Limits], now: float) -> None:
        """Let these limits hold from now on."""
        # Most programs limit nothing: their start needs no commit for that.
        if await self._read(partial(differs, limits=limits)):
            await self._change(partial(declare, limits=limits, now=now))

    async def claim(self, lease: Lease, workflows: Collection[str], now: float, limit: int) -> list[Claimed]:
        """Take over due instances that nobody owns."""
        names = msgspec.json.encode(list(workflows)).decode()

        def take(connection: sqlite3.Connection) -> list[Claimed] | StaleLeaseError:
            if connection.execute("SELECT 1 FROM worker WHERE token = ?", (lease.token,)).fetchone() is None:
                # Returned, not raised: what was refused must not roll the rest of its group back.
                return StaleLeaseError(self.name, f"the lease of worker {lease.worker!r} was taken over")
            grant_due(connection, now)
            parameters = {"token": lease.token, "now": now, "workflows": names, "limit": limit}
            keys = [row[0] for row in connection.execute(_CLAIM, parameters)]
            return _claimed(connection, keys) if keys else []

        claimed: list[Claimed] = await self._writing().request(Run(take))
        return claimed

    async def inbox(self, lease: Lease) -> list[Signal]:
        """Return the signals of the lease's instances."""

        def query(connection: sqlite3.Connection) -> list[Signal]:
            text = connection.execute(_OWNED_SIGNALS, (lease.token,)).fetchone()[0]
            return sorted((Signal(*row) for row in msgspec.json.decode(text)), key=attrgetter("position"))

        return await self._read(query)

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest time at which an instance without owner wants attention."""
        names = msgspec.json.encode(list(workflows)).decode()
        statement = (
            "SELECT due FROM instance WHERE owner IS NULL AND due IS NOT NULL "
            "AND workflow IN (SELECT value FROM json_each(?)) ORDER BY due LIMIT 1"
        )

        def query(connection: sqlite3.Connection) -> float | None:
            row = connection.execute(statement, (names,)).fetchone()
            (turn,) = connection.execute(NEXT_TURN).fetchone()
            return min((at for at in (turn, None if row is None else row[0]) if at is not None), default=None)

        return await self._read(query)

    async def load(self, keys: Collection[int]) -> dict[int, list[HistoryRow]]:
        """Return whole histories."""

        def query(connection: sqlite3.Connection) -> dict[int, list[HistoryRow]]:
            text = connection.execute(_HISTORY, (msgspec.json.encode(list(keys)).decode(),)).fetchone()[0]
            histories: dict[int, list[HistoryRow]] = {key: [] for key in keys}
            for key, seq, at, events in msgspec.json.decode(text):
                histories[key].append(HistoryRow(seq, float(at), self._decoded(key, events)))
            return histories

        return await self._read(query)

    def _decoded(self, key: int, events: str) -> tuple[AnyEvent, ...]:
        try:
            return decode_events(events)
        except msgspec.MsgspecError as error:
            raise StoreCorruptError(
                self.name, f"the history of instance {key} is damaged ({error}); restore a backup"
            ) from error

    async def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return contents, each checked against its digest."""
        if not digests:
            return {}
        statement = "SELECT digest, encoding, content FROM blob WHERE digest IN (SELECT value FROM json_each(?))"
        parameter = msgspec.json.encode(list(digests)).decode()
        try:
            found = await self._read(lambda connection: blob_contents(connection.execute(statement, (parameter,))))
        except zlib.error as error:
            raise StoreCorruptError(self.name, f"some content is damaged ({error}); restore a backup") from error
        for address in digests:
            if address not in found or digest(found[address]) != address:
                raise StoreCorruptError(self.name, f"the content {address} is missing or damaged; restore a backup")
        return dict(found)

    async def conversation(self, key: ConversationKey) -> list[Link]:
        """Return the links of a conversation, walked back from its last one."""
        root, depth, address = key
        statement = "SELECT root, depth, digest, parent, message FROM link WHERE root = ? AND depth <= ?"

        def query(connection: sqlite3.Connection) -> list[Link]:
            rows = connection.execute(statement, (root, depth))
            by_place = {(row[1], row[2]): Link(*row) for row in rows}
            chain: list[Link] = []
            wanted = address
            for place in range(depth, 0, -1):
                link = by_place.get((place, wanted))
                if link is None:
                    raise StoreCorruptError(self.name, f"link {place} of conversation {root!r} is missing")
                chain.append(link)
                wanted = link.parent
            return chain[::-1]

        return await self._read(query)

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """Return one instance, or None."""

        def query(connection: sqlite3.Connection) -> list[InstanceRecord]:
            return in_line(connection, list(records_by_id(connection, [instance_id]).values()))

        return next(iter(await self._read(query)), None)

    async def find_all(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return those of the instances that exist, by id."""
        wanted = list(instance_ids)
        return await self._read(lambda connection: records_by_id(connection, wanted))

    async def instances(self, query: InstanceQuery = EVERYTHING) -> list[InstanceRecord]:
        """Return instances, the newest first."""
        return await self._read(lambda connection: records(connection, query))

    async def rows(self, key: int) -> list[tuple[int, float, str]]:
        """Return the rows of an instance as they are stored."""
        return await self._read(lambda connection: list(connection.execute(_ROWS, (key,))))

    async def waiting(self, key: int) -> list[str]:
        """Return the events in an inbox."""
        statement = "SELECT event FROM inbox WHERE instance = ? ORDER BY pos"
        return await self._read(lambda connection: [row[0] for row in connection.execute(statement, (key,))])

    async def restore(self, restored: Sequence[Restored]) -> bool:
        """Add instances with their histories."""
        blobs = {address: content for one in restored for address, content in one.blobs.items()}
        links = [link for one in restored for link in one.links]
        return await self._change(partial(restore, restored=restored), blobs, links)

    async def expired(
        self, *, app_id: str, workflow: str | None, status: Collection[Status], until: float, limit: int
    ) -> list[int]:
        """Return the keys of instances that ended before a time."""
        parameters: dict[str, object] = {"app_id": app_id, "workflow": workflow, "until": until, "limit": limit}
        parameters["status"] = msgspec.json.encode(list(status)).decode()
        return await self._read(partial(expired_keys, parameters=parameters))

    async def purge(self, keys: Collection[int]) -> int:
        """Delete instances that have ended, a few at a time."""
        chosen, purged = list(keys), 0
        for begin in range(0, len(chosen), _PURGED_AT_ONCE):
            purged += await self._change(partial(purge, keys=chosen[begin : begin + _PURGED_AT_ONCE]))
        return purged

    async def version(self) -> int:
        """Return SQLite's counter of changes by other connections."""

        def query(connection: sqlite3.Connection) -> int:
            number: int = connection.execute("PRAGMA data_version").fetchone()[0]
            return number

        return await self._read(query)

    async def check(self) -> dict[str, Any]:
        """Check every page of the file, and count what is in it."""

        def query(connection: sqlite3.Connection) -> dict[str, Any]:
            damage = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
            if damage != ["ok"]:
                raise StoreCorruptError(self.name, "the database is damaged: " + "; ".join(damage))
            counts = dict(connection.execute("SELECT status, count(*) FROM instance GROUP BY status"))
            return {
                "sqlite": sqlite3.sqlite_version,
                "schema": connection.execute("PRAGMA user_version").fetchone()[0],
                "bytes": self._path.stat().st_size,
                "instances": counts,
                "workers": connection.execute("SELECT count(*) FROM worker").fetchone()[0],
            }

        return await self._read(query)


def _claimed(connection: sqlite3.Connection, keys: list[int]) -> list[Claimed]:
    parameter = (msgspec.json.encode(keys).decode(),)
    signals: dict[int, list[Signal]] = {}
    tickets = tickets_of(connection, keys)
    for row in msgspec.json.decode(connection.execute(_SIGNALS, parameter).fetchone()[0]):
        signals.setdefault(row[1], []).append(Signal(*row))
    return [
        Claimed(
            key=key,
            instance_id=name,
            workflow=workflow,
            next_seq=seq,
            signals=tuple(signals.get(key, ())),
            tickets=tickets.get(key, NO_TICKETS),
        )
        for key, name, workflow, seq in msgspec.json.decode(connection.execute(_CLAIMED, parameter).fetchone()[0])
    ]
