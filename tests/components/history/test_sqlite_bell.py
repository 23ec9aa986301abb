"""The bell: who is rung, what is left behind, and that ringing neither waits nor trusts anybody."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.components.history.child import Child, append, new_instance, with_store

from perdure.base.events import Status
from perdure.components.history.sqlite import SQLiteHistoryStore
from perdure.components.history.sqlite.bell import Bell
from perdure.ports.history_store import Episode, News, Park

PATIENCE = 10.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")


def bells(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}-bell-*"))


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return number


async def heard(news: asyncio.Queue[News]) -> News:
    return await asyncio.wait_for(news.get(), PATIENCE)


def test_a_bell_is_its_owners_alone_and_goes_with_its_store(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def listen(store: SQLiteHistoryStore) -> None:
        assert bells(path) == []
        assert store.listen(lambda _: None) is not None
        await store.join("one", "test")
        (bell,) = bells(path)
        assert stat.S_ISSOCK(bell.stat().st_mode)
        assert stat.S_IMODE(bell.stat().st_mode) == 0o600
        assert count(path, "listener") == 1

    with_store(path, listen)
    assert bells(path) == []
    assert count(path, "listener") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a short way to a far folder")
def test_a_path_that_is_longer_than_a_sockets_address_has_a_bell(tmp_path: Path):
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    path = folder / "perdure.db"

    async def run(store: SQLiteHistoryStore) -> None:
        news: asyncio.Queue[News] = asyncio.Queue()
        assert store.listen(news.put_nowait) is not None
        await store.join("one", "test")
        other = SQLiteHistoryStore(path)
        await other.open()
        try:
            await other.start(new_instance("first"))
            assert await heard(news) == News.WORK
        finally:
            await other.close()

    with_store(path, run)


def test_a_store_whose_folder_takes_no_bell_says_that_it_cannot_tell(tmp_path: Path):
    # The name of the socket would be longer than a file's name may be.
    path = tmp_path / ("x" * 245)

    async def listen(store: SQLiteHistoryStore) -> None:
        assert store.listen(lambda _: None) is None
        await store.start(new_instance("first"))
        assert (await store.watch(["first"]))["first"].status is Status.RUNNING
        assert count(path, "watch") == 0

    with_store(path, listen)


def test_whatever_is_sent_to_a_bell_is_news_or_nothing(tmp_path: Path):
    async def run() -> None:
        news: asyncio.Queue[News] = asyncio.Queue()
        bell = Bell(tmp_path / "perdure.db")
        bell.hang(news.put_nowait)
        assert bell.name is not None
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as stranger:
            for sent in (b"", b"\x00", b"\xf0garbage", b"\xff" * 5000, bytes([News.ENDS.value])):
                stranger.sendto(sent, str(tmp_path / bell.name))
        first = await heard(news)
        assert News.ENDS in first
        assert news.empty()
        bell.close()

    asyncio.run(run())


def test_ringing_at_a_process_that_hangs_never_waits(tmp_path: Path):
    async def run() -> None:
        news: asyncio.Queue[News] = asyncio.Queue()
        hanging, ringing = Bell(tmp_path / "perdure.db"), Bell(tmp_path / "perdure.db")
        hanging.hang(news.put_nowait)
        assert hanging.name is not None
        # Its event loop has no turn meanwhile: far more than its queue takes.
        for _ in range(5000):
            ringing.ring(hanging.name, News.WORK)
        assert await heard(news) == News.WORK
        hanging.close()
        ringing.ring("perdure.db-bell-0123456789ab", News.WORK)
        ringing.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize("name", ["../victim", "victim", "perdure.db-bell-/../../victim", "perdure.db-bell-\0", ""])
def test_names_in_the_database_lead_to_no_other_file(tmp_path: Path, name: str):
    folder = tmp_path / "store"
    (folder / "perdure.db-bell-").mkdir(parents=True)
    victims = [tmp_path / "victim", folder / "victim"]
    for victim in victims:
        victim.touch()
    bell = Bell(folder / "perdure.db")
    bell.ring(name, News.WORK)
    assert bell.is_abandoned(name)
    bell.remove(name)
    assert all(victim.exists() for victim in victims)


def test_the_bell_and_the_watches_of_a_killed_process_are_cleared_away(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def clear(store: SQLiteHistoryStore) -> None:
        await store.start(new_instance("watched", await store.join("one", "test")))
        with Child("watch", path) as child:
            assert await asyncio.to_thread(child.hear) == "watching"
            assert (count(path, "listener"), count(path, "watch"), len(bells(path))) == (1, 1, 1)
            child.signal(signal.SIGSTOP)
            await store.reap()
            assert (count(path, "listener"), count(path, "watch")) == (1, 1), "it only sleeps"
            child.kill()
            await store.reap()
        assert (count(path, "listener"), count(path, "watch"), bells(path)) == (0, 0, [])

    with_store(path, clear)


def test_an_end_costs_its_watches_and_tells_each_process_once(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def end(store: SQLiteHistoryStore) -> None:
        lease = await store.join("one", "test")
        keys = [(await store.start(new_instance(f"n{number}", lease))).key for number in range(3)]
        other = SQLiteHistoryStore(path)
        await other.open()
        try:
            news: asyncio.Queue[News] = asyncio.Queue()
            assert other.listen(news.put_nowait) is not None
            for _ in range(2):
                await other.watch(["n0", "n1"])
            assert count(path, "watch") == 2
            ends = [Episode(key=key, seq=1, at=2.0, events="[]", park=Park(status=Status.COMPLETED)) for key in keys]
            await asyncio.gather(*(append(store, lease, episode) for episode in ends))
            assert await heard(news) == News.ENDS
            assert news.empty()
            assert count(path, "watch") == 0
        finally:
            await other.close()

    with_store(path, end)
