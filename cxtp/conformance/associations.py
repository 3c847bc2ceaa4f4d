"""SCTP associations between routers as a capture's packets show them: how they begin, and what is sent again.

Facts for the rules of transport that no single user message shows (RFC 4067, 3.1; RFC 9260; RFC 3758).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from contexts.values import IPAddress

from ..adapters.capture import IpPacket
from ..constants import PORT
from .bounded import Bounded

REMEMBERED_TSNS = 1024
"""Transmission sequence numbers remembered per direction (ours)."""

_ICMP, _ICMPV6, _SCTP = 1, 58, 132
_DATA, _INIT, _INIT_ACK, _ABORT, _FORWARD_TSN = 0, 1, 2, 6, 192
_IPV4_ADDRESS, _IPV6_ADDRESS, _FORWARD_TSN_SUPPORTED, _SUPPORTED_EXTENSIONS = 5, 6, 0xC000, 0x8008
_INIT_FIXED = 20
_UNREACHABLE = {(1, 3), (58, 1), (58, 4)}
"""ICMP's "destination unreachable" (RFC 792; RFC 4443, 3.1), and ICMPv6's "unrecognized next header" (3.4)."""

Ends = tuple[IPAddress, int, IPAddress, int]


@dataclass
class Setup:
    """What one end says of itself in INIT or INIT ACK; ``number``: its packet."""

    number: int
    addresses: int
    partial_reliability: bool


@dataclass
class Direction:
    """What one end sends; times of DATA chunks by their TSN."""

    setup: Setup | None = None
    first: Bounded = field(default_factory=lambda: Bounded(REMEMBERED_TSNS))
    late: tuple[int, int, float] | None = None
    """The chunk sent again the longest after its first time: the packets of both, and how long."""

    forward: int = 0
    """The first packet with a FORWARD TSN."""


@dataclass
class Opening:
    """An INIT to CXTP's port, and what became of it: the packets' numbers, 0 where there is none."""

    asked: int
    accepted: int = 0
    refused: int = 0


class Associations:
    """Takes every IP packet of a capture; ``directions`` and ``openings`` by (source, port, destination, port)."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self.directions: Bounded = Bounded()
        self.openings: Bounded = Bounded()

    def take(self, packet: IpPacket) -> None:
        """One packet."""
        if packet.protocol in (_ICMP, _ICMPV6):
            self._refused_by_icmp(packet)
        if packet.protocol != _SCTP or len(packet.payload) < 12:
            return
        source_port, destination_port = struct.unpack("!HH", packet.payload[:4])
        if self._port not in (source_port, destination_port):
            return
        ends = (packet.source, source_port, packet.destination, destination_port)
        back = (packet.destination, destination_port, packet.source, source_port)
        for kind, body in _chunks(packet.payload):
            if kind in (_INIT, _INIT_ACK) and len(body) >= _INIT_FIXED:
                self._direction(ends).setup = _setup(packet.index, body)
            if kind == _INIT and destination_port == self._port:
                self.openings.setdefault(ends, Opening(packet.index))
            elif kind in (_INIT_ACK, _ABORT) and back in self.openings:
                self._answered(self.openings[back], kind, packet.index)
            elif kind == _DATA and len(body) >= 8:
                self._data(self._direction(ends), int.from_bytes(body[4:8], "big"), packet)
            elif kind == _FORWARD_TSN:
                direction = self._direction(ends)
                direction.forward = direction.forward or packet.index

    def both(self) -> Iterator[tuple[Direction, Direction]]:
        """Each direction with the one back, where both ends' set-up was seen."""
        for (source, port, destination, other), direction in self.directions.items():
            back = self.directions.get((destination, other, source, port))
            if back is not None and direction.setup is not None and back.setup is not None:
                yield direction, back

    def _direction(self, ends: Ends) -> Direction:
        if ends not in self.directions:
            self.directions[ends] = Direction()
        found: Direction = self.directions[ends]
        return found

    def _data(self, direction: Direction, tsn: int, packet: IpPacket) -> None:
        before = direction.first.get(tsn)
        if before is None:
            direction.first[tsn] = (packet.index, packet.time)
            return
        waited = packet.time - before[1]
        if direction.late is None or waited > direction.late[2]:
            direction.late = (before[0], packet.index, waited)

    def _answered(self, opening: Opening, kind: int, number: int) -> None:
        if kind == _INIT_ACK:
            opening.accepted = opening.accepted or number
        elif not opening.accepted:
            opening.refused = opening.refused or number

    def _refused_by_icmp(self, packet: IpPacket) -> None:
        octets = packet.payload
        if len(octets) < 8 or (packet.protocol, octets[0]) not in _UNREACHABLE:
            return
        quoted = octets[8:]
        for ends, opening in self.openings.items():
            addresses = ends[0].packed + ends[2].packed
            ports = struct.pack("!HH", ends[1], ends[3])
            start = quoted.find(addresses)  # an IPv4 header's options stand between addresses and ports
            if start >= 0 and ports in quoted[start + len(addresses) :][:44] and not opening.accepted:
                opening.refused = opening.refused or packet.index


def _chunks(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Each chunk's type and its octets, header and all."""
    position = 12
    while position + 4 <= len(octets):
        kind, length = octets[position], int.from_bytes(octets[position + 2 : position + 4], "big")
        if length < 4 or position + length > len(octets):
            return
        yield kind, octets[position : position + length]
        position += length + -length % 4


def _setup(number: int, chunk: bytes) -> Setup:
    addresses, partial, position = 0, False, _INIT_FIXED
    while position + 4 <= len(chunk):
        kind, length = struct.unpack("!HH", chunk[position : position + 4])
        if length < 4:
            break
        addresses += kind in (_IPV4_ADDRESS, _IPV6_ADDRESS)
        extensions = chunk[position + 4 : position + length] if kind == _SUPPORTED_EXTENSIONS else b""
        partial |= kind == _FORWARD_TSN_SUPPORTED or _FORWARD_TSN in extensions
        position += length + -length % 4
    return Setup(number, addresses, partial)
