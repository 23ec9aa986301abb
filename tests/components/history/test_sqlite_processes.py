"""Several processes over one file, some of them dead: nothing acknowledged is lost, nobody writes after his time."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.components.history.child import Child, append, new_instance, with_store

from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.ports.history_store import Episode

PATIENCE = 20.0


async def reaped(store: SQLiteHistoryStore) -> int:
    async with asyncio.timeout(PATIENCE):
        while not (freed := await store.reap()):
            await asyncio.sleep(0.02)
        return freed


async def stop_between_commits(child: Child, path: Path) -> None:
    """Stop a process while it does not hold the store's write lock; renewing its lease is a commit, too."""
    async with asyncio.timeout(PATIENCE):
        while True:
            child.signal(signal.SIGSTOP)
            os.waitpid(child.process.pid, os.WUNTRACED)
            with closing(sqlite3.connect(path, isolation_level=None, timeout=0.05)) as connection:
                with suppress(sqlite3.OperationalError):
                    connection.execute("BEGIN IMMEDIATE")
                if connection.in_transaction:
                    return
            child.signal(signal.SIGCONT)
            await asyncio.sleep(0.01)


def lock_files(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}-worker-*"))


@pytest.mark.parametrize("attempt", range(5))
def test_processes_that_create_the_store_at_once_all_find_it_whole(tmp_path: Path, attempt: int):
    path = tmp_path / "perdure.db"
    children = [Child("open", path) for _ in range(4)]
    try:
        assert [child.hear() for child in children] == ["ready"] * 4
        for child in children:
            child.tell()
        assert [child.hear() for child in children] == ["opened"] * 4
    finally:
        for child in children:
            child.kill()

    async def look(store: SQLiteHistoryStore) -> None:
        assert (await store.check())["instances"] == {"RUNNING": 4}

    with_store(path, look)


@pytest.mark.parametrize("rows", [1, 150])
def test_nothing_acknowledged_is_lost_when_a_process_is_killed(tmp_path: Path, rows: int):
    path = tmp_path / "perdure.db"
    with Child("write", path) as child:
        acknowledged = 0
        while acknowledged < rows:
            acknowledged = int(child.hear())
        child.kill()
    # The log still has the zeros that were put there in advance.
    assert Path(f"{path}-wal").stat().st_size > 4_000_000

    async def look(store: SQLiteHistoryStore) -> None:
        record = await store.find("written")
        assert record is not None
        history = (await store.load([record.key]))[record.key]
        assert [row.seq for row in history] == list(range(len(history)))
        assert len(history) > acknowledged
        assert (await store.check())["instances"] == {"RUNNING": 1}

    with_store(path, look)


def test_a_killed_worker_is_reaped_at_once_by_its_lock_file(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def take_over(store: SQLiteHistoryStore) -> None:
        with Child("own", path, 3600) as child:
            assert await asyncio.to_thread(child.hear) == "owning"
            assert await store.reap() == 0
            child.kill()
            # Its lease would last for an hour: only the lock can tell.
            assert await store.reap() == 1
        record = await store.find("owned")
        assert record is not None
        assert (record.owner, record.recoveries) == (None, 1)
        assert lock_files(path) == []
        assert [one.key for one in await store.claim(await store.join("next", "test"), ["flow"], 2.0, 9)] == [
            record.key
        ]

    with_store(path, take_over)


def test_a_worker_whose_lock_file_is_missing_lives_until_its_time_limit(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def take_over(store: SQLiteHistoryStore) -> None:
        with Child("own", path, 2) as child:
            assert await asyncio.to_thread(child.hear) == "owning"
            for file in lock_files(path):
                file.unlink()
            assert await store.reap() == 0
            child.kill()
            assert await store.reap() == 0
            assert await reaped(store) == 1

    with_store(path, take_over)


def test_a_store_that_is_closed_under_its_worker_frees_it_for_the_next_reaper(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def leave_nothing(store: SQLiteHistoryStore) -> None:
        await store.start(new_instance("owned", await store.join("one", "test")))

    async def take_over(store: SQLiteHistoryStore) -> None:
        assert await store.reap() == 1

    with_store(path, leave_nothing, lease_seconds=3600)
    with_store(path, take_over)


def test_a_worker_that_hangs_loses_its_lease_and_its_later_commit_is_refused(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def take_over(store: SQLiteHistoryStore) -> None:
        with Child("own", path, 0.4) as child:
            assert await asyncio.to_thread(child.hear) == "owning"
            await stop_between_commits(child, path)
            assert await reaped(store) == 1
            lease = await store.join("next", "test")
            claimed = await store.claim(lease, ["flow"], 2.0, 9)
            child.signal(signal.SIGCONT)
            child.tell()
            assert await asyncio.to_thread(child.hear) == "StaleLeaseError"
            key = claimed[0].key
            assert len((await store.load([key]))[key]) == 1
            await append(store, lease, Episode(key=key, seq=1, at=2.0, events="[]"))
        assert lock_files(path) != []

    with_store(path, take_over)


def test_a_worker_that_goes_on_in_time_keeps_its_lease(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def watch(store: SQLiteHistoryStore) -> None:
        lease = await store.join("renewing", "test")
        await store.start(new_instance("kept", lease))
        other = SQLiteHistoryStore(path)
        await other.open()
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + 3 * 0.4
            while loop.time() < until:
                assert await other.reap() == 0
                await asyncio.sleep(0.05)
        finally:
            await other.close()

    with_store(path, watch, lease_seconds=0.4)


@pytest.mark.parametrize("name", ["../victim", "victim", "perdure.db-worker-/../../victim", None])
def test_lock_files_in_the_database_lead_to_no_other_file(tmp_path: Path, name: str | None):
    folder = tmp_path / "store"
    (folder / "perdure.db-worker-").mkdir(parents=True)
    victims = [tmp_path / "victim", folder / "victim"]
    for victim in victims:
        victim.touch()

    async def bury(store: SQLiteHistoryStore) -> None:
        statement = "INSERT INTO worker (name, lock_file, lease_seconds) VALUES ('dead', ?, 3600)"
        with closing(sqlite3.connect(folder / "perdure.db", isolation_level=None)) as connection:
            connection.execute(statement, (name,))
            await store.reap()
            assert connection.execute("SELECT count(*) FROM worker").fetchone() == (1,)
            connection.execute("UPDATE worker SET lease_seconds = 0")
            await store.reap()
            assert connection.execute("SELECT count(*) FROM worker").fetchone() == (0,)

    with_store(folder / "perdure.db", bury)
    assert all(victim.exists() for victim in victims)
