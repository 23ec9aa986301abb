"""What is due of an app is found by a seek, however much waits, and older stores are brought along."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure.components.history.sqlite import SQLiteHistoryStore, claims, leases, tidings
from perdure.components.history.sqlite.connection import APPLICATION_ID, migrations

STATEMENTS = {
    "what is due first of each workflow": (claims._HEADS, ("app", '["flow"]')),
    "what is due of a workflow": (claims._DUE, ("app", "flow", 1.0, 10)),
    "what a dead worker owned": (leases._FREE, (1, "[1]")),
    "who watches what ended": (tidings._END_WATCHES, ("[1]",)),
    "what was accepted after a mark": (tidings._ACCEPTED, (1,)),
    "what was signalled after a mark": (tidings._SIGNALLED, (1,)),
}


@pytest.mark.parametrize("question", STATEMENTS)
def test_no_question_of_every_day_walks_through_all_instances(tmp_path: Path, question: str):
    path = tmp_path / "perdure.db"
    statement, parameters = STATEMENTS[question]

    async def create() -> None:
        store = SQLiteHistoryStore(path)
        await store.open()
        await store.close()

    asyncio.run(create())
    with closing(sqlite3.connect(path)) as connection:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    walks = [step for step in steps if step.startswith("SCAN") and "json_each" not in step]
    assert walks == [], steps
    assert not any("TEMP B-TREE FOR ORDER BY" in step for step in steps), steps


def test_unfinished_runs_of_agents_in_an_older_store_are_the_default_apps(tmp_path: Path):
    path = tmp_path / "perdure.db"
    insert = """
        INSERT INTO instance (id, app_id, workflow, status, owner, due, created_at)
        VALUES (?, ?, ?, ?, NULL, 1.0, 1.0)
    """
    rows = [
        ("asked", "app", "dapr.agents.Clerk.workflow", "RUNNING"),
        ("answered", "app", "dapr.agents.Clerk.workflow", "COMPLETED"),
        ("flow", "shop", "flow", "RUNNING"),
    ]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(migrations()[0])
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.executemany(insert, rows)
        connection.execute("INSERT INTO worker (name, lock_file, expires_at) VALUES ('old', 'perdure.db-worker-0', 0)")

    async def look() -> None:
        store = SQLiteHistoryStore(path)
        await store.open()
        try:
            found = await store.find_all([row[0] for row in rows])
            assert {name: record.app_id for name, record in found.items()} == {
                "asked": "default",
                "answered": "app",
                "flow": "shop",
            }
            assert await store.reap() == 0
            lease = await store.join("new", "shop")
            assert [one.instance_id for one in await store.claim(lease, ["flow"], 2.0, 9)] == ["flow"]
        finally:
            await store.close()

    asyncio.run(look())
