"""SCTP associations as they look on the wire (RFC 9260), for :class:`.PcapWriter`: from INIT to SHUTDOWN COMPLETE.

Both ends are played, on one path each.  Tags, first TSNs and cookies follow from the ends' addresses and ports, so that
the same calls give the same octets.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from contexts.values import IPAddress

Ends = tuple[IPAddress, int, IPAddress, int]
Put = Callable[[float, IPAddress, IPAddress, bytes], None]
"""Writes one SCTP packet at a time (seconds), from and to these addresses."""
Later = Callable[[float, Callable[[], None]], None]
"""Calls back at a time, before anything later is written."""

_DATA, _INIT, _INIT_ACK, _SACK, _SHUTDOWN, _SHUTDOWN_ACK = 0, 1, 2, 3, 7, 8
_COOKIE_ECHO, _COOKIE_ACK, _SHUTDOWN_COMPLETE = 10, 11, 14
_ENDING, _BEGINNING, _UNORDERED = 1, 2, 4
_STATE_COOKIE, _SUPPORTED_ADDRESS_TYPES, _FORWARD_TSN_SUPPORTED = 7, 12, 0xC000  # the last: RFC 3758, 3.1
_ADDRESS_TYPES = {4: 5, 6: 6}  # RFC 9260, 3.3.2.1.1 and 3.3.2.1.2

RECEIVER_WINDOW = 106_496
"""Octets, as Linux offers them."""

STREAMS = 1
"""In either direction: all that ``cxtp node`` asks for."""

SACK_DELAY = 0.01
"""Seconds that a receiver waits for a second packet or for something to say itself: SctpSettings' (6.2)."""

SACK_EVERY = 2
"""Packets with DATA, of which the last is acknowledged at once (6.2)."""


@dataclass
class _Side:
    """One end: what it sends next, and what it owes an acknowledgement for."""

    tag: int
    """What the packets sent to it carry as their verification tag (8.5)."""
    next_tsn: int
    cumulative_tsn: int = 0
    """The last TSN that arrived without a gap."""
    above: set[int] = field(default_factory=set)
    """What arrived beyond a gap."""
    unacknowledged: int = 0
    """Packets since the last SACK."""


@dataclass(frozen=True)
class SentData:
    """The DATA chunks of one user message, so that some can be sent again."""

    ends: Ends
    chunks: tuple[tuple[int, bytes], ...] = field(repr=False)
    """TSN and octets."""


class Association:
    """Between two ends, the first of which opened it.  ``delay`` is the seconds from one to the other."""

    def __init__(self, ends: Ends, room: int, put: Put, later: Later, delay: float) -> None:
        self._opener = ends
        self._room, self._put, self._later, self.delay = room, put, later, delay
        numbers = struct.unpack("!IIII", _octets(ends, "numbers", 16))
        opener, other = _Side(numbers[0] | 1, numbers[1]), _Side(numbers[2] | 1, numbers[3])
        opener.cumulative_tsn, other.cumulative_tsn = _before(other.next_tsn), _before(opener.next_tsn)
        self._sides = {ends: opener, turned(ends): other}

    def open(self, time: float, delay: float) -> None:
        """INIT, INIT ACK, COOKIE ECHO, COOKIE ACK (5.1), each so much after the one before."""
        here, there = self._opener, turned(self._opener)
        cookie = _octets(here, "cookie", 64)
        types = _parameter(_SUPPORTED_ADDRESS_TYPES, struct.pack("!H", _ADDRESS_TYPES[here[0].version]))
        forward = _parameter(_FORWARD_TSN_SUPPORTED, b"")
        self._send(time, here, _chunk(_INIT, 0, self._init(here) + types + forward), tag=0)
        steps = (
            (there, _chunk(_INIT_ACK, 0, self._init(there) + _parameter(_STATE_COOKIE, cookie) + forward)),
            (here, _chunk(_COOKIE_ECHO, 0, cookie)),
            (there, _chunk(_COOKIE_ACK, 0, b"")),
        )
        self._one_after_another(time + delay, delay, steps)

    def close(self, time: float) -> None:
        """SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE (9.2)."""
        here, there = self._opener, turned(self._opener)
        shutdown = struct.pack("!I", self._sides[here].cumulative_tsn)
        self._one_after_another(time, self.delay, (
            (here, _chunk(_SHUTDOWN, 0, shutdown)),
            (there, _chunk(_SHUTDOWN_ACK, 0, b"")),
            (here, _chunk(_SHUTDOWN_COMPLETE, 0, b"")),
        ))  # fmt: skip

    def send(self, time: float, ends: Ends, payload: bytes, protocol: int, *, lost: bool = False) -> SentData:
        """One user message, unordered, on stream 0 (3.3.1), in as many packets as it takes.  ``lost``: the last of them
        does not arrive."""
        side = self._sides[ends]
        chunks = []
        for flags, part in _fragments(payload, self._room):
            head = struct.pack("!IHHI", side.next_tsn, 0, 0, protocol)
            chunks.append((side.next_tsn, _chunk(_DATA, _UNORDERED | flags, head + part)))
            side.next_tsn = (side.next_tsn + 1) & 0xFFFFFFFF
        for number, (tsn, chunk) in enumerate(chunks, 1):
            self._data(time, ends, tsn, chunk, lost=lost and number == len(chunks))
        return SentData(ends, tuple(chunks))

    def repeat(self, time: float, sent: SentData) -> None:
        """The last packet of a message once more, TSN and all, as its timer ends (6.3.3)."""
        self._data(time, sent.ends, *sent.chunks[-1])

    def _data(self, time: float, ends: Ends, tsn: int, chunk: bytes, *, lost: bool = False) -> None:
        side, arrives = self._sides[ends], time + self.delay
        owed = b""
        if side.unacknowledged and len(chunk) + 16 + 8 * len(side.above) <= self._room:
            owed = self._sack(ends)  # what it has to say anyway takes the SACK along (6.1)
        self._send(time, ends, owed + chunk)
        if not lost:
            self._later(arrives, lambda: self._arrived(arrives, turned(ends), tsn))

    def _arrived(self, time: float, ends: Ends, tsn: int) -> None:
        """At the receiver, whose own ends these are."""
        side = self._sides[ends]
        side.above.add(tsn)
        while (following := (side.cumulative_tsn + 1) & 0xFFFFFFFF) in side.above:
            side.above.remove(following)
            side.cumulative_tsn = following
        side.unacknowledged += 1
        if side.unacknowledged >= SACK_EVERY or side.above:
            self._send(time, ends, self._sack(ends))
        else:
            due = time + (SACK_DELAY if self.delay else 0.0)
            self._later(due, lambda: self._acknowledge(due, ends))

    def _acknowledge(self, time: float, ends: Ends) -> None:
        if self._sides[ends].unacknowledged:
            self._send(time, ends, self._sack(ends))

    def _sack(self, ends: Ends) -> bytes:
        side = self._sides[ends]
        side.unacknowledged = 0
        gaps = b"".join(struct.pack("!HH", *pair) for pair in _runs(side))
        return _chunk(_SACK, 0, struct.pack("!IIHH", side.cumulative_tsn, RECEIVER_WINDOW, len(gaps) // 4, 0) + gaps)

    def _init(self, ends: Ends) -> bytes:
        side = self._sides[ends]
        return struct.pack("!IIHHI", side.tag, RECEIVER_WINDOW, STREAMS, STREAMS, side.next_tsn)

    def _one_after_another(self, time: float, delay: float, steps: tuple[tuple[Ends, bytes], ...]) -> None:
        """Each answers the one before."""
        ends, chunk = steps[0]

        def step() -> None:
            self._send(time, ends, chunk)
            if steps[1:]:
                self._one_after_another(time + delay, delay, steps[1:])

        self._later(time, step)

    def _send(self, time: float, ends: Ends, chunks: bytes, *, tag: int | None = None) -> None:
        source, source_port, destination, destination_port = ends
        tag = self._sides[turned(ends)].tag if tag is None else tag
        head = struct.pack("!HHI", source_port, destination_port, tag)
        checksum = _crc32c()(head + bytes(4) + chunks)  # scapy gives it as it goes on the wire
        self._put(time, source, destination, head + struct.pack("!I", checksum) + chunks)


@cache
def _crc32c() -> Callable[[bytes], int]:
    from scapy.layers.sctp import crc32c  # here: scapy takes half a second to import

    return crc32c  # type: ignore[no-any-return]


def turned(ends: Ends) -> Ends:
    """As the other end sees them."""
    return ends[2], ends[3], ends[0], ends[1]


def _fragments(payload: bytes, room: int) -> Iterator[tuple[int, bytes]]:
    """B and E bits, and a part of the payload (6.9)."""
    room = (room - 16) // 4 * 4
    for start in range(0, max(len(payload), 1), room):
        end = start + room
        yield (_BEGINNING if start == 0 else 0) | (_ENDING if end >= len(payload) else 0), payload[start:end]


def _runs(side: _Side) -> Iterator[tuple[int, int]]:
    """Gap Ack Blocks: first and last of each run, counted from the cumulative TSN (3.3.4)."""
    numbers = sorted((tsn - side.cumulative_tsn) & 0xFFFFFFFF for tsn in side.above)
    first = None
    for number in numbers:
        first = number if first is None else first
        if number + 1 not in numbers:
            yield first, number
            first = None


def _chunk(kind: int, flags: int, value: bytes) -> bytes:
    return struct.pack("!BBH", kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)


def _parameter(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, 4 + len(value)) + value + bytes(-len(value) % 4)


def _before(tsn: int) -> int:
    return (tsn - 1) & 0xFFFFFFFF


def _octets(ends: Ends, what: str, count: int) -> bytes:
    text = f"{what} {ends[0]} {ends[1]} {ends[2]} {ends[3]}".encode()
    return hashlib.sha512(text).digest()[:count]
