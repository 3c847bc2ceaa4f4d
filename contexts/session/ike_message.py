"""The IKEv2 message: header and payload chain (RFC 7296, 3.1 and 3.2), as frozen dataclasses.

     IKE SA Initiator's SPI 64 | IKE SA Responder's SPI 64 | Next Payload 8 | MjVer 4, MnVer 4 | Exchange Type 8 |
     Flags 8 | Message ID 32 | Length 32, then payloads: Next Payload 8 | Critical 1, RESERVED 7 | Payload Length 16

Octets that are none raise ProtectionError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from contexts.values import IkeSpis
from cxtp.constants import IkePayload
from cxtp.errors import LocalError, ProtectionError

HEADER_OCTETS = 28
GENERIC_HEADER_OCTETS = 4
MAXIMUM_PAYLOADS = 256
"""Payloads of one message (ours; real ones have fewer than 40)."""
MAXIMUM_MESSAGE = 65_535 + HEADER_OCTETS
"""Octets of one message that is built or taken, fragments joined: what a UDP datagram holds."""

FLAG_INITIATOR = 0x08
FLAG_VERSION = 0x10
FLAG_RESPONSE = 0x20
_CRITICAL = 0x80
_PROTECTED = (IkePayload.ENCRYPTED, IkePayload.ENCRYPTED_FRAGMENT)


@dataclass(frozen=True)
class IkeHeader:
    """The IKE header; ``length`` counts the whole message in octets."""

    spis: IkeSpis
    next_payload: int
    exchange_type: int
    flags: int
    message_id: int
    length: int
    major_version: int = 2
    minor_version: int = 0

    @property
    def from_initiator(self) -> bool:
        """The sender is the IKE_SA's original initiator (I flag)."""
        return bool(self.flags & FLAG_INITIATOR)

    @property
    def response(self) -> bool:
        """The message answers a request of the same Message ID (R flag)."""
        return bool(self.flags & FLAG_RESPONSE)


@dataclass(frozen=True)
class IkePayloadItem:
    """One payload: type, content without the generic header, critical bit."""

    type: int
    body: bytes = field(repr=False)
    critical: bool = False


@dataclass(frozen=True)
class ProtectedPayload:
    """The SK or SKF payload that ends a message's chain.

    ``body`` is its content, ``offset`` where the content begins in the message, ``first_inner`` the type of the first
    payload inside.
    """

    type: int
    first_inner: int
    offset: int
    body: bytes = field(repr=False)


def parse_header(octets: bytes) -> IkeHeader:
    """The header at the head of ``octets``; its length must not exceed them."""
    if len(octets) < HEADER_OCTETS:
        raise ProtectionError(f"{len(octets)} octets are no IKE header", section="RFC 7296, 3.1")
    header = IkeHeader(
        spis=IkeSpis(int.from_bytes(octets[0:8], "big"), int.from_bytes(octets[8:16], "big")),
        next_payload=octets[16],
        major_version=octets[17] >> 4,
        minor_version=octets[17] & 15,
        exchange_type=octets[18],
        flags=octets[19],
        message_id=int.from_bytes(octets[20:24], "big"),
        length=int.from_bytes(octets[24:28], "big"),
    )
    if header.major_version != 2:
        raise ProtectionError(f"IKE version {header.major_version}", section="RFC 7296, 2.5")
    if not HEADER_OCTETS <= header.length <= len(octets):
        raise ProtectionError(f"IKE length {header.length} of {len(octets)} octets", section="RFC 7296, 3.1")
    return header


def build_header(header: IkeHeader) -> bytes:
    """The 28 octets; raises LocalError for a value out of range."""
    try:
        return b"".join(
            (
                header.spis.initiator.to_bytes(8, "big"),
                header.spis.responder.to_bytes(8, "big"),
                bytes([header.next_payload, header.major_version << 4 | header.minor_version]),
                bytes([header.exchange_type, header.flags]),
                header.message_id.to_bytes(4, "big"),
                header.length.to_bytes(4, "big"),
            )
        )
    except (OverflowError, ValueError):
        raise LocalError("an IKE header field is out of range") from None


def parse_payloads(first: int, octets: bytes) -> tuple[IkePayloadItem, ...]:
    """The payloads of a whole chain without SK or SKF."""
    items, protected = _walk(first, octets, 0)
    if protected is not None:
        raise ProtectionError(f"payload {protected.type} inside a protected one", section="RFC 7296, 3.14")
    return items


def split_message(octets: bytes) -> tuple[IkeHeader, tuple[IkePayloadItem, ...], ProtectedPayload | None]:
    """Header, the payloads in the clear, and the SK or SKF payload, which is always the last (RFC 7296, 3.14)."""
    header = parse_header(octets)
    return header, *_walk(header.next_payload, octets[: header.length], HEADER_OCTETS)


def _walk(number: int, octets: bytes, at: int) -> tuple[tuple[IkePayloadItem, ...], ProtectedPayload | None]:
    items: list[IkePayloadItem] = []
    while number != IkePayload.NONE:
        length = int.from_bytes(octets[at + 2 : at + 4], "big") if at + GENERIC_HEADER_OCTETS <= len(octets) else 0
        if length < GENERIC_HEADER_OCTETS or at + length > len(octets):
            raise ProtectionError(f"payload {number} at octet {at} is cut off", section="RFC 7296, 3.2")
        if len(items) >= MAXIMUM_PAYLOADS:
            raise ProtectionError(f"more than {MAXIMUM_PAYLOADS} payloads", section="RFC 7296, 3.2")
        body, following = octets[at + GENERIC_HEADER_OCTETS : at + length], octets[at]
        if number in _PROTECTED:
            if at + length != len(octets):
                raise ProtectionError(f"octets after payload {number}", section="RFC 7296, 3.14")
            return tuple(items), ProtectedPayload(number, following, at + GENERIC_HEADER_OCTETS, body)
        items.append(IkePayloadItem(number, body, bool(octets[at + 1] & _CRITICAL)))
        number, at = following, at + length
    if at != len(octets):
        raise ProtectionError(f"{len(octets) - at} octets after the last payload", section="RFC 7296, 3.2")
    return tuple(items), None


def build_payloads(items: Sequence[IkePayloadItem], after: int = IkePayload.NONE) -> tuple[int, bytes]:
    """The first payload's type and the chain's octets; the last payload names ``after`` as its next."""
    chain = b""
    number = int(after)
    for item in reversed(items):
        chain = generic_header(number, len(item.body), critical=item.critical) + item.body + chain
        number = item.type
    return number, chain


def generic_header(next_payload: int, body_octets: int, *, critical: bool = False) -> bytes:
    """A payload's generic header; raises LocalError where the length does not fit."""
    length = GENERIC_HEADER_OCTETS + body_octets
    if length > 0xFFFF or not 0 <= next_payload <= 255:
        raise LocalError(f"a payload of {length} octets, next payload {next_payload}, can't be built")
    return bytes([next_payload, _CRITICAL if critical else 0]) + length.to_bytes(2, "big")
