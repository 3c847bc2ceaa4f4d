"""The seven messages, Context Data Blocks and status records (RFC 4067, 2.4 and 2.5), and where they are carried."""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteField,
    ConditionalField,
    FieldLenField,
    IntField,
    IP6Field,
    IPField,
    MultipleTypeField,
    PacketListField,
    ShortEnumField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    XShortField,
)
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import _ICMPv6, icmp6typescls, icmp6typesminhdrlen
from scapy.layers.sctp import SCTPChunkData
from scapy.packet import Packet, Raw, bind_layers, split_bottom_up
from scapy.utils import checksum

PORT, PAYLOAD_PROTOCOL_IDENTIFIER = 5091, 0x43585450
TYPES = {1: "CTAR", 2: "CTAA", 3: "CTD", 4: "PCTD", 5: "CTDR", 6: "CTC", 7: "CT-Req"}
CONTEXT_TYPES = {
    0x0001: "IPv6 multicast listener", 0xFF00: "continuation", 0xFF01: "IKE_SA", 0xFF02: "IPsec_SA",
    0xFF03: "transfer manifest", 0xFF04: "replica",
}  # fmt: skip


def address(name: str) -> MultipleTypeField:
    """4 octets where V is set, else 16."""
    return MultipleTypeField([(IPField(name, "0.0.0.0"), lambda p: p.ipv4 == 1)], IP6Field(name, "::"))


class _Inner(Packet):
    """What stands in a list: whatever follows it is the next one's."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """Nothing is a payload."""
        return b"", s


class CXTPRequested(_Inner):
    """A requested Context Data Block: 4 octets, or 8 where Length is 1 (docs/decisions.md, 1)."""

    name = "CXTP requested block"
    fields_desc = [
        ShortEnumField("fpt", 0xFF01, CONTEXT_TYPES),
        ByteField("length", 0),
        ByteField("flags", 0),
        StrLenField("padding", b"", length_from=lambda p: 4 * p.length),
    ]


class CXTPStatus(_Inner):
    """One record of a CTAA or CTDR (RFC 4067, 2.5.2)."""

    name = "CXTP status"
    fields_desc = [ShortEnumField("fpt", 0xFF01, CONTEXT_TYPES), ByteField("status", 0), ByteField("reserved", 0)]


class CXTPBlock(_Inner):
    """A Context Data Block (RFC 4067, 2.4).  Length None is computed, and the data padded to it."""

    name = "CXTP Context Data Block"
    fields_desc = [
        ShortEnumField("fpt", 0xFF01, CONTEXT_TYPES),
        ByteField("length", None),
        BitField("presence", None, 1),
        BitField("reserved", 0, 7),
        ConditionalField(
            IntField("presence_vector", None), lambda p: p.presence or p.fields.get("presence_vector") is not None
        ),
        StrLenField("data", b"", length_from=lambda p: max(8 * p.length - 4 - 4 * p.presence, 0)),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Pad; fill in P and Length."""
        if self.presence is None and self.fields.get("presence_vector") is not None:
            pkt = pkt[:3] + bytes((pkt[3] | 0x80,)) + pkt[4:]
        if self.length is None:
            pkt += bytes(-len(pkt) % 8)
            pkt = pkt[:2] + bytes((len(pkt) // 8 & 0xFF,)) + pkt[3:]
        return pkt + pay


class CXTP(Packet):
    """The header of every message (RFC 4067, 2.5); dissecting gives the class of its Type."""

    name = "CXTP"

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kwargs: Any) -> type[Packet]:
        """The message's own class; Raw for what is none."""
        if cls is CXTP and _pkt:
            return MESSAGES.get(_pkt[0] & 0x1F, Raw) if _pkt[0] >> 5 == 1 else Raw
        return cls

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in Length: all octets of the message."""
        if self.length is None:
            pkt = pkt[:2] + (len(pkt) & 0xFFFF).to_bytes(2, "big") + pkt[4:]
        return pkt + pay

    def hashret(self) -> bytes:
        """The same for a request and its answers: the MN's address names an exchange (RFC 4067, 2.5)."""
        return str(self.mn_address).encode()

    def answers(self, other: Any) -> bool:
        """CTAA to CTAR, CTD and PCTD to CT-Req, CTDR to CTD and PCTD."""
        asked = ANSWERS.get(type(self), ())
        return isinstance(other, tuple(asked)) and str(getattr(other, "mn_address", None)) == str(self.mn_address)


def header(number: int, flag: str | None = None) -> list[Any]:
    """The first 4 octets; the second flag is A, S or reserved."""
    flags = [BitField(flag, 0, 1), BitField("reserved", 0, 6)] if flag else [BitField("reserved", 0, 7)]
    return [
        BitField("version", 1, 3),
        BitEnumField("type", number, 5, TYPES),
        BitField("ipv4", 1, 1),
        *flags,
        ShortField("length", None),
    ]


AUTHORIZED = [IntField("sequence_number", 0), StrFixedLenField("token", b"\0\0\0\0", 4)]


class CTAR(CXTP):
    """Context Transfer Activate Request (RFC 4067, 2.5.1)."""

    name = "CXTP CTAR"
    fields_desc = [
        *header(1, "acknowledge"),
        address("mn_address"),
        address("access_router_address"),
        *AUTHORIZED,
        PacketListField("requested", [], CXTPRequested),
    ]


class CTAA(CXTP):
    """Context Transfer Activate Acknowledge (RFC 4067, 2.5.2)."""

    name = "CXTP CTAA"
    fields_desc = [*header(2), address("mn_address"), PacketListField("record", [], CXTPStatus)]


class CTD(CXTP):
    """Context Transfer Data (RFC 4067, 2.5.3)."""

    name = "CXTP CTD"
    fields_desc = [
        *header(3, "acknowledge"),
        IntField("elapsed_time", 0),
        address("mn_address"),
        PacketListField("cdb", [], CXTPBlock),
    ]


class PCTD(CXTP):
    """Predictive Context Transfer Data (RFC 4067, 2.5.3)."""

    name = "CXTP PCTD"
    fields_desc = [
        *header(4, "acknowledge"),
        IntField("elapsed_time", 0),
        address("mn_address"),
        ShortEnumField("algorithm", 1, {1: "HMAC_SHA1"}),
        FieldLenField("key_length", None, length_of="key", fmt="H"),
        StrLenField("key", b"", length_from=lambda p: p.key_length),
        PacketListField("cdb", [], CXTPBlock),
    ]


class CTDR(CXTP):
    """Context Transfer Data Reply (RFC 4067, 2.5.4)."""

    name = "CXTP CTDR"
    fields_desc = [*header(5, "success"), address("mn_address"), PacketListField("record", [], CXTPStatus)]


class CTC(CXTP):
    """Context Transfer Cancel (RFC 4067, 2.5.5)."""

    name = "CXTP CTC"
    fields_desc = [*header(6), address("mn_address")]


class CTReq(CXTP):
    """Context Transfer Request (RFC 4067, 2.5.6)."""

    name = "CXTP CT-Req"
    fields_desc = [*header(7), address("mn_address"), *AUTHORIZED, PacketListField("requested", [], CXTPRequested)]


MESSAGES: dict[int, type[Packet]] = {1: CTAR, 2: CTAA, 3: CTD, 4: PCTD, 5: CTDR, 6: CTC, 7: CTReq}
ANSWERS: dict[type[Packet], tuple[type[Packet], ...]] = {
    CTAA: (CTAR,), CTD: (CTReq,), PCTD: (CTReq,), CTDR: (CTD, PCTD),
}  # fmt: skip


SUBTYPE = 1
"""CXTP's of the experimental mobility subtypes (RFC 4065, 8)."""


class ExperimentalMobility(Packet):
    """An ICMP header of type 41 with CXTP's subtype (RFC 4065, 3 and 8), in place of scapy's ICMP."""

    name = "ICMP experimental mobility"
    fields_desc = [
        ByteField("type", 41),
        ByteField("code", 0),
        XShortField("chksum", None),
        ByteField("subtype", SUBTYPE),
        StrFixedLenField("reserved", b"\0\0\0", 3),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kwargs: Any) -> type[Packet]:
        """scapy's own class for all other ICMP."""
        return ICMP if _pkt and (_pkt[0] != 41 or _pkt[4:5] != bytes((SUBTYPE,))) else cls

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the checksum."""
        pkt += pay
        return pkt if self.chksum is not None else pkt[:2] + checksum(pkt).to_bytes(2, "big") + pkt[4:]

    def hashret(self) -> bytes:
        """The message's."""
        return bytes(self.payload.hashret())

    def answers(self, other: Any) -> bool:
        """The message does."""
        return isinstance(other, ExperimentalMobility) and bool(self.payload.answers(other.payload))


class ExperimentalMobilityV6(_ICMPv6):
    """The same in ICMPv6: type 150 (RFC 4065, 4); scapy fills in the checksum."""

    name = "ICMPv6 experimental mobility"
    fields_desc = [
        ByteField("type", 150),
        ByteField("code", 0),
        XShortField("cksum", None),
        ByteField("subtype", SUBTYPE),
        StrFixedLenField("reserved", b"\0\0\0", 3),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kwargs: Any) -> type[Packet]:
        """Another subtype is shown as scapy shows it without us."""
        return Raw if _pkt and _pkt[4:5] != bytes((SUBTYPE,)) else cls

    def answers(self, other: Any) -> bool:
        """The message does."""
        return isinstance(other, ExperimentalMobilityV6) and bool(self.payload.answers(other.payload))


def bind_ports(port: int = PORT) -> None:
    """CXTP on this UDP port, by its SCTP payload protocol identifier, and in ICMP."""
    bind_layers(UDP, CXTP, dport=port)
    bind_layers(UDP, CXTP, sport=port)
    bind_layers(SCTPChunkData, CXTP, proto_id=PAYLOAD_PROTOCOL_IDENTIFIER)
    split_bottom_up(IP, ICMP, proto=1)  # scapy takes the first class that fits; ours hands on what is not CXTP's
    bind_layers(IP, ExperimentalMobility, proto=1)
    icmp6typescls[150], icmp6typesminhdrlen[150] = ExperimentalMobilityV6, 8
    for carrier in (ExperimentalMobility, ExperimentalMobilityV6):
        bind_layers(carrier, CXTP)
