"""What scapy says, with cxtp.scapy_layers: its packets, mapped to the normal form."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from scapy.packet import Packet

from cxtp.scapy_layers import CXTP, context_of

from .normal_form import Normal, pruned

DROPPED = {"version", "key_length", "padding", "format_version", "reserved_bits", "parameter_count", "total_length"}
NUMBERS = {"bitmap"}
DECODED = ("text", "bits", "address", "type", "data", "unreadable")


def normal(octets: bytes) -> Normal:
    """A message that is sound."""
    packet = CXTP(octets)
    found = _record(packet)
    blocks = packet.fields.get("cdb", [])
    if blocks:
        found["contexts"] = [_context(item) for item in context_of(blocks)]
    return found


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
    return found.get("item", "") if "item_length_" in item.fields else found


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
    if not found.get("compressed", 1):
        found = {"compressed": 0}
    return {"parameter": label, **found}


def without_vendor_values(message: Normal) -> Normal:
    """scapy leaves a vendor parameter's value as octets."""
    for context in message.get("contexts", []):
        for parameter in context.get("parameters", []) if isinstance(context, dict) else []:
            if parameter["parameter"] == "V0":
                for name in DECODED:
                    parameter.pop(name, None)
    return message
