"""Contexts as layers (docs/context-formats.md, 2 to 6): the frame, a class per parameter, and the unframed types."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from scapy.fields import (
    BitField,
    ByteField,
    ConditionalField,
    FieldLenField,
    FieldListField,
    IntField,
    IP6Field,
    IPField,
    LongField,
    MultipleTypeField,
    PacketField,
    PacketListField,
    ShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
    XByteField,
    XIntField,
    XLongField,
)
from scapy.packet import Packet, Raw

from .strict import Refused, read_whole


class _Inner(Packet):
    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """Nothing is a payload."""
        return b"", s


def octets(name: str) -> list[Any]:
    """Octets: a Length of 16 bits, then so many."""
    length = f"{name}_length_"
    return [
        FieldLenField(length, None, length_of=name, fmt="H"),
        StrLenField(name, b"", length_from=lambda p: getattr(p, length)),
    ]


def reserved(size: int, name: str = "reserved_") -> StrFixedLenField:
    """Octets sent as zero."""
    return StrFixedLenField(f"{name}{size}", bytes(size), size)


class CXTPOctets(_Inner):
    """One item of a list of Octets."""

    name = "Octets"
    fields_desc = octets("item")


def many(name: str, cls: type[Packet] = CXTPOctets, count: str = "count_") -> PacketListField:
    """So many items as an earlier count says."""
    return PacketListField(name, [], cls, count_from=lambda p: getattr(p, count))


def count_of(name: str, field: str = "count_") -> FieldLenField:
    """The 8-bit count of a list."""
    return FieldLenField(field, None, count_of=name, fmt="B")


class CXTPHost(_Inner):
    """A host address (3)."""

    name = "Host address"
    fields_desc = [
        ByteField("family_", 4),
        reserved(1),
        ShortField("port", 0),
        MultipleTypeField(
            [(IPField("address", "0.0.0.0"), lambda p: p.family_ == 4)], IP6Field("address", "::")
        ),
    ]


class CXTPSelector(_Inner):
    """A traffic selector (RFC 7296, 3.13.1)."""

    name = "Traffic selector"
    fields_desc = [
        ByteField("type_", 7),
        ByteField("protocol", 0),
        ShortField("length_", 16),
        ShortField("start_port", 0),
        ShortField("end_port", 65535),
        *[
            MultipleTypeField([(IPField(name, "0.0.0.0"), lambda p: p.type_ == 7)], IP6Field(name, "::"))
            for name in ("start_address", "end_address")
        ],
    ]


class CXTPIdentification(_Inner):
    """Identification (RFC 7296, 3.5)."""

    name = "Identification"
    fields_desc = [ByteField("type", 2), reserved(1), *octets("data")]


class CXTPKeySet(_Inner):
    """SK_d to SK_pr (4.2.1)."""

    name = "Key set"
    fields_desc = [f for k in ("d", "ai", "ar", "ei", "er", "pi", "pr") for f in octets(f"sk_{k}")]


class CXTPRekeyedFrom(_Inner):
    """The IKE_SA that was replaced."""

    name = "Rekeyed From"
    fields_desc = [ShortField("prf", 5), *octets("sk_d")]


class CXTPLimits(_Inner):
    """Limits (3)."""

    name = "Limits"
    fields_desc = [
        BitField("has_soft", 0, 1),
        BitField("has_hard", 0, 1),
        BitField("reserved_bits", 0, 30),
        LongField("soft", 0),
        LongField("hard", 0),
        LongField("used", 0),
    ]


SPIS = [XLongField("spi_i", 0), XLongField("spi_r", 0)]
NONCES = [*octets("ni"), *octets("nr")]


class CXTPParameter(_Inner):
    """A parameter (2.2) that has no class of its own: its value as octets."""

    name = "Parameter"
    level_, number_ = 1, 0
    fields_desc = [
        BitField("level_", 1, 2),
        BitField("number_", 0, 14),
        FieldLenField("value_length_", None, length_of="value", fmt="H"),
        StrLenField("value", b"", length_from=lambda p: p.value_length_),
    ]


class _Known(_Inner):
    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in Length."""
        if self.value_length_ is None:
            pkt = pkt[:2] + (len(pkt) - 4).to_bytes(2, "big") + pkt[4:]
        return pkt + pay


PARAMETERS: dict[tuple[int, int, int], type[Packet]] = {}
"""By Feature Profile Type, level and number; 0 as a type: of all."""


def parameter(fpt: int, level: int, number: int, title: str, *fields: Any) -> type[Packet]:
    """Declare one."""
    head = [BitField("level_", level, 2), BitField("number_", number, 14), ShortField("value_length_", None)]
    cls = type(f"CXTP_{fpt:x}_{'MOV'[level]}{number}", (_Known,), {"name": title, "fields_desc": [*head, *fields]})
    PARAMETERS[fpt, level, number] = cls
    return cls


def hosts() -> list[Any]:
    """Both ends."""
    return [PacketField(name, CXTPHost(), CXTPHost) for name in ("local_host", "remote_host")]


def in_case(field: Any, *cases: int) -> ConditionalField:
    """Only there in these cases."""
    return ConditionalField(field, lambda p: p.case in cases)


def of_kind(field: Any, *kinds: int) -> ConditionalField:
    """Only there for these kinds."""
    return ConditionalField(field, lambda p: p.kind in kinds)


IKE, IPSEC = 0xFF01, 0xFF02
parameter(IKE, 0, 1, "IKE version", BitField("major", 2, 4), BitField("minor", 0, 4))
parameter(IKE, 0, 2, "initiator flag", BitField("initiator", 0, 1), BitField("reserved_bits", 0, 7))
parameter(IKE, 0, 3, "host addresses", *hosts())
parameter(IKE, 0, 4, "SPIs", *SPIS)
parameter(IKE, 0, 5, "Message IDs", IntField("next_request_to_send", 0), IntField("next_request_expected", 0))
parameter(
    IKE, 0, 7, "cryptographic material",
    ByteField("case", 3),
    in_case(BitField("has_rekeyed_from", 0, 1), 1, 4),
    in_case(BitField("reserved_bits", 0, 7), 1, 4),
    in_case(XByteField("reserved_1", 0), 2, 3),
    MultipleTypeField(
        [(FieldLenField("count_", None, count_of="additional_secrets", fmt="B"), lambda p: p.case in (1, 4)),
         (FieldLenField("count_", None, count_of="earlier", fmt="B"), lambda p: p.case == 2)],
        FieldLenField("count_", None, count_of="earlier_keys", fmt="B"),
    ),
    XByteField("reserved_2", 0),
    *[in_case(f, 1) for f in (*octets("private_key"), *octets("peer_key_exchange"))],
    *[in_case(f, 4) for f in octets("shared_secret")],
    *[in_case(f, 2) for f in octets("skeyseed")],
    *[in_case(f, 1, 2, 4) for f in NONCES],
    ConditionalField(
        PacketField("rekeyed_from", CXTPRekeyedFrom(), CXTPRekeyedFrom),
        lambda p: p.case in (1, 4) and p.has_rekeyed_from,
    ),
    in_case(many("additional_secrets"), 1, 4),
    in_case(many("earlier"), 2),
    in_case(PacketField("keys", CXTPKeySet(), CXTPKeySet), 3),
    in_case(many("earlier_keys", CXTPKeySet), 3),
)  # fmt: skip
parameter(
    IKE, 0, 8, "SA proposal",
    *[ShortField(name, 0) for name in ("encr", "encr_key_length", "integ", "integ_key_length", "prf", "ke")],
    count_of("additional_ke"), reserved(1),
    FieldListField("additional_ke", [], ShortField("", 0), count_from=lambda p: p.count_),
)  # fmt: skip
parameter(IKE, 0, 9, "extensions", XIntField("extensions", 0))
parameter(
    IKE, 0, 10, "identities",
    *[PacketField(f"{side}_identity", CXTPIdentification(), CXTPIdentification) for side in ("local", "remote")],
)  # fmt: skip
parameter(
    IKE, 0, 11, "credentials",
    ByteField("kind", 3),
    of_kind(count_of("chain"), 2), of_kind(reserved(2), 2), of_kind(many("chain"), 2),
    of_kind(reserved(3), 1, 3),
    *[of_kind(f, 1) for f in octets("key")], *[of_kind(f, 3) for f in octets("name_")],
)  # fmt: skip
parameter(IKE, 0, 12, "window", IntField("size", 1), *octets("bitmap"))
parameter(
    IKE, 1, 1, "IKE lifetime",
    BitField("has_soft_remaining", 0, 1), BitField("has_hard_remaining", 0, 1), BitField("reserved_bits", 0, 30),
    IntField("soft_remaining", 0), IntField("hard_remaining", 0),
)  # fmt: skip
parameter(IKE, 1, 2, "vendor IDs", count_of("vendor_ids"), reserved(1), many("vendor_ids"))

parameter(IPSEC, 0, 1, "host addresses", *hosts())
parameter(IPSEC, 0, 2, "SPIs", XIntField("inbound_spi", 0), XIntField("outbound_spi", 0))
parameter(
    IPSEC, 0, 3, "IPComp", BitField("compressed", 0, 1), BitField("reserved_bits", 0, 7),
    ByteField("ipcomp_algorithm", 0), ShortField("inbound_cpi", 0), ShortField("outbound_cpi", 0),
)  # fmt: skip
parameter(
    IPSEC, 0, 4, "sequence numbers", BitField("overflow_allowed", 0, 1), BitField("reserved_bits", 0, 7),
    ByteField("knowledge", 0), reserved(2), LongField("outbound", 0), LongField("inbound", 0),
)  # fmt: skip
parameter(IPSEC, 0, 5, "anti-replay window", IntField("size", 0), *octets("bitmap"))
parameter(IPSEC, 0, 6, "mode", ByteField("mode", 2))
parameter(
    IPSEC, 0, 7, "lifetime", *[PacketField(n, CXTPLimits(), CXTPLimits) for n in ("seconds", "octets", "packets")]
)
parameter(IPSEC, 0, 8, "path MTU", IntField("path_mtu", 0))
parameter(IPSEC, 0, 9, "upper-layer protocol", ByteField("upper_layer_protocol", 0))
parameter(
    IPSEC, 0, 10, "traffic selectors",
    count_of("local_selectors"), reserved(3), many("local_selectors", CXTPSelector),
    count_of("remote_selectors", "count2_"), reserved(3, "reserved2_"),
    many("remote_selectors", CXTPSelector, "count2_"),
)  # fmt: skip
parameter(
    IPSEC, 0, 11, "protocol and algorithms",
    ByteField("protocol", 3), BitField("extended_sequence_numbers", 0, 1), BitField("has_encr", 1, 1),
    BitField("reserved_bits", 0, 6),
    *[ShortField(name, 0) for name in ("encr", "encr_key_length", "integ", "integ_key_length", "ke")],
)  # fmt: skip
parameter(
    IPSEC, 0, 12, "KEYMAT",
    ByteField("kind", 1),
    of_kind(reserved(3), 1),
    *[of_kind(f, 1) for side in ("inbound", "outbound") for f in
      (*octets(f"{side}_encryption"), *octets(f"{side}_integrity"))],
    of_kind(BitField("initiator", 0, 1), 2), of_kind(BitField("reserved_bits", 0, 7), 2),
    of_kind(count_of("additional_secrets"), 2), of_kind(reserved(1), 2),
    *[of_kind(f, 2) for f in (*SPIS, *NONCES, *octets("shared_secret"))],
    of_kind(many("additional_secrets"), 2),
)  # fmt: skip
parameter(IPSEC, 1, 1, "IKE_SA", *SPIS)
UNIT = ("instance_id", "flow_id", "reqid", "mark", "mark_mask", "if_id")
parameter(
    IPSEC, 2, 1, "processing unit", *[BitField(f"has_{name}", 0, 1) for name in UNIT],
    BitField("reserved_bits", 0, 26), *[XIntField(name, 0) for name in UNIT],
)  # fmt: skip
VENDOR = parameter(
    0, 2, 0, "vendor parameter", IntField("enterprise", 0), ShortField("number", 0),
    StrLenField("value", b"", length_from=lambda p: p.value_length_ - 6),
)  # fmt: skip
VENDORS: dict[tuple[int, int], type[Packet]] = {}
"""By enterprise and vendor number (4.4)."""


class CXTPAddress(_Inner):
    """One of a list of addresses (4.4)."""

    name = "Address"
    fields_desc = [
        ByteField("family_", 4),
        MultipleTypeField([(IPField("item", "0.0.0.0"), lambda p: p.family_ == 4)], IP6Field("item", "::")),
    ]


def vendor(enterprise: int, number: int, title: str, *fields: Any) -> None:
    """Declare a vendor parameter whose value is known."""
    head = [BitField("level_", 2, 2), BitField("number_", 0, 14), ShortField("value_length_", None)]
    head += [IntField("enterprise", enterprise), ShortField("number", number)]
    desc = {"name": title, "fields_desc": [*head, *fields]}
    VENDORS[enterprise, number] = type(f"CXTP_V0_{enterprise}_{number}", (_Known,), desc)


def vendor_name() -> StrLenField:
    """UTF-8 up to the parameter's end."""
    return StrLenField("text", b"", length_from=lambda p: p.value_length_ - 6)


def vendor_addresses() -> PacketListField:
    """Addresses up to the parameter's end."""
    return PacketListField("address", [], CXTPAddress, length_from=lambda p: p.value_length_ - 6)


PROJECT, STRONGSWAN = 0, 36906
vendor(PROJECT, 1, "CONNECTION_NAME", vendor_name())
vendor(PROJECT, 2, "REMOTE_EAP_IDENTITY", ByteField("type", 2), reserved(1), *octets("data"))
vendor(PROJECT, 3, "LOCAL_VIRTUAL_ADDRESSES", vendor_addresses())
vendor(PROJECT, 4, "REMOTE_VIRTUAL_ADDRESSES", vendor_addresses())
vendor(PROJECT, 5, "PEER_ADDRESSES", vendor_addresses())
vendor(PROJECT, 6, "CHILD_NAME", vendor_name())
for _number, _title in enumerate(
    ("CONDITIONS", "EXTENSIONS", "PRIVATE_CONDITIONS", "PRIVATE_EXTENSIONS", "AUTH_METHOD", "SEGMENT"), 1
):
    vendor(STRONGSWAN, _number, _title, XIntField("bits", 0))


def parameter_class(fpt: int, octets_: bytes) -> type[Packet]:
    """The class of the parameter at the head of ``octets_``: one of the known ones, or those for any value.

    A vendor's known parameter whose value can't be read is shown as any other: nobody refuses it (4.4).
    """
    head = int.from_bytes(octets_[:2], "big")
    key = head >> 14, head & 0x3FFF
    if key == (2, 0):
        length = int.from_bytes(octets_[2:4], "big")
        numbers = int.from_bytes(octets_[4:8], "big"), int.from_bytes(octets_[8:10], "big")
        known = VENDORS.get(numbers) if 6 <= length <= len(octets_) - 4 else None
        if known is not None:
            try:
                read_whole(known, octets_[: 4 + length])
                return known
            except Refused:
                pass
        return VENDOR
    return PARAMETERS.get((fpt, *key), CXTPParameter)


class CXTPContext(Packet):
    """The frame of IKE_SA and IPsec_SA (2.1); ``fpt`` says which, and is not on the wire."""

    name = "CXTP context"
    fpt = IKE
    fields_desc = [
        ByteField("format_version", 1),
        reserved(1),
        FieldLenField("parameter_count", None, count_of="parameters", fmt="H"),
        IntField("total_length", None),
        PacketListField(
            "parameters", [],
            next_cls_cb=lambda p, done, last, rest: p.next_class(len(done) + (last is not None), rest),
        ),
        StrField("padding", b""),
    ]  # fmt: skip

    def next_class(self, done: int, rest: bytes) -> Any:
        """The class of the parameter that ``rest`` begins with, for a value that is all there."""
        return parameter_class(self.fpt, rest) if done < self.parameter_count and len(rest) >= 4 else None

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in Total Length."""
        if self.total_length is None:
            pkt = pkt[:4] + (len(pkt) - len(self.padding)).to_bytes(4, "big") + pkt[8:]
        return pkt + pay

    @property
    def presence(self) -> int:
        """The Presence Vector that its block must have (2.3)."""
        return self.vector_of([(item.level_, item.number_) for item in self.parameters])

    @staticmethod
    def vector_of(keys: Iterable[tuple[int, int]]) -> int:
        """The same, of levels and numbers."""
        vector = 0
        for level, number in keys:
            at = number - 1 if level == 0 else min(15 + number, 29) if level == 1 else 30 + number
            vector |= 1 << 31 - at
        return vector


class CXTPIkeSa(CXTPContext):
    """An IKE_SA."""

    name, fpt = "CXTP IKE_SA", IKE


class CXTPIpsecSa(CXTPContext):
    """An IPsec_SA."""

    name, fpt = "CXTP IPsec_SA", IPSEC


class CXTPListener(Packet):
    """An IPv6 multicast listener (5)."""

    name = "CXTP multicast listener"
    fields_desc = [
        StrFixedLenField("subnet_prefix", bytes(8), 8),
        IP6Field("group", "ff02::1"),
        StrField("padding", b""),
    ]


class CXTPManifest(Packet):
    """A transfer manifest (6)."""

    name = "CXTP transfer manifest"
    fields_desc = [
        ByteField("format_", 1),
        reserved(1),
        ShortField("part", 0),
        ShortField("parts", 1),
        reserved(2),
        XIntField("transfer_id", 0),
        IntField("contexts", 0),
        LongField("generation", 0),
        StrFixedLenField("digest", bytes(16), 16),
        StrField("padding", b""),
    ]


class CXTPReplica(Packet):
    """A replica (6.5)."""

    name = "CXTP replica"
    fields_desc = [ByteField("format_", 1), ByteField("kind", 1), reserved(2), StrField("padding", b"")]


CONTEXTS: dict[int, type[Packet]] = {
    0x0001: CXTPListener, IKE: CXTPIkeSa, IPSEC: CXTPIpsecSa, 0xFF03: CXTPManifest, 0xFF04: CXTPReplica,
}  # fmt: skip


def context_of(blocks: list[Packet]) -> list[Packet | None]:
    """The contexts that a message's blocks carry, put together; None for a type that is not known, Raw for octets that
    end before the context does."""
    whole: list[tuple[int, bytes]] = []
    for block in blocks:
        if block.fpt == 0xFF00 and whole:
            whole[-1] = (whole[-1][0], whole[-1][1] + bytes(block.data))
        else:
            whole.append((block.fpt, bytes(block.data)))
    return [_dissected(CONTEXTS[fpt], data) if fpt in CONTEXTS else None for fpt, data in whole]


def _dissected(cls: type[Packet], data: bytes) -> Packet:
    try:
        return cls(data)
    except struct.error:  # as scapy does with a payload
        return Raw(data)
