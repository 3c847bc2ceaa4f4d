"""What the sender of :mod:`.traffic` tells in the end: when each packet was sent, and which were answered."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

PASSING_ON = 0.05
"""Seconds from when a move is seen to have ended in which a packet may still go the old way."""


@dataclass(frozen=True)
class Answers:
    """``sent``: when, by number; ``back`` and ``came``: numbers that were answered, and when the sender saw it, in the
    order of the answers; ``refused``: packets that the sender's own kernel did not take.  ``time.monotonic``."""

    sent: list[float]
    back: list[int]
    came: list[float]
    refused: int

    @classmethod
    def read(cls, text: str) -> Answers:
        """The sender's output.  No answer may have come twice."""
        made = cls(**json.loads(text))
        assert len(set(made.back)) == len(made.back)
        return made

    @property
    def lost(self) -> list[int]:
        answered = set(self.back)
        return [number for number in range(len(self.sent)) if number not in answered]

    @property
    def duration(self) -> float:
        """Seconds from the first packet to the last."""
        return self.sent[-1] - self.sent[0]

    def strays(self, moved: Iterable[tuple[float, float]]) -> list[int]:
        """Packets that were lost and were not on their way while a session moved, from ``begin`` to ``end``.

        Whatever had not been answered when the move began was on its way: on a busy machine that may be much.  All
        goes in one order, so that what was sent before an answered packet was no longer.
        """
        highest = list(accumulate(self.back, max))
        spans = []
        for begin, end in moved:
            answers = bisect_left(self.came, begin)
            spans.append((highest[answers - 1] if answers else -1, end + PASSING_ON))
        return [n for n in self.lost if not any(n > done and self.sent[n] < end for done, end in spans)]
