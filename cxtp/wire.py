"""The wire formats of RFC 4067, declared with Construct beside the RFC's boxes.

``parse`` takes exactly one message and gives a frozen value, or raises MalformedMessage with the field, its
offset and the section; ``build`` is its inverse.  Construct's containers never leave this module.

Construct is lenient where we must not be (house rule: fence it).  Messages here are a fixed part, which is one
``Layout``, and a list of records that fills the rest of the message: that list is read record by record up to
the length that the header tells, so nothing is dropped, nothing trails, and every offset is known.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

from construct import (
    Adapter,
    Bytes,
    ConstructError,
    If,
    IfThenElse,
    Int8ub,
    Int16ub,
    Int32ub,
    Struct,
    this,
)

from .bit_fields import BitFields
from .compiled import Compiled
from .constants import (
    ICMP_TYPE_IPV4,
    ICMP_TYPE_IPV6,
    MAXIMUM_MESSAGE,
    TOKEN_LENGTH,
    VERSION,
    IcmpSubtype,
    MessageType,
    StatusCode,
)
from .errors import LocalError, MalformedMessage
from .messages import (
    MESSAGE_CLASSES,
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    Message,
    PredictiveContextTransferData,
)

T = TypeVar("T")


class _IPAddress(Adapter):  # type: ignore[misc]
    """Octets on the wire, an ``ipaddress`` object inside."""

    def _decode(self, obj: bytes, context: Any, path: str) -> IPAddress:
        return ip_address(obj)

    def _encode(self, obj: IPAddress, context: Any, path: str) -> bytes:
        return obj.packed


# An address field has 4 octets when the V bit says IPv4, else 16 (RFC 4067, 2.5.1: "V flag").
ADDRESS = IfThenElse(this._.ipv4, _IPAddress(Bytes(4)), _IPAddress(Bytes(16)))


#  RFC 4067, 2.5: the first four octets of every message
#
#   0                   1                   2                   3
#   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |Vers.|  Type   |V|A|  Reserved |            Length             |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#
#  V: 0 IPv6, 1 IPv4.  The second flag is A (CTAR, CTD, PCTD) or S (CTDR); CTAA, CTC and CT-Req have none and
#  count it as reserved.
HEADER = Compiled(
    Struct(
        "version_and_type" / BitFields(Int8ub, version=3, type=5),
        "flags" / BitFields(Int8ub, ipv4=1, rest=7),
        "length" / Int16ub,
    )
)
HEADER_OCTETS = HEADER.format.sizeof()

#  RFC 4067, 2.5.1 CTAR
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~                   MN's Previous IP Address                    ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~           Previous (New) AR's IP Address                      ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                        Sequence Number                        |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                      Authorization Token                      |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                Requested Context Data Blocks                ...
ACTIVATE_REQUEST = Compiled(
    Struct(
        "mn_previous_address" / ADDRESS,
        "access_router_address" / ADDRESS,
        "sequence_number" / Int32ub,
        "authorization_token" / Bytes(TOKEN_LENGTH),
    )
)

#  RFC 4067, 2.5.2 CTAA; 2.5.4 CTDR (the fixed part is the same); 2.5.5 CTC (that is all it has)
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~                   MN's Previous IP Address                    ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
MN_ADDRESS_ALONE = Compiled(Struct("mn_previous_address" / ADDRESS))

#  RFC 4067, 2.5.3 CTD
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |             Elapsed Time (in milliseconds)                    |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~              Mobile Node's Previous Care-of Address           ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                     Context Data Blocks                     ...
DATA = Compiled(Struct("elapsed_time" / Int32ub, "mn_previous_address" / ADDRESS))

#  RFC 4067, 2.5.3 PCTD
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |             Elapsed Time (in milliseconds)                    |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~              Mobile Node's Previous Care-of Address           ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |           Algorithm           |          Key Length           |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                              Key                            ...
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                     Context Data Blocks                     ...
#
#  Key Length is in octets; the key is not padded (our decision 6).
PREDICTIVE_DATA = Compiled(
    Struct(
        "elapsed_time" / Int32ub,
        "mn_previous_address" / ADDRESS,
        "algorithm" / Int16ub,
        "key_length" / Int16ub,
        "key" / Bytes(this.key_length),
    )
)

#  RFC 4067, 2.5.6 CT-Req
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  ~                   MN's Previous IP Address                    ~
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                        Sequence Number                        |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                      Authorization Token                      |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                Requested Context Data Blocks                ...
TRANSFER_REQUEST = Compiled(
    Struct(
        "mn_previous_address" / ADDRESS,
        "sequence_number" / Int32ub,
        "authorization_token" / Bytes(TOKEN_LENGTH),
    )
)

#  RFC 4067, 2.4 Context Data Block
#   0                   1                   2                   3
#   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |  Feature Profile Type (FPT)   |    Length     |P|  Reserved   |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |               Presence Vector (if P = 1)                      |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                             Data                            ...
#
#  Length counts 8-octet words, the first 4 octets included.
CONTEXT_DATA_BLOCK = Compiled(
    Struct(
        "feature_profile_type" / Int16ub,
        "length" / Int8ub,
        "flags" / BitFields(Int8ub, presence=1, rest=7),
        "presence_vector" / If(this.flags.presence, Int32ub),
        "data" / Bytes(this.length * 8 - 4 - 4 * this.flags.presence),
    )
)

#  A requested Context Data Block is "the first 4 octets" of one (RFC 4067, 2.4; our decision 1).
REQUESTED_BLOCK = Compiled(
    Struct(
        "feature_profile_type" / Int16ub,
        "length" / Int8ub,
        "flags" / Int8ub,
        "padding" / Bytes(this.length * 4),
    )
)

#  RFC 4067, 2.5.2 and 2.5.4: one record of a CTAA or CTDR
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |  Feature Profile Type (FPT)   |  Status code  |   Reserved    |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
STATUS_RECORD = Compiled(Struct("feature_profile_type" / Int16ub, "status" / Int8ub, "reserved" / Int8ub))

#  RFC 4065, 8 and RFC 4067, 3.2: an experimental mobility message in ICMP
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |     Type      |     Code      |          Checksum             |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |    Subtype    |                Reserved                       |
#  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#  |                           Message                           ...
ICMP_HEADER = Compiled(
    Struct("type" / Int8ub, "code" / Int8ub, "checksum" / Int16ub, "subtype" / Int8ub, "reserved" / Bytes(3))
)
ICMP_HEADER_OCTETS = ICMP_HEADER.format.sizeof()
ICMP_TYPES = {4: ICMP_TYPE_IPV4, 6: ICMP_TYPE_IPV6}


@dataclass(frozen=True)
class _Format:
    """How one message type stands on the wire: its fixed part, the list behind it, and its A or S flag."""

    fixed: Compiled
    list_field: str = ""
    flag: str = ""


FORMATS: dict[MessageType, _Format] = {
    ContextTransferActivateRequest.type: _Format(ACTIVATE_REQUEST, "requested", "acknowledge"),
    ContextTransferActivateAcknowledge.type: _Format(MN_ADDRESS_ALONE, "statuses"),
    ContextTransferData.type: _Format(DATA, "blocks", "acknowledge"),
    PredictiveContextTransferData.type: _Format(PREDICTIVE_DATA, "blocks", "acknowledge"),
    ContextTransferDataReply.type: _Format(MN_ADDRESS_ALONE, "statuses", "success"),
    ContextTransferCancel.type: _Format(MN_ADDRESS_ALONE),
    ContextTransferRequest.type: _Format(TRANSFER_REQUEST, "requested"),
}


# --- reading ----------------------------------------------------------------------------------------------------


class _Reader:
    """Reads layouts from one buffer, keeping the offset and turning Construct's errors into ours."""

    def __init__(self, octets: bytes, offset: int, section: str) -> None:
        self.octets = octets
        self.offset = offset
        self.end = len(octets)
        self.section = section

    def read(self, layout: Compiled, prefix: str = "", **context: Any) -> Mapping[str, Any]:
        """One layout's values by name."""
        found = layout.parse_quickly(self.octets, self.offset, **context)
        values, self.offset = found if found is not None else self._slowly(layout.format, prefix, context)
        return values

    def _slowly(self, layout: Struct, prefix: str, context: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The same, field by field with the interpreted declaration, to see which one it is that does not fit."""
        stream = io.BytesIO(self.octets)
        stream.seek(self.offset)
        values: dict[str, Any] = {}
        for subcon in layout.subcons:
            start = stream.tell()
            try:
                # Struct evaluates `this` on the fields read so far; a one-field Struct would not see them.
                values[subcon.name] = subcon.parse_stream(stream, **{"_": context, **values})
            except ConstructError:
                reason = f"the field does not fit the {self.end - start} octets that are left"
                raise self.fail(prefix + subcon.name, start, reason) from None
        return values, stream.tell()

    def fail(self, field_name: str, offset: int, reason: str) -> MalformedMessage:
        return MalformedMessage(field_name, offset, self.section, reason)


def _read_block(reader: _Reader, name: str) -> ContextBlock:
    if reader.octets[reader.offset + 2 : reader.offset + 3] == b"\0":
        raise reader.fail(f"{name}.length", reader.offset + 2, "0, yet it counts the block's first 4 octets")
    box = reader.read(CONTEXT_DATA_BLOCK, name + ".")
    return ContextBlock(box["feature_profile_type"], box["data"], box["presence_vector"], box["flags"]["rest"])


def _read_request(reader: _Reader, name: str) -> ContextRequest:
    start = reader.offset
    length = reader.octets[start + 2 : start + 3]
    if length > b"\1":
        raise reader.fail(f"{name}.length", start + 2, f"{length[0]}, yet a requested block has no data")
    box = reader.read(REQUESTED_BLOCK, name + ".")
    if any(box["padding"]):
        raise reader.fail(f"{name}.padding", start + 4, "a requested block's padding is not zero")
    return ContextRequest(box["feature_profile_type"], box["length"], box["flags"])


def _read_status(reader: _Reader, name: str) -> ContextStatus:
    box = reader.read(STATUS_RECORD, name + ".")
    return ContextStatus(box["feature_profile_type"], box["status"], box["reserved"])


_LIST_READERS: dict[str, Callable[[_Reader, str], ContextBlock | ContextRequest | ContextStatus]] = {
    "blocks": _read_block,
    "requested": _read_request,
    "statuses": _read_status,
}


def message_length(octets: bytes | bytearray) -> int | None:
    """The Length field of the message that starts here; None while its 4-octet header is not complete."""
    if len(octets) < HEADER_OCTETS:
        return None
    return int(HEADER.parse(bytes(octets[:HEADER_OCTETS]))["length"])


def parse(octets: bytes) -> Message:
    """One message, all of it and nothing more.  Raises MalformedMessage, nothing else."""
    reader = _Reader(octets, 0, "RFC 4067, 2.5")
    header = reader.read(HEADER)
    version, number = header["version_and_type"]["version"], header["version_and_type"]["type"]
    if version != VERSION:
        raise reader.fail("version", 0, f"{version}; only version {VERSION} is known")
    if number not in MessageType._value2member_map_:
        raise reader.fail("type", 0, f"{number} is no message type")
    message_type = MessageType(number)
    message_class, layout = MESSAGE_CLASSES[message_type], FORMATS[message_type]
    if header["length"] != len(octets):
        raise reader.fail("length", 2, f"{header['length']}, yet there are {len(octets)} octets")

    reader.section = message_class.section
    rest = header["flags"]["rest"]
    values = reader.read(layout.fixed, ipv4=header["flags"]["ipv4"])
    fields = {name: value for name, value in values.items() if name not in ("_", "key_length")}
    fields["reserved"] = rest
    if layout.flag:
        fields[layout.flag] = bool(rest >> 6)
        fields["reserved"] = rest & 0x3F
    if layout.list_field:
        items: list[ContextBlock | ContextRequest | ContextStatus] = []
        while reader.offset < reader.end:
            items.append(_LIST_READERS[layout.list_field](reader, f"{layout.list_field}[{len(items)}]"))
        fields[layout.list_field] = tuple(items)
    elif reader.offset < reader.end:
        raise reader.fail("length", 2, f"{reader.end - reader.offset} octets too many for a {message_class.short_name}")
    return message_class(**fields)


# --- writing ----------------------------------------------------------------------------------------------------


def build_blocks(blocks: Sequence[ContextBlock | ContextRequest | ContextStatus]) -> bytes:
    """The octets of a message's list of blocks, requested blocks or status records."""
    return b"".join(map(_build_record, blocks))


def _build_record(item: ContextBlock | ContextRequest | ContextStatus) -> bytes:
    if isinstance(item, ContextBlock):
        flags = {"presence": item.presence_vector is not None, "rest": item.reserved}
        octets = CONTEXT_DATA_BLOCK.build(
            {
                "feature_profile_type": item.feature_profile_type,
                "length": item.length,
                "flags": flags,
                "presence_vector": item.presence_vector,
                "data": item.data.ljust(item.length * 8 - item.header_octets, b"\0"),
            }
        )
    elif isinstance(item, ContextRequest):
        octets = REQUESTED_BLOCK.build({**vars(item), "padding": bytes(item.length * 4)})
    else:
        octets = STATUS_RECORD.build(vars(item))
    return octets


def build(message: Message) -> bytes:
    """The message's octets.  Raises LocalError where it does not fit the 16-bit Length field."""
    layout = FORMATS[message.type]
    fields = dict(vars(message))
    if isinstance(message, PredictiveContextTransferData):
        fields["key_length"] = len(message.key)
    body = layout.fixed.build(fields, ipv4=message.is_ipv4)
    if layout.list_field:
        body += build_blocks(fields[layout.list_field])
    length = HEADER_OCTETS + len(body)
    if length > MAXIMUM_MESSAGE:
        raise LocalError(f"the {message.short_name} takes {length} octets; a message holds {MAXIMUM_MESSAGE}")
    rest = message.reserved | (fields[layout.flag] << 6 if layout.flag else 0)
    header = HEADER.build(
        {
            "version_and_type": {"version": VERSION, "type": message.type},
            "flags": {"ipv4": message.is_ipv4, "rest": rest},
            "length": length,
        }
    )
    return header + body


# --- ICMP (RFC 4065, 8; RFC 4067, 3.2) --------------------------------------------------------------------------


@dataclass(frozen=True)
class IcmpMessage:
    """An experimental mobility ICMP message: ``type`` 41 (IPv4) or 150 (IPv6), code 0, subtype CXTP, one message."""

    type: int
    message: bytes = field(repr=False)
    code: int = 0
    subtype: int = IcmpSubtype.CXTP
    reserved: int = 0

    def __post_init__(self) -> None:
        if self.type not in ICMP_TYPES.values() or self.code >> 8 or self.subtype >> 8 or self.reserved >> 24:
            raise LocalError("IcmpMessage: type is 41 or 150, code and subtype have 8 bits, reserved has 24")


def internet_checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071) over ``octets``."""
    padded = octets + b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo_header(icmp_type: int, addresses: tuple[IPAddress, IPAddress] | None, length: int) -> bytes:
    if icmp_type == ICMP_TYPE_IPV4:
        return b""
    if addresses is None or not all(isinstance(a, IPv6Address) for a in addresses):
        raise LocalError("ICMPv6's checksum covers its source and destination (RFC 4443, 2.3): give both")
    return addresses[0].packed + addresses[1].packed + struct.pack(">I3xB", length, 58)


def build_icmp(icmp: IcmpMessage, addresses: tuple[IPAddress, IPAddress] | None = None) -> bytes:
    """The ICMP message with its checksum; ``addresses`` (source, destination) are needed for IPv6 alone."""
    fields = {**vars(icmp), "checksum": 0, "reserved": icmp.reserved.to_bytes(3, "big")}
    octets = ICMP_HEADER.build(fields) + icmp.message
    fields["checksum"] = internet_checksum(_pseudo_header(icmp.type, addresses, len(octets)) + octets)
    return bytes(ICMP_HEADER.build(fields) + icmp.message)


def parse_icmp(octets: bytes, addresses: tuple[IPAddress, IPAddress] | None = None) -> IcmpMessage:
    """Check and open an ICMP message of CXTP's.

    ``addresses`` are the packet's: its type must be their family's.  The checksum of type 150 is checked where
    they are given (else the kernel did).  Raises MalformedMessage; a wrong checksum has status BAD_CHECKSUM.
    """
    reader = _Reader(octets, 0, "RFC 4067, 3.2")
    box = reader.read(ICMP_HEADER, "icmp.")
    types = {ICMP_TYPES[address.version] for address in addresses} if addresses else ICMP_TYPES.values()
    if box["type"] not in types:
        raise reader.fail("icmp.type", 0, f"{box['type']}, not {' or '.join(map(str, types))}")
    checkable = box["type"] == ICMP_TYPE_IPV4 or addresses is not None
    if checkable and internet_checksum(_pseudo_header(box["type"], addresses, len(octets)) + octets) != 0:
        error = reader.fail("icmp.checksum", 2, f"{box['checksum']:#06x} does not match")
        error.status = StatusCode.BAD_CHECKSUM
        raise error
    if box["code"] != 0:
        raise reader.fail("icmp.code", 1, f"{box['code']}, not 0")
    if box["subtype"] != IcmpSubtype.CXTP:
        raise reader.fail("icmp.subtype", 4, f"{box['subtype']}, not CXTP's {IcmpSubtype.CXTP.value}")
    reserved = int.from_bytes(box["reserved"], "big")
    return IcmpMessage(box["type"], octets[ICMP_HEADER_OCTETS:], box["code"], box["subtype"], reserved)


__all__ = ["IcmpMessage", "build", "build_blocks", "build_icmp"]
__all__ += ["internet_checksum", "message_length", "parse", "parse_icmp"]
