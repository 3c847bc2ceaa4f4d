"""A receiver's verdict on messages and contexts, found with scapy's fields and the rules beside them alone."""

from __future__ import annotations

from collections.abc import Sequence

from scapy.packet import Packet

from .contexts import CONTEXTS, IKE, IPSEC, PARAMETERS, CXTPContext, CXTPParameter, CXTPReplica, parameter_class
from .messages import MESSAGES
from .strict import MANDATORY_PARAMETER_MISSING, UNSUPPORTED_PARAMETER, Refused, read, read_whole

VERSION = 1
HEADER_OCTETS = 4
FRAME_OCTETS = 8
CONTINUATION = 0xFF00
FULL = 255
"""Length of a block that may be continued: all words that there can be (docs/decisions.md, 2)."""
MOST_PARAMETERS, MOST_OCTETS, MOST_PADDING = 1024, 1 << 20, 7
FRAMED = (IKE, IPSEC)
_TYPE_OF = {IKE: "IKE_SA", IPSEC: "IPsec_SA"}


def read_message(octets: bytes) -> Packet:
    """The message that fills ``octets``.  Raises Refused where a receiver refuses it whole (RFC 4067, 2.5)."""
    if len(octets) < HEADER_OCTETS:
        raise Refused("message", f"{len(octets)} octets are no header")
    if octets[0] >> 5 != VERSION:
        raise Refused("version", f"{octets[0] >> 5} is not known")
    cls = MESSAGES.get(octets[0] & 0x1F)
    if cls is None:
        raise Refused("type", f"{octets[0] & 0x1F} is no message")
    length = int.from_bytes(octets[2:4], "big")
    if length != len(octets):
        raise Refused("length", f"{length}, yet there are {len(octets)} octets")
    return read_whole(cls, octets)


def whole_contexts(blocks: Sequence[Packet]) -> list[tuple[int, int | None, bytes]]:
    """Feature Profile Type, Presence Vector and data of each context that the blocks of a message carry.

    Raises Refused for a continuation block that continues nothing (docs/decisions.md, 2).
    """
    found: list[tuple[int, int | None, bytes]] = []
    before: Packet | None = None
    for block in blocks:
        vector = block.presence_vector if block.presence else None
        if block.fpt != CONTINUATION:
            found.append((block.fpt, vector, block.data))
        elif before is None or before.length != FULL:
            raise Refused("continuation", "continues no full block")
        elif vector is not None:
            raise Refused("continuation", "has a Presence Vector")
        else:
            fpt, vector, data = found[-1]
            found[-1] = fpt, vector, data + block.data
        before = block
    return found


def read_context(fpt: int, vector: int | None, data: bytes) -> Packet | None:
    """The context, None for a type that is not known.  Raises Refused with the status of docs/context-formats.md, 7."""
    cls = CONTEXTS.get(fpt)
    if cls is None:
        return None
    if fpt in FRAMED:
        return _framed(cls, vector, data)
    if cls is CXTPReplica:
        return _replica(data)
    if vector is not None:
        raise Refused(cls.__name__, "has a Presence Vector")
    return read_whole(cls, data)


def _replica(data: bytes) -> Packet:
    """One of a kind that is not known is another edition's, however it goes on (6.5)."""
    try:
        return read_whole(CXTPReplica, data)
    except Refused as fault:
        raise Refused(fault.field, fault.reason, UNSUPPORTED_PARAMETER) from None


# --- IKE_SA and IPsec_SA, in the order of section 7 -----------------------------------------------------------------


def _framed(cls: type[CXTPContext], vector: int | None, data: bytes) -> Packet:
    """The five steps."""
    values = _cut(data)
    keys = [(octets[0] >> 6, int.from_bytes(octets[:2], "big") & 0x3FFF) for octets in values]
    _check_order(cls.fpt, keys)
    _check_presence(cls.fpt, keys, vector)
    parameters = [read_whole(parameter_class(cls.fpt, octets), octets) for octets in values]
    total = FRAME_OCTETS + sum(map(len, values))
    return cls(format_version=data[0], reserved_1=data[1:2], parameter_count=len(values), total_length=total,
               parameters=parameters, padding=data[total:])  # fmt: skip


def _cut(data: bytes) -> list[bytes]:
    """Step 1: each parameter's octets."""
    if len(data) < FRAME_OCTETS:
        raise Refused("header", "cut short")
    if data[0] != 1:
        raise Refused("format_version", f"{data[0]}", UNSUPPORTED_PARAMETER)
    count, total = int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:8], "big")
    if count > MOST_PARAMETERS or not FRAME_OCTETS <= total <= min(MOST_OCTETS, len(data)):
        raise Refused("header", f"{count} parameters in {total} octets, of which {len(data)} came")
    padding = data[total:]
    if len(padding) > MOST_PADDING or any(padding):
        raise Refused("padding", "not at most 7 octets of zero")
    rest, found = data[FRAME_OCTETS:total], []
    for _ in range(count):
        _, behind = read(CXTPParameter, rest)
        found.append(rest[: len(rest) - len(behind)])
        rest = behind
    if rest:
        raise Refused("parameters", f"{len(rest)} octets left over")
    return found


def _check_order(fpt: int, keys: Sequence[tuple[int, int]]) -> None:
    """Step 2."""
    before = (-1, -1)
    for level, number in keys:
        name = f"level {level}, number {number}"
        if level == 3:
            raise Refused(name, "no such level")
        if (level, number) < before or ((level, number) == before and before != (2, 0)):
            raise Refused(name, "comes twice or out of order")
        if level != 1 and (level, number) != (2, 0) and (fpt, level, number) not in PARAMETERS:
            raise Refused(name, "not known", UNSUPPORTED_PARAMETER)
        if (level, number) == (1, 0):
            raise Refused(name, "reserved")
        before = level, number


def _check_presence(fpt: int, keys: Sequence[tuple[int, int]], vector: int | None) -> None:
    """Steps 3 and 4."""
    expected = CXTPContext.vector_of(keys)
    if vector != expected:
        told = "none" if vector is None else f"{vector:08x}"
        raise Refused("presence_vector", f"{told}, and the parameters make {expected:08x}")
    for of, level, number in PARAMETERS:
        if of == fpt and level == 0 and (level, number) not in keys:
            raise Refused(f"M{number} of {_TYPE_OF[fpt]}", "missing", MANDATORY_PARAMETER_MISSING)
