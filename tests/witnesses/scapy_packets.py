"""What scapy says, with cxtp.scapy_layers: its packets, mapped to the normal form."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from scapy.layers.sctp import SCTPChunkData
from scapy.packet import Packet
from scapy.utils import PcapReader

from cxtp.scapy_layers import CXTP, Refused, context_of, read_context, read_message, whole_contexts
from cxtp.scapy_layers.contexts import VENDORS

from .normal_form import Normal, pruned

DROPPED = {"version", "key_length", "padding", "format_version", "reserved_bits", "parameter_count", "total_length"}
NUMBERS = {"bitmap"}


def normal(octets: bytes) -> Normal | None:
    """A message as scapy reads it strictly; None: it is none."""
    try:
        packet = read_message(octets)
    except Refused:
        return None
    found = _record(packet)
    blocks = packet.fields.get("cdb", [])
    if blocks:
        try:
            found["contexts"] = [_verdict(*item) for item in whole_contexts(blocks)]
        except Refused:
            found["contexts"] = "refused"
    return found


def dissected(octets: bytes) -> Normal:
    """A sound message as scapy's own dissection shows it."""
    return of_packet(CXTP(octets))


def of_packet(packet: Packet) -> Normal:
    """The same, of a message that scapy found itself."""
    found = _record(packet)
    blocks = packet.fields.get("cdb", [])
    if blocks:
        found["contexts"] = [_context(item) for item in context_of(blocks)]
    return found


def in_capture(path: Path) -> Iterator[Packet]:
    """The messages that scapy finds in a capture by its own means: those that are whole in one packet."""
    for frame in PcapReader(str(path)):
        layer = frame
        while layer:
            if isinstance(layer, CXTP):
                yield layer
            elif isinstance(layer, SCTPChunkData) and isinstance(layer.data, CXTP):
                yield layer.data
            layer = layer.payload


def _verdict(fpt: int, vector: int | None, data: bytes) -> Normal:
    try:
        return _context(read_context(fpt, vector, data))
    except Refused as fault:
        return {"status": fault.status}


def _record(packet: Packet) -> Normal:
    found: Normal = {}
    for field in packet.fields_desc:
        name = field.name
        if name == "name_":  # a Packet has a name of its own
            if name in packet.fields and packet.kind == 3:
                found["name"] = packet.fields[name].hex()
            continue
        if name.endswith("_") or (name.startswith("reserved") and name != "reserved") or name in DROPPED:
            continue
        if name[:-1].endswith("_") and name[-1].isdigit():
            continue
        value = packet.getfieldval(name)
        if value is not None and name in packet.fields:
            found[name] = _value(name, value)
    return pruned(found)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_item(item) if isinstance(item, Packet) else item for item in value]
    if isinstance(value, Packet):
        return _record(value)
    if isinstance(value, bytes):
        return int.from_bytes(value, "big") if name in NUMBERS else value.hex()
    return str(ip_address(value)) if isinstance(value, str) else int(value)


def _item(item: Packet) -> Any:
    found = _record(item)
    return found.get("item", "") if set(found) <= {"item"} else found


def _context(context: Packet | None) -> Normal:
    if context is None:
        return {}
    found = _record(context)
    if "parameters" not in context.fields:
        return found
    return {"parameters": [_parameter(item) for item in context.parameters]}


def _parameter(item: Packet) -> Normal:
    label = "MOV"[item.level_] + str(item.number_)
    found = _record(item)
    if label == "V0":
        return _vendor(item, found)
    if not found.get("compressed", 1):
        found = {"compressed": 0}
    return {"parameter": label, **found}


def _vendor(item: Packet, found: Normal) -> Normal:
    """The value's octets beside what they were read as; a known one that can't be read says so."""
    octets = {"value": bytes(item)[10:].hex()}
    known = VENDORS.get((item.enterprise, item.number))
    unreadable = {"unreadable": 1} if known is not None and not isinstance(item, known) else {}
    return {"parameter": "V0", **found, **octets, **unreadable}
