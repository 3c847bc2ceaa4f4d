"""What the boxes do not show: values that a receiver refuses (RFC 4067, 2.4, 2.5; docs/context-formats.md, 3 to 6)."""

from __future__ import annotations

from typing import Any

from scapy.fields import MultipleTypeField
from scapy.packet import Packet

from .contexts import (
    IKE,
    IPSEC,
    PARAMETERS,
    PROJECT,
    VENDORS,
    CXTPAddress,
    CXTPHost,
    CXTPListener,
    CXTPManifest,
    CXTPReplica,
    CXTPSelector,
)
from .messages import CXTPBlock, CXTPRequested
from .strict import UNSUPPORTED_PARAMETER, must

ESP, AH = 3, 2
OPAQUE = (65535, 0)
NONCE = range(16, 257)
MOST_SECRETS, MOST_CERTIFICATES = 7, 32
BITMAP_OCTETS = 512


def is_utf8(octets: bytes) -> bool:
    """Whether it is text."""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def address_octets(packet: Packet, name: str) -> bytes:
    """An address as it goes on the wire."""
    field = packet.get_field(name)
    if isinstance(field, MultipleTypeField):
        field = field._find_fld_pkt(packet)
    return bytes(field.i2m(packet, packet.getfieldval(name)))


def supported(cls: type[Packet], field: str, values: Any, behind: str | None = None) -> None:
    """A field whose other values are refused as not supported, once the field ``behind`` has been read."""
    must(cls, behind or field, lambda p: getattr(p, field) in values, f"{field} is not supported",
         UNSUPPORTED_PARAMETER)  # fmt: skip


def padded(cls: type[Packet]) -> None:
    """A block's padding: at most 7 octets of zero."""
    must(cls, "padding", lambda p: len(p.padding) <= 7 and not any(p.padding), "not at most 7 octets of zero")


def windowed(cls: type[Packet], least: int, most: int) -> None:
    """A window: its size, and no bit beyond."""
    must(cls, "size", lambda p: least <= p.size <= most, f"not {least} to {most}")
    must(cls, "bitmap", lambda p: len(p.bitmap) <= BITMAP_OCTETS, "more than 4096 bits")
    must(cls, "bitmap", lambda p: not int.from_bytes(p.bitmap, "big") >> p.size, "a bit beyond Size")


def nonces(cls: type[Packet]) -> None:
    """RFC 7296, 3.9."""
    for name in ("ni", "nr"):
        must(cls, name, lambda p, name=name: len(getattr(p, name)) in NONCE, "not 16 to 256 octets")


# --- messages ---------------------------------------------------------------------------------------------------

must(CXTPRequested, "length", lambda p: p.length <= 1, "a requested block has no data")
must(CXTPRequested, "padding", lambda p: not any(p.padding), "padding is not zero")
must(CXTPBlock, "length", lambda p: p.length >= 1, "0, yet it counts the block's own first 4 octets")

# --- elements ---------------------------------------------------------------------------------------------------

supported(CXTPHost, "family_", (4, 6), behind="port")
supported(CXTPAddress, "family_", (4, 6))
supported(CXTPSelector, "type_", (7, 8), behind="end_port")
must(CXTPSelector, "end_address", lambda p: p.length_ == {7: 16, 8: 40}[p.type_], "Selector Length of another type")
must(
    CXTPSelector, "end_address",
    lambda p: p.start_port <= p.end_port or (p.start_port, p.end_port) == OPAQUE, "start port above end port",
)  # fmt: skip
must(
    CXTPSelector, "end_address",
    lambda p: address_octets(p, "start_address") <= address_octets(p, "end_address"), "start above end",
)  # fmt: skip


# --- parameters -------------------------------------------------------------------------------------------------

_M7, _M11 = PARAMETERS[IKE, 0, 7], PARAMETERS[IKE, 0, 11]
_KEYMAT = PARAMETERS[IPSEC, 0, 12]

supported(PARAMETERS[IKE, 0, 1], "major", (2,), behind="minor")
supported(_M7, "case", (1, 2, 3, 4))
must(_M7, "count_", lambda p: p.count_ <= MOST_SECRETS, "more than 7")
nonces(_M7)
must(PARAMETERS[IKE, 0, 8], "count_", lambda p: p.count_ <= MOST_SECRETS, "more than 7")
supported(_M11, "kind", (1, 2, 3))
must(_M11, "count_", lambda p: 1 <= p.count_ <= MOST_CERTIFICATES, "not 1 to 32")
must(_M11, "name_", lambda p: is_utf8(p.name_), "not UTF-8")
windowed(PARAMETERS[IKE, 0, 12], 1, 0xFFFFFFFF)
must(PARAMETERS[IKE, 1, 2], "count_", lambda p: p.count_ >= 1, "none")

supported(PARAMETERS[IPSEC, 0, 4], "knowledge", (0, 1, 2))
windowed(PARAMETERS[IPSEC, 0, 5], 0, 4096)
supported(PARAMETERS[IPSEC, 0, 6], "mode", (1, 2, 3))
for _name in ("count_", "count2_"):
    must(PARAMETERS[IPSEC, 0, 10], _name, lambda p, name=_name: getattr(p, name) >= 1, "no traffic selector")
must(
    PARAMETERS[IPSEC, 0, 11], "ke", lambda p: (p.protocol, p.has_encr) in ((ESP, 1), (AH, 0)),
    "neither ESP with an encryption algorithm nor AH without one",
)  # fmt: skip
supported(_KEYMAT, "kind", (1, 2))
must(_KEYMAT, "count_", lambda p: p.count_ <= MOST_SECRETS, "more than 7")
nonces(_KEYMAT)

for (_enterprise, _number), _cls in VENDORS.items():
    if _enterprise == PROJECT and _number in (1, 6):
        must(_cls, "text", lambda p: is_utf8(p.text), "not UTF-8")
    elif _enterprise == PROJECT and _number in (3, 4, 5):
        must(_cls, "address", lambda p: len(p.address) <= 255, "more than 255")

# --- the unframed types -----------------------------------------------------------------------------------------

must(CXTPListener, "group", lambda p: address_octets(p, "group")[0] == 0xFF, "no multicast address")
padded(CXTPListener)
supported(CXTPManifest, "format_", (1,))
must(CXTPManifest, "padding", lambda p: p.part < p.parts, "Part is not below Parts")
padded(CXTPManifest)
supported(CXTPReplica, "format_", (1,))
supported(CXTPReplica, "kind", (1, 2))
