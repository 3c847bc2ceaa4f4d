"""A pcap with traffic of our own making, as Wireshark opens it without a complaint.

Ethernet frames with checksums right; what exceeds the MTU is sent as IP fragments (UDP, ICMP, ...) or as several
segments (TCP), never as a jumbo frame.  Nothing is random: the same calls give the same file.
"""

from __future__ import annotations

import heapq
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from types import TracebackType
from typing import BinaryIO

from contexts.values import IPAddress
from cxtp.constants import PAYLOAD_PROTOCOL_IDENTIFIER
from cxtp.errors import ConfigurationError, LocalError
from cxtp.wire import internet_checksum

from .association import Association, Ends, SentData, turned
from .files import PathLike

_ICMP, _TCP, _UDP, _FRAGMENT, _ICMPV6, _SCTP = 1, 6, 17, 44, 58, 132
_FIN, _SYN, _PSH, _ACK = 1, 2, 8, 16

_ACKNOWLEDGE_EVERY = 8
"""Segments after which the receiver acknowledges: fewer than fill the window, which Wireshark would flag."""

_TCP_WINDOW = 65_535
_MINIMUM_MTU = 1280  # RFC 8200, 5


@dataclass
class _Connection:
    """Next sequence number of either end; the key is the end that opened it."""

    opener: int
    other: int


class PcapWriter:
    """Writes packets into a new pcap file (Ethernet, microseconds), readable by its owner alone: CXTP without
    transport security shows keys.

    A context manager; times are seconds since 1970.  Raises :class:`ConfigurationError` where the file can't be
    written, :class:`LocalError` for what no packet can hold or say.
    """

    def __init__(self, path: PathLike, *, mtu: int = 1500) -> None:
        if not _MINIMUM_MTU <= mtu <= 65_535:
            raise LocalError(f"an MTU is {_MINIMUM_MTU} to 65535 octets, not {mtu}")
        self.path = os.fspath(path)
        self.mtu = mtu
        self.packets = 0
        self._identification = 0
        self.delay = 0.0
        """Seconds from one end to the other, after which TCP and SCTP answer."""
        self.comment = ""
        """What the packets written from then on are, where the format has a place for it."""
        self._connections: dict[Ends, _Connection] = {}
        self._associations: dict[Ends, Association] = {}
        self._pending: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now = 0.0
        self._advancing = False
        self._opened = 0
        self._last_time = 0.0
        self._file: BinaryIO
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "wb")
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be written: {error.strerror}") from error
        self._put(self._beginning())

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the TCP connections (FIN both ways) and SCTP associations that are open, then the file."""
        if self._file.closed:
            return
        try:
            self._advance(math.inf)
            self.comment = ""
            time = self._last_time + 10 * self.delay
            for ends in list(self._connections):
                self.close_tcp(time, *ends)
            for association in self._associations.values():
                association.close(time)
            self._advance(math.inf)
            self._file.close()
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be written: {error.strerror}") from error
        finally:
            self._file.close()

    def write_secrets(self, key_log: str) -> None:
        """TLS secrets of connections that follow, in the lines of SSLKEYLOGFILE; pcap has no place for them."""

    # --- what is written ----------------------------------------------------------------------------------------

    def write_udp(
        self,
        time: float,
        source: IPAddress,
        source_port: int,
        destination: IPAddress,
        destination_port: int,
        payload: bytes,
    ) -> None:
        """One UDP datagram; above the MTU as IP fragments, above 65,507 octets (IPv6: 65,527) not at all."""
        length = 8 + len(payload)
        if length > 65_535 - (20 if source.version == 4 else 0):
            raise LocalError(f"{len(payload)} octets do not fit into a UDP datagram over IPv{source.version}")
        ports = _ports(source_port, destination_port)
        pseudo = _pseudo_header(source, destination, _UDP, length)
        header = ports + struct.pack("!H", length)
        checksum = internet_checksum(pseudo + header + b"\0\0" + payload) or 0xFFFF  # 0 would mean: none (RFC 768)
        self.write_ip(time, source, destination, _UDP, header + struct.pack("!H", checksum) + payload)

    def write_tcp(
        self,
        time: float,
        source: IPAddress,
        source_port: int,
        destination: IPAddress,
        destination_port: int,
        payload: bytes,
    ) -> None:
        """The next octets of a TCP connection from ``source`` to ``destination``.

        The first octets between two ends are preceded by a handshake, which ``source`` opens; the receiver
        acknowledges; :meth:`close_tcp` or :meth:`close` end it.
        """
        self._advance(time)
        ends = (source, source_port, destination, destination_port)
        if self._connection(ends) is None:
            self._open_tcp(time, ends, 0.0)
        room = self.mtu - (40 if source.version == 4 else 60)
        for number, start in enumerate(range(0, len(payload), room), 1):
            part = payload[start : start + room]
            last = start + room >= len(payload)
            self._segment(time, ends, _ACK | (_PSH if last else 0), part)
            if last or not number % _ACKNOWLEDGE_EVERY:
                self._acknowledge(time + self.delay, turned(ends))

    def open_tcp(
        self, time: float, source: IPAddress, source_port: int, destination: IPAddress, destination_port: int
    ) -> None:
        """SYN, SYN ACK, ACK: done two delays after ``time``."""
        self._advance(time)
        self._open_tcp(time, (source, source_port, destination, destination_port), self.delay)

    def close_tcp(
        self, time: float, source: IPAddress, source_port: int, destination: IPAddress, destination_port: int
    ) -> None:
        """End the connection between the two ends, ``source`` first; nothing where there is none."""
        self._advance(time)
        ends = (source, source_port, destination, destination_port)
        if self._connection(ends) is None:
            return

        def end() -> None:
            self._segment(time + 2 * self.delay, ends, _ACK)
            self._connections.pop(ends, None)
            self._connections.pop(turned(ends), None)

        self._segment(time, ends, _FIN | _ACK)
        self._at(time + self.delay, lambda: self._segment(time + self.delay, turned(ends), _FIN | _ACK))
        self._at(time + 2 * self.delay, end)

    def write_sctp(
        self,
        time: float,
        source: IPAddress,
        source_port: int,
        destination: IPAddress,
        destination_port: int,
        payload: bytes,
        *,
        payload_protocol_identifier: int = PAYLOAD_PROTOCOL_IDENTIFIER,
        lost: bool = False,
    ) -> SentData:
        """One SCTP user message, unordered, on stream 0: the next of the association between the two ends.

        The first message is preceded by INIT, INIT ACK, COOKIE ECHO and COOKIE ACK, as its sender opens the
        association; the receiver acknowledges; :meth:`close` shuts it down.  ``lost``: the message's last packet
        does not arrive; give what is returned to :meth:`repeat_sctp`.
        """
        self._advance(time)
        ends = (source, source_port, destination, destination_port)
        association = self._association(ends) or self._open_sctp(time, ends, 0.0)
        return association.send(time, ends, payload, payload_protocol_identifier, lost=lost)

    def open_sctp(
        self, time: float, source: IPAddress, source_port: int, destination: IPAddress, destination_port: int
    ) -> None:
        """INIT, INIT ACK, COOKIE ECHO, COOKIE ACK: done three delays after ``time``."""
        self._advance(time)
        self._open_sctp(time, (source, source_port, destination, destination_port), self.delay)

    def _open_sctp(self, time: float, ends: Ends, delay: float) -> Association:
        _ports(ends[1], ends[3])
        room = (self.mtu - (20 if ends[0].version == 4 else 40) - 12) // 4 * 4
        association = self._associations[ends] = Association(ends, room, self._put_sctp, self._at, self.delay)
        association.open(time, delay)
        return association

    def repeat_sctp(self, time: float, sent: SentData) -> None:
        """The last packet of a message once more, with the same TSN."""
        self._advance(time)
        association = self._association(sent.ends)
        if association is None:
            raise LocalError("there is no such association any more")
        association.repeat(time, sent)

    def _association(self, ends: Ends) -> Association | None:
        return self._associations.get(ends) or self._associations.get(turned(ends))

    def _put_sctp(self, time: float, source: IPAddress, destination: IPAddress, octets: bytes) -> None:
        self.write_ip(time, source, destination, _SCTP, octets)

    def write_icmp(self, time: float, source: IPAddress, destination: IPAddress, octets: bytes) -> None:
        """One ICMP message, from its type on, with hop limit 255 (RFC 4067, 3.2); its checksum is put right."""
        if len(octets) < 4:
            raise LocalError("an ICMP message has at least type, code and checksum")
        protocol = _ICMP if source.version == 4 else _ICMPV6
        pseudo = b"" if source.version == 4 else _pseudo_header(source, destination, protocol, len(octets))
        checksum = internet_checksum(pseudo + octets[:2] + b"\0\0" + octets[4:])
        body = octets[:2] + struct.pack("!H", checksum) + octets[4:]
        self.write_ip(time, source, destination, protocol, body, hop_limit=255)

    def write_ip(
        self,
        time: float,
        source: IPAddress,
        destination: IPAddress,
        protocol: int,
        payload: bytes,
        *,
        hop_limit: int = 64,
    ) -> None:
        """One IP packet with the upper layer's octets as they are; above the MTU as fragments."""
        self._advance(time)
        if source.version != destination.version:
            raise LocalError(f"no packet goes from {source} to {destination}: two versions of IP")
        if len(payload) > 65_535 - (20 if source.version == 4 else 0):
            raise LocalError(f"{len(payload)} octets do not fit into an IPv{source.version} packet")
        if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
            self._ipv4(time, source, destination, protocol, payload, hop_limit)
        elif isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
            self._ipv6(time, source, destination, protocol, payload, hop_limit)

    # --- what happens later ---------------------------------------------------------------------------------------

    def _at(self, time: float, write: Callable[[], None]) -> None:
        """Call before anything later is written; at once, where it is that time."""
        heapq.heappush(self._pending, (time, next(self._order), write))
        self._advance(self._now)

    def _advance(self, time: float) -> None:
        if self._advancing:  # what is written now comes first, and then what is due at the same time
            return
        self._advancing = True
        while self._pending and self._pending[0][0] <= time:
            when, _, write = heapq.heappop(self._pending)
            self._now = max(self._now, when)
            comment, self.comment = self.comment, ""
            write()
            self.comment = comment
        self._advancing = False
        if time != math.inf:
            self._now = max(self._now, time)

    # --- IP and below -------------------------------------------------------------------------------------------

    def _ipv4(
        self, time: float, source: IPv4Address, destination: IPv4Address, protocol: int, payload: bytes, hop_limit: int
    ) -> None:
        self._identification += 1
        room = (self.mtu - 20) // 8 * 8 if 20 + len(payload) > self.mtu else len(payload)
        for start in range(0, max(len(payload), 1), max(room, 1)):
            part = payload[start : start + room]
            more = 0x2000 if start + len(part) < len(payload) else 0
            head = struct.pack("!BBHHH", 0x45, 0, 20 + len(part), self._identification & 0xFFFF, start // 8 | more)
            head += struct.pack("!BB", hop_limit, protocol)
            addresses = source.packed + destination.packed
            head += struct.pack("!H", internet_checksum(head + b"\0\0" + addresses)) + addresses
            self._frame(time, source, destination, 0x0800, head + part)

    def _ipv6(
        self, time: float, source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes, hop_limit: int
    ) -> None:
        self._identification += 1
        addresses = source.packed + destination.packed
        if 40 + len(payload) <= self.mtu:
            head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + addresses
            self._frame(time, source, destination, 0x86DD, head + payload)
            return
        room = (self.mtu - 48) // 8 * 8
        for start in range(0, len(payload), room):
            part = payload[start : start + room]
            more = int(start + len(part) < len(payload))
            head = struct.pack("!IHBB", 6 << 28, 8 + len(part), _FRAGMENT, hop_limit) + addresses
            fragment = struct.pack("!BxHI", protocol, start | more, self._identification & 0xFFFFFFFF)
            self._frame(time, source, destination, 0x86DD, head + fragment + part)

    def hardware_address(self, address: IPAddress) -> bytes:
        """The Ethernet address of the machine that has an IP address: locally administered, made of its end."""
        return b"\x02\x00" + address.packed[-4:]

    def _frame(self, time: float, source: IPAddress, destination: IPAddress, ether_type: int, octets: bytes) -> None:
        frame = self.hardware_address(destination) + self.hardware_address(source)
        frame += struct.pack("!H", ether_type) + octets
        microseconds = round(time * 1_000_000)
        if not 0 <= microseconds < 2**32 * 1_000_000:
            raise LocalError(f"{time} s is no time that a pcap can hold")
        self._last_time = max(self._last_time, time)
        self._put(self._record(microseconds, frame))
        self.packets += 1

    def _beginning(self) -> bytes:
        return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)

    def _record(self, microseconds: int, frame: bytes) -> bytes:
        return struct.pack("<IIII", *divmod(microseconds, 1_000_000), len(frame), len(frame)) + frame

    def _put(self, octets: bytes) -> None:
        try:
            self._file.write(octets)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self.path} can't be written: {error}") from error

    # --- TCP ----------------------------------------------------------------------------------------------------

    def _connection(self, ends: Ends) -> _Connection | None:
        return self._connections.get(ends) or self._connections.get(turned(ends))

    def _open_tcp(self, time: float, ends: Ends, delay: float) -> None:
        self._opened += 1
        initial = self._opened * 0x01000000
        self._connections[ends] = _Connection(initial & 0xFFFFFFFF, (initial + 0x00800000) & 0xFFFFFFFF)
        self._segment(time, ends, _SYN)
        self._at(time + delay, lambda: self._segment(time + delay, turned(ends), _SYN | _ACK))
        self._at(time + 2 * delay, lambda: self._segment(time + 2 * delay, ends, _ACK))

    def _acknowledge(self, time: float, ends: Ends) -> None:
        """Of all that the other end has sent up to now; ``ends`` are the receiver's own."""
        connection = self._connections.get(ends)
        told = self._connections[turned(ends)].opener if connection is None else connection.other
        self._at(time, lambda: self._segment(time, ends, _ACK, told=told))

    def _segment(
        self, time: float, ends: Ends, flags: int, payload: bytes = b"", *, told: int | None = None
    ) -> None:
        """``told``: what is acknowledged, where that is not all."""
        source, source_port, destination, destination_port = ends
        opening = ends in self._connections
        connection = self._connections[ends if opening else turned(ends)]
        sequence = connection.opener if opening else connection.other
        acknowledgment = (connection.other if opening else connection.opener) if flags & _ACK else 0
        acknowledgment = acknowledgment if told is None else told
        options = b""
        if flags & _SYN:
            options = struct.pack("!BBH", 2, 4, self.mtu - (40 if source.version == 4 else 60))
        offset = (20 + len(options)) // 4 << 4
        head = _ports(source_port, destination_port)
        head += struct.pack("!IIBBH", sequence, acknowledgment, offset, flags, _TCP_WINDOW)
        pseudo = _pseudo_header(source, destination, _TCP, len(head) + 4 + len(options) + len(payload))
        checksum = internet_checksum(pseudo + head + b"\0\0\0\0" + options + payload)
        self.write_ip(time, source, destination, _TCP, head + struct.pack("!HH", checksum, 0) + options + payload)
        advanced = (sequence + len(payload) + bool(flags & (_SYN | _FIN))) & 0xFFFFFFFF
        if opening:
            connection.opener = advanced
        else:
            connection.other = advanced


def _ports(source_port: int, destination_port: int) -> bytes:
    if not (0 <= source_port <= 65_535 and 0 <= destination_port <= 65_535):
        raise LocalError(f"{source_port} or {destination_port} is no port")
    return struct.pack("!HH", source_port, destination_port)


def _pseudo_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    addresses = source.packed + destination.packed
    if source.version == 4:
        return addresses + struct.pack("!xBH", protocol, length)  # RFC 768
    return addresses + struct.pack("!I3xB", length, protocol)  # RFC 8200, 8.1
