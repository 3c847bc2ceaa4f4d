"""What the formats of docs/context-formats.md, 3 and 4 are built of: Construct, with its lenient defaults fenced.

Each element parses to a value of :mod:`contexts.values` (never a Construct container) and builds from one.  A
refusal is a :class:`construct.ConstructError` here, whose text never repeats a value: it may be a key.
:mod:`contexts.encoding.framing` turns it into the project's own errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from construct import (
    Adapter,
    Array,
    Bytes,
    Construct,
    Default,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Prefixed,
    Rebuild,
    Struct,
    Switch,
    len_,
    this,
)

from cxtp.bit_fields import BitFields, Refusal
from cxtp.compiled.code import Code, Inline, Value, expression, member

from ..values import HostAddress, TrafficSelector

MAXIMUM_WINDOW = 4096
"""Bits of a window's bitmap; what Linux holds at most (XFRMA_REPLAY_ESN_MAX)."""


def reserved(octets: int) -> Construct:
    """Octets sent as zero and ignored on receipt."""
    return "reserved" / Default(Bytes(octets), bytes(octets))


class Unknown(Construct):  # type: ignore[misc]
    """A format that nothing has: the default of every Switch."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def _parse(self, stream: Any, context: Any, path: str) -> None:
        raise Refusal(self.reason, path, supported=False)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> None:
        raise Refusal(self.reason, path, supported=False)


class Checked(Adapter):  # type: ignore[misc]
    """A format whose values, both ways, must fulfil a condition; ``reason`` says which."""

    def __init__(
        self, subcon: Construct, condition: Callable[[Any], bool], reason: str, *, supported: bool = True
    ) -> None:
        super().__init__(subcon)
        self.condition = condition
        self.reason = reason
        self.supported = supported

    def _decode(self, obj: Any, context: Any, path: str) -> Any:
        if not self.condition(obj):
            raise Refusal(self.reason, path, supported=self.supported)
        return obj

    _encode = _decode


class Record(Adapter, Inline):  # type: ignore[misc]
    """A dataclass, its fields in the order of the box.

    A member called ``flags`` (:class:`BitFields`) stands for the fields of its names; where it has a bit
    ``has_x``, the field x is None while that bit is 0, and zero on the wire.  Booleans are one bit.
    """

    def __init__(self, cls: type[Any], *members: Construct) -> None:
        super().__init__(Struct(*members))
        self.cls = cls
        self.names = [field.name for field in fields(cls)]
        formats = {member.name: member.subcon for member in members}
        bits = {part[0]: part[2] for part in formats["flags"].parts} if "flags" in formats else {}
        unknown = set(self.names) - set(formats) - set(bits)
        if unknown:
            raise TypeError(f"{cls.__name__}: no member for {', '.join(sorted(unknown))}")
        self.members = [name for name in self.names if name in formats]
        self.lists = [name for name in self.members if isinstance(formats[name], Array)]
        self.optional = [name for name in self.members if f"has_{name}" in bits]
        self.in_flags = [(name, bits[name] == 1) for name in self.names if name not in formats]

    def _decode(self, obj: Any, context: Any, path: str) -> Any:
        values = {name: obj[name] for name in self.members}
        for name in self.lists:
            values[name] = tuple(values[name])
        for name in self.optional:
            if not obj["flags"][f"has_{name}"]:
                values[name] = None
        for name, is_boolean in self.in_flags:
            value = obj["flags"][name]
            values[name] = bool(value) if is_boolean else value
        return self.cls(**values)

    def _encode(self, obj: Any, context: Any, path: str) -> dict[str, Any]:
        if not isinstance(obj, self.cls):
            raise Refusal(f"expected {self.cls.__name__}", path)
        values: dict[str, Any] = {name: getattr(obj, name) for name in self.names}
        for name in self.optional:
            values[f"has_{name}"] = values[name] is not None
            values[name] = 0 if values[name] is None else values[name]
        return {**values, "flags": values} if self.optional or self.in_flags else values

    def compile_decode(self, inner: Value, code: Code) -> Value:
        arguments = []
        for name in self.members:
            value = expression(member(inner, name))
            if name in self.lists:
                value = f"tuple({value})"
            if name in self.optional:
                value = f"{value} if {self._bit(inner, f'has_{name}')} else None"
            arguments.append(f"{name}={value}")
        for name, is_boolean in self.in_flags:
            bit = self._bit(inner, name)
            arguments.append(f"{name}={f'bool({bit})' if is_boolean else bit}")
        return code.assign(f"{code.bind(self.cls)}({', '.join(arguments)})")

    def compile_encode(self, value: Value, code: Code) -> Value:
        record = code.assign(expression(value))
        code.give_up(f"not isinstance({record}, {code.bind(self.cls)})")
        values: dict[str, Value] = {name: code.assign(f"{record}.{name}") for name in self.names}
        for name in self.optional:
            values[f"has_{name}"] = f"({values[name]} is not None)"
            values[name] = code.assign(f"0 if {values[name]} is None else {values[name]}")
        return {**values, "flags": values}

    @staticmethod
    def _bit(inner: Value, name: str) -> str:
        return expression(member(member(inner, "flags"), name))


class Maybe(Adapter):  # type: ignore[misc]
    """A record or None: a first octet whose high bit says which, then the record, all zero for None."""

    def __init__(self, bit: str, record: Record, nothing: Any) -> None:
        super().__init__(Struct("flags" / BitFields(Int8ub, **{bit: 1, "reserved": 7}), "record" / record))
        self.bit = bit
        self.nothing = nothing  # what stands in for None on the wire: a record of zeros

    def _decode(self, obj: Any, context: Any, path: str) -> Any:
        return obj["record"] if obj["flags"][self.bit] else None

    def _encode(self, obj: Any, context: Any, path: str) -> dict[str, Any]:
        return {"flags": {self.bit: obj is not None}, "record": self.nothing if obj is None else obj}


class Alternatives(Adapter):  # type: ignore[misc]
    """One of several classes, told apart by a first octet."""

    def __init__(self, kinds: Mapping[int, Record], reason: str) -> None:
        super().__init__(Struct("kind" / Int8ub, "body" / Switch(this.kind, dict(kinds), default=Unknown(reason))))
        self.numbers = {record.cls: number for number, record in kinds.items()}
        self.reason = reason

    def _decode(self, obj: Any, context: Any, path: str) -> Any:
        return obj["body"]

    def _encode(self, obj: Any, context: Any, path: str) -> dict[str, Any]:
        if type(obj) not in self.numbers:
            raise Refusal(self.reason, path)
        return {"kind": self.numbers[type(obj)], "body": obj}


def counted(items: str, *, minimum: int = 0, maximum: int = 255) -> Construct:
    """The member ``count`` (8 bits) of a struct that has an Array called ``items`` further on."""
    reason = f"not {minimum} to {maximum} items"
    return "count" / Rebuild(Checked(Int8ub, lambda count: minimum <= count <= maximum, reason), len_(this[items]))


class Listed(Adapter):  # type: ignore[misc]
    """A tuple of 1 to 255 items: Count (8 bits), so many reserved octets, the items."""

    def __init__(self, item: Construct, reserved_octets: int) -> None:
        count = counted("entries", minimum=1)
        super().__init__(Struct(count, reserved(reserved_octets), "entries" / Array(this.count, item)))

    def _decode(self, obj: Any, context: Any, path: str) -> tuple[Any, ...]:
        return tuple(obj["entries"])

    def _encode(self, obj: tuple[Any, ...], context: Any, path: str) -> dict[str, Any]:
        return {"entries": obj}


class FlagOctet(Adapter):  # type: ignore[misc]
    """A boolean: the high bit of an octet whose others are reserved."""

    def __init__(self) -> None:
        super().__init__(BitFields(Int8ub, flag=1, reserved=7))

    def _decode(self, obj: dict[str, int], context: Any, path: str) -> bool:
        return bool(obj["flag"])

    def _encode(self, obj: bool, context: Any, path: str) -> dict[str, int]:
        return {"flag": int(obj)}


class Numbered(Adapter):  # type: ignore[misc]
    """An octet that is a member of an IntEnum."""

    def __init__(self, enum: type[IntEnum]) -> None:
        super().__init__(Int8ub)
        self.enum = enum

    def _decode(self, obj: int, context: Any, path: str) -> IntEnum:
        if obj not in self.enum._value2member_map_:
            raise Refusal(f"{obj} is no {self.enum.__name__}", path, supported=False)
        return self.enum(obj)

    def _encode(self, obj: int, context: Any, path: str) -> int:
        return int(self._decode(obj, context, path))


OCTETS = Prefixed(Int16ub, GreedyBytes)
"""Length (16 bits, octets), then so many octets."""


def octets(minimum: int, maximum: int) -> Construct:
    """OCTETS, no fewer than ``minimum`` and no more than ``maximum``."""
    return Checked(OCTETS, lambda value: minimum <= len(value) <= maximum, f"not {minimum} to {maximum} octets")


class _Text(Adapter):  # type: ignore[misc]
    """UTF-8; Construct's own string repeats the octets in its error."""

    def _decode(self, obj: bytes, context: Any, path: str) -> str:
        try:
            return obj.decode()
        except UnicodeDecodeError:
            raise Refusal("not UTF-8", path) from None

    def _encode(self, obj: str, context: Any, path: str) -> bytes:
        try:
            return obj.encode()
        except UnicodeEncodeError:
            raise Refusal("can't be written in UTF-8", path) from None


TEXT = _Text(OCTETS)
ALL_TEXT = _Text(GreedyBytes)
"""UTF-8: after a Length, or up to the end of what holds it."""


class _Address(Adapter):  # type: ignore[misc]
    def _decode(self, obj: bytes, context: Any, path: str) -> IPv4Address | IPv6Address:
        return IPv4Address(obj) if len(obj) == 4 else IPv6Address(obj)

    def _encode(self, obj: IPv4Address | IPv6Address, context: Any, path: str) -> bytes:
        if getattr(obj, "scope_id", None) is not None:
            raise Refusal("an address with a zone can't be moved", path)
        return obj.packed


IPV4_ADDRESS = _Address(Bytes(4))
IPV6_ADDRESS = _Address(Bytes(16))


def address(key: Any, ipv4: int, ipv6: int) -> Construct:
    """An address whose family an earlier member tells, by these two numbers."""
    return Switch(key, {ipv4: IPV4_ADDRESS, ipv6: IPV6_ADDRESS}, default=Unknown("unknown address family"))


class _HostAddress(Adapter):  # type: ignore[misc]
    def _decode(self, obj: Any, context: Any, path: str) -> HostAddress:
        return HostAddress(obj["address"], obj["port"])

    def _encode(self, obj: HostAddress, context: Any, path: str) -> dict[str, Any]:
        return {"family": obj.address.version, "port": obj.port, "address": obj.address}


HOST_ADDRESS = _HostAddress(
    Struct("family" / Int8ub, reserved(1), "port" / Int16ub, "address" / address(this.family, 4, 6))
)


class _TrafficSelector(Adapter):  # type: ignore[misc]
    """As in IKEv2, so that its Selector Length must fit its type."""

    types = {4: (7, 16), 6: (8, 40)}  # IP version: TS type, selector length

    def _decode(self, obj: Any, context: Any, path: str) -> TrafficSelector:
        if (obj["type"], obj["length"]) not in self.types.values():
            raise Refusal("the selector's length does not fit its type", path)
        return self._check(
            TrafficSelector(
                *(obj[name] for name in ("start_address", "end_address", "start_port", "end_port", "protocol"))
            ),
            path,
        )

    def _encode(self, obj: TrafficSelector, context: Any, path: str) -> dict[str, Any]:
        if obj.start_address.version != obj.end_address.version:
            raise Refusal("start and end address are of two families", path)
        self._check(obj, path)
        type_, length = self.types[obj.start_address.version]
        return {"type": type_, "length": length, **vars(obj)}

    def _check(self, selector: TrafficSelector, path: str) -> TrafficSelector:
        # ports 65535 to 0 mean OPAQUE (RFC 7296, 3.13.1)
        opaque = (selector.start_port, selector.end_port) == (65535, 0)
        if selector.start_port > selector.end_port and not opaque:
            raise Refusal("start port above end port", path)
        if int(selector.start_address) > int(selector.end_address):
            raise Refusal("start address above end address", path)
        return selector


TRAFFIC_SELECTOR = _TrafficSelector(
    Struct(
        "type" / Int8ub,
        "protocol" / Int8ub,
        "length" / Int16ub,
        "start_port" / Int16ub,
        "end_port" / Int16ub,
        "start_address" / address(this.type, 7, 8),
        "end_address" / address(this.type, 7, 8),
    )
)


class _Bitmap(Adapter):  # type: ignore[misc]
    """A big integer, in as many octets as it takes; 0 takes none."""

    def _decode(self, obj: bytes, context: Any, path: str) -> int:
        if len(obj) > MAXIMUM_WINDOW // 8:
            raise Refusal(f"more than {MAXIMUM_WINDOW} bits", path)
        return int.from_bytes(obj, "big")

    def _encode(self, obj: int, context: Any, path: str) -> bytes:
        if obj < 0 or obj.bit_length() > MAXIMUM_WINDOW:
            raise Refusal(f"more than {MAXIMUM_WINDOW} bits", path)
        return obj.to_bytes((obj.bit_length() + 7) // 8, "big")


def window(cls: type[Any], minimum: int, maximum: int) -> Construct:
    """A window: Size (32 bits) from ``minimum`` to ``maximum``, and the bitmap, which has no bit beyond it."""
    size = Checked(Int32ub, lambda value: minimum <= value <= maximum, f"not {minimum} to {maximum}")
    record = Record(cls, "size" / size, "bitmap" / _Bitmap(OCTETS))
    return Checked(record, lambda value: value.bitmap.bit_length() <= value.size, "a bit beyond the window's size")
