from __future__ import annotations

from typing import Any

from tests.engine.driving import Driven, completed, raised, resumed, suspended, terminated

from perdure.base.events import (
    EventRaised,
    ExecutionStarted,
    ExecutionTerminated,
    Parent,
    Status,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    decode_event,
    decode_events,
)
from perdure.engine.outward import changes_of
from perdure.ports.history_store import Changes, Lease
from perdure.workflows.registry import Registry

LEASE = Lease(1, "one", "here")


class Around:
    """A worker with room for some more instances, which knows some workflows."""

    app_id = "here"

    def __init__(self, *known: str, room: int = 9, **versions: str) -> None:
        registry = Registry()
        for name in known:
            registry.add_workflow(_unused, name)
        for name, version in versions.items():
            registry.add_workflow(_unused, name, version=version)
        self.workflows = registry.workflows
        self._room = room

    def lease_for(self, started: int) -> Lease | None:
        return LEASE if started < self._room else None


async def _unused(ctx): ...


def _changes(driven: Driven, around: Around | None = None, workflow: str | None = None) -> Changes | None:
    return changes_of(driven.execution, driven.decisions, around or Around(), workflow)


def _some(driven: Driven, around: Around | None = None) -> Changes:
    found = _changes(driven, around)
    assert found is not None
    return found


async def _acts(ctx):
    await ctx.call_activity("a")
    await ctx.create_timer(5)


def test_most_episodes_change_nothing_beyond_their_row():
    driven = Driven(_acts)
    assert _changes(driven) is None
    driven.feed(completed(0))
    assert _changes(driven) is None
    assert _changes(driven, workflow="flow@2") == Changes(workflow="flow@2")


def _calls(*calls: dict[str, Any]):
    async def flow(ctx):
        await ctx.when_all([ctx.call_child_workflow("c", **given) for given in calls])

    return flow


def test_a_child_of_a_known_workflow_begins_here_while_there_is_room():
    driven = Driven(_calls({"input": 1}, {"instance_id": "chosen"}, {}))
    first, second, third = _some(driven, Around("c", room=2)).starts
    assert [start.new.lease for start in (first, second, third)] == [LEASE, LEASE, None]
    assert [start.new.instance_id for start in (first, second, third)] == ["one:0000", "chosen", "one:0002"]
    started = decode_events(first.new.events)[0]
    assert isinstance(started, ExecutionStarted)
    assert (started.name, bytes(started.input)) == ("c", b"1")
    assert started.parent == Parent(instance_id="one", task_id=0)
    assert (first.new.app_id, first.new.workflow, first.new.parent, first.new.at) == ("here", "c", "one", 100.0)


def test_a_child_of_an_unknown_workflow_or_another_app_is_left_to_others():
    driven = Driven(_calls({}, {"app_id": "there"}))
    assert [start.new.lease for start in _some(driven).starts] == [None, None]
    ours, theirs = _some(driven, Around("c")).starts
    assert (ours.new.lease, theirs.new.lease) == (LEASE, None)
    assert (ours.new.app_id, theirs.new.app_id) == ("here", "there")


def test_a_child_begins_with_the_version_that_its_name_stands_for():
    (start,) = _some(Driven(_calls({})), Around(c="3")).starts
    started = decode_events(start.new.events)[0]
    assert isinstance(started, ExecutionStarted)
    assert (start.new.workflow, started.name, started.version) == ("c@3", "c", "3")


def test_a_refused_child_fails_its_call_for_good():
    driven = Driven(_calls({"instance_id": "taken"}))
    refused = decode_event(_some(driven).starts[0].refused or "")
    assert isinstance(refused, SubOrchestrationInstanceFailed)
    assert refused.failure.non_retryable
    assert refused.failure.message == "the instance id 'taken' is taken; choose another one for the child workflow"
    driven.feed(refused)
    assert "InstanceExistsError" in driven.failure.message


def test_a_detached_start_has_no_caller_and_no_refusal():
    async def flow(ctx):
        ctx.start_workflow("c")

    (start,) = _some(Driven(flow)).starts
    started = decode_events(start.new.events)[0]
    assert isinstance(started, ExecutionStarted)
    assert (start.refused, start.new.parent, started.parent) == (None, None, None)


def test_events_for_others_and_the_end_of_a_cancelled_child_are_sent():
    async def flow(ctx):
        ctx.send_event("other", "hello", [1])
        ctx.cancel(ctx.call_child_workflow("c"))

    sends = _some(Driven(flow)).sends
    assert [send.instance_id for send in sends] == ["other", "one:0001"]
    hello, end = (decode_event(send.event) for send in sends)
    assert hello == EventRaised(name="hello", input=hello.input)
    assert end == ExecutionTerminated(reason="cancelled by one")


def test_a_caller_is_told_of_the_end_under_the_generation_in_which_it_called():
    async def succeeds(ctx):
        return 5

    async def fails(ctx):
        raise ValueError("no")

    parent = Parent(instance_id="p", task_id=3, generation=2)
    told = []
    for flow in (succeeds, fails):
        (send,) = _some(Driven(flow, parent=parent)).sends
        assert send.instance_id == "p"
        told.append(decode_event(send.event))
    done, failed = told
    assert isinstance(done, SubOrchestrationInstanceCompleted)
    assert isinstance(failed, SubOrchestrationInstanceFailed)
    assert (done.task_id, done.generation, done.instance_id, bytes(done.result)) == (3, 2, "one", b"5")
    assert (failed.task_id, failed.generation, failed.failure.message) == (3, 2, "no")
    assert not failed.failure.non_retryable


def test_a_caller_of_a_terminated_child_does_not_try_again():
    driven = Driven(_acts, parent=Parent(instance_id="p", task_id=0))
    driven.feed(terminated("enough"))
    told = decode_event(_some(driven).sends[0].event)
    assert isinstance(told, SubOrchestrationInstanceFailed)
    assert (told.failure.error_type, told.failure.message, told.failure.non_retryable) == (
        "Terminated",
        "enough",
        True,
    )


def test_a_termination_goes_on_to_the_children_unless_told_otherwise():
    for recurse in (True, False):
        driven = Driven(_calls({}))
        driven.feed(terminated(recurse=recurse))
        sent = _changes(driven)
        if recurse:
            assert sent is not None
            assert decode_event(sent.to_children or "") == ExecutionTerminated(reason="one was terminated")
        else:
            assert sent is None or sent.to_children is None


def test_suspending_and_resuming_show_at_once():
    driven = Driven(_acts)
    driven.feed(suspended())
    assert _some(driven).status is Status.SUSPENDED
    driven.feed(resumed())
    assert _some(driven).status is Status.RUNNING
    driven.feed(suspended(), resumed(), suspended())
    assert _some(driven).status is Status.SUSPENDED


def test_a_new_generation_renews_and_begins_the_children_of_the_last_one():
    async def flow(ctx):
        ctx.start_workflow("c")
        ctx.set_custom_status("renewed")
        ctx.continue_as_new(1)

    changes = _some(Driven(flow))
    assert changes.renews
    assert len(changes.starts) == 1
    assert changes.custom_status == '"renewed"'


def test_what_code_sets_is_told_once():
    async def flow(ctx):
        ctx.set_custom_status("first")
        ctx.set_attributes(a=1)
        await ctx.wait_for_external_event("go")
        ctx.set_custom_status("first")
        await ctx.wait_for_external_event("go")
        ctx.set_custom_status("second")
        ctx.set_attributes(a=1, b=2)
        await ctx.wait_for_external_event("go")

    driven = Driven(flow)
    assert _changes(driven) == Changes(custom_status='"first"', attributes={"a": 1})
    driven.feed(raised("go"))
    assert _changes(driven) is None
    driven.crash()
    driven.feed(raised("go"))
    assert _changes(driven) == Changes(custom_status='"second"', attributes={"a": 1, "b": 2})
