"""What a role remembers of requests and answers, and for how long: bounded, so that no peer can fill it."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from .events import Random

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """At most ``capacity`` entries, each kept ``lifetime`` seconds from when it was last put.

    The oldest goes when room is needed.  It needs no timer: the dead are buried when somebody looks.
    """

    def __init__(self, capacity: int, lifetime: float = math.inf) -> None:
        self._capacity = capacity
        self._lifetime = lifetime
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()  # in the order of their end

    def put(self, key: Key, value: Value, now: float) -> bool:
        """Remember, or remember anew; True where another entry, still alive, had to go for it."""
        self._entries[key] = (now + self._lifetime, value)
        self._entries.move_to_end(key)
        self._bury(now)
        if len(self._entries) <= self._capacity:
            return False
        self._entries.popitem(last=False)
        return True

    def knows(self, key: Key, now: float) -> bool:
        """Whether the key is remembered, whatever its value."""
        self._bury(now)
        return key in self._entries

    def recall(self, key: Key, now: float) -> Value | None:
        """The key's value; None where it is forgotten."""
        self._bury(now)
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def forget(self, key: Key) -> None:
        """Nothing is remembered of the key any more."""
        self._entries.pop(key, None)

    def size(self, now: float) -> int:
        """How many entries are alive."""
        self._bury(now)
        return len(self._entries)

    def _bury(self, now: float) -> None:
        while self._entries:
            end, _ = next(iter(self._entries.values()))
            if end > now:
                break
            self._entries.popitem(last=False)


class UsedKeys:
    """Keys that have proved a mobile node, by their hashes: none may do so again (RFC 4067, 6.3)."""

    def __init__(self, capacity: int) -> None:
        self._hashes: Memory[bytes, None] = Memory(capacity)

    def add(self, key: bytes, now: float) -> bool:
        """Remember a key; True where the oldest had to go for it."""
        return self._hashes.put(hashlib.sha256(key).digest(), None, now)

    def __contains__(self, key: bytes) -> bool:
        return self._hashes.knows(hashlib.sha256(key).digest(), 0.0)


class RequestRate:
    """CT_REQUEST_RATE: so many CTARs in a second are taken, the excess is dropped at random (RFC 4067, 6.3).

    A bucket holds the mean to the limit, whatever happens.  Which requests get through is left to chance once
    more arrive than the limit allows, so that whoever floods a router does not choose whom it locks out.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._capacity = max(1.0, limit)
        self._tokens = self._capacity
        self._filled_at = -math.inf
        self._second = -math.inf
        self._arrived = 0
        self._arrived_before = 0

    def admit(self, now: float, random: Random) -> bool:
        """Count a request that arrives now; whether to take it."""
        if self._filled_at < now:
            self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._limit)
            self._filled_at = now
        rate = self._arrival_rate(now)
        if rate > self._limit and random.random() >= self._limit / rate:
            return False
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _arrival_rate(self, now: float) -> float:
        """Arrivals in the second before this one: its share of the last whole second, and all of the present."""
        second = math.floor(now)
        if second != self._second:
            self._arrived_before = self._arrived if second == self._second + 1 else 0
            self._arrived = 0
            self._second = second
        rate = self._arrived + self._arrived_before * (1 - (now - second))
        self._arrived += 1
        return rate
