"""From frames to whole IP packets: link layers, IPv4 and IPv6 headers, fragments.

Headers are read with ``struct``: a dissector for everything is ten times slower and adds nothing here.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from contexts.values import IPAddress
from cxtp.wire import internet_checksum

from .files import CapturedPacket, PathLike, read_packets

MAXIMUM_PENDING_DATAGRAMS = 1024
"""Datagrams whose fragments are collected at once; the oldest goes first (ours: 64 MiB at the very most)."""

MAXIMUM_DATAGRAM = 65_535
"""Octets of one IPv4 packet, or of an IPv6 packet's payload (RFC 791, 3.1; RFC 8200, 3)."""

REASSEMBLY_SECONDS = 60.0
"""Fragments are given up so long after the first, by the capture's clock (RFC 8200, 4.5)."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN_TAGS = frozenset({0x8100, 0x88A8, 0x9100})

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_EXTENSION_HEADERS = frozenset({_HOP_BY_HOP, _ROUTING, _DESTINATION})

# Link types (tcpdump.org/linktypes.html): BSD loopback says the family in its own host's order, so both are tried.
_NULL, _ETHERNET, _LOOP, _LINUX_COOKED, _LINUX_COOKED_2 = 0, 1, 108, 113, 276
_RAW_IP = frozenset({12, 14, 101, 228, 229})  # 12 and 14: what OpenBSD and BSD/OS wrote for 101
_IP_FAMILIES = frozenset({2, 10, 24, 28, 30})

Drops = Counter[str]


@dataclass(frozen=True)
class IpPacket:
    """A whole IP packet: ``octets`` with its header, ``header_length`` of which stand before the upper layer
    (IPv6 extension headers included), ``protocol`` the upper layer's number.

    ``index`` and ``time`` are those of the frame that completed it.  A packet that came in fragments is
    ``fragmented`` and has the header of an unfragmented one.  ``link_source`` is the frame's Ethernet source, empty
    on other links.
    """

    index: int
    time: float
    source: IPAddress
    destination: IPAddress
    protocol: int
    octets: bytes = field(repr=False)
    header_length: int
    fragmented: bool = False
    link_source: bytes = b""

    @property
    def payload(self) -> bytes:
        """The upper layer's octets."""
        return self.octets[self.header_length :]

    @property
    def hop_limit(self) -> int:
        """TTL or hop limit."""
        return self.octets[8] if self.octets[0] >> 4 == 4 else self.octets[7]


def ip_packets(
    path: PathLike, *, drops: Drops | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[IpPacket]:
    """The IPv4 and IPv6 packets in a capture file, fragments put together, in the order in which they are complete.

    Ethernet (with VLAN tags), Linux cooked (SLL, SLL2), raw IP and BSD loopback are understood.  All else is
    counted in ``drops`` by reason.  ``progress`` hears the number of each frame.  Raises as :func:`.read_packets` does.
    """
    drops = Counter() if drops is None else drops
    fragments = _Fragments(drops)
    for frame in read_packets(path):
        if progress is not None:
            progress(frame.index)
        try:
            packet = _ip_packet(frame, fragments)
        except _Dropped as dropped:
            drops[dropped.reason] += 1
            continue
        if packet is not None:
            yield packet
    if fragments.pending:
        drops["fragment of a datagram that stayed incomplete"] += sum(len(p.parts) for p in fragments.pending.values())


class _Dropped(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


# --- link layers ------------------------------------------------------------------------------------------------


def _network_layer(frame: CapturedPacket) -> bytes:
    octets, link = frame.octets, frame.link_type
    if link == _ETHERNET:
        return _by_ether_type(octets, 12)
    if link in _RAW_IP:
        return octets
    if link == _LINUX_COOKED:
        return _by_ether_type(octets, 14)
    if link == _LINUX_COOKED_2:
        if len(octets) < 20:
            raise _Dropped("cut frame")
        return _by_ether_type(octets[:2] + octets[20:], 0)
    if link in (_NULL, _LOOP):
        orders = "<>" if link == _NULL else ">"
        if any(struct.unpack(order + "I", octets[:4].ljust(4, b"\xff"))[0] in _IP_FAMILIES for order in orders):
            return octets[4:]
        raise _Dropped("not IP")
    raise _Dropped(f"link type {link}")


def _link_source(frame: CapturedPacket) -> bytes:
    return frame.octets[6:12] if frame.link_type == _ETHERNET else b""


def _by_ether_type(octets: bytes, offset: int) -> bytes:
    while len(octets) >= offset + 2:
        ether_type = int.from_bytes(octets[offset : offset + 2], "big")
        offset += 2
        if ether_type in (_IPV4, _IPV6):
            return octets[offset:]
        if ether_type not in _VLAN_TAGS:
            raise _Dropped("not IP")
        offset += 2  # the tag's own two octets; the next type follows
    raise _Dropped("cut frame")


# --- IP headers -------------------------------------------------------------------------------------------------


def _ip_packet(frame: CapturedPacket, fragments: _Fragments) -> IpPacket | None:
    octets = _network_layer(frame)
    version = octets[0] >> 4 if octets else 0
    if version == 4:
        return _ipv4(frame, octets, fragments)
    if version == 6:
        return _ipv6(frame, octets, fragments)
    raise _Dropped("not IP" if octets else "cut frame")


def _whole(frame: CapturedPacket, octets: bytes, length: int) -> bytes:
    if len(octets) >= length:
        return octets[:length]  # Ethernet pads short frames
    raise _Dropped("cut by the capture's snap length" if frame.original_length > len(frame.octets) else "cut frame")


def _ipv4(frame: CapturedPacket, octets: bytes, fragments: _Fragments) -> IpPacket | None:
    header_length = (octets[0] & 15) * 4
    if header_length < 20 or len(octets) < header_length:
        raise _Dropped("malformed IPv4 header")
    total, identification, fragment = struct.unpack("!HHH", octets[2:8])
    if total == 0:
        total = len(octets)  # large segments handed down for the network card to cut (TSO): Wireshark reads it so too
    if total < header_length:
        raise _Dropped("malformed IPv4 header")
    octets = _whole(frame, octets, total)
    fragmented = False
    source, destination = IPv4Address(octets[12:16]), IPv4Address(octets[16:20])
    protocol = octets[9]
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    if offset or more:
        key = (source, destination, protocol, identification)
        done = fragments.add(key, frame.time, offset, more, octets[header_length:], octets[:header_length])
        if done is None:
            return None
        head, body = done
        header_length = len(head)
        if header_length + len(body) > MAXIMUM_DATAGRAM:
            raise _Dropped("fragments beyond the end of any datagram")
        head = head[:2] + struct.pack("!HHH", header_length + len(body), identification, 0) + head[8:10]
        rest = done[0][12:]
        head += struct.pack("!H", internet_checksum(head + b"\0\0" + rest)) + rest
        octets, fragmented = head + body, True
    return IpPacket(
        frame.index, frame.time, source, destination, protocol, octets, header_length, fragmented, _link_source(frame)
    )


def _ipv6(frame: CapturedPacket, octets: bytes, fragments: _Fragments) -> IpPacket | None:
    if len(octets) < 40:
        raise _Dropped("cut frame")
    length = int.from_bytes(octets[4:6], "big")
    octets = _whole(frame, octets, 40 + length if length else len(octets))
    source, destination = IPv6Address(octets[8:24]), IPv6Address(octets[24:40])
    next_at, position = _upper_layer(octets, 6, 40)
    fragmented = False
    if octets[next_at] == _FRAGMENT:
        if len(octets) < position + 8:
            raise _Dropped("malformed IPv6 header")
        following, field_, identification = struct.unpack("!BxHI", octets[position : position + 8])
        offset, more = field_ & 0xFFF8, bool(field_ & 1)
        head = octets[:next_at] + bytes([following]) + octets[next_at + 1 : position]
        body = octets[position + 8 :]
        if offset or more:  # else an atomic fragment: whole by itself (RFC 6946)
            done = fragments.add((source, destination, 0, identification), frame.time, offset, more, body, head)
            if done is None:
                return None
            head, body = done
            fragmented = True
        if len(head) - 40 + len(body) > MAXIMUM_DATAGRAM:
            raise _Dropped("fragments beyond the end of any datagram")
        octets = head[:4] + struct.pack("!H", len(head) - 40 + len(body)) + head[6:] + body
        next_at, position = _upper_layer(octets, 6, 40)
    link_source = _link_source(frame)
    return IpPacket(
        frame.index, frame.time, source, destination, octets[next_at], octets, position, fragmented, link_source
    )


def _upper_layer(octets: bytes, next_at: int, position: int) -> tuple[int, int]:
    """Where the upper layer's number stands and where its octets begin, behind the extension headers."""
    while octets[next_at] in _EXTENSION_HEADERS:
        if len(octets) < position + 8:
            raise _Dropped("malformed IPv6 header")
        length = (octets[position + 1] + 1) * 8
        if len(octets) < position + length:
            raise _Dropped("malformed IPv6 header")
        next_at, position = position, position + length
    return next_at, position


# --- fragments --------------------------------------------------------------------------------------------------

_Key = tuple[IPAddress, IPAddress, int, int]


class _Pending:
    def __init__(self, time: float) -> None:
        self.time = time
        self.parts: dict[int, bytes] = {}
        self.head: bytes | None = None
        self.end: int | None = None


class _Fragments:
    """Fragments by datagram.  Overlapping ones discard their datagram (RFC 5722 for IPv6; for IPv4 too here, since
    the capture can't tell which of the two its receiver took); exact repetitions are taken once."""

    def __init__(self, drops: Drops) -> None:
        self.pending: OrderedDict[_Key, _Pending] = OrderedDict()
        self.drops = drops

    def add(
        self, key: _Key, time: float, offset: int, more: bool, body: bytes, head: bytes
    ) -> tuple[bytes, bytes] | None:
        """Header and body once all fragments are there, else None."""
        datagram = self.pending.get(key)
        if datagram is not None and time - datagram.time > REASSEMBLY_SECONDS:
            self._discard(key, "fragment of a datagram that stayed incomplete")
            datagram = None
        if offset + len(body) > MAXIMUM_DATAGRAM:
            raise _Dropped("fragments beyond the end of any datagram")
        if not body or (more and len(body) % 8):
            raise _Dropped("malformed fragment")
        if datagram is None:
            if len(self.pending) >= MAXIMUM_PENDING_DATAGRAMS:
                self._discard(next(iter(self.pending)), "fragment pushed out by newer ones")
            datagram = self.pending[key] = _Pending(time)
        if datagram.parts.get(offset) == body:
            raise _Dropped("repeated fragment")
        end = offset + len(body)
        overlaps = any(start < end and offset < start + len(part) for start, part in datagram.parts.items())
        known_end = end if datagram.end is None else datagram.end
        if overlaps or end > known_end or (not more and end != known_end):
            self._discard(key, "overlapping fragments")
            raise _Dropped("overlapping fragments")
        datagram.parts[offset] = body
        if not more:
            datagram.end = end
        if not offset:
            datagram.head = head
        if datagram.head is None or datagram.end is None:
            return None
        if sum(map(len, datagram.parts.values())) != datagram.end:
            return None
        del self.pending[key]
        return datagram.head, b"".join(datagram.parts[start] for start in sorted(datagram.parts))

    def _discard(self, key: _Key, reason: str) -> None:
        self.drops[reason] += len(self.pending.pop(key).parts)
