"""CXTP messages with the time, the ends and the carriage that they were seen with: all that a judge looks at.

Read in one pass over a capture, in constant memory, or made by a live exchange.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from ..adapters.capture import (
    IcmpDatagram,
    IpPacket,
    SctpReader,
    TcpData,
    TcpReader,
    icmp_message,
    ip_packets,
    udp_datagram,
)
from ..constants import ICMP_TYPE_IPV4, ICMP_TYPE_IPV6, PAYLOAD_PROTOCOL_IDENTIFIER, PORT, IcmpSubtype
from ..dissect import Transport
from ..errors import LocalError, RemoteError
from ..messages import IPAddress, Message
from ..wire import HEADER_OCTETS, message_length, parse, parse_icmp

MAXIMUM_STREAMS = 1024
"""Directions of TCP connections whose unfinished messages are kept (ours; at most 64 KiB each)."""

_TLS_RECORDS = frozenset(range(20, 25))
_ICMP_HEADER = 8

End = tuple[IPAddress, int]


@dataclass(frozen=True)
class IcmpCarriage:
    """The ICMP header as it was seen (RFC 4065, 8); ``checksum_good`` by the packet's own addresses."""

    type: int
    code: int
    subtype: int
    reserved: int
    checksum_good: bool


@dataclass(frozen=True)
class Carriage:
    """What carried a message; None where its transport has no such thing."""

    hop_limit: int | None = None
    fragmented: bool = False
    icmp: IcmpCarriage | None = None
    payload_protocol_identifier: int | None = None
    unordered: bool | None = None
    stream: int | None = None
    chunks_in_packet: int = 1
    checksum_good: bool | None = None
    """SCTP's; None where a capture on the sending host can't tell."""


@dataclass(frozen=True)
class Record:
    """One CXTP message, or what should have been one (``message`` None, ``error`` says why).

    ``number`` is the packet's in the capture, from 1; ``time`` is in seconds.  ``ours``: sent by the live prober,
    which breaks rules on purpose: it provokes, and is not judged.
    """

    number: int
    time: float
    transport: Transport
    source: End
    destination: End
    octets: bytes = field(repr=False)
    message: Message | None = field(default=None, repr=False)
    error: RemoteError | None = None
    carriage: Carriage = Carriage()
    ours: bool = False

    @property
    def mn(self) -> IPAddress | None:
        """The mobile node's address; of what is no message, what stands in its place, if anything.

        An IPv4 address that came as an IPv6 one (2.5-family) is still that mobile node's.
        """
        if self.message is not None:
            address = self.message.mn_previous_address
            return getattr(address, "ipv4_mapped", None) or address
        if len(self.octets) < HEADER_OCTETS + 4:
            return None
        offset = HEADER_OCTETS + (4 if self.octets[0] & 31 in (3, 4) else 0)
        octets = self.octets[offset : offset + (4 if self.octets[1] & 0x80 else 16)]
        return ip_address(octets) if len(octets) in (4, 16) else None


def record(
    number: int,
    time: float,
    transport: Transport,
    ends: tuple[End, End],
    octets: bytes,
    carriage: Carriage = Carriage(),
    *,
    ours: bool = False,
) -> Record:
    """A record of these octets, parsed."""
    message: Message | None = None
    error: RemoteError | None = None
    try:
        message = parse(octets)
    except RemoteError as fault:
        error = fault
    return Record(number, time, transport, *ends, octets, message, error, carriage, ours)


class RecordReader:
    """IP packets in, records out; ``unread`` counts by reason what could not be looked into."""

    def __init__(self, port: int = PORT) -> None:
        self.port = port
        self.unread: Counter[str] = Counter()
        self._sctp = SctpReader(None, self.unread)
        self._tcp = TcpReader(port, self.unread)
        self._streams: OrderedDict[tuple[int, IPAddress, int], bytearray | None] = OrderedDict()

    def put(self, packet: IpPacket) -> Iterator[Record]:
        """The records that this packet completes."""
        datagram = udp_datagram(packet, self.unread)
        if datagram is not None:
            if self.port in (datagram.source_port, datagram.destination_port):
                ends = ((datagram.source, datagram.source_port), (datagram.destination, datagram.destination_port))
                carriage = Carriage(packet.hop_limit, packet.fragmented)
                yield record(packet.index, packet.time, Transport.UDP, ends, datagram.payload, carriage)
            return
        icmp = icmp_message(packet, self.unread)
        if icmp is not None:
            if icmp.type in (ICMP_TYPE_IPV4, ICMP_TYPE_IPV6) and len(icmp.octets) >= _ICMP_HEADER:
                yield from self._of_icmp(icmp, packet)
            return
        for data in self._tcp.put(packet):
            yield from self._of_stream(data)
        for user in self._sctp.put(packet):
            ports = (user.source_port, user.destination_port)
            if self.port in ports or user.payload_protocol_identifier == PAYLOAD_PROTOCOL_IDENTIFIER:
                ends = ((user.source, user.source_port), (user.destination, user.destination_port))
                carriage = Carriage(
                    packet.hop_limit,
                    False,
                    None,
                    user.payload_protocol_identifier,
                    user.unordered,
                    user.stream,
                    user.chunks_in_packet,
                    user.checksum_good,
                )
                yield record(user.index, user.time, Transport.SCTP, ends, user.payload, carriage)

    def finish(self) -> Iterator[Record]:
        """What waited for octets that are not in the capture."""
        for data in self._tcp.finish():
            yield from self._of_stream(data)
        self._sctp.finish()

    def _of_icmp(self, icmp: IcmpDatagram, packet: IpPacket) -> Iterator[Record]:
        kind, code, _, subtype = struct.unpack("!BBHB", icmp.octets[:5])
        if subtype == IcmpSubtype.CARD:
            return  # RFC 4066's, another protocol
        header = IcmpCarriage(kind, code, subtype, int.from_bytes(icmp.octets[5:8], "big"), _checksum_good(icmp))
        ends = ((icmp.source, 0), (icmp.destination, 0))
        carriage = Carriage(icmp.hop_limit, packet.fragmented, header)
        yield record(icmp.index, icmp.time, Transport.ICMP, ends, icmp.octets[_ICMP_HEADER:], carriage)

    def _of_stream(self, data: TcpData) -> Iterator[Record]:
        """Messages out of one direction of a connection; one that is not CXTP's (TLS) is counted and left."""
        key = (data.connection, data.source, data.source_port)
        if key not in self._streams:
            tls = len(data.payload) > 2 and data.payload[0] in _TLS_RECORDS and data.payload[1] == 3
            self._streams[key] = None if tls else bytearray()
            while len(self._streams) > MAXIMUM_STREAMS:
                self._streams.popitem(last=False)
        self._streams.move_to_end(key)
        buffer = self._streams[key]
        if buffer is None:
            self.unread["octets of TLS"] += len(data.payload)
            return
        if data.missing:
            self.unread["octets of TCP missing from the capture"] += data.missing
            buffer.clear()
        buffer += data.payload
        ends = ((data.source, data.source_port), (data.destination, data.destination_port))
        while (length := message_length(buffer)) is not None and len(buffer) >= length:
            if length < HEADER_OCTETS:
                yield record(data.index, data.time, Transport.TCP, ends, bytes(buffer))
                self._streams[key] = bytearray()
                return
            yield record(data.index, data.time, Transport.TCP, ends, bytes(buffer[:length]))
            del buffer[:length]


def _checksum_good(icmp: IcmpDatagram) -> bool:
    try:
        parse_icmp(icmp.octets, (icmp.source, icmp.destination))
    except RemoteError as error:
        return getattr(error, "field", "") != "icmp.checksum"
    except LocalError:  # type 150 in IPv4: there is no pseudo-header to check with
        return True
    return True


def read_records(path: Path, port: int = PORT, progress: Callable[[int], None] | None = None) -> Iterator[Record]:
    """All records of a capture, in the order in which they are complete.  Raises as ``read_packets`` does."""
    reader = RecordReader(port)
    for packet in ip_packets(path, drops=reader.unread, progress=progress):
        yield from reader.put(packet)
    yield from reader.finish()
