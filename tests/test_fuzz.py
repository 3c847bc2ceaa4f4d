"""The corpus, and so many mutations of it, through every harness: a value or a typed error, and nothing else."""

from __future__ import annotations

import random

import pytest
from fuzz.targets import TARGETS, corpus
from mutators import MUTATORS, mutated

MUTATED = {"message": 4000, "context": 1500, "icmp": 2000, "roles": 700, "ha-session": 300, "capture": 200}
"""Inputs of each target; others 600."""


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str) -> None:
    inputs = corpus(target)
    assert inputs
    for name, octets in inputs.items():
        try:
            TARGETS[target](octets)
        except Exception as error:
            raise AssertionError(f"{target}, corpus/{target}/{name}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus(target: str) -> None:
    rng = random.Random(f"cxtp {target}")
    inputs = list(corpus(target).values())
    for _ in range(MUTATED.get(target, 600)):
        octets = mutated(rng.choice(inputs), rng)
        try:
            TARGETS[target](octets)
        except Exception as error:
            raise AssertionError(f"{target}: {octets.hex()}") from error


@pytest.mark.parametrize("name", MUTATORS)
def test_a_mutator_changes_what_it_says(name: str) -> None:
    rng = random.Random(1)
    message = next(iter(corpus("message").values()))
    assert any(MUTATORS[name](message, rng) != message for _ in range(20))
    assert isinstance(MUTATORS[name](b"", rng), bytes)
