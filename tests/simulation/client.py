"""What comes from outside: starts, events, terminations, answers. Who sends them may die before the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from tests.simulation.corpus import Case
from tests.simulation.oracle import Oracle
from tests.simulation.process import Life, SimulatedProcess
from tests.simulation.world import World

from perdure.base.codec import decode
from perdure.base.errors import (
    InstanceError,
    InstanceExistsError,
    InstanceNotFoundError,
    RunFailedError,
    StoreError,
)
from perdure.base.events import TaskScheduled
from perdure.runtime.embedded import EmbeddedRuntime

_TRIES = 4
_WAIT_SECONDS = 20.0


class NotYetError(Exception):
    """An action makes no sense yet; it is tried again later."""


class Action(Protocol):
    """One thing that somebody outside wants.

    Attributes:
        insists: whether it is sent again, however often its sender dies.
    """

    insists: bool

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        """Do it; return what is wrong with the answer, nothing when it is right."""
        ...


class Start:
    """Start an instance, or find it started; it may be put off for some seconds."""

    insists = True

    def __init__(self, case: Case, later: float | None = None) -> None:
        self._case = case
        self._later = later

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        case = self._case
        answer = await runtime.start(case.workflow.name, case.input, instance_id=case.instance_id, start_at=self._later)
        if answer != case.instance_id or case.instance_id not in oracle.books:
            return f"the start of {case.instance_id} was answered with {answer!r} and is not in the store"
        return ""


class Clash:
    """Start an instance with the id of another one and another input."""

    insists = False

    def __init__(self, case: Case) -> None:
        self._case = case

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        if self._case.instance_id not in oracle.books:
            raise NotYetError
        try:
            await runtime.start(self._case.workflow.name, ["another input"], instance_id=self._case.instance_id)
        except InstanceExistsError:
            return ""
        return f"the id {self._case.instance_id} was given to two runs"


class Raise:
    """Send an event to an instance."""

    insists = True

    def __init__(self, instance_id: str, name: str, data: Any) -> None:
        self._instance_id, self._name, self._data = instance_id, name, data

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self._instance_id in oracle.books
        try:
            await runtime.raise_event(self._instance_id, self._name, self._data)
        except InstanceError as error:
            return _judge_refusal(self._instance_id, error, oracle, existed=existed)
        if not oracle.has_taken(self._instance_id, f'"name":"{self._name}"'):
            return f"event {self._name} of {self._instance_id} was acknowledged and is not in the store"
        return ""


def _judge_refusal(instance_id: str, error: InstanceError, oracle: Oracle, *, existed: bool) -> str:
    if isinstance(error, InstanceNotFoundError):
        if not existed:
            raise NotYetError
        return f"{instance_id} exists and was not found"
    return "" if oracle.end_of(instance_id) is not None else f"{instance_id} has not ended and takes no event: {error}"


class Terminate:
    """End an instance from outside."""

    insists = False

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self._instance_id in oracle.books
        try:
            await runtime.terminate(self._instance_id, "enough")
        except InstanceError as error:
            return _judge_refusal(self._instance_id, error, oracle, existed=existed)
        if oracle.end_of(self._instance_id) is not None or oracle.has_taken(self._instance_id, '"reason":"enough"'):
            return ""
        return f"the termination of {self._instance_id} was acknowledged and is not in the store"


class Suspend:
    """Hold an instance."""

    insists = False

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self._instance_id in oracle.books
        try:
            await runtime.suspend(self._instance_id)
        except InstanceError as error:
            return _judge_refusal(self._instance_id, error, oracle, existed=existed)
        return ""


class Resume:
    """Let an instance go on, though it may not be suspended or stalled."""

    insists = True

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self._instance_id in oracle.books
        try:
            await runtime.resume(self._instance_id)
        except InstanceError as error:
            return _judge_refusal(self._instance_id, error, oracle, existed=existed)
        return ""


class Wait:
    """Wait for the end of an instance, for a while."""

    insists = False

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self._instance_id in oracle.books
        try:
            result = await runtime.wait(self._instance_id, _WAIT_SECONDS)
        except TimeoutError:
            return ""
        except InstanceNotFoundError as error:
            return _judge_refusal(self._instance_id, error, oracle, existed=existed)
        except RunFailedError as failed:
            result = failed.status
        end = oracle.end_of(self._instance_id)
        if end is None:
            return f"{self._instance_id} has not ended and somebody was told {result!r:.100}"
        if end.failure is not None:
            return "" if result == end.status else f"{self._instance_id} {end.status}, and somebody was told {result!r}"
        return ""


class Answer:
    """Answer what an instance asks about attempts that a crash cut off."""

    insists = False

    def __init__(self, instance_id: str, *, retry: bool) -> None:
        self._instance_id, self._retry = instance_id, retry

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        record = await runtime.find(self._instance_id)
        if record is None or record.waits is None:
            return ""
        asks = json.loads(record.waits).get("asks", ())
        if asks:
            rows = await runtime.history(self._instance_id)
            tasks = {event.id: event for row in rows for event in row.events if isinstance(event, TaskScheduled)}
            for ask in asks:
                await self._answer(runtime, tasks, tasks[ask["task"]])
        return ""

    async def _answer(self, runtime: EmbeddedRuntime, tasks: dict[int, TaskScheduled], task: TaskScheduled) -> None:
        given = decode(tasks[task.call_id].input)
        if self._retry or given["fails"]:
            await runtime.answer(self._instance_id, task.id, "retry")
        else:
            await runtime.answer(self._instance_id, task.id, "completed", given["number"])


class Outside:
    """Everybody outside: hands actions to processes at their times, and hands them over again when a process dies.

    Args:
        world: time and chance.
        oracle: knows what the store has taken.
        processes: who may be asked.

    Attributes:
        open: how many actions are not done yet.
    """

    def __init__(self, world: World, oracle: Oracle, processes: Sequence[SimulatedProcess]) -> None:
        self.world = world
        self.oracle = oracle
        self.open = 0
        self._processes = processes

    def plan(self, when: float, action: Action) -> None:
        """Have an action done at a virtual time, by whichever process."""
        self.open += 1
        self.world.at(when, self.hand_over, Deed(self, action))

    def hand_over(self, deed: Deed) -> None:
        """Give an action to some process that is open, as soon as there is one."""
        open_lives = [one.life for one in self._processes if one.life is not None and one.life.runtime is not None]
        if open_lives:
            self.world.random.choice(open_lives).run(deed)
        else:
            self.world.after(0.5, self.hand_over, deed)

    def try_again(self, deed: Deed) -> None:
        """Hand an action over again after a while, or give it up."""
        deed.tries += 1
        if deed.action.insists or (deed.tries < _TRIES and self.world.random.random() < 0.5):
            self.world.after(self.world.random.uniform(0.1, 2.0), self.hand_over, deed)
        else:
            self.open -= 1


class Deed:
    """An action in the hands of a process."""

    def __init__(self, outside: Outside, action: Action) -> None:
        self.action = action
        self.tries = 0
        self._outside = outside

    async def run(self, life: Life) -> None:
        """Do it with a process's runtime, and use the answer."""
        outside = self._outside
        name = type(self.action).__name__
        try:
            wrong = await self.action.run(life.open_runtime, outside.oracle)
        except (StoreError, NotYetError):
            outside.try_again(self)
            return
        except Exception as error:
            wrong = f"{life.name} was answered {name} with {error!r}"
        outside.world.note(life.name, f"has its answer to {name}")
        outside.open -= 1
        if wrong:
            outside.world.blame(wrong)

    def cut_off(self) -> None:
        """The process died before it had the answer."""
        self._outside.try_again(self)
