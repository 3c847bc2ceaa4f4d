"""When to act next: one timer for each key, and waits that double."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Schedule(Generic[Key]):
    """At most one timer for each key, the earliest at hand.

    A heap whose outdated entries stay until they come up or outnumber the true ones, so that setting and
    clearing a timer costs no search.
    """

    def __init__(self) -> None:
        self._when: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = count()  # keys of two address families have no order of their own

    def set(self, key: Key, when: float) -> None:
        """Set or move the key's timer."""
        stamp = next(self._order)
        self._when[key] = (when, stamp)
        heapq.heappush(self._heap, (when, stamp, key))
        if len(self._heap) > 2 * len(self._when) + 64:
            self._heap = [(when, stamp, key) for key, (when, stamp) in self._when.items()]
            heapq.heapify(self._heap)

    def clear(self, key: Key) -> None:
        """Take the key's timer away, if it has one."""
        self._when.pop(key, None)

    def next(self) -> float | None:
        """When the earliest timer is due."""
        while self._heap:
            when, stamp, key = self._heap[0]
            if self._when.get(key) == (when, stamp):
                return when
            heapq.heappop(self._heap)
        return None

    def take_due(self, now: float) -> list[Key]:
        """Take away, and return in their order, the timers that are due at ``now``."""
        due: list[Key] = []
        while (when := self.next()) is not None and when <= now:
            key = heapq.heappop(self._heap)[2]
            del self._when[key]
            due.append(key)
        return due


@dataclass
class Backoff:
    """Exponential back-off (RFC 4067, 3.1 and 3.2): each wait is twice the one before."""

    wait: float
    at: float

    @classmethod
    def start(cls, wait: float, now: float) -> Backoff:
        """The first repetition comes ``wait`` seconds from now."""
        return cls(wait, now + wait)

    def step(self, now: float) -> None:
        """A repetition was sent: double the wait for the next."""
        self.wait *= 2
        self.at = now + self.wait


class RoundTripTime:
    """One router's, from data to its answer, and the retransmission timeout that follows from it (RFC 6298, 2).

    A router with much to do answers late; to repeat all that it has not come to yet would give it more to do.
    """

    def __init__(self) -> None:
        self._smoothed = 0.0  # SRTT; 0: not measured yet
        self._variation = 0.0  # RTTVAR
        self._backed_off = 0.0

    def measured(self, seconds: float) -> None:
        """From the only time that something was sent to its answer."""
        if not self._smoothed:
            self._smoothed, self._variation = seconds, seconds / 2
        else:
            self._variation += (abs(self._smoothed - seconds) - self._variation) / 4
            self._smoothed += (seconds - self._smoothed) / 8
        self._backed_off = 0.0

    def ambiguous(self, wait: float) -> None:
        """An answer came after a repetition, to which of the messages nobody can tell (Karn's algorithm): the wait that
        it came to stays until there is a clear one."""
        self._backed_off = max(self._backed_off, wait)

    def retransmission_timeout(self, shortest: float, longest: float) -> float:
        """Seconds until a first repetition: SRTT + 4 * RTTVAR, within these bounds."""
        return min(max(shortest, self._smoothed + 4 * self._variation, self._backed_off), max(shortest, longest))
