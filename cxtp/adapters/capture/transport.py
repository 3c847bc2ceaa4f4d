"""What IP packets of a capture carry: UDP datagrams, ICMP messages, SCTP user messages.

Checksums are not verified: a capture on the sending host has them before the network card filled them in.  Of SCTP
messages it is told whether they were right, and whether any of that sender was.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from contexts.values import IPAddress

from .files import PathLike
from .internet import Drops, IpPacket, ip_packets

_ICMP, _UDP, _ICMPV6, _SCTP = 1, 17, 58, 132

MAXIMUM_SCTP_DIRECTIONS = 1024
"""Directions of SCTP associations that are followed at once; the one silent the longest goes first (ours)."""

MAXIMUM_SCTP_FRAGMENTS = 512
"""Fragments of user messages that wait for their others, per direction (ours; at most 64 KiB each)."""

REMEMBERED_TSNS = 4096
"""Transmission sequence numbers remembered per direction, to know a retransmission by (ours)."""


@dataclass(frozen=True)
class UdpDatagram:
    """One UDP datagram (RFC 768)."""

    index: int
    time: float
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class IcmpDatagram:
    """One ICMP or ICMPv6 message: ``octets`` from its type on, checksum included; ``hop_limit`` as it arrived."""

    index: int
    time: float
    source: IPAddress
    destination: IPAddress
    hop_limit: int
    octets: bytes = field(repr=False)

    @property
    def type(self) -> int:
        """ICMP type."""
        return self.octets[0]

    @property
    def code(self) -> int:
        """ICMP code."""
        return self.octets[1]


@dataclass(frozen=True)
class SctpData:
    """One SCTP user message (RFC 9260, 3.3.1); ``index`` and ``time`` are those of its last fragment's packet,
    ``chunks_in_packet`` how many DATA chunks that had.

    ``checksum_good``: that of all its packets (RFC 9260, 6.8); None where none of the sender's was until then, as in a
    capture on the sending host, taken before the network card fills it in."""

    index: int
    time: float
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    stream: int
    payload_protocol_identifier: int
    unordered: bool
    payload: bytes = field(repr=False)
    chunks_in_packet: int = 1
    checksum_good: bool | None = None


def udp_datagram(packet: IpPacket, drops: Drops) -> UdpDatagram | None:
    """The UDP datagram in an IP packet; None where it has none, or a malformed one (counted)."""
    if packet.protocol != _UDP:
        return None
    octets = packet.payload
    if len(octets) < 8:
        drops["malformed UDP header"] += 1
        return None
    source_port, destination_port, length = struct.unpack("!HHH", octets[:6])
    length = length or len(octets)  # 0: longer than the field can say (RFC 2675, 4)
    if not 8 <= length <= len(octets):
        drops["malformed UDP header"] += 1
        return None
    return UdpDatagram(
        packet.index,
        packet.time,
        packet.source,
        source_port,
        packet.destination,
        destination_port,
        octets[8:length],
    )


def udp_datagrams(path: PathLike, port: int | None = None, *, drops: Drops | None = None) -> Iterator[UdpDatagram]:
    """The UDP datagrams in a capture file, those from or to ``port`` where one is given.  Raises as
    :func:`.read_packets` does."""
    drops = Counter() if drops is None else drops
    for packet in ip_packets(path, drops=drops):
        datagram = udp_datagram(packet, drops)
        if datagram is not None and (port is None or port in (datagram.source_port, datagram.destination_port)):
            yield datagram


def icmp_message(packet: IpPacket, drops: Drops) -> IcmpDatagram | None:
    """The ICMP message over IPv4 or ICMPv6 message over IPv6 in an IP packet, if it has one."""
    if packet.protocol != (_ICMP if packet.source.version == 4 else _ICMPV6):
        return None
    if len(packet.payload) < 4:
        drops["malformed ICMP header"] += 1
        return None
    return IcmpDatagram(
        packet.index, packet.time, packet.source, packet.destination, packet.hop_limit, packet.payload
    )


def icmp_messages(path: PathLike, *, drops: Drops | None = None) -> Iterator[IcmpDatagram]:
    """The ICMP messages over IPv4 and the ICMPv6 messages over IPv6.  Raises as :func:`.read_packets` does."""
    drops = Counter() if drops is None else drops
    for packet in ip_packets(path, drops=drops):
        message = icmp_message(packet, drops)
        if message is not None:
            yield message


class SctpReader:
    """User messages out of IP packets, one at a time: fragments (B and E bits) put together, retransmissions taken
    once, what is remembered limited."""

    def __init__(self, port: int | None, drops: Drops) -> None:
        self._port = port
        self._drops = drops
        self._directions: OrderedDict[tuple[IPAddress, IPAddress, int, int, int], _Direction] = OrderedDict()

    def put(self, packet: IpPacket) -> Iterator[SctpData]:
        """The user messages that this packet completes."""
        if packet.protocol != _SCTP:
            return
        octets = packet.payload
        if len(octets) < 12:
            self._drops["malformed SCTP header"] += 1
            return
        source_port, destination_port, tag = struct.unpack("!HHI", octets[:8])
        if self._port is not None and self._port not in (source_port, destination_port):
            return
        key = (packet.source, packet.destination, source_port, destination_port, tag)
        if key not in self._directions:
            if len(self._directions) >= MAXIMUM_SCTP_DIRECTIONS:
                self._directions.popitem(last=False)[1].give_up(self._drops)
            self._directions[key] = _Direction()
        self._directions.move_to_end(key)
        direction = self._directions[key]
        good = sctp_checksum(octets) == octets[8:12]
        direction.fills_checksums |= good
        chunks = list(_data_chunks(octets, self._drops, good))
        for chunk in chunks:
            message = direction.add(chunk, self._drops)
            if message is not None:
                whole = all(part.checksum_good for part in message)
                told = whole if direction.fills_checksums else None
                yield _message(packet, source_port, destination_port, message, len(chunks), told)

    def finish(self) -> None:
        """Count what stayed incomplete."""
        for direction in self._directions.values():
            direction.give_up(self._drops)


def sctp_data(path: PathLike, port: int | None = None, *, drops: Drops | None = None) -> Iterator[SctpData]:
    """The user messages in DATA chunks, fragments (B and E bits) put together, retransmissions taken once, in the
    order in which they are complete.  Raises as :func:`.read_packets` does."""
    drops = Counter() if drops is None else drops
    reader = SctpReader(port, drops)
    for packet in ip_packets(path, drops=drops):
        yield from reader.put(packet)
    reader.finish()


@dataclass(frozen=True)
class _DataChunk:
    flags: int
    tsn: int
    stream: int
    payload_protocol_identifier: int
    payload: bytes
    checksum_good: bool

    @property
    def begins(self) -> bool:
        return bool(self.flags & 2)

    @property
    def ends(self) -> bool:
        return bool(self.flags & 1)

    @property
    def unordered(self) -> bool:
        return bool(self.flags & 4)


def _message(
    packet: IpPacket, source_port: int, destination_port: int, parts: list[_DataChunk], chunks: int, good: bool | None
) -> SctpData:
    first = parts[0]
    return SctpData(
        packet.index,
        packet.time,
        packet.source,
        source_port,
        packet.destination,
        destination_port,
        first.stream,
        first.payload_protocol_identifier,
        first.unordered,
        b"".join(part.payload for part in parts),
        chunks,
        good,
    )


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        for _ in range(8):
            octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
        table.append(octet)
    return tuple(table)


_CRC32C = _crc32c_table()


def sctp_checksum(octets: bytes) -> bytes:
    """The CRC32c of an SCTP packet, as its header has it (RFC 9260, 6.8 and Appendix A)."""
    crc = 0xFFFFFFFF
    for octet in octets[:8] + bytes(4) + octets[12:]:
        crc = crc >> 8 ^ _CRC32C[(crc ^ octet) & 0xFF]
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def _data_chunks(octets: bytes, drops: Drops, good: bool) -> Iterator[_DataChunk]:
    position = 12
    while position + 4 <= len(octets):
        kind, flags, length = struct.unpack("!BBH", octets[position : position + 4])
        end = position + length
        if length < 4 or end > len(octets):
            drops["malformed SCTP chunk"] += 1
            return
        if kind == 0:
            if length <= 16:  # a DATA chunk holds user data (RFC 9260, 3.3.1)
                drops["malformed SCTP chunk"] += 1
                return
            tsn, stream, protocol = struct.unpack("!IHxxI", octets[position + 4 : position + 16])
            yield _DataChunk(flags, tsn, stream, protocol, octets[position + 16 : end], good)
        position = end + -length % 4


class _Direction:
    """One direction of an association: fragments by TSN, and the TSNs that were handed on."""

    def __init__(self) -> None:
        self.fragments: OrderedDict[int, _DataChunk] = OrderedDict()
        self.seen: OrderedDict[int, bool] = OrderedDict()
        self.fills_checksums = False

    def add(self, chunk: _DataChunk, drops: Drops) -> list[_DataChunk] | None:
        """All fragments of the message that the chunk completes, in order."""
        if self._had(chunk):
            drops["repeated SCTP chunk"] += 1
            return None
        self.fragments[chunk.tsn] = chunk
        parts = self._run(chunk.tsn)
        if parts is None:
            if len(self.fragments) > MAXIMUM_SCTP_FRAGMENTS:
                self.fragments.popitem(last=False)
                drops["SCTP fragment pushed out by newer ones"] += 1
            return None
        for part in parts:
            del self.fragments[part.tsn]
            self.seen[part.tsn] = part.checksum_good
        while len(self.seen) > REMEMBERED_TSNS:
            self.seen.popitem(last=False)
        return parts

    def _had(self, chunk: _DataChunk) -> bool:
        """Whether it was here before; one with a wrong checksum was not, for a receiver drops it and has it again."""
        before = self.fragments.get(chunk.tsn)
        good = before.checksum_good if before is not None else self.seen.get(chunk.tsn)
        if good is None:
            return False
        return good or not (chunk.checksum_good and self.fills_checksums)

    def _run(self, tsn: int) -> list[_DataChunk] | None:
        """The unbroken run of fragments around ``tsn`` from the one that begins the message to the one that ends
        it: a message's fragments have successive TSNs (RFC 9260, 6.9)."""
        first = tsn
        while not self.fragments[first].begins:
            first = (first - 1) & 0xFFFFFFFF
            if first not in self.fragments or self.fragments[first].ends:
                return None
        parts = [self.fragments[first]]
        while not parts[-1].ends:
            following = self.fragments.get((parts[-1].tsn + 1) & 0xFFFFFFFF)
            if following is None or following.begins:
                return None
            parts.append(following)
        return parts

    def give_up(self, drops: Drops) -> None:
        if self.fragments:
            drops["SCTP fragment of a message that stayed incomplete"] += len(self.fragments)
