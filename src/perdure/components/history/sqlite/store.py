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
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perdure.base.codec import ConversationKey, Link
from perdure.base.errors import StaleLeaseError, StoreCorruptError, StoreError, StoreUnavailableError
from perdure.base.events import AnyEvent, HistoryRow, Status, decode_events
from perdure.base.ids import digest
from perdure.base.limits import Limits
from perdure.components.history.sqlite import claims
from perdure.components.history.sqlite.bell import Bell
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
from perdure.components.history.sqlite.leases import WorkerLock, end_leases, enrol, is_live, strike_off
from perdure.components.history.sqlite.listing import expired_keys, in_line, records, records_by_id
from perdure.components.history.sqlite.purging import purge
from perdure.components.history.sqlite.queues import declare, differs, grant_due
from perdure.components.history.sqlite.restoring import restore
from perdure.components.history.sqlite.tidings import Tidings
from perdure.components.history.sqlite.writer import Writer
from perdure.ports.history_store import (
    EVERYTHING,
    NO_BLOBS,
    Appended,
    Claimed,
    Episode,
    InstanceQuery,
    InstanceRecord,
    Lease,
    NewInstance,
    News,
    Restored,
    Signal,
    Started,
)
from perdure.ports.tickets import Queue

T = TypeVar("T")

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
    owner = NULL, waits = :waits, status = coalesce(:status, status),
    due = CASE
        WHEN NOT :stalled AND EXISTS (SELECT 1 FROM inbox WHERE inbox.instance = instance.key) THEN 0
        WHEN EXISTS (SELECT 1 FROM inbox WHERE inbox.instance = instance.key AND inbox.pos > :seen) THEN 0
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
        self._bell = Bell(self._path)
        self._tidings = Tidings(self._bell)
        self._leases = LeaseKeeper(self._path, lease_seconds, self._bell)
        self._listeners: list[Callable[[News], None]] = []
        self._is_enrolled = False
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
            # From here on the writer waits for locks in its own way.
            writing.execute("PRAGMA busy_timeout = 0")
            preallocate_log(writing, self._path)
            self._reader = connect(self._path, busy_timeout=self._busy_timeout)
            self._connections.append(self._reader)
            self._identity, self._replaced = file_identity(self._path), False
        except BaseException:
            self._close_connections()
            raise
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="perdure-reader")
        self._tidings = Tidings(self._bell)
        self._writer = Writer(
            writing,
            self.name,
            self._path,
            tidings=self._tidings,
            busy_timeout=self._busy_timeout,
            guard=self._before_commit,
            idle=self._renew,
            idle_every=self._lease_seconds / 5,
        )

    async def close(self) -> None:
        """Commit what was submitted, then close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if self._leases.locks or self._is_enrolled:
                await self._sign_off(writer)
            await writer.close()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        self._listeners.clear()
        self._bell.close()
        self._is_enrolled = False
        self._close_connections()

    async def _sign_off(self, writer: Writer) -> None:
        """End what nobody left: whoever looks for dead workers need not wait for their time limit."""
        try:
            await writer.request(Run(self._give_up))
        except StoreError:
            end = WorkerLock.abandon
        else:
            end = WorkerLock.release
        self._leases.let_go(end)

    def _give_up(self, connection: sqlite3.Connection) -> None:
        self._leases.give_up(connection)
        if self._bell.name is not None:
            strike_off(connection, self._bell.name)

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

    def _before_commit(self, patience: float) -> None:
        """Refuse commits that would not last: to a file that is gone, behind a log that may be on no disk."""
        self._require_file()
        if self._log_is_doubtful:
            rewrite_log(self._connections[0], self._path, patience)
            self._log_is_doubtful = False

    # -- leases

    async def join(self, worker: str, app_id: str) -> Lease:
        """Register a worker of an app under a kernel lock and a lease in the file."""
        lock = WorkerLock(self._path)
        try:
            token = await self._change(lambda connection: self._leases.insert(connection, worker, app_id, lock))
        except BaseException:
            lock.release()
            raise
        self._leases.keep(token, lock)
        self._is_enrolled = True
        return Lease(token, worker, app_id)

    async def leave(self, lease: Lease) -> None:
        """End a lease; its instances are free at once."""
        self._tidings.serve_no_more(lease)
        await self._change(lambda connection: end_leases(connection, [lease.token], self._tidings, recovered=False))
        self._leases.release(lease.token)

    def is_kept(self, lease: Lease) -> bool:
        """Return whether a lease was renewed in time, so that nobody can have ended it."""
        return self._leases.is_kept(lease.token)

    async def reap(self) -> int:
        """End the leases of workers whose process is gone or silent."""
        dead = await self._read(self._leases.dead)
        if not dead:
            return 0
        # Whatever comes of it: who is not ended now is watched anew.
        self._leases.watch_anew()
        asked_at = time.monotonic()
        freed, ended = await self._change(
            lambda connection: self._leases.end(connection, dead, self._tidings, asked_at)
        )
        self._leases.clear_away(ended, dead)
        return freed

    def _renew(self, connection: sqlite3.Connection) -> None:
        # A disk that is full or locked for a moment: the lease is renewed at the next occasion, or it is lost and the
        # fence refuses what comes after.
        with contextlib.suppress(sqlite3.Error, StoreError):
            if self._leases.wants_renewal:
                self._require_file()
                self._leases.renew(connection, self._busy_timeout)

    async def working_apps(self) -> set[str]:
        """Return the apps that have a worker with a lease."""
        statement = "SELECT DISTINCT app_id FROM worker"
        return await self._read(lambda connection: {row[0] for row in connection.execute(statement)})

    # -- news

    def listen(self, on_news: Callable[[News], None]) -> Callable[[], None] | None:
        """Be told of what other processes do, by a socket beside the file; None where that cannot be."""
        if self._writer is None:
            raise StoreUnavailableError(self.name, "the store is not open")
        if self._bell.name is None:
            try:
                self._bell.hang(self._pass_on)
            except (OSError, NotImplementedError):
                return None
        self._listeners.append(on_news)
        return partial(self._stop_listening, on_news)

    def _stop_listening(self, on_news: Callable[[News], None]) -> None:
        if on_news in self._listeners:
            self._listeners.remove(on_news)

    def _pass_on(self, news: News) -> None:
        for on_news in list(self._listeners):
            on_news(news)

    async def watch(self, instance_ids: Collection[str]) -> dict[str, InstanceRecord]:
        """Return those of the instances that exist, and be told of the end of those that run."""
        if self._bell.name is None:
            return await self.find_all(instance_ids)
        wanted = list(instance_ids)

        def note(connection: sqlite3.Connection) -> dict[str, InstanceRecord]:
            found = records_by_id(connection, wanted)
            running = [record.key for record in found.values() if not record.status.finished]
            parameters = (enrol(connection, self._bell), msgspec.json.encode(running).decode())
            connection.execute(
                "INSERT OR IGNORE INTO watch (listener, instance) SELECT ?, value FROM json_each(?)", parameters
            )
            return found

        self._is_enrolled = True
        return await self._change(note)

    # -- instances

    async def start(self, new: NewInstance) -> Started:
        """Accept an instance, or find the one that has its id already."""
        outcome: Started = await self._writing().request(new)
        return outcome

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Add an episode to the next group commit."""
        self._writing().submit(Append(lease, episode), done)

    async def release(
        self,
        lease: Lease,
        key: int,
        *,
        due: float | None,
        waits: str | None,
        stalled: bool,
        seen: int | None = None,
        status: Status | None = None,
    ) -> None:
        """Give an instance back without a history row."""

        def give_back(connection: sqlite3.Connection) -> StaleLeaseError | None:
            parameters = {"due": due, "waits": waits, "stalled": stalled, "key": key, "token": lease.token}
            parameters |= {"seen": seen, "status": status}
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
            await self._change(lambda connection: self._tidings.begun(declare(connection, limits, now)))

    async def claim(
        self, lease: Lease, workflows: Collection[str], now: float, limit: int, family: str | None = None
    ) -> list[Claimed]:
        """Take over due instances of the lease's app that nobody owns."""
        self._tidings.serve(lease, workflows)

        def take(connection: sqlite3.Connection) -> list[Claimed] | StaleLeaseError:
            if not is_live(connection, lease):
                # Returned, not raised: what was refused must not roll the rest of its group back.
                return self._stale(lease)
            self._tidings.begun(grant_due(connection, now))
            return claims.claim(connection, lease, claims.Wanted(workflows, family), now, limit)

        claimed: list[Claimed] = await self._writing().request(Run(take))
        return claimed

    async def inbox(self, lease: Lease) -> list[Signal]:
        """Return the signals of the lease's instances."""

        def query(connection: sqlite3.Connection) -> list[Signal]:
            if not is_live(connection, lease):
                raise self._stale(lease)
            return claims.owned_signals(connection, lease)

        return await self._read(query)

    def _stale(self, lease: Lease) -> StaleLeaseError:
        return StaleLeaseError(self.name, f"the lease of worker {lease.worker!r} (token {lease.token}) was taken over")

    async def next_due(self, lease: Lease, workflows: Collection[str], family: str | None = None) -> float | None:
        """Return the earliest time at which an instance of the lease's app without owner wants attention."""
        wanted = claims.Wanted(workflows, family)
        return await self._read(lambda connection: claims.next_due(connection, lease, wanted))

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
