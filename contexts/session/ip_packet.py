"""IPv4 and IPv6 headers, as far as finding and protecting what they carry needs: RFC 791, RFC 8200."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from contexts.values import IPAddress
from cxtp.errors import LocalError, ProtectionError

IPV4_HEADER = 20
IPV6_HEADER = 40
HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
DESTINATION_OPTIONS = 60
_PROTOCOL_AT = {4: 9, 6: 6}
_INNER_VERSIONS = {4: 4, 41: 6}


@dataclass(frozen=True)
class IpPacket:
    """A parsed IP packet.

    ``octets`` ends where the header says (link-layer padding is cut).  ``protocol`` begins at ``payload_offset``;
    ``protocol_offset`` is where the field that names it stands.  ``fragment``: only a part is here.
    """

    version: int
    source: IPAddress
    destination: IPAddress
    protocol: int
    protocol_offset: int
    payload_offset: int
    fragment: bool
    octets: bytes

    @property
    def payload(self) -> bytes:
        """From ``payload_offset`` on."""
        return self.octets[self.payload_offset :]


@dataclass(frozen=True)
class ExtensionHeader:
    """An IPv6 extension header: its number, where it begins, its octets' count."""

    number: int
    offset: int
    length: int


def parse_ip(packet: bytes) -> IpPacket:
    """Walk the headers up to the first that is no IPv6 extension header.  Raises ProtectionError."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _parse_ipv4(packet)
    if version == 6:
        return _parse_ipv6(packet)
    raise ProtectionError("neither IPv4 nor IPv6")


def _parse_ipv4(packet: bytes) -> IpPacket:
    header = (packet[0] & 15) * 4
    total = int.from_bytes(packet[2:4], "big")
    if header < IPV4_HEADER or len(packet) < header or not header <= total <= len(packet):
        raise ProtectionError("IPv4 lengths don't fit the packet", section="RFC 791, 3.1")
    return IpPacket(
        version=4,
        source=IPv4Address(packet[12:16]),
        destination=IPv4Address(packet[16:20]),
        protocol=packet[9],
        protocol_offset=_PROTOCOL_AT[4],
        payload_offset=header,
        fragment=bool(int.from_bytes(packet[6:8], "big") & 0x3FFF),  # more fragments, or an offset
        octets=packet[:total],
    )


def _parse_ipv6(packet: bytes) -> IpPacket:
    end = IPV6_HEADER + int.from_bytes(packet[4:6], "big")
    if len(packet) < IPV6_HEADER or end > len(packet):
        raise ProtectionError("IPv6 lengths don't fit the packet", section="RFC 8200, 3")
    packet = packet[:end]
    protocol, protocol_offset, offset, fragment = packet[6], _PROTOCOL_AT[6], IPV6_HEADER, False
    for extension in extension_headers(packet):
        at = extension.offset
        if extension.number == FRAGMENT:
            fragment = bool(int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9)  # more fragments, or an offset
        protocol, protocol_offset, offset = packet[at], at, at + extension.length
        if fragment:
            break
    return IpPacket(
        version=6,
        source=IPv6Address(packet[8:24]),
        destination=IPv6Address(packet[24:40]),
        protocol=protocol,
        protocol_offset=protocol_offset,
        payload_offset=offset,
        fragment=fragment,
        octets=packet,
    )


def extension_headers(packet: bytes) -> Iterator[ExtensionHeader]:
    """The extension headers at the head of an IPv6 packet, in order.  Raises ProtectionError where one is cut."""
    number, offset = packet[6], IPV6_HEADER
    while number in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
        length = 8
        if offset + length <= len(packet) and number != FRAGMENT:
            length = (packet[offset + 1] + 1) * 8
        if offset + length > len(packet):
            raise ProtectionError("an IPv6 extension header is cut off", section="RFC 8200, 4")
        yield ExtensionHeader(number, offset, length)
        number, offset = packet[offset], offset + length


def inner_length(next_header: int, payload: bytes) -> int:
    """Octets of the inner IP packet at the head of ``payload``; all of it where there is none, or it can't be told."""
    version = _INNER_VERSIONS.get(next_header)
    if version is None or not payload or payload[0] >> 4 != version:
        return len(payload)
    if version == 4:
        length = int.from_bytes(payload[2:4], "big")
        return length if IPV4_HEADER <= length <= len(payload) else len(payload)
    length = int.from_bytes(payload[4:6], "big")
    return IPV6_HEADER + length if 0 < length <= len(payload) - IPV6_HEADER else len(payload)


def checksum(octets: bytes) -> int:
    """The Internet checksum of an even number of octets (RFC 1071)."""
    total = sum(int.from_bytes(octets[at : at + 2], "big") for at in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_length(headers: bytes, payload_octets: int) -> bytes:
    """The IP headers with length and checksum set for a payload of so many octets."""
    total = len(headers) + payload_octets
    if total > 0xFFFF:
        raise LocalError(f"an IP packet of {total} octets is too long")
    if headers[0] >> 4 == 6:
        return headers[:4] + (total - IPV6_HEADER).to_bytes(2, "big") + headers[6:]
    headers = headers[:2] + total.to_bytes(2, "big") + headers[4:10] + b"\0\0" + headers[12:]
    return headers[:10] + checksum(headers).to_bytes(2, "big") + headers[12:]


def tunnel_header(source: IPAddress, destination: IPAddress, protocol: int) -> bytes:
    """A plain outer header, its length not yet set: no options, TTL or hop limit 64."""
    if isinstance(source, IPv4Address):
        fixed = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0])
    else:
        fixed = bytes([0x60, 0, 0, 0, 0, 0, protocol, 64])
    return fixed + source.packed + destination.packed
