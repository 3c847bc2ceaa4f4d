"""AH (RFC 4302) for one restored IPsec_SA.

AH protects the IP packet that it stands in, so packets are whole IP packets here.  Fields that change on the way are
zeroed for the ICV (RFC 4302, 3.3.3.1 and Appendix A), those that change predictably count as the destination will
see them.

    Next Header 8 | Payload Len 8 | RESERVED 16 | SPI 32 | Sequence Number 32 | ICV | padding to 32 (IPv6: 64) bits
"""

from __future__ import annotations

import hmac

from contexts.algorithms import Integrity, ipsec_transforms
from contexts.ipsec import IpsecSaContext
from contexts.keys import check_ipsec_keys, mac
from contexts.values import IpsecKeys, IpsecMode
from cxtp.errors import IntegrityError, LocalError, ProtectionError, UnsupportedAlgorithm

from .ip_packet import (
    FRAGMENT,
    IPV4_HEADER,
    IPV6_HEADER,
    ROUTING,
    IpPacket,
    extension_headers,
    parse_ip,
    tunnel_header,
    with_length,
)
from .security_association import PROTOCOL_AH, PROTOCOL_IPV4, PROTOCOL_IPV6, Direction, OpenedPacket, SequenceState

_HEADER = 12
_UNIT = {4: 4, 6: 8}

# IPv4 options by number (the low five bits of the type), RFC 4302, Appendix A1; all others are mutable
_IMMUTABLE_OPTIONS = frozenset({0, 1, 2, 5, 6, 20, 21})
_SOURCE_ROUTES = frozenset({131, 137})
_PREDICTABLE_ROUTING_TYPES = frozenset({0, 2})


class AhSaSession:
    """Opens and seals the AH packets of one IPsec_SA, both directions."""

    def __init__(self, context: IpsecSaContext, keys: IpsecKeys) -> None:
        """Raises UnsupportedAlgorithm, MalformedContext (keys that don't fit the proposal)."""
        check_ipsec_keys(keys, context.proposal)
        transforms = ipsec_transforms(context.proposal)
        if transforms.encryption is not None or transforms.integrity is None:
            raise UnsupportedAlgorithm("security protocol", context.proposal.protocol, "not AH")
        self.context = context
        self.keys = keys
        self._integrity: Integrity = transforms.integrity
        self._keys = {Direction.INBOUND: keys.inbound_integrity, Direction.OUTBOUND: keys.outbound_integrity}
        self._spis = {Direction.INBOUND: context.inbound_spi, Direction.OUTBOUND: context.outbound_spi}
        self.sequence = SequenceState(context, counter_mode=False)

    def open_inbound(self, packet: bytes, *, replays: bool = True) -> OpenedPacket:
        """Open an IP packet from the peer; see :meth:`open`."""
        return self.open(Direction.INBOUND, packet, replays=replays)

    def open_outbound(self, packet: bytes, *, replays: bool = True) -> OpenedPacket:
        """Open an IP packet to the peer, sent by whoever held the SA; see :meth:`open`."""
        return self.open(Direction.OUTBOUND, packet, replays=replays)

    def open(self, direction: Direction, packet: bytes, *, replays: bool = True) -> OpenedPacket:
        """Verify a whole IP packet and count it as received; arguments and errors as
        :meth:`contexts.session.esp.IpsecSaSession.open`."""
        ip = parse_ip(packet)
        if ip.protocol != PROTOCOL_AH or ip.fragment:
            raise ProtectionError("no whole AH packet", section="RFC 4302, 3.4.1")
        header = ip.payload
        length = (header[1] + 2) * 4 if len(header) > 1 else 0
        if length < _HEADER + self._integrity.icv_octets or length > len(header):
            raise ProtectionError("the AH length does not fit", section="RFC 4302, 2.2")
        if int.from_bytes(header[4:8], "big") != self._spis[direction]:
            raise ProtectionError("the SPI is another SA's", section="RFC 4302, 3.4.2")
        icv = header[_HEADER : _HEADER + self._integrity.icv_octets]

        def verify(number: int) -> None:
            if not hmac.compare_digest(self._icv(direction, ip, number), icv):
                raise IntegrityError("the integrity check value does not match")

        window = self.sequence.windows[direction]
        number, _ = window.receive(int.from_bytes(header[8:12], "big"), verify, replays=replays)
        self.sequence.received(direction, number)
        return OpenedPacket(
            spi=self._spis[direction], sequence_number=number, next_header=header[0], payload=header[length:]
        )

    def seal_outbound(self, packet: bytes) -> bytes:
        """Our next packet to the peer; advances the sequence number.

        ``packet`` is the IP packet to protect: in tunnel mode it goes inside a new one between the context's hosts,
        in transport mode AH goes into it, after the extension headers at its head.  Raises LocalError as
        :meth:`contexts.session.esp.IpsecSaSession.seal_outbound`, and for what is no whole IP packet.
        """
        number = self.sequence.counter.next()
        sealed = self._seal(Direction.OUTBOUND, packet, number)
        self.sequence.counter.sent(number)
        return sealed

    def seal_inbound(self, packet: bytes, sequence_number: int) -> bytes:
        """A packet as the peer would send it: test traffic.  Changes nothing here."""
        if not 0 <= sequence_number < (1 << 64 if self.sequence.extended else 1 << 32):
            raise LocalError(f"sequence number {sequence_number} out of range")
        return self._seal(Direction.INBOUND, packet, sequence_number)

    def _seal(self, direction: Direction, packet: bytes, number: int) -> bytes:
        try:
            return self._build(direction, packet, number)
        except ProtectionError as error:
            raise LocalError(f"AH can't protect this IP packet: {error}") from None

    def _build(self, direction: Direction, packet: bytes, number: int) -> bytes:
        ip = parse_ip(packet)
        if ip.fragment:
            raise LocalError("AH protects whole packets, not fragments (RFC 4302, 3.3.4)")
        if self.context.mode == IpsecMode.TUNNEL:
            hosts = (self.context.local_host.address, self.context.remote_host.address)
            source, destination = hosts if direction is Direction.OUTBOUND else hosts[::-1]
            if source.version != destination.version:
                raise LocalError("the hosts' addresses are of two IP versions")
            headers = tunnel_header(source, destination, PROTOCOL_AH)
            next_header, payload = PROTOCOL_IPV4 if ip.version == 4 else PROTOCOL_IPV6, ip.octets
        else:
            at = ip.protocol_offset
            headers = ip.octets[:at] + bytes([PROTOCOL_AH]) + ip.octets[at + 1 : ip.payload_offset]
            next_header, payload = ip.protocol, ip.payload
        length = _HEADER + self._integrity.icv_octets
        length += -length % _UNIT[headers[0] >> 4]
        fixed = bytes([next_header, length // 4 - 2, 0, 0]) + self._spis[direction].to_bytes(4, "big")
        fixed += (number & 0xFFFFFFFF).to_bytes(4, "big")
        headers = with_length(headers, length + len(payload))
        blank = parse_ip(headers + fixed.ljust(length, b"\0") + payload)
        icv = self._icv(direction, blank, number)
        return headers + (fixed + icv).ljust(length, b"\0") + payload

    def _icv(self, direction: Direction, ip: IpPacket, number: int) -> bytes:
        """ICV over the packet with mutable fields and ICV zeroed; with ESN the high half follows, unsent."""
        start = ip.payload_offset + _HEADER
        end = start + self._integrity.icv_octets
        covered = immutable_headers(ip) + ip.octets[ip.payload_offset : start] + bytes(end - start) + ip.octets[end:]
        if self.sequence.extended:
            covered += (number >> 32).to_bytes(4, "big")
        return mac(self._integrity.kind, self._keys[direction], covered)[: self._integrity.icv_octets]


def immutable_headers(ip: IpPacket) -> bytes:
    """The headers before AH as the ICV covers them (RFC 4302, 3.3.3.1).  Raises ProtectionError for what has no
    defined form."""
    return _immutable_ipv4(ip) if ip.version == 4 else _immutable_ipv6(ip)


def _immutable_ipv4(ip: IpPacket) -> bytes:
    header = bytearray(ip.octets[: ip.payload_offset])
    header[1] = 0  # DSCP and ECN
    header[6:9] = bytes(3)  # flags, fragment offset, TTL
    header[10:12] = bytes(2)  # checksum
    at = IPV4_HEADER
    while at < len(header) and header[at] != 0:
        if header[at] == 1:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else 0
        if length < 2 or at + length > len(header):
            raise ProtectionError("an IPv4 option's length does not fit", section="RFC 791, 3.1")
        if header[at] in _SOURCE_ROUTES and length >= 7 and header[at + 2] < length:
            header[16:20] = header[at + length - 4 : at + length]  # the final destination, not yet reached
        if header[at] & 31 not in _IMMUTABLE_OPTIONS:
            header[at : at + length] = bytes(length)
        at += length
    return bytes(header)


def _immutable_ipv6(ip: IpPacket) -> bytes:
    header = bytearray(ip.octets[: ip.payload_offset])
    header[0:4] = b"\x60\0\0\0"  # traffic class, flow label
    header[7] = 0  # hop limit
    for extension in extension_headers(ip.octets):
        if extension.offset >= ip.payload_offset:
            break
        if extension.number == FRAGMENT:
            raise ProtectionError("AH behind a Fragment header: reassemble first", section="RFC 4302, 3.4.1")
        if extension.number == ROUTING:
            _arrive(header, extension.offset, extension.length)
        else:
            _zero_mutable_options(header, extension.offset + 2, extension.offset + extension.length)
    return bytes(header)


def _arrive(header: bytearray, offset: int, length: int) -> None:
    """Put destination and routing header as they are at the final destination (RFC 4302, A2.2)."""
    routing_type, segments_left = header[offset + 2], header[offset + 3]
    if segments_left == 0:
        return
    addresses = (length - 8) // 16
    if routing_type not in _PREDICTABLE_ROUTING_TYPES or segments_left > addresses:
        raise ProtectionError(f"routing header type {routing_type} can't be predicted", section="RFC 4302, A2.2")
    for index in range(addresses - segments_left, addresses):
        at = offset + 8 + 16 * index
        header[24:IPV6_HEADER], header[at : at + 16] = header[at : at + 16], header[24:IPV6_HEADER]
    header[offset + 3] = 0


def _zero_mutable_options(header: bytearray, at: int, end: int) -> None:
    """Zero the data of options that may change on the way: the third bit of their type (RFC 8200, 4.2)."""
    while at < end:
        if header[at] == 0:  # Pad1
            at += 1
            continue
        length = header[at + 1] if at + 1 < end else 255
        if at + 2 + length > end:
            raise ProtectionError("an IPv6 option's length does not fit", section="RFC 8200, 4.2")
        if header[at] & 0x20:
            header[at + 2 : at + 2 + length] = bytes(length)
        at += 2 + length
