"""Whole nodes under faults, in virtual time, from a seed: the product's own node, roles, sessions and store.

Only what is outside of a node is simulated: the network, the kernels that send ESP, the clocks, the mobile nodes,
the operator.  A world (:mod:`.world`) is one seed's run; :mod:`.mutations` breaks the protocol to show that a broken
one is found; ``python -m simulation`` runs many (with ``tests`` on PYTHONPATH).
"""

from __future__ import annotations

import os
from pathlib import Path

STEPS_OF_A_WORLD = 700


def scratch() -> str | None:
    """Where the stores of many worlds are cheap to sync: memory, where there is such a place."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None
