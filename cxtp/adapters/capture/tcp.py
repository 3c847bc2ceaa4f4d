"""TCP streams of a capture in order: retransmissions taken once, segments put in their place, gaps told."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from contexts.values import IPAddress

from .files import PathLike
from .internet import Drops, IpPacket, ip_packets

_TCP = 6
_SYN = 2

MAXIMUM_DIRECTIONS = 4096
"""Directions of connections that are followed at once; the one silent the longest goes first (ours)."""

MAXIMUM_WAITING_OCTETS = 1 << 20
"""Octets of one direction that wait behind a gap; above that the gap is taken for lost (ours: a large window)."""

MAXIMUM_WAITING_SEGMENTS = 4096
"""Segments that do so, however small."""

_End = tuple[IPAddress, int]


@dataclass(frozen=True)
class TcpData:
    """The next octets of one direction of a connection, in order.

    ``connection`` counts connections from 0 in the capture, both directions have the same; ``missing`` octets
    before these are not in the capture.  ``index`` and ``time`` are those of the packet that let them be handed
    on (the one that filled a gap before them, say).
    """

    index: int
    time: float
    connection: int
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    payload: bytes = field(repr=False)
    missing: int = 0


@dataclass(frozen=True)
class _Segment:
    sequence: int
    flags: int
    payload: bytes


class _Direction:
    """One direction: what is expected next, and what waits behind a gap, by its distance from there."""

    def __init__(self, connection: int, source: _End, destination: _End) -> None:
        self.connection = connection
        self.source = source
        self.destination = destination
        self.initial: int | None = None
        self.expected: int | None = None
        self.waiting: dict[int, bytes] = {}
        self.last: IpPacket | None = None

    def put(self, packet: IpPacket, segment: _Segment, drops: Drops) -> Iterator[TcpData]:
        self.last = packet
        sequence = segment.sequence
        if segment.flags & _SYN:
            self.initial = sequence
            sequence = (sequence + 1) & 0xFFFFFFFF
        if self.expected is None:
            self.expected = sequence
        if not segment.payload:
            return
        behind = (self.expected - sequence) & 0xFFFFFFFF
        payload = segment.payload
        if 0 < behind < 0x80000000:
            if behind >= len(payload):
                drops["repeated TCP segment"] += 1
                return
            payload, sequence = payload[behind:], self.expected
        if len(payload) <= len(self.waiting.get(sequence, b"")):
            drops["repeated TCP segment"] += 1
            return
        self.waiting[sequence] = payload
        yield from self._in_order(packet)
        waiting = sum(map(len, self.waiting.values()))
        if waiting > MAXIMUM_WAITING_OCTETS or len(self.waiting) > MAXIMUM_WAITING_SEGMENTS:
            yield from self.skip_gaps(packet)

    def _in_order(self, packet: IpPacket, missing: int = 0) -> Iterator[TcpData]:
        here = self.expected or 0
        taken = []
        while self.waiting:
            start = min(self.waiting, key=lambda sequence: _distance(here, sequence))
            ahead = _distance(here, start)
            if ahead > 0:
                break
            payload = self.waiting.pop(start)[-ahead:] if ahead else self.waiting.pop(start)
            taken.append(payload)
            here = (here + len(payload)) & 0xFFFFFFFF
        self.expected = here
        octets = b"".join(taken)
        if octets:
            yield TcpData(
                packet.index, packet.time, self.connection, *self.source, *self.destination, octets, missing
            )

    def skip_gaps(self, packet: IpPacket) -> Iterator[TcpData]:
        while self.waiting:
            here = self.expected or 0
            missing = min(_distance(here, sequence) for sequence in self.waiting)
            self.expected = (here + missing) & 0xFFFFFFFF
            yield from self._in_order(packet, missing)

    def finish(self) -> Iterator[TcpData]:
        if self.last is not None:
            yield from self.skip_gaps(self.last)


def _distance(origin: int, sequence: int) -> int:
    """How far ``sequence`` is ahead of ``origin``, modulo 2^32; negative: behind (RFC 9293, 3.4)."""
    return ((sequence - origin + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class TcpReader:
    """The octets of TCP connections out of IP packets, one at a time; what is remembered is limited."""

    def __init__(self, port: int | None, drops: Drops) -> None:
        self._port = port
        self._drops = drops
        self._directions: OrderedDict[tuple[_End, _End], _Direction] = OrderedDict()
        self._connections = 0

    def put(self, packet: IpPacket) -> Iterator[TcpData]:
        """The octets that this packet brings in order."""
        if packet.protocol != _TCP:
            return
        parsed = _parse(packet)
        if parsed is None:
            self._drops["malformed TCP header"] += 1
            return
        source, destination, segment = parsed
        if self._port is not None and self._port not in (source[1], destination[1]):
            return
        directions = self._directions
        key = (source, destination)
        direction = directions.get(key)
        if direction is not None and _begins_anew(direction, segment):
            yield from directions.pop(key).finish()
            stale = directions.get((destination, source))
            if stale is not None and stale.connection == direction.connection:
                yield from directions.pop((destination, source)).finish()
            direction = None
        if direction is None:
            if len(directions) >= MAXIMUM_DIRECTIONS:
                yield from directions.popitem(last=False)[1].finish()
            other = directions.get((destination, source))
            if other is None:
                self._connections += 1
            connection = self._connections - 1 if other is None else other.connection
            direction = directions[key] = _Direction(connection, source, destination)
        directions.move_to_end(key)
        yield from direction.put(packet, segment, self._drops)

    def finish(self) -> Iterator[TcpData]:
        """What waited behind gaps."""
        for direction in self._directions.values():
            yield from direction.finish()


def tcp_streams(path: PathLike, port: int | None = None, *, drops: Drops | None = None) -> Iterator[TcpData]:
    """The octets of the TCP connections in a capture file, those from or to ``port`` where one is given.

    Each direction's octets come in order and once.  A direction whose beginning is not in the capture starts at its
    first segment there.  Raises as :func:`.read_packets` does.
    """
    drops = Counter() if drops is None else drops
    reader = TcpReader(port, drops)
    for packet in ip_packets(path, drops=drops):
        yield from reader.put(packet)
    yield from reader.finish()


def _begins_anew(direction: _Direction, segment: _Segment) -> bool:
    """A SYN with another initial sequence number: the ports are used again."""
    if not segment.flags & _SYN or direction.expected is None:
        return False
    if direction.initial is None:  # followed from its middle on; or the SYN was overtaken by the first data
        return direction.expected != (segment.sequence + 1) & 0xFFFFFFFF
    return direction.initial != segment.sequence


def _parse(packet: IpPacket) -> tuple[_End, _End, _Segment] | None:
    octets = packet.payload
    if len(octets) < 20:
        return None
    source_port, destination_port, sequence = struct.unpack("!HHI", octets[:8])
    header_length = (octets[12] >> 4) * 4
    if not 20 <= header_length <= len(octets):
        return None
    segment = _Segment(sequence, octets[13], octets[header_length:])
    return (packet.source, source_port), (packet.destination, destination_port), segment
