"""The way from a process to the store: delays before and after a call takes effect, refusals, answers that are lost."""

from __future__ import annotations

import inspect
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import SimulatedLoop
from tests.simulation.world import World

from perdure.base.errors import StoreError, StoreFullError, StoreLockedError, StoreUnavailableError
from perdure.components.history.memory import MemoryHistoryStore
from perdure.components.history.memory_queues import MemoryQueues
from perdure.ports.history_store import Appended, Episode, HistoryStore, InstanceRecord, Lease

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle
    from tests.simulation.process import Life

NAME = "simulated store"
_REFUSALS = (StoreUnavailableError, StoreLockedError, StoreFullError)
_LOOKS = frozenset(
    {
        "inbox",
        "next_due",
        "load",
        "rows",
        "waiting",
        "blobs",
        "conversation",
        "find",
        "find_all",
        "instances",
        "expired",
    }
    | {"version", "check"}
)
"""What only looks may overtake and be overtaken; what changes something keeps its sender's order."""

Reply = Callable[[Any, Exception | None], None]


class Weather:
    """How slow and how unreliable the store is at present.

    Args:
        chance: decides.
        slowness: scale of the delays, in seconds.
        refusals: the share of calls that are refused.
    """

    def __init__(self, chance: random.Random, slowness: float, refusals: float) -> None:
        self._chance = chance
        self._slowness = slowness
        self._refusals = refusals
        self._out_until: dict[str, float] = {}

    def calm_down(self) -> None:
        """Be reliable and quick from now on."""
        self._slowness, self._refusals = 0.001, 0.0
        self._out_until.clear()

    def go_out(self, process: str, until: float) -> None:
        """Refuse everything that a process asks until a virtual time."""
        self._out_until[process] = until

    def delay(self) -> float:
        """Return how long a message takes: mostly nothing or little, sometimes a hundred times as much."""
        kind = self._chance.random()
        if kind < 0.3:
            return 0.0
        return kind * self._slowness * (100.0 if kind > 0.97 else 1.0)

    def refusal(self, process: str, now: float) -> StoreError | None:
        """Return why a call is refused, or None when it is not."""
        out = self._out_until.get(process, 0.0) > now
        if not out and (self._refusals == 0.0 or self._chance.random() >= self._refusals):
            return None
        return self._chance.choice(_REFUSALS)(NAME, "refused by the simulation")


class StoreNode:
    """The one store that all processes share; it never dies.

    Args:
        world: whose time it lives in.
        memory: keeps everything, by the real rules.
        weather: what happens on the way.
        oracle: told of every call that took effect.
        connection: the class of a process's end of the way.
    """

    def __init__(
        self,
        world: World,
        memory: MemoryHistoryStore,
        weather: Weather,
        oracle: Oracle,
        connection: type[Connection],
    ) -> None:
        self.memory = memory
        self.weather = weather
        self.oracle = oracle
        self._world = world
        self._connection = connection
        self._loop = SimulatedLoop(world, self._note_failure)
        self._grants: list[tuple[int, str]] = []
        self._granted = memory._granted
        memory._line = MemoryQueues(self._note_grant)
        self.look("open")

    def _note_grant(self, key: int, task: int, event: str | None, now: float) -> None:
        self._granted(key, task, event, now)
        if event is not None:
            self._grants.append((key, event))

    def tell(self, life: Life, method: str, args: tuple[Any, ...], result: Any) -> None:
        """Tell the oracle of a call that took effect, and then of the turns that came of it."""
        self.oracle.saw(life.name, method, args, result)
        for key, event in self._grants:
            self.oracle.saw_grant(key, event)
        self._grants.clear()

    def connect(self, life: Life) -> Connection:
        """Return a new process's way to the store."""
        return self._connection(self, self._world, life)

    def look(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the store at once and without any misfortune; for those who watch."""
        return self.run(getattr(self.memory, method)(*args, **kwargs))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run to its end, in no time, what asks the store."""
        return self._loop.finish(coroutine)

    def execute(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Exception | None]:
        """Let a call take effect; return its result, or why it was refused."""
        try:
            if method == "append":
                outcome = self._append(*args)
                return (None, outcome) if isinstance(outcome, Exception) else (outcome, None)
            return self.look(method, *args, **kwargs), None
        except StoreError as error:
            return None, error

    def _append(self, lease: Lease, episode: Episode) -> Any:
        answers: list[Any] = []
        events._set_running_loop(self._loop)
        try:
            self.memory.append(lease, episode, answers.append)
        finally:
            events._set_running_loop(None)
        self._loop.run_ready(10)
        return answers[0]

    def end_lease(self, lease: Lease) -> None:
        """Let a worker count as dead: its process is gone, or has not renewed its lease in time."""
        self._world.note("store", f"lease {lease.token} has ended")
        self.oracle.lease_ended(lease.token)
        self.memory.kill(lease)

    def lost(self, life: Life) -> None:
        """A process is gone: what it sent last may still arrive; its lease is found dead some time later."""
        chance = self._world.random
        life.store.cut_at = self._world.now + chance.choice((0.0, 0.0, chance.random()))
        for lease in life.store.leases:
            self._world.after(chance.uniform(0.0, 4.0), self.end_lease, lease)

    def _note_failure(self, context: dict[str, Any]) -> None:
        self._world.blame(f"store: {context['message']}: {context.get('exception')!r}")


class Connection:
    """A process's end of the way: every method of the port, each call a message there and a message back.

    Attributes:
        leases: those that this process was given, whether the answer reached it or not.
        token: of the lease that it was last told of; 0 before the first.
        cut_at: when its process is gone, the virtual time after which nothing of it arrives any more.
    """

    name = NAME

    def __init__(self, node: StoreNode, world: World, life: Life) -> None:
        self._node = node
        self._world = world
        self._life = life
        self._last_change = 0.0
        self.leases: list[Lease] = []
        self.token = 0
        self.cut_at = float("inf")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        declared = getattr(HistoryStore, method, None)
        if not inspect.iscoroutinefunction(declared):
            raise AttributeError(f"the simulated store has no {method!r}; teach it methods that are not coroutines")

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._asked(method, args, kwargs)

        self.__dict__[method] = call
        return call

    def is_kept(self, lease: Lease) -> bool:
        """Tell nothing: the end of a lease is news to its worker, so what a late one begins is seen, too."""
        return True

    async def _asked(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        future = self._life.loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.send(method, tuple(map(self._posted, args)), kwargs, settle)
        return await future

    def _posted(self, argument: Any) -> Any:
        """Return an argument as the store may have it: what it calls back happens in the process, while that lives."""
        if not inspect.isfunction(argument) and not inspect.ismethod(argument):
            return argument

        def post(*args: Any) -> None:
            if self._life.alive:
                self._life.loop.call_soon(argument, *args)

        return post

    def listen(self, on_news: Callable[[Any], None]) -> None:
        """Tell nothing: whoever waits looks from time to time."""

    def append(self, lease: Lease, episode: Episode, done: Appended) -> None:
        """Send an episode; ``done`` is called when the answer arrives."""
        self.send("append", (lease, episode), {}, lambda result, error: done(result if error is None else error))

    def send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], reply: Reply) -> None:
        """Put a call on its way."""
        if self._world.now >= self.cut_at:
            return
        when = self._world.now + self._node.weather.delay()
        if method not in _LOOKS:
            when = self._last_change = max(when, self._last_change)
        self._world.at(when, self._arrive, method, args, kwargs, reply)

    def _arrive(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], reply: Reply) -> None:
        life, node = self._life, self._node
        if self._world.now > self.cut_at or (not life.alive and method in _LOOKS):
            return
        error: Exception | None = node.weather.refusal(life.process.name, self._world.now)
        result = None
        if error is None:
            result, error = node.execute(method, args, kwargs)
            if error is None:
                self._took_effect(method, args, result)
        if self._world.trace is not None and method != "version":
            self._world.note(life.name, _line(method, args, result, error))
        self._world.after(node.weather.delay(), self._answer, method, reply, result, error)

    def _took_effect(self, method: str, args: tuple[Any, ...], result: Any) -> None:
        if method == "join":
            self.leases.append(result)
            if not self._life.alive:
                self._world.after(1.0, self._node.end_lease, result)
        self._node.tell(self._life, method, args, result)

    def _answer(self, method: str, reply: Reply, result: Any, error: Exception | None) -> None:
        if not self._life.alive:
            return
        if method == "join" and error is None:
            self.token = result.token
        self._life.loop.call_soon(reply, result, error)


def _line(method: str, args: tuple[Any, ...], result: Any, error: Exception | None) -> str:
    """Return a call that arrived as the trace shows it."""
    # A worker's name holds the number of the process that simulates it.
    told = "" if method == "join" else " ".join(_word(argument) for argument in args)
    answer = type(error).__name__ if error is not None else _word(result)
    return f"{method} {told} -> {answer}"


def _word(value: Any) -> str:
    match value:
        case Lease():
            return f"lease {value.token}"
        case Episode():
            parked = "" if value.park is None else f" parked {value.park.status} due {value.park.due}"
            return f"#{value.key} row {value.seq} {value.events:.300}{parked}"
        case InstanceRecord():
            return f"{value.instance_id} {value.status} due {value.due} waits {value.waits}"
        case set() | frozenset():
            return _word(sorted(value))
        case dict():
            return f"{{{', '.join(map(str, value))}}}"
        case list():
            return f"[{', '.join(map(_word, value))}]"
        case _:
            return f"{value!s:.200}"
