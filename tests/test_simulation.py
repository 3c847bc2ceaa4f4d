"""The simulation's short form: some worlds hold, each mutation is found, and a seed is the same run every time.

``script/soak simulation`` runs millions of steps.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from simulation import scratch
from simulation.kernel import Violation
from simulation.mutations import MUTATIONS
from simulation.standbys import STANDBY_MUTATIONS, StandbyWorld
from simulation.world import World

STEPS = 500


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run(seed: int, steps: int = STEPS) -> World:
    with tempfile.TemporaryDirectory(dir=scratch()) as directory:
        world = World(seed, Path(directory))
        try:
            world.run(steps)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}\n" + "\n".join(world.ladder))
        return world


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_nothing_breaks(first: int) -> None:
    worlds = [run(seed) for seed in range(first, first + 10)]
    assert all(world.steps >= STEPS for world in worlds)
    assert sum(world.moves["moved"] for world in worlds) > 10  # they do move


def test_a_seed_is_the_same_run_every_time() -> None:
    one, other = run(7), run(7)
    assert list(one.ladder) == list(other.ladder)
    assert list(one.ladder) != list(run(8).ladder)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_protocol_is_found(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutation.applied():
        for seed in range(mutation.seeds):
            with tempfile.TemporaryDirectory(dir=scratch()) as directory:
                try:
                    World(seed, Path(directory), harsh=True).run(STEPS)
                except Violation:
                    return
    pytest.fail(f"{name!r} ({mutation.what}) was not found within {mutation.seeds} seeds")


def test_standbys_take_over_and_nothing_breaks() -> None:
    """Whole nodes that replicate; replicas are taken over from owners that are dead, cut off, or neither."""
    moves: Counter[str] = Counter()
    for seed in range(16):
        with tempfile.TemporaryDirectory(dir=scratch()) as directory:
            world = StandbyWorld(seed, Path(directory))
            try:
                world.run(STEPS)
            except Violation as violation:
                pytest.fail(f"seed {seed}: {violation}\n" + "\n".join(world.ladder))
            moves += world.moves
    assert moves["taken over"] > 10
    assert moves["moved"] > 5


@pytest.mark.parametrize("name", STANDBY_MUTATIONS)
def test_a_broken_standby_is_found(name: str) -> None:
    with mock.patch.object(*STANDBY_MUTATIONS[name]):
        for seed in range(100):
            with tempfile.TemporaryDirectory(dir=scratch()) as directory:
                try:
                    StandbyWorld(seed, Path(directory)).run(STEPS)
                except Violation:
                    return
    pytest.fail(f"{name!r} was not found within 100 seeds")


def test_a_failing_seed_prints_its_ladder_and_how_to_run_it_again() -> None:
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "simulation", "--mutation", "thaw on a timer", "--steps", "20000"]
    environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tests.parent)
    assert done.returncode == 1
    assert "!!!" in done.stdout
    assert "again: python -m simulation --seed" in done.stdout
