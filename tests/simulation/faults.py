"""What goes wrong in one simulation: crashes, pauses, lost leases, wrong clocks, deployments, outages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.simulation.process import SimulatedProcess
from tests.simulation.store import StoreNode
from tests.simulation.world import World

LEASE_SECONDS = 5.0
"""Virtual seconds after which a worker that stands still counts as dead."""

MISFORTUNE_SECONDS = 25.0
"""Virtual seconds in which things go wrong; afterwards all is well, and all that was accepted must come to an end."""

Fault = Callable[[World, StoreNode, SimulatedProcess], None]


def crash(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """Kill a process between two of its callbacks."""
    if process.life is not None:
        process.life.light(world.random.randint(1, 40), process.life.crash)


def stand_still(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """Stop a process between two of its callbacks, often for longer than its lease lasts."""
    life = process.life
    if life is None:
        return
    seconds = world.random.choice((0.5, 2.0, 8.0, 15.0))

    def stop() -> None:
        life.stand_still(seconds)
        if seconds > LEASE_SECONDS:
            for lease in life.store.leases:
                world.after(LEASE_SECONDS, node.end_lease, lease)

    life.light(world.random.randint(1, 40), stop)


def lose_lease(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """Let a worker count as dead that is not: its renewals did not arrive."""
    if process.life is not None:
        for lease in process.life.store.leases:
            node.end_lease(lease)


def turn_clock(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """Set the clock of a process forwards or backwards."""
    process.skew += world.random.choice((-30.0, -1.0, -0.001, 0.5, 3.0, 30.0))
    world.note(process.name, f"its clock is {process.skew:+.3f} s off")


def deploy(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """End a process in good order and begin it again."""
    if process.life is not None:
        process.life.leave()


def cut_off(world: World, node: StoreNode, process: SimulatedProcess) -> None:
    """Let the store refuse whatever a process asks, for a while."""
    until = world.now + world.random.choice((0.2, 1.0, 4.0))
    world.note(process.name, f"is refused everything until {until:.3f}")
    node.weather.go_out(process.name, until)


KINDS: tuple[Fault, ...] = (crash, stand_still, lose_lease, turn_clock, deploy, cut_off)


def plan_faults(world: World, node: StoreNode, processes: Sequence[SimulatedProcess]) -> None:
    """Put misfortunes of some kinds into the agenda; each seed knows its own kinds, so that each kind is seen alone."""
    chance: random.Random = world.random
    kinds = [kind for kind in KINDS if chance.random() < 0.4]
    if kinds:
        for _ in range(chance.randint(1, 8)):
            when = chance.uniform(0.0, MISFORTUNE_SECONDS) * chance.random()
            world.at(when, chance.choice(kinds), world, node, chance.choice(processes))
