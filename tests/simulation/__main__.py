"""Run many worlds: ``python -m simulation --steps 1000000`` (with ``tests`` on PYTHONPATH).

Exit status 1 where something broke: the seed, what broke and the ladder that led there are printed; ``--seed`` with
that number runs it again, step by step the same.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import STEPS_OF_A_WORLD, scratch
from .kernel import Violation
from .mutations import MUTATIONS
from .standbys import StandbyWorld
from .world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="in all worlds together (default %(default)s)")
    parser.add_argument("--world", type=int, default=STEPS_OF_A_WORLD, help="steps of one world (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first world's seed")
    parser.add_argument("--seed", type=int, help="run this world alone, and print its ladder")
    parser.add_argument("--standbys", action="store_true", help="worlds whose nodes have standbys that take over")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="break the protocol in this way")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    broken = MUTATIONS[arguments.mutation].applied() if arguments.mutation else contextlib.nullcontext()
    with broken:
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    steps, worlds, moves = 0, 0, Counter[str]()
    started = time.monotonic()
    seed = arguments.first if arguments.seed is None else arguments.seed
    while True:
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            world = (StandbyWorld if arguments.standbys else World)(seed, Path(directory))
            try:
                world.run(arguments.world)
            except Violation as violation:
                print("\n".join(world.ladder))
                print(f"seed {seed}: {violation}\nagain: python -m simulation --seed {seed} --world {arguments.world}")
                return 1
        steps, worlds, moves = steps + world.steps, worlds + 1, moves + world.moves
        if sys.stderr.isatty():
            print(f"\r{steps:,} steps in {worlds:,} worlds", end="", file=sys.stderr, flush=True)
        if arguments.seed is not None:
            print("\n".join(world.ladder))
        if arguments.seed is not None or steps >= arguments.steps:
            break
        seed += 1
    if sys.stderr.isatty():
        print(file=sys.stderr)
    told = ", ".join(f"{count:,} {name}" for name, count in moves.most_common())
    print(
        f"{steps:,} steps in {worlds:,} worlds (seeds {arguments.first if arguments.seed is None else seed} to {seed}) "
        f"in {time.monotonic() - started:.0f} s: nothing broke; of the operator's moves: {told}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
