"""Attributes (netlink's TLVs), and the one table per structure that reads and builds them.

A number that stands in no table is kept with its octets, in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from construct import Construct

from ...compiled import Compiled
from ...errors import LocalError, TransportError
from .constants import AttributeType
from .layouts import (
    ALGORITHM,
    ALGORITHM_WITH_ICV,
    ATTRIBUTE_HEADER,
    ENCAPSULATION,
    LIFETIME_CURRENT,
    MARK,
    POLICY_TYPE,
    REPLAY,
    REPLAY_ESN,
    U32,
    U64,
)
from .values import (
    Algorithm,
    AnyReplayState,
    Encapsulation,
    ExtendedReplayState,
    Mark,
    OtherAttributes,
    ReplayState,
    Usage,
)

_HEADER_OCTETS = ATTRIBUTE_HEADER.sizeof()
_NUMBER = 0x3FFF  # the two bits above say "nested" and "network order"; XFRM uses neither
_LARGEST = 0xFFFF


class MalformedNetlink(TransportError):
    """Octets that the kernel should not have sent: another version of it than any that is known here."""


class UnfitValue(LocalError):
    """A value that no structure of the kernel's can hold; the text names the structure, never the value."""


@cache
def compiled(layout: Construct[Any, Any]) -> tuple[Compiled, int]:
    """The structure's own code, and its octets."""
    return Compiled(layout), layout.sizeof()


def octets_of(layout: Construct[Any, Any]) -> int:
    """How many a structure has."""
    return compiled(layout)[1]


def read(layout: Construct[Any, Any], octets: bytes, position: int = 0) -> Any:
    """The structure that stands there in ``octets``, its members by name.  Raises MalformedNetlink."""
    code, size = compiled(layout)
    found = code.parse_quickly(octets, position)
    if found is None:  # any octets are a structure, if there are enough
        raise MalformedNetlink(f"{len(octets) - position} octets are too few for a structure of {size}")
    return found[0]


def read_whole(layout: Construct[Any, Any], octets: bytes) -> Any:
    """The structure that ``octets`` are."""
    if len(octets) != octets_of(layout):
        raise MalformedNetlink(f"{len(octets)} octets for a structure of {octets_of(layout)}")
    return read(layout, octets)


def write(layout: Construct[Any, Any], value: Any, what: str) -> bytes:
    """Raises UnfitValue."""
    code, _ = compiled(layout)
    octets = code.build_quickly(value)
    if octets is None:
        raise UnfitValue(f"a value of {what} does not fit into its field")
    return octets


def parse_attributes(octets: bytes) -> OtherAttributes:
    """The attributes that follow a message's structure: (number, octets), in their order."""
    found = []
    offset = 0
    while offset + _HEADER_OCTETS <= len(octets):
        header = read(ATTRIBUTE_HEADER, octets, offset)
        if not _HEADER_OCTETS <= header["length"] <= len(octets) - offset:
            raise MalformedNetlink(f"attribute {header['type']} at octet {offset} has length {header['length']}")
        found.append((header["type"] & _NUMBER, octets[offset + _HEADER_OCTETS : offset + header["length"]]))
        offset += (header["length"] + 3) & ~3
    return tuple(found)


def build_attributes(attributes: Sequence[tuple[int, bytes]]) -> bytes:
    """The opposite, each padded to four octets."""
    parts = []
    for number, octets in attributes:
        length = _HEADER_OCTETS + len(octets)
        if length > _LARGEST:
            raise UnfitValue(f"attribute {number} of {length} octets is too long")
        header = write(ATTRIBUTE_HEADER, {"length": length, "type": number}, f"attribute {number}")
        parts += [header, octets, bytes(-length % 4)]
    return b"".join(parts)


@dataclass(frozen=True)
class Row:
    """One attribute of a structure.  ``build`` gives None where the value has another attribute's form."""

    field: str
    parse: Callable[[bytes], Any]
    build: Callable[[Any], bytes | None]


Table = Mapping[int, Row]


def read_table(table: Table, octets: bytes) -> dict[str, Any]:
    """Keyword arguments for the value: the named ones, ``other``, ``order``."""
    named: dict[str, Any] = {}
    other: list[tuple[int, bytes]] = []
    order: list[int] = []
    for number, content in parse_attributes(octets):
        row = table.get(number)
        order.append(number)
        if row is None:
            other.append((number, content))
        elif order.count(number) > 1:
            raise MalformedNetlink(f"attribute {number} comes twice")
        else:
            named[row.field] = row.parse(content)
    return {**named, "other": tuple(other), "order": tuple(order)}


def write_table(table: Table, value: Any) -> bytes:
    """All of a value's attributes: in the order in which they came, and by the table's order where they did not."""
    content: dict[int, bytes] = {}
    for number, row in table.items():
        given = getattr(value, row.field)
        octets = None if given is None else row.build(given)
        if octets is not None:
            content[number] = octets
    other = list(value.other)
    attributes = []
    for number in value.order:
        if number in content:
            attributes.append((number, content.pop(number)))
        elif number == AttributeType.AUTHENTICATION and AttributeType.AUTHENTICATION in table and value.authentication:
            # The kernel tells the old form before the new one, for programs that know no other.
            attributes.append((number, _build_algorithm(value.authentication)))
        else:
            index = next((at for at, (kept, _) in enumerate(other) if kept == number), None)
            if index is not None:
                attributes.append(other.pop(index))
    return build_attributes([*attributes, *content.items(), *other])


# --- what the attributes hold ---------------------------------------------------------------------------------------


def _algorithm_parser(layout: Construct[Any, Any]) -> Callable[[bytes], Algorithm]:
    def parse(octets: bytes) -> Algorithm:
        box = read(layout, octets)
        key = octets[octets_of(layout) :]
        if len(key) != (box["key_bits"] + 7) // 8:
            raise MalformedNetlink(f"a key of {box['key_bits']} bits in {len(key)} octets")
        name = box["name"].rstrip(b"\0").decode("ascii", "replace")
        return Algorithm(name, key, box.get("icv_bits"))

    return parse


def _build_algorithm(algorithm: Algorithm) -> bytes:
    return _algorithm(ALGORITHM, algorithm, {})


def _build_with_icv(algorithm: Algorithm) -> bytes:
    return _algorithm(ALGORITHM_WITH_ICV, algorithm, {"icv_bits": algorithm.icv_bits or 0})


def _algorithm(layout: Construct[Any, Any], algorithm: Algorithm, more: dict[str, int]) -> bytes:
    name = algorithm.name.encode("ascii", "replace")
    if len(name) > 63:
        raise UnfitValue(f"the algorithm's name has {len(name)} octets")
    box = {"name": name.ljust(64, b"\0"), "key_bits": 8 * len(algorithm.key), **more}
    return write(layout, box, "an algorithm") + algorithm.key


def parse_usage(octets: bytes) -> Usage:
    """XFRMA_LTIME_VAL."""
    return usage_of(read_whole(LIFETIME_CURRENT, octets))


def usage_of(box: Mapping[str, Any]) -> Usage:
    """The structure's value."""
    return Usage(box["octets"], box["packets"], box["add_time"], box["use_time"])


def build_usage(usage: Usage) -> bytes:
    """The opposite."""
    return write(LIFETIME_CURRENT, vars(usage), "a usage")


def _parse_replay(octets: bytes) -> ReplayState:
    box = read_whole(REPLAY, octets)
    return ReplayState(box["outbound"], box["inbound"], box["bitmap"])


def _parse_replay_esn(octets: bytes) -> ExtendedReplayState:
    box = read(REPLAY_ESN, octets)
    words = octets[octets_of(REPLAY_ESN) :]
    if len(words) != 4 * box["bitmap_words"]:
        raise MalformedNetlink(f"a bitmap of {box['bitmap_words']} words in {len(words)} octets")
    return ExtendedReplayState(
        box["outbound_low"],
        box["inbound_low"],
        box["outbound_high"],
        box["inbound_high"],
        box["window"],
        tuple(int(U32.parse(words[at : at + 4])) for at in range(0, len(words), 4)),
    )


def _build_replay(state: AnyReplayState) -> bytes | None:
    return write(REPLAY, vars(state), "a replay state") if isinstance(state, ReplayState) else None


def _build_replay_esn(state: AnyReplayState) -> bytes | None:
    if not isinstance(state, ExtendedReplayState):
        return None
    box = {**vars(state), "bitmap_words": len(state.bitmap)}
    return write(REPLAY_ESN, box, "a replay state") + b"".join(
        write(U32, word, "a replay bitmap") for word in state.bitmap
    )


def _build_mark(mark: Mark) -> bytes:
    return write(MARK, vars(mark), "a mark")


def _parse_mark(octets: bytes) -> Mark:
    box = read_whole(MARK, octets)
    return Mark(box["value"], box["mask"])


def _parse_encapsulation(octets: bytes) -> Encapsulation:
    box = read_whole(ENCAPSULATION, octets)
    return Encapsulation(box["type"], box["source_port"], box["destination_port"], box["original_address"])


def _number(field: str, layout: Construct[Any, Any] = U32) -> Row:
    return Row(field, lambda octets: int(read_whole(layout, octets)), lambda value: write(layout, value, field))


_REPLAY: dict[int, Row] = {
    AttributeType.REPLAY_ESN: Row("replay", _parse_replay_esn, _build_replay_esn),
    AttributeType.REPLAY: Row("replay", _parse_replay, _build_replay),
}
_MARK: dict[int, Row] = {AttributeType.MARK: Row("mark", _parse_mark, _build_mark)}
_INTERFACE_ID: dict[int, Row] = {AttributeType.INTERFACE_ID: _number("interface_id")}

# In the order in which Linux tells them.
SA_TABLE: Table = {
    AttributeType.CARE_OF_ADDRESS: Row("care_of_address", bytes, bytes),
    AttributeType.EXTRA_FLAGS: _number("extra_flags"),
    AttributeType.LAST_USED: _number("last_used", U64),
    AttributeType.AEAD: Row("aead", _algorithm_parser(ALGORITHM_WITH_ICV), _build_with_icv),
    AttributeType.AUTHENTICATION: Row(
        "authentication",
        _algorithm_parser(ALGORITHM),
        lambda algorithm: _build_algorithm(algorithm) if algorithm.icv_bits is None else None,
    ),
    AttributeType.AUTHENTICATION_TRUNCATED: Row(
        "authentication",
        _algorithm_parser(ALGORITHM_WITH_ICV),
        lambda algorithm: _build_with_icv(algorithm) if algorithm.icv_bits is not None else None,
    ),
    AttributeType.ENCRYPTION: Row("encryption", _algorithm_parser(ALGORITHM), _build_algorithm),
    AttributeType.COMPRESSION: Row("compression", _algorithm_parser(ALGORITHM), _build_algorithm),
    AttributeType.ENCAPSULATION: Row(
        "encapsulation", _parse_encapsulation, lambda value: write(ENCAPSULATION, vars(value), "an encapsulation")
    ),
    AttributeType.PADDING_TO: _number("padding_to"),
    **_MARK,
    AttributeType.OUTPUT_MARK: _number("output_mark"),
    AttributeType.OUTPUT_MARK_MASK: _number("output_mark_mask"),
    **_REPLAY,
    **_INTERFACE_ID,
    AttributeType.MAPPING_THRESHOLD: _number("mapping_threshold"),
}

ASYNC_EVENT_TABLE: Table = {
    **_REPLAY,
    AttributeType.LIFETIME_CURRENT: Row("usage", parse_usage, build_usage),
    AttributeType.REPLAY_THRESHOLD: _number("replay_threshold"),
    AttributeType.TIMER_THRESHOLD: _number("timer_threshold"),
    AttributeType.MARK: Row("mark", _parse_mark, _build_mark),
    **_INTERFACE_ID,
}

POLICY_ID_TABLE: Table = {
    AttributeType.POLICY_TYPE: Row(
        "kind",
        lambda octets: int(read_whole(POLICY_TYPE, octets)["kind"]),
        lambda kind: write(POLICY_TYPE, {"kind": kind}, "a policy's kind"),
    ),
    **_MARK,
    **_INTERFACE_ID,
}
