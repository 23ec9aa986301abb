"""Random workflow programs from a seed, and which results of each are right."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from tests.engine.programs import (
    EVENTS,
    Call,
    First,
    IfEven,
    Leaf,
    Node,
    Par,
    Receive,
    Seq,
    Sleep,
    TimedReceive,
    World,
)

from perdure.base.codec import decode

ASKING, RECONCILING = 7, 8
"""Activities that a crash does not simply repeat: a human is asked, a function finds out."""


def random_program(chance: random.Random, size: int = 6) -> Node:
    """Return a program of at most so many leaves."""
    if size <= 1:
        return random_leaf(chance)
    match chance.randrange(6):
        case 0:
            return Par(tuple(random_leaf(chance) for _ in range(chance.randint(2, size))))
        case 1:
            return First(tuple(random_leaf(chance) for _ in range(chance.randint(2, min(3, size)))))
        case 2:
            half = size // 2
            return IfEven(Call(chance.randrange(10)), random_program(chance, half), random_program(chance, half))
        case _:
            parts = chance.randint(2, min(4, size))
            return Seq(tuple(random_program(chance, size // parts) for _ in range(parts)))


def random_leaf(chance: random.Random) -> Leaf:
    match chance.randrange(8):
        case 0:
            return Sleep(chance.choice([0.0, 1.0, 5.0]))
        case 1:
            return Receive(chance.choice(EVENTS))
        case 2:
            return TimedReceive(chance.choice(EVENTS), chance.choice([1.0, 3.0]))
        case 3 | 4:
            return Call(chance.randrange(10), chance.randint(0, 3), chance.randint(1, 3))
        case _:
            return Call(chance.randrange(10))


def leaves(node: Node) -> Iterable[Leaf]:
    """Return all leaves of a program."""
    match node:
        case Seq(parts) | Par(parts) | First(parts):
            return [leaf for part in parts for leaf in leaves(part)]
        case IfEven(call, yes, no):
            return [call, *leaves(yes), *leaves(no)]
        case _:
            return [node]


def order_free(node: Node) -> bool:
    """Whether a program's result does not depend on what comes first."""
    match node:
        case Seq(parts):
            return all(order_free(part) for part in parts)
        case IfEven(_, yes, no):
            return order_free(yes) and order_free(no)
        case First():
            return False
        case _:
            return not any(isinstance(leaf, Receive | TimedReceive) for leaf in leaves(node))


def undisturbed(program: Node) -> Any:
    """Return the result of a program that nothing disturbs."""
    completed = World(program).run(()).execution.completed
    assert completed is not None
    return decode(completed.result)


def allowed(node: Node, result: Any, events: Iterable[Any]) -> bool:
    """Whether a program may have this result, when these are the data of all events that it was sent."""
    match node:
        case Seq(parts):
            return _are(result, len(parts)) and all(
                allowed(part, one, events) for part, one in zip(parts, result, strict=True)
            )
        case IfEven(call, yes, no):
            chosen = yes if call.number % 2 == 0 else no
            return _are(result, 2) and result[0] == call.number and allowed(chosen, result[1], events)
        case First(parts):
            # Which was first, its outcome, and when that was.
            return _are(result, 3) and _leaf_allowed(parts[result[0]], result[1], events)
        case Par(parts) if isinstance(result, list):
            return len(parts) == len(result) and all(
                not isinstance(one, str) and _leaf_allowed(part, one, events)
                for part, one in zip(parts, result, strict=True)
            )
        case Par(parts):
            return isinstance(result, str) and any(_leaf_allowed(part, result, events) for part in parts)
        case _:
            return _leaf_allowed(node, result, events)


def _are(result: Any, size: int) -> bool:
    return isinstance(result, list) and len(result) == size


def _leaf_allowed(leaf: Leaf, result: Any, events: Iterable[Any]) -> bool:
    match leaf:
        case Call(number, fails, attempts):
            return result == (number if fails < attempts else "ActivityFailedError")
        case Sleep():
            return result is None
        case TimedReceive() if result == "TimeoutError":
            return True
        case _:
            return any(result == data for name, data in events if name == leaf.name)
