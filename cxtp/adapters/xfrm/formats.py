"""The octets of NETLINK_XFRM (linux/netlink.h, linux/xfrm.h).

Lengths, flags and counters are in the machine's own byte order; addresses, SPIs and ports in the network's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Union

from construct import (
    Bytes,
    ConstructError,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int16ul,
    Int32sl,
    Int32ub,
    Int32ul,
    Int64ul,
    NullTerminated,
    Padded,
    Padding,
    Struct,
)
from construct import Int16ub as _Int16nb
from construct import Int32sb as _Int32sb
from construct import Int32ub as _Int32nb
from construct import Int64ub as _Int64nb

from ...errors import TransportError
from .values import IPAddress, PolicyTemplate, SecurityAssociation, SecurityPolicy, Selector

_LITTLE = sys.byteorder == "little"
U16 = Int16ul if _LITTLE else _Int16nb
U32 = Int32ul if _LITTLE else _Int32nb
S32 = Int32sl if _LITTLE else _Int32sb
U64 = Int64ul if _LITTLE else _Int64nb

AF_INET, AF_INET6 = 2, 10
FLAG_AF_UNSPEC, FLAG_ESN = 0x20, 0x80

MESSAGE_HEADER = Struct("length" / U32, "type" / U16, "flags" / U16, "sequence" / U32, "port" / U32)

ATTRIBUTE_HEADER = Struct("length" / U16, "type" / U16)

_ADDRESS = Bytes(16)

SELECTOR = Struct(
    "destination" / _ADDRESS,
    "source" / _ADDRESS,
    "destination_port" / Int16ub,
    "destination_port_mask" / Int16ub,
    "source_port" / Int16ub,
    "source_port_mask" / Int16ub,
    "family" / U16,
    "destination_prefix" / Int8ub,
    "source_prefix" / Int8ub,
    "protocol" / Int8ub,
    Padding(3),
    "interface" / S32,
    "user" / U32,
)

IDENTIFIER = Struct("destination" / _ADDRESS, "spi" / Int32ub, "protocol" / Int8ub, Padding(3))

ASSOCIATION_NAME = Struct(
    "destination" / _ADDRESS, "spi" / Int32ub, "family" / U16, "protocol" / Int8ub, Padding(1)
)
"""xfrm_usersa_id: what names an SA in a request."""

LIFETIME_CONFIGURED = Struct(
    "soft_octets" / U64,
    "hard_octets" / U64,
    "soft_packets" / U64,
    "hard_packets" / U64,
    "soft_add_seconds" / U64,
    "hard_add_seconds" / U64,
    "soft_use_seconds" / U64,
    "hard_use_seconds" / U64,
)

LIFETIME_CURRENT = Struct("octets" / U64, "packets" / U64, "add_time" / U64, "use_time" / U64)

SECURITY_ASSOCIATION = Struct(
    "selector" / SELECTOR,
    "identifier" / IDENTIFIER,
    "source" / _ADDRESS,
    "lifetime" / LIFETIME_CONFIGURED,
    "current" / LIFETIME_CURRENT,
    "replay_window_errors" / U32,
    "replay_errors" / U32,
    "integrity_errors" / U32,
    "sequence" / U32,
    "request_id" / U32,
    "family" / U16,
    "mode" / Int8ub,
    "replay_window" / Int8ub,
    "flags" / Int8ub,
    Padding(7),
)

POLICY = Struct(
    "selector" / SELECTOR,
    "lifetime" / LIFETIME_CONFIGURED,
    "current" / LIFETIME_CURRENT,
    "priority" / U32,
    "index" / U32,
    "direction" / Int8ub,
    "action" / Int8ub,
    "flags" / Int8ub,
    "share" / Int8ub,
    Padding(4),
)

TEMPLATE = Struct(
    "identifier" / IDENTIFIER,
    "family" / U16,
    Padding(2),
    "source" / _ADDRESS,
    "request_id" / U32,
    "mode" / Int8ub,
    "share" / Int8ub,
    "optional" / Int8ub,
    Padding(1),
    "authentication_algorithms" / U32,
    "encryption_algorithms" / U32,
    "compression_algorithms" / U32,
)

MARK = Struct("value" / U32, "mask" / U32)

ALGORITHM_NAME = Bytes(64)

REPLAY_ESN = Struct(
    "bitmap_words" / U32,
    "outbound" / U32,
    "inbound" / U32,
    "outbound_high" / U32,
    "inbound_high" / U32,
    "replay_window" / U32,
)


class Attribute:
    """XFRMA_ numbers."""

    AUTHENTICATION = 1
    ENCRYPTION = 2
    ENCAPSULATION = 4
    TEMPLATES = 5
    ASSOCIATION = 6
    LIFETIME_CURRENT = 9
    REPLAY = 10
    SOURCE = 13
    AEAD = 18
    AUTHENTICATION_TRUNCATED = 20
    MARK = 21
    REPLAY_ESN = 23
    INTERFACE_ID = 31


ENCAPSULATION = Struct(
    "type" / U16, "source_port" / Int16ub, "destination_port" / Int16ub, Padding(2), "original" / _ADDRESS
)

ALGORITHM = Struct("name" / Padded(64, NullTerminated(GreedyBytes)), "key_bits" / U32)
ALGORITHM_WITH_ICV = Struct("name" / Padded(64, NullTerminated(GreedyBytes)), "key_bits" / U32, "icv_bits" / U32)
"""The key follows."""


class MalformedNetlink(TransportError):
    """Octets that the kernel should not have sent: another version of it than any that is known here."""


Attributes = tuple[tuple[int, bytes], ...]


def parse_attributes(octets: bytes) -> Attributes:
    """The attributes that follow a message's structure: (number, octets), in their order."""
    found = []
    offset = 0
    while offset + ATTRIBUTE_HEADER.sizeof() <= len(octets):
        header = ATTRIBUTE_HEADER.parse(octets[offset : offset + ATTRIBUTE_HEADER.sizeof()])
        if not ATTRIBUTE_HEADER.sizeof() <= header.length <= len(octets) - offset:
            raise MalformedNetlink(f"attribute {header.type} at octet {offset} has length {header.length}")
        found.append((header.type & 0x3FFF, octets[offset + ATTRIBUTE_HEADER.sizeof() : offset + header.length]))
        offset += (header.length + 3) & ~3
    return tuple(found)


def messages(octets: bytes) -> Iterator[tuple[Any, bytes]]:
    """The netlink messages of one datagram: each one's header and what follows it."""
    offset = 0
    size = MESSAGE_HEADER.sizeof()
    while offset + size <= len(octets):
        header = MESSAGE_HEADER.parse(octets[offset : offset + size])
        if not size <= header.length <= len(octets) - offset:
            raise MalformedNetlink(f"a message of length {header.length} in {len(octets) - offset} octets")
        yield header, octets[offset + size : offset + header.length]
        offset += (header.length + 3) & ~3


def parse_security_association(octets: bytes) -> SecurityAssociation:
    """XFRM_MSG_NEWSA's body.  Raises MalformedNetlink."""
    box, attributes = _split(SECURITY_ASSOCIATION, octets)
    named = dict(attributes)
    window = box.replay_window
    if Attribute.REPLAY_ESN in named:
        window = _read(REPLAY_ESN, named[Attribute.REPLAY_ESN]).replay_window
    authentication = named.get(Attribute.AUTHENTICATION_TRUNCATED, named.get(Attribute.AUTHENTICATION, b""))
    return SecurityAssociation(
        source=_address(box.source, box.family),
        destination=_address(box.identifier.destination, box.family),
        spi=box.identifier.spi,
        protocol=box.identifier.protocol,
        mode=box.mode,
        request_id=box.request_id,
        replay_window=window,
        encryption=_name(named.get(Attribute.ENCRYPTION, b"")),
        authentication=_name(authentication),
        aead=_name(named.get(Attribute.AEAD, b"")),
        mark=_mark(named),
        interface_id=_number(named.get(Attribute.INTERFACE_ID)),
        extended=bool(box.flags & FLAG_ESN),
        used=(box.current.octets, box.current.packets),
        attributes=attributes,
    )


def parse_deleted(octets: bytes) -> SecurityAssociation:
    """XFRM_MSG_DELSA as the kernel tells it: the SA's name, and the SA itself as an attribute among its others."""
    attributes = parse_attributes(octets[ASSOCIATION_NAME.sizeof() :])
    named = dict(attributes)
    if Attribute.ASSOCIATION not in named:
        raise MalformedNetlink("an SA was deleted and nothing is said of it")
    others = b"".join(
        bytes(ATTRIBUTE_HEADER.build({"length": 4 + len(value), "type": number})) + value + bytes(-len(value) % 4)
        for number, value in attributes
        if number != Attribute.ASSOCIATION
    )
    return parse_security_association(named[Attribute.ASSOCIATION][: SECURITY_ASSOCIATION.sizeof()] + others)


def parse_policy(octets: bytes) -> SecurityPolicy:
    """XFRM_MSG_NEWPOLICY's body.  Raises MalformedNetlink."""
    box, attributes = _split(POLICY, octets)
    named = dict(attributes)
    selector = box.selector
    templates = named.get(Attribute.TEMPLATES, b"")
    size = TEMPLATE.sizeof()
    if len(templates) % size:
        raise MalformedNetlink(f"templates of {len(templates)} octets")
    return SecurityPolicy(
        direction=box.direction,
        action=box.action,
        priority=box.priority,
        index=box.index,
        selector=Selector(
            source=_address(selector.source, selector.family),
            source_prefix=selector.source_prefix,
            destination=_address(selector.destination, selector.family),
            destination_prefix=selector.destination_prefix,
            protocol=selector.protocol,
            source_port=selector.source_port,
            source_port_mask=selector.source_port_mask,
            destination_port=selector.destination_port,
            destination_port_mask=selector.destination_port_mask,
            interface=selector.interface,
        ),
        templates=tuple(_template(templates[at : at + size]) for at in range(0, len(templates), size)),
        mark=_mark(named),
        interface_id=_number(named.get(Attribute.INTERFACE_ID)),
    )


def _template(octets: bytes) -> PolicyTemplate:
    box = TEMPLATE.parse(octets)
    return PolicyTemplate(
        protocol=box.identifier.protocol,
        mode=box.mode,
        source=_address(box.source, box.family),
        destination=_address(box.identifier.destination, box.family),
        spi=box.identifier.spi,
        request_id=box.request_id,
        optional=bool(box.optional),
    )


def _split(layout: Struct, octets: bytes) -> tuple[Any, Attributes]:
    return _read(layout, octets), parse_attributes(octets[layout.sizeof() :])


def _read(layout: Struct, octets: bytes) -> Any:
    try:
        return layout.parse(octets)
    except ConstructError as error:
        raise MalformedNetlink(f"{len(octets)} octets are too few for a structure of {layout.sizeof()}") from error


_FAMILIES: dict[int, Callable[[bytes], Union[IPv4Address, IPv6Address]]] = {
    AF_INET: lambda octets: IPv4Address(octets[:4]),
    AF_INET6: IPv6Address,
}


def _address(octets: bytes, family: int) -> IPAddress:
    # 0: a selector or template for packets of any family has addresses of zeros.
    return _FAMILIES.get(family, _FAMILIES[AF_INET6])(octets)


def _name(octets: bytes) -> str:
    return octets[: ALGORITHM_NAME.sizeof()].split(b"\0")[0].decode("ascii", "replace")


def _mark(named: dict[int, bytes]) -> tuple[int, int]:
    if Attribute.MARK not in named:
        return 0, 0
    box = _read(MARK, named[Attribute.MARK])
    return box.value, box.mask


def _number(octets: bytes | None) -> int:
    return 0 if octets is None else int(U32.parse(octets))


__all__ = ["MalformedNetlink", "messages", "parse_attributes", "parse_policy", "parse_security_association"]
