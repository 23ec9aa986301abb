from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.base.events import Status
from perdure.cli.standing import standing
from perdure.ports.history_store import InstanceRecord

NOW = 1_700_000_000.0


def record(
    status: Status, waits: dict[str, Any] | None, workflow: str = "order", due: float | None = None
) -> InstanceRecord:
    return InstanceRecord(
        key=1,
        instance_id="one",
        app_id="default",
        workflow=workflow,
        status=status,
        due=due,
        created_at=NOW - 60,
        waits=None if waits is None else msgspec.json.encode(waits).decode(),
    )


@pytest.mark.parametrize(
    ("waits", "says"),
    [
        (
            {"limit": {"workflow": "order", "concurrency": 10, "per_key": 2, "ahead": 3}},
            "waits for the turn of workflow order (10 at a time, 2 for each key, about 3 before it)",
        ),
        (
            {"limit": {"workflow": "order", "rate": {"count": 5, "per": 60.0}, "until": NOW + 30, "ahead": 0}},
            "waits for the turn of workflow order (5 in 1 min, the next in 30 s, about 0 before it)",
        ),
        ({"queued": [{"activity": "pay", "calls": 1}]}, "waits for the turn of pay"),
        (
            {"queued": [{"activity": "pay", "calls": 4, "concurrency": 2, "ahead": 0}], "events": ["stop"]},
            "waits for the turn of 4 calls of pay (2 at a time, about 0 before it) or event 'stop'",
        ),
        (None, "waits for its turn"),
        (
            {"limit": {"workflow": "dapr.agents.SpaDesk.workflow", "concurrency": 1}},
            "waits for the turn of agent SpaDesk (1 at a time)",
        ),
        (
            {"children": [{"workflow": "dapr.agents.SpaDesk.workflow", "instance": "one:0001"}]},
            "waits for child agent SpaDesk (one:0001)",
        ),
    ],
)
def test_a_run_that_waits_for_its_turn_says_for_which_and_how_long_the_line_is(waits, says):
    stands = standing(record(Status.PENDING, waits), NOW)
    assert (stands.state, stands.reason) == ("waiting", says)


@pytest.mark.parametrize(
    ("workflow", "due", "says"),
    [
        ("order", NOW, "knows workflow order takes it up"),
        ("order@2", NOW - 180, "knows workflow order, version 2, takes it up; none has for 3 min"),
        ("dapr.agents.Courier.workflow", 0.0, "knows agent Courier takes it up"),
    ],
)
def test_a_run_that_no_worker_of_its_app_takes_up_says_which_code_it_needs(workflow: str, due: float, says: str):
    stands = standing(record(Status.RUNNING, None, workflow, due), NOW, apps={"default"})
    assert (stands.state, stands.reason) == ("ready", f"waits until a worker of its app, default, that {says}")
