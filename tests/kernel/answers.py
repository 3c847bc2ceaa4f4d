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

    def story(self, moved: Iterable[tuple[float, float]]) -> str:
        """What was lost and when, beside the moves and the last of what was sent and came: for a test that fails."""
        start, lost, missing = self.sent[0], self.lost, set(self.lost)
        firsts = [n for n in lost if n - 1 not in missing]
        lasts = [n for n in lost if n + 1 not in missing]
        runs = [f"{one}-{other} at {self.sent[one] - start:.2f} s" for one, other in zip(firsts, lasts, strict=True)]
        moves = [f"{begin - start:.2f}-{end - start:.2f} s" for begin, end in moved]
        last = f"{self.came[-1] - start:.2f} s" if self.came else "never"
        sent = f"{len(self.sent)} sent until {self.duration:.2f} s, the last answer {last}"
        return f"lost {', '.join(runs[:20])}; moves {', '.join(moves)}; {sent}"
