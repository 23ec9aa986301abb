"""Runs simulations: many small ones, or one of them again with everything that happened."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tests.simulation.simulation import Outcome, simulate

_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a promise was broken."""
    given = _parser().parse_args(arguments)
    if given.seed is not None:
        return _one(given.seed, trace=given.trace)
    first, _, end = given.seeds.partition(":")
    return _many(range(int(first), int(end)), digest=given.digest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", metavar="FIRST:END", help="seeds to run (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happened")
    parser.add_argument("--digest", action="store_true", help="print the digest of all traces, which is slower")
    return parser


def _one(seed: int, *, trace: bool) -> int:
    outcome = simulate(seed, tracing=True)
    if trace:
        print("\n".join(outcome.trace))
    print(f"seed {seed}: {outcome.seconds:.0f} virtual s, {outcome.callbacks} callbacks, digest {outcome.digest}")
    return _told([outcome] if outcome.violations else [])


def _many(seeds: range, *, digest: bool) -> int:
    failed: list[Outcome] = []
    digests = hashlib.blake2b(digest_size=16)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(seeds), failed=0)
        for seed in seeds:
            outcome = simulate(seed, tracing=digest)
            if digest:
                digests.update(outcome.digest.encode())
            if outcome.violations:
                failed.append(outcome)
            progress.update(task, advance=1, failed=len(failed))
    print(f"{len(seeds)} seeds, {len(failed)} failed")
    if digest:
        print(f"digest {digests.hexdigest()}")
    return _told(failed)


def _told(failed: Sequence[Outcome]) -> int:
    for outcome in failed[:_SHOWN]:
        print(f"\n{outcome}")
    if len(failed) > _SHOWN:
        print(f"\nand {len(failed) - _SHOWN} more seeds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
