"""What comes from outside: starts, events, terminations, answers. Who sends them may die before the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from tests.simulation.corpus import Case
from tests.simulation.oracle import Oracle
from tests.simulation.process import Life, SimulatedProcess
from tests.simulation.world import World

from perdure.base.codec import decode, encode
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


class Request:
    """Something that is asked of an instance, which may not exist yet, or have ended."""

    insists = False

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id

    async def run(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        existed = self.instance_id in oracle.books
        try:
            return await self.ask(runtime, oracle)
        except InstanceNotFoundError:
            if existed:
                return f"{self.instance_id} exists and was not found"
            raise NotYetError from None
        except InstanceError as error:
            ended = oracle.end_of(self.instance_id) is not None
            return "" if ended else f"{self.instance_id} has not ended and takes nothing: {error}"

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        """Ask; return what is wrong with the answer."""
        raise NotImplementedError


class Raise(Request):
    """Send an event to an instance."""

    insists = True

    def __init__(self, instance_id: str, name: str, data: Any) -> None:
        super().__init__(instance_id)
        self._name, self._data = name, data

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        await runtime.raise_event(self.instance_id, self._name, self._data)
        if oracle.has_taken(self.instance_id, bytes(encode(self._data).raw).decode()):
            return ""
        return f"event {self._name} of {self.instance_id} was acknowledged and is not in the store"


class Terminate(Request):
    """End an instance from outside."""

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        await runtime.terminate(self.instance_id, "enough")
        if oracle.end_of(self.instance_id) is not None or oracle.has_taken(self.instance_id, '"reason":"enough"'):
            return ""
        return f"the termination of {self.instance_id} was acknowledged and is not in the store"


class Suspend(Request):
    """Hold an instance."""

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        await runtime.suspend(self.instance_id)
        return ""


class Resume(Request):
    """Let an instance go on, though it may not be suspended or stalled."""

    insists = True

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        await runtime.resume(self.instance_id)
        return ""


class Wait(Request):
    """Wait for the end of an instance, for a while."""

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        try:
            result = await runtime.wait(self.instance_id, _WAIT_SECONDS)
        except TimeoutError:
            return ""
        except RunFailedError as failed:
            result = failed.status
        end = oracle.end_of(self.instance_id)
        if end is None:
            return f"{self.instance_id} has not ended and somebody was told {result!r:.100}"
        if end.failure is not None and result != end.status:
            return f"{self.instance_id} {end.status}, and somebody was told {result!r:.100}"
        return ""


class Answer(Request):
    """Answer what an instance asks about attempts that a crash cut off."""

    def __init__(self, instance_id: str, *, retry: bool) -> None:
        super().__init__(instance_id)
        self._retry = retry

    async def ask(self, runtime: EmbeddedRuntime, oracle: Oracle) -> str:
        record = await runtime.find(self.instance_id)
        if record is None or record.waits is None:
            return ""
        asks = json.loads(record.waits).get("asks", ())
        if asks:
            rows = await runtime.history(self.instance_id)
            tasks = {event.id: event for row in rows for event in row.events if isinstance(event, TaskScheduled)}
            for ask in asks:
                await self._answer(runtime, tasks, tasks[ask["task"]])
        return ""

    async def _answer(self, runtime: EmbeddedRuntime, tasks: dict[int, TaskScheduled], task: TaskScheduled) -> None:
        given = decode(tasks[task.call_id].input)
        if self._retry or given["fails"]:
            await runtime.answer(self.instance_id, task.id, "retry")
        else:
            await runtime.answer(self.instance_id, task.id, "completed", given["number"])


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
