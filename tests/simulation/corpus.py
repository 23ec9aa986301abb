"""What is run: the workflow shapes and random programs; how each of their ends is judged."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from tests.engine.programs import Node, ProgramWorkflow, Receive, TimedReceive
from tests.shapes import BY_NAME, REGISTRY, Shape, completions
from tests.simulation.agent_case import AgentCase
from tests.simulation.oracle import Oracle
from tests.simulation.process import SimulatedProcess
from tests.simulation.programs import ASKING, RECONCILING, allowed, leaves, order_free, random_program, undisturbed

from perdure.base.events import ExecutionCompleted, HistoryRow, Status
from perdure.engine.activity import Activity, current_activity
from perdure.engine.code import Workflow
from perdure.ports.toolset import Interrupted, Reconciled

Event = tuple[str, Any]

TIMED = frozenset({"activity-against-timer", "event-that-comes-in-time", "cancels-the-losers"})
"""Shapes whose minute may be over when a process stands still or its clock jumps: they may end in two ways."""

LONG = frozenset({"long-loop", "large-values"})
"""Shapes that take much longer than the others; seldom chosen."""


class Case(Protocol):
    """One instance to run."""

    @property
    def instance_id(self) -> str: ...

    @property
    def workflow(self) -> Workflow:
        """What it runs."""
        ...

    @property
    def input(self) -> Any: ...

    @property
    def activities(self) -> Sequence[Activity]:
        """The activities that only this case has."""
        ...

    def events(self, chance: random.Random) -> list[Event]:
        """Return the events to send to it."""
        ...

    def judge(self, end: ExecutionCompleted, result: Any, rows: Sequence[HistoryRow], sent: Sequence[Event]) -> str:
        """Return what is wrong with the end of an instance that was not terminated; nothing when it is right."""
        ...


@dataclass(frozen=True)
class ProgramCase:
    """A random program."""

    instance_id: str
    program: Node
    input: Any = None
    activities: Sequence[Activity] = ()

    @property
    def workflow(self) -> Workflow:
        return ProgramWorkflow(self.program, f"program-{self.instance_id}")

    def events(self, chance: random.Random) -> list[Event]:
        names = [leaf.name for leaf in leaves(self.program) if isinstance(leaf, Receive | TimedReceive)]
        names += [chance.choice(("red", "blue")) for _ in range(chance.randrange(2))]
        wanted = [name for name in names if chance.random() < 0.9]
        return [
            (name.upper() if chance.random() < 0.2 else name, _data(chance, f"{self.instance_id}.{number}"))
            for number, name in enumerate(wanted)
        ]

    def judge(self, end: ExecutionCompleted, result: Any, rows: Sequence[HistoryRow], sent: Sequence[Event]) -> str:
        if end.status is not Status.COMPLETED:
            return f"it {end.status}: {end.failure}"
        if order_free(self.program) and result != (wanted := undisturbed(self.program)):
            return f"its result is {result!r}, not {wanted!r}"
        if not allowed(self.program, result, [(name.lower(), data) for name, data in sent]):
            return f"its result {result!r} is none of {self.program!r}"
        return ""


def _data(chance: random.Random, mark: str) -> Any:
    """Return an event's data: small, of a type that JSON lacks, or so large that the store keeps it apart."""
    more: Any = chance.choice((None, None, b"\x00", "x" * 9_000))
    return {"mark": mark, "more": more}


@dataclass(frozen=True)
class ShapeCase:
    """A shape of the corpus that all tests share."""

    shape: Shape
    activities: Sequence[Activity] = ()

    @property
    def instance_id(self) -> str:
        return self.shape.name

    @property
    def workflow(self) -> Workflow:
        return REGISTRY.workflows[REGISTRY.add_workflow(self.shape.workflow)]

    @property
    def input(self) -> Any:
        return self.shape.input(os.devnull)

    def events(self, chance: random.Random) -> list[Event]:
        return list(self.shape.events)

    def judge(self, end: ExecutionCompleted, result: Any, rows: Sequence[HistoryRow], sent: Sequence[Event]) -> str:
        if self.shape.name in TIMED and end.status is not Status.TERMINATED:
            return ""
        failed = "" if end.failure is None else f"{end.failure.error_type}: {end.failure.message}"
        if (self.shape.error or "") not in failed or bool(failed) != bool(self.shape.error):
            return f"its failure is {failed!r}, not {self.shape.error!r}"
        if self.shape.error is None and (
            result != self.shape.expected or type(result) is not type(self.shape.expected)
        ):
            return f"its result is {result!r:.200}, not {self.shape.expected!r:.200}"
        if completions(rows) != Counter(self.shape.counts):
            return f"its completions are {completions(rows)}, not {self.shape.counts}"
        return ""


def random_cases(chance: random.Random) -> list[Case]:
    """Return the instances of one simulation: mostly programs, some shapes, sometimes an agent."""
    cases: list[Case] = [
        ProgramCase(f"p{number}", random_program(chance, chance.choice((2, 4, 8))))
        for number in range(chance.randint(1, 4))
    ]
    quick = [name for name in BY_NAME if name not in LONG]
    names = chance.sample(quick, chance.randrange(3))
    if chance.random() < 0.2:
        names = list(dict.fromkeys([*names, "activities-in-turn", "children-in-turn"]))
    if chance.random() < 0.02:
        names.append(chance.choice(sorted(LONG)))
    agents: list[Case] = [AgentCase()] if chance.random() < 0.15 else []
    return [*cases, *(ShapeCase(BY_NAME[name]) for name in names), *agents]


# -- what the processes know


def workflow_of(key: str) -> Workflow:
    """Return the workflow of an instance that another one started."""
    return REGISTRY.workflows[key]


def fill_registry(process: SimulatedProcess, cases: Sequence[Case], oracle: Oracle) -> None:
    """Give a process the workflows of the cases and all activities, each under the oracle's eyes."""
    registry = process.registry
    registry.workflows = {**REGISTRY.workflows, **{case.workflow.name: case.workflow for case in cases}}
    registry.activities = {activity.name: _observed(process, activity, oracle) for activity in _activities(cases)}


def _activities(cases: Sequence[Case]) -> list[Activity]:
    return [
        *_PROGRAM_ACTIVITIES,
        *REGISTRY.activities.values(),
        *(activity for case in cases for activity in case.activities),
    ]


def _observed(process: SimulatedProcess, activity: Activity, oracle: Oracle) -> Activity:
    world = process.world

    async def run(argument: Any) -> Any:
        call = current_activity()
        life = process.life
        if life is None:
            # The simulation is over, and what is left in memory is being unwound.
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody finishes this future")
        if world.trace is not None:
            world.note(life.name, f"runs {call.activity} {call.idempotency_key} attempt {call.attempt}")
        oracle.began(life.store.token, call, activity.on_crash)
        await asyncio.sleep(_duration(world.random))
        result = activity.function(argument)
        result = await result if inspect.isawaitable(result) else result
        await asyncio.sleep(_duration(world.random))
        return result

    return msgspec.structs.replace(activity, function=run, is_async=True)


def _duration(chance: random.Random) -> float:
    kind = chance.random()
    return 0.0 if kind < 0.3 else kind * (0.02 if kind < 0.9 else 2.0)


async def _act(argument: Any) -> int:
    call = current_activity()
    if call.attempt <= argument["fails"]:
        raise OSError(f"attempt {call.attempt} fails")
    return int(argument["number"])


async def _find_out(question: Interrupted) -> Reconciled:
    """Say what became of an interrupted call, now this and now that, and the same for the same call."""
    if question.arguments["fails"]:
        return question.retry()
    kind = sum(question.idempotency_key.encode()) % 3
    if kind == 0:
        return question.completed(question.arguments["number"])
    return question.ask() if kind == 1 else question.retry()


_ON_CRASH: dict[int, Any] = {ASKING: "ask", RECONCILING: _find_out}
_PROGRAM_ACTIVITIES = [
    Activity(name=f"act{number}", function=_act, is_async=True, on_crash=_ON_CRASH.get(number, "retry"))
    for number in range(10)
]
