"""Networks on loopback for tests that need CXTP's own port."""

from __future__ import annotations

import random
import socket
from collections import deque

from cxtp.constants import PORT

_claims: deque[socket.socket] = deque()
_KEPT = 50  # more than any test has at once


def subnet() -> str:
    """Three octets of one that no other worker, nor another run of the suite on this machine, has at the same time:
    whoever has it holds a socket at its .1, which is for nothing else."""
    while True:
        found = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((f"{found}.1", PORT))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        while len(_claims) > _KEPT:
            _claims.popleft().close()
        return found
