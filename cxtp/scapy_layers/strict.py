"""The layers read strictly.  scapy's own dissection shows as much as it can of anything; a receiver has to refuse.

The octets are those of the same ``fields_desc``; what more a receiver demands stands in :mod:`.rules`.  Nothing here
or there comes from cxtp.wire or contexts/: two parsers that share their rules would share their errors.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    BitField,
    ConditionalField,
    FieldListField,
    MultipleTypeField,
    PacketField,
    PacketListField,
    StrField,
)
from scapy.packet import Packet

MALFORMED, MANDATORY_PARAMETER_MISSING, UNSUPPORTED_PARAMETER = 0x03, 0x04, 0x0B
"""docs/decisions.md, 13."""


class Refused(ValueError):
    """Octets that a receiver refuses: ``status`` is the status code that it gives, ``field`` where it stopped."""

    def __init__(self, field: str, reason: str, status: int = MALFORMED) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason, self.status = field, reason, status


class Rule:
    """What must hold of a packet once one of its fields has been read."""

    def __init__(self, test: Any, reason: str, status: int = MALFORMED) -> None:
        self.test, self.reason, self.status = test, reason, status


RULES: dict[tuple[type[Packet], str], list[Rule]] = {}
"""By class and field."""


def must(cls: type[Packet], field: str, test: Any, reason: str, status: int = MALFORMED) -> None:
    """Declare a rule; ``test`` takes the packet as far as it was read."""
    RULES.setdefault((cls, field), []).append(Rule(test, reason, status))


def read_whole(cls: type[Packet], octets: bytes) -> Packet:
    """The packet that fills ``octets`` exactly.  Raises Refused."""
    packet, rest = read(cls, octets)
    if rest:
        raise Refused(packet.name, f"{len(rest)} octets left over")
    return packet


def read(cls: type[Packet], octets: bytes) -> tuple[Packet, bytes]:
    """The packet at the head of ``octets``, and what follows it.  Raises Refused."""
    packet = cls()
    rest: Any = octets
    for declared in packet.fields_desc:
        field = declared
        if isinstance(field, ConditionalField):
            if not field.cond(packet):
                continue
            field = field.fld
        if isinstance(field, MultipleTypeField):
            field = field._find_fld_pkt(packet)
        rest, value = _value(packet, field, rest)
        packet.fields[declared.name] = value
        for rule in RULES.get((cls, declared.name), ()):
            if not rule.test(packet):
                raise Refused(f"{packet.name}, {declared.name}", rule.reason, rule.status)
    return packet, rest


def _value(packet: Packet, field: Any, rest: Any) -> tuple[Any, Any]:
    """One field's value, and the octets behind it (for BitFields with the bits that were taken of the first)."""
    if isinstance(field, PacketListField):
        return _packets(packet, field, rest)
    if isinstance(field, PacketField):
        inner, rest = read(field.cls, rest)
        return rest, inner
    if isinstance(field, FieldListField):
        items = []
        for _ in range(field.count_from(packet)):
            rest, item = _value(packet, field.field, rest)
            items.append(item)
        return rest, items
    if isinstance(field, BitField):
        octets, taken = rest if isinstance(rest, tuple) else (rest, 0)
        _enough(packet, field, octets, (taken + field.size + 7) // 8)
    elif isinstance(field, StrField):
        length_from = getattr(field, "length_from", None)  # without one, a StrField takes all that is left
        _enough(packet, field, rest, len(rest) if length_from is None else length_from(packet))
    else:
        _enough(packet, field, rest, field.sz)
    rest, value = field.getfield(packet, rest)
    return rest, value


def _packets(packet: Packet, field: Any, rest: bytes) -> tuple[bytes, list[Packet]]:
    """So many as an earlier count says, or all up to the end that an earlier length tells, or to the end of all."""
    items = []
    if field.count_from is not None:
        for _ in range(field.count_from(packet)):
            item, rest = read(field.cls, rest)
            items.append(item)
        return rest, items
    behind = b""
    if field.length_from is not None:
        length = field.length_from(packet)
        _enough(packet, field, rest, length)
        rest, behind = rest[:length], rest[length:]
    while rest:
        item, rest = read(field.cls, rest)
        items.append(item)
    return behind, items


def _enough(packet: Packet, field: Any, octets: bytes, needed: int) -> None:
    if needed < 0 or len(octets) < needed:
        raise Refused(f"{packet.name}, {field.name}", f"cut short: {needed} octets needed, {len(octets)} left")
