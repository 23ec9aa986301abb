"""What can be wrong with a file or a disk: one clear error each, and it names the remedy."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.components.history.child import Child, append, new_instance, with_store
from tests.disks import fill_disk, mounted_disk, succeeds

from perdure.base.errors import (
    StoreCorruptError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreValueTooLargeError,
    StoreVersionError,
)
from perdure.base.ids import digest
from perdure.components.history.sqlite import SQLiteHistoryStore, writer
from perdure.components.history.sqlite.connection import APPLICATION_ID, connect, migrations, preallocate_log
from perdure.components.history.sqlite.group import Append
from perdure.ports.history_store import Episode, NewInstance


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Take away the right to write, also from root; skip where that is not possible."""
    root = os.geteuid() == 0
    mode = path.stat().st_mode
    if not root:
        path.chmod(mode & ~0o222)
    elif not succeeds("chattr", "+i", path):
        pytest.skip("root writes everywhere, and this file system has no immutable files (chattr +i)")
    try:
        yield
    finally:
        if root:
            subprocess.run(["chattr", "-i", path], check=True)
        else:
            path.chmod(mode)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk") as place:
        yield place


# -- the file


def test_a_file_of_a_newer_perdure_is_left_alone(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with_store(path)
    execute(path, f"PRAGMA user_version = {len(migrations()) + 1}")
    with pytest.raises(StoreVersionError, match="pip install --upgrade perdure, or choose another file with --store"):
        with_store(path)


@pytest.mark.parametrize("mark", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 252006673"])
def test_another_programs_database_is_not_touched(tmp_path: Path, mark: str):
    path = tmp_path / "theirs.db"
    execute(path, mark)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="another program's SQLite database; choose another file with --store"):
        with_store(path)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["theirs.db"]


@pytest.mark.parametrize("content", [b"short", b"Dear diary, " * 5000])
def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path, content: bytes):
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="not a database; choose another with --store, or move this file away"):
        with_store(path)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_store(tmp_path: Path):
    path = tmp_path / "perdure.db"
    path.touch()
    with_store(path, lambda store: store.start(new_instance("first")))
    assert with_store(path, lambda store: store.find("first")) is not None


def test_closing_leaves_the_database_file_alone_in_its_folder(tmp_path: Path):
    async def join(store: SQLiteHistoryStore) -> None:
        await store.join("one", "test")

    with_store(tmp_path / "perdure.db", join)
    assert names_in(tmp_path) == ["perdure.db"]


def test_what_an_answer_submits_while_the_store_closes_is_refused_not_forgotten(tmp_path: Path):
    told: list[str] = []

    async def submit_on_closing(store: SQLiteHistoryStore) -> None:
        lease = await store.join("one", "test")
        key = (await store.start(new_instance("first", lease))).key
        using = store._writing()

        def again(error: Exception | None) -> None:
            told.append("first")
            try:
                using.submit(Append(lease, Episode(key=key, seq=2, at=2.0, events="[]")), lambda _: told.append("more"))
            except StoreUnavailableError:
                told.append("refused")

        store.append(lease, Episode(key=key, seq=1, at=2.0, events="[]"), again)
        await using.close()
        store._writer = None

    with_store(tmp_path / "perdure.db", submit_on_closing)
    assert told == ["first", "refused"]


def test_a_store_that_is_not_open_says_so(tmp_path: Path):
    store = SQLiteHistoryStore(tmp_path / "perdure.db")
    with pytest.raises(StoreUnavailableError, match="the store is not open"):
        asyncio.run(store.find("x"))
    with pytest.raises(StoreUnavailableError, match="the store is not open"):
        asyncio.run(store.start(new_instance("x")))


async def fill(store: SQLiteHistoryStore) -> None:
    await asyncio.gather(*(store.start(new_instance(f"n{number}")) for number in range(2000)))


def overwrite_page(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_a_damaged_page_in_the_middle_is_found_by_the_check(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with_store(path, fill)
    overwrite_page(path, path.stat().st_size // 4096 // 2)
    with pytest.raises(StoreCorruptError, match="damaged"):
        with_store(path, lambda store: store.check())


def test_a_damaged_page_is_named_when_it_is_read(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with_store(path, fill)
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'history'").fetchone()[0]
    overwrite_page(path, page)
    with pytest.raises(StoreCorruptError, match=r"restore a backup or recover it with `sqlite3 FILE \.recover`"):
        with_store(path, lambda store: store.load([1000]))
    with pytest.raises(StoreCorruptError, match="keep the file"):
        with_store(path, lambda store: store.start(new_instance("one more")))


def test_damaged_content_is_never_handed_out(tmp_path: Path):
    path = tmp_path / "perdure.db"
    content = b"compressible " * 100
    address = digest(content)

    async def write(store: SQLiteHistoryStore) -> int:
        lease = await store.join("one", "test")
        key = (await store.start(new_instance("damaged", lease))).key
        await append(store, lease, Episode(key=key, seq=1, at=2.0, events="[]", blobs={address: content}))
        return key

    key = with_store(path, write)
    for damage in ("zeroblob(40)", "x'789c4b040000620062'"):
        execute(path, f"UPDATE blob SET content = {damage}")
        with pytest.raises(StoreCorruptError, match="restore a backup"):
            with_store(path, lambda store: store.blobs([address]))
    execute(path, "UPDATE history SET events = '[{' WHERE seq = 1")
    with pytest.raises(StoreCorruptError, match=f"history of instance {key} is damaged .*; restore a backup"):
        with_store(path, lambda store: store.load([key]))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_or_replaced_is_not_used_any_further(tmp_path: Path, replaced: bool):
    path = tmp_path / "perdure.db"
    gone = "removed or replaced while in use; .* start again"

    async def lose(store: SQLiteHistoryStore) -> None:
        await store.start(new_instance("before"))
        for file in list(tmp_path.iterdir()):
            file.unlink()
        if replaced:
            other = SQLiteHistoryStore(path)
            await other.open()
            await other.start(new_instance("theirs"))
        with pytest.raises(StoreUnavailableError, match=gone):
            await store.start(new_instance("after"))
        with pytest.raises(StoreUnavailableError, match=gone):
            await store.find("before")
        await store.close()
        if replaced:
            assert await other.find("theirs") is not None
            await other.close()

    with_store(path, lose)
    if replaced:
        expected = {"theirs": True, "before": False, "after": False}
        found = with_store(path, lambda store: store.find_all(list(expected)))
        assert {name: name in found for name in expected} == expected


def test_a_file_that_came_back_stays_refused_once_its_absence_was_noticed(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def move(store: SQLiteHistoryStore) -> None:
        await store.join("one", "test")
        path.rename(tmp_path / "elsewhere.db")
        await asyncio.sleep(0.4)
        (tmp_path / "elsewhere.db").rename(path)
        with pytest.raises(StoreUnavailableError, match="removed or replaced"):
            await store.start(new_instance("after"))

    with_store(path, move, lease_seconds=0.4)


def test_a_store_opened_by_a_relative_path_survives_a_change_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    store = SQLiteHistoryStore("perdure.db")
    assert store.name == "perdure.db"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    async def use() -> None:
        await store.open()
        await store.start(new_instance("first"))
        await store.close()

    asyncio.run(use())
    assert names_in(tmp_path) == ["below", "perdure.db"]


# -- values


def test_only_the_submission_that_is_too_large_is_refused(tmp_path: Path):
    def bulky(instance_id: str, size: int) -> NewInstance:
        plain = new_instance(instance_id)
        content = os.urandom(size)
        fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
        return NewInstance(**fields | {"blobs": {digest(content): content}})

    async def submit(store: SQLiteHistoryStore) -> None:
        for connection in store._connections:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)  # stands for SQLite's 1 GB
        submissions = [new_instance("a"), bulky("b", 200_000), bulky("c", 50_000), new_instance("d")]
        outcomes = await asyncio.gather(*map(store.start, submissions), return_exceptions=True)
        refusal = outcomes.pop(1)
        assert isinstance(refusal, StoreValueTooLargeError)
        assert refusal.non_retryable
        assert "1,000,000,000 bytes" in str(refusal)
        assert "pass a reference" in str(refusal)
        assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert set(await store.find_all("abcd")) == set("acd")

    with_store(tmp_path / "perdure.db", submit)


# -- the folder


def test_a_missing_folder_is_named(tmp_path: Path):
    path = tmp_path / "missing" / "perdure.db"
    with pytest.raises(StoreUnavailableError, match=r"folder .*missing does not exist; create it, or choose another"):
        with_store(path)


def test_a_file_that_cannot_be_written_is_refused_on_opening(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with_store(path)
    with unwritable(path), pytest.raises(StoreReadOnlyError, match="check the permissions of the file and its folder"):
        with_store(path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_refused_on_opening(tmp_path: Path, exists: bool):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "perdure.db"
    if exists:
        with_store(path)
    with (
        unwritable(folder),
        pytest.raises(StoreReadOnlyError, match="check the permissions of the file and its folder, or choose another"),
    ):
        with_store(path)


# -- the disk


def test_a_disk_that_is_full_from_the_beginning_is_named(small_disk: Path):
    fill_disk(small_disk)
    with pytest.raises(StoreFullError, match="free some space, nothing acknowledged is lost"):
        with_store(small_disk / "perdure.db")


def test_a_disk_that_fills_up_loses_nothing_and_goes_on_once_there_is_space(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 1_000_000)
    acknowledged: list[str] = []

    def bulky(number: int) -> NewInstance:
        plain = new_instance(f"n{number}")
        content = os.urandom(100_000)
        fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
        return NewInstance(**fields | {"blobs": {digest(content): content}})

    async def until_refused(store: SQLiteHistoryStore) -> None:
        for number in range(200):
            await store.start(bulky(number))
            acknowledged.append(f"n{number}")

    async def fill_up(store: SQLiteHistoryStore) -> None:
        with pytest.raises(StoreFullError, match="free some space"):
            await until_refused(store)
        assert set(await store.find_all(acknowledged)) == set(acknowledged)
        assert await store.find(f"n{len(acknowledged)}") is None
        ballast.unlink()
        await store.start(bulky(len(acknowledged)))
        acknowledged.append(f"n{len(acknowledged)}")

    with_store(small_disk / "perdure.db", fill_up)
    assert len(acknowledged) > 10
    assert set(with_store(small_disk / "perdure.db", lambda store: store.find_all(acknowledged))) == set(acknowledged)


# -- the lock


def test_a_store_that_another_process_keeps_locked_is_named_and_usable_afterwards(tmp_path: Path):
    path = tmp_path / "perdure.db"

    async def contend(store: SQLiteHistoryStore) -> None:
        with Child("lock", path) as other:
            assert await asyncio.to_thread(other.hear) == "locked"
            named = f"process {other.process.pid} holds the write lock; end it, or wait until it has finished writing"
            with pytest.raises(
                StoreLockedError, match=named if sys.platform == "linux" else "locked by another process"
            ):
                await store.start(new_instance("waiting"))
            assert await store.find("waiting") is None
            other.tell()
            assert await asyncio.to_thread(other.hear) == "unlocked"
            assert (await store.start(new_instance("waiting"))).created

    with_store(path, contend, busy_timeout=0.05)


def test_a_lonely_submission_waits_for_another_process_without_stopping_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "perdure.db"
    monkeypatch.setattr(writer, "QUICK_SECONDS", 60.0)  # however slow this disk is: commit on the event loop

    async def contend(store: SQLiteHistoryStore) -> None:
        for number in range(2 * writer.LONELY_COMMITS):
            await store.start(new_instance(f"n{number}"))
        with Child("lock", path) as other:
            assert await asyncio.to_thread(other.hear) == "locked"
            began = time.monotonic()
            waiting = asyncio.create_task(store.start(new_instance("waiting")))
            await asyncio.sleep(0.3)
            assert time.monotonic() - began < 1.0
            assert not waiting.done()
            other.tell()
            assert (await waiting).created
        for number in range(2 * writer.LONELY_COMMITS):
            assert (await store.start(new_instance(f"m{number}"))).created

    with_store(path, contend, busy_timeout=20.0)


def test_a_locked_store_can_be_opened_and_read(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with_store(path, lambda store: store.start(new_instance("readable")))
    with Child("lock", path) as other:
        assert other.hear() == "locked"
        assert with_store(path, lambda store: store.find("readable"), busy_timeout=0.05) is not None


def test_a_new_store_that_is_locked_before_its_first_schema_is_named(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with Child("lock", path) as other:
        assert other.hear() == "locked"
        with pytest.raises(StoreLockedError, match="locked by another process"):
            with_store(path, busy_timeout=0.05)


def test_the_log_is_not_preallocated_while_another_process_writes_to_it(tmp_path: Path):
    path = tmp_path / "perdure.db"
    log = Path(f"{path}-wal")
    with closing(connect(path, busy_timeout=0)) as writing, closing(connect(path, busy_timeout=0)) as opening:
        writing.execute("CREATE TABLE t (x)")
        small = log.stat().st_size
        writing.execute("BEGIN IMMEDIATE")
        preallocate_log(opening, path)
        assert log.stat().st_size == small
        writing.execute("ROLLBACK")
        preallocate_log(opening, path)
        assert log.stat().st_size > 4_000_000
        writing.execute("INSERT INTO t VALUES (1)")
        assert opening.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_a_store_of_the_second_schema_is_brought_forward_with_its_workers(tmp_path: Path):
    path = tmp_path / "perdure.db"
    with closing(sqlite3.connect(path)) as connection:
        for script in migrations()[:2]:
            connection.executescript(script)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO worker (name, lock_file, expires_at) VALUES ('old', 'gone', 9e9)")
        connection.commit()

    async def look(store: SQLiteHistoryStore) -> None:
        assert (await store.check())["workers"] == 1
        assert await store.reap() == 0
        assert (await store.check())["workers"] == 1, "it has as long as a lease lasts, from now on"

    with_store(path, look)
