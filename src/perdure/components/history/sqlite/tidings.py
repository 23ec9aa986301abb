"""What a transaction brings to other processes: gathered while it is made, told once it is durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from perdure.components.history.sqlite.bell import Bell
from perdure.components.history.sqlite.parameters import parameter
from perdure.ports.history_store import Lease, News

_OTHER_WORKERS = """
SELECT EXISTS (SELECT 1 FROM worker JOIN listener ON listener.id = worker.listener WHERE listener.name IS NOT ?)
"""
_MARKS = "SELECT (SELECT value FROM counter), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'inbox'), 0)"
_ACCEPTED = "SELECT DISTINCT app_id FROM instance WHERE key > ? AND owner IS NULL AND due IS NOT NULL"
_SIGNALLED = """
SELECT DISTINCT owner, app_id, workflow FROM inbox JOIN instance ON instance.key = inbox.instance WHERE pos > ?
"""
_CONCERNED = """
SELECT DISTINCT listener.name FROM worker JOIN listener ON listener.id = worker.listener
WHERE worker.app_id IN (SELECT value FROM json_each(?)) OR worker.token IN (SELECT value FROM json_each(?))
"""
_END_WATCHES = "DELETE FROM watch WHERE instance IN (SELECT value FROM json_each(?)) RETURNING listener"
_NAMES = "SELECT name FROM listener WHERE id IN (SELECT value FROM json_each(?))"


class Tidings:
    """The news of the transaction in progress; used by who holds the writing connection.

    Args:
        bell: rings at the other processes.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._served: dict[int, tuple[str, frozenset[str]]] = {}
        self._apps: set[str] = set()
        self._finished: list[int] = []
        self._marks: tuple[int, int] | None = None
        self._calls: dict[str, News] = {}

    def serve(self, lease: Lease, workflows: Collection[str]) -> None:
        """Take note of what a worker of this process takes up by itself, so that nobody else is rung for it."""
        known = self._served.get(lease.token)
        if known is None or len(known[1]) != len(workflows):
            self._served[lease.token] = lease.app_id, frozenset(workflows)

    def serve_no_more(self, lease: Lease) -> None:
        """Forget a worker of this process."""
        self._served.pop(lease.token, None)

    def begin(self, connection: sqlite3.Connection) -> None:
        """Mark where the transaction begins, unless that was done: instances and events beyond the marks are new."""
        if self._marks is None:
            self._marks = connection.execute(_MARKS).fetchone()

    def left_to_others(self, app_ids: Iterable[str]) -> None:
        """Note apps of which something became due that nobody owns, and that is for whoever comes first."""
        self._apps.update(app_ids)

    def begun(self, workflows: Iterable[tuple[str, str]]) -> None:
        """Note workflows (app, name) of which instances got their turn and are due."""
        self._apps.update(app_id for app_id, name in workflows if not self._is_served(app_id, name))

    def finished(self, keys: Iterable[int]) -> None:
        """Note instances that ended."""
        self._finished.extend(keys)

    def address(self, connection: sqlite3.Connection) -> None:
        """Find out whom the news concern; the last thing in the transaction."""
        if self._finished:
            self._address_watchers(connection)
        accepted, signalled = self._marks or (0, 0)
        now_accepted, now_signalled = connection.execute(_MARKS).fetchone() if self._marks else (0, 0)
        if self._apps or now_accepted > accepted or now_signalled > signalled:
            self._address_workers(connection, accepted, signalled)

    def tell(self) -> None:
        """Ring; the transaction is durable."""
        for name, news in self._calls.items():
            if name != self._bell.name:
                self._bell.ring(name, news)
        self.forget()

    def forget(self) -> None:
        """Begin anew, for the next transaction, or because this one failed."""
        self._marks = None
        if self._apps or self._finished or self._calls:
            self._apps, self._finished, self._calls = set(), [], {}

    def _address_watchers(self, connection: sqlite3.Connection) -> None:
        listeners = {row[0] for row in connection.execute(_END_WATCHES, parameter(self._finished))}
        if listeners:
            self._note(connection.execute(_NAMES, parameter(listeners)), News.ENDS)

    def _address_workers(self, connection: sqlite3.Connection, accepted: int, signalled: int) -> None:
        if not connection.execute(_OTHER_WORKERS, (self._bell.name,)).fetchone()[0]:
            return
        owners: set[int] = set()
        apps = self._apps
        if self._marks:
            apps = apps.union(row[0] for row in connection.execute(_ACCEPTED, (accepted,)))
            for owner, app_id, workflow in connection.execute(_SIGNALLED, (signalled,)):
                if owner is not None:
                    owners.add(owner)
                elif not self._is_served(app_id, workflow):
                    apps.add(app_id)
        self._note(connection.execute(_CONCERNED, (*parameter(apps), *parameter(owners))), News.WORK)

    def _is_served(self, app_id: str, workflow: str) -> bool:
        return any(app_id == app and workflow in workflows for app, workflows in list(self._served.values()))

    def _note(self, rows: Iterable[tuple[str]], news: News) -> None:
        for (name,) in rows:
            self._calls[name] = self._calls.get(name, News(0)) | news
