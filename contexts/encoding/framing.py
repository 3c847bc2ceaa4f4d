"""How parameters make a context: header, presence vector, levels (docs/context-formats.md, 2 and 3).

A context type is one table of :class:`Attribute`, read in both directions.  Decoding parses the frame, checks it
against the table, and only then reads the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from construct import (
    Array,
    Construct,
    ConstructError,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Prefixed,
    StreamError,
    Struct,
    Tell,
    Terminated,
    TerminatedError,
    this,
)

from cxtp.bit_fields import BitFields, Refusal
from cxtp.compiled import Compiled, NotParsed
from cxtp.constants import StatusCode
from cxtp.errors import InvalidContext, MalformedContext, MissingParameter
from cxtp.messages import EncodedContext

from ..values import UnknownParameter, VendorParameter
from .elements import Record, reserved

FORMAT_VERSION = 1
"""Format Version of the header; another is refused."""

MAXIMUM_OCTETS = 1024 * 1024
"""Octets of one context, header included; ours: thirty times the largest that was seen, a chain of certificates."""

MAXIMUM_PARAMETERS = 1024
"""Parameters of one context; ours."""

MAXIMUM_PADDING = 7
"""Zero octets after a context that its Context Data Block's 8-octet words leave (RFC 4067, 2.4)."""

VENDOR_NUMBER = 0
"""The number under level V of parameters that an enterprise number names; they may come several times."""


class Level(IntEnum):
    """What the absence of a parameter costs (seed draft, 4): the SA; a part of its use; nothing to others."""

    MANDATORY = 0
    OPTIONAL = 1
    VENDOR = 2

    @property
    def letter(self) -> str:
        """M, O or V."""
        return self.name[0]


# 2.1 Header
#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +---------------+---------------+-------------------------------+
# |Format Version |   Reserved    |        Parameter Count        |
# +---------------+---------------+-------------------------------+
# |                         Total Length                          |
# +---------------------------------------------------------------+
HEADER = Compiled(
    Struct("format_version" / Int8ub, reserved(1), "parameter_count" / Int16ub, "total_length" / Int32ub)
)
HEADER_OCTETS = HEADER.format.sizeof()

# 2.2 Parameter
# +---+---------------------------+-------------------------------+
# |Lvl|          Number           |            Length             |
# +---+---------------------------+-------------------------------+
# |  Value ...
PARAMETER = Struct(
    "start" / Tell,
    "header" / BitFields(Int16ub, level=2, number=14),
    "value" / Prefixed(Int16ub, GreedyBytes),
)
PARAMETER_HEADER_OCTETS = 4

FRAME = Compiled(
    Struct("header" / HEADER.format, "parameters" / Array(this.header.parameter_count, PARAMETER), Terminated)
)

# 4.4 Vendor parameter, number 0
VENDOR_PARAMETER = Compiled(
    Struct(
        "parameter" / Record(VendorParameter, "enterprise" / Int32ub, "number" / Int16ub, "value" / GreedyBytes),
        Terminated,
    )
)


def presence_bit(level: int, number: int) -> int:
    """The bit of the presence vector that tells of a parameter (docs/context-formats.md, 2.3)."""
    if level == Level.MANDATORY:
        position = number - 1
    else:
        position = min(15 + number, 29) if level == Level.OPTIONAL else 30 + number
    return 1 << (31 - position)


def label(level: int, number: int, name: str) -> str:
    """A parameter's name in errors: ``M7 cryptographic material``."""
    return f"{Level(level).letter}{number} {name}"


class _Always:
    """The default of a parameter that is never left out."""


ALWAYS = _Always()


class Attribute:
    """One row of a context type's table: a parameter, and the fields of the context that its value holds.

    ``members`` are field name and format, in the order of the box; the parameter is left out while its (only)
    field equals ``absent``.
    """

    def __init__(
        self, level: Level, number: int, name: str, members: dict[str, Construct], absent: object = ALWAYS
    ) -> None:
        self.level = level
        self.number = number
        self.label = label(level, number, name)
        self.fields = tuple(members)
        self.absent = absent
        self.bit = presence_bit(level, number)
        self.format = Compiled(Struct(*(field / format_ for field, format_ in members.items()), Terminated))

    @property
    def key(self) -> tuple[int, int]:
        return self.level, self.number

    def is_absent(self, context: object) -> bool:
        """Whether the context leaves this parameter out."""
        return self.absent is not ALWAYS and getattr(context, self.fields[0]) == self.absent

    def build(self, context: object) -> bytes:
        """The parameter's value.  :raises InvalidContext: a field is out of its range."""
        return build(self.format, {field: getattr(context, field) for field in self.fields}, self.label)


def build(format_: Compiled, value: object, where: str) -> bytes:
    """What ``format_`` makes of ``value``.  :raises InvalidContext: naming the field."""
    try:
        return format_.build(value)
    except ConstructError as error:
        # not chained: Construct's text may repeat a value
        raise InvalidContext(field_path(error) or where, f"{reason_of(error)} ({where})") from None


# construct's own text is kept out: it may repeat a value
_REASONS: tuple[tuple[type[ConstructError], str], ...] = (
    (StreamError, "cut short"),
    (TerminatedError, "octets left over"),
)


def reason_of(error: ConstructError) -> str:
    for cls, reason in _REASONS:
        if isinstance(error, cls):
            return reason
    if isinstance(error, Refusal):
        return error.reason
    return "out of the field's range"


# members of formats that are no field of a dataclass
_INNER = frozenset(["flags", "body", "record", "entries", "count", "parameter", "listener"])


def field_path(error: ConstructError) -> str:
    """The field, dotted, as the dataclasses name it."""
    parts = (error.path or "").split(" -> ")[1:]
    return ".".join(part for part in parts if part not in _INNER)


class Parameter(NamedTuple):
    """A parameter as framed: level and number, its first octet in the context's data, its value."""

    key: tuple[int, int]
    offset: int
    value: bytes


AnyContext = TypeVar("AnyContext")


class ContextFormat(Generic[AnyContext]):
    """The encoding of one context type, both ways, from its table."""

    def __init__(
        self, cls: Callable[..., AnyContext], name: str, section: str, attributes: Iterable[Attribute]
    ) -> None:
        self.cls = cls
        self.name = name
        self.section = f"docs/context-formats.md, {section}"
        self.attributes = {attribute.key: attribute for attribute in attributes}
        if list(self.attributes) != sorted(self.attributes):
            raise TypeError(f"{name}: the table is not in ascending order")
        self.mandatory = sum(row.bit for row in self.attributes.values() if row.level == Level.MANDATORY)
        """Bits of the presence vector without which there is no context."""

    # --- encode ---

    def encode(self, context: AnyContext, feature_profile_type: int) -> EncodedContext:
        """The context's octets.  :raises InvalidContext: a value that its parameter can't hold."""
        presence, parts = 0, []
        for level, number, value, where in sorted(self._parameters(context), key=itemgetter(0, 1)):
            if len(value) > 0xFFFF:
                raise InvalidContext(where, f"{len(value)} octets, more than a parameter holds")
            presence |= presence_bit(level, number)
            parts.append({"header": {"level": level, "number": number}, "value": value})
        total = HEADER_OCTETS + sum(PARAMETER_HEADER_OCTETS + len(part["value"]) for part in parts)
        if total > MAXIMUM_OCTETS or len(parts) > MAXIMUM_PARAMETERS:
            raise InvalidContext(self.name, f"more than {MAXIMUM_OCTETS} octets or {MAXIMUM_PARAMETERS} parameters")
        header = {"format_version": FORMAT_VERSION, "parameter_count": len(parts), "total_length": total}
        data = build(FRAME, {"header": header, "parameters": parts}, self.name)
        return EncodedContext(feature_profile_type, data, presence)

    def _parameters(self, context: Any) -> Iterator[tuple[int, int, bytes, str]]:
        """Level, number, value and name of each parameter that the context has, not yet in order."""
        for attribute in self.attributes.values():
            if not attribute.is_absent(context):
                yield attribute.level, attribute.number, attribute.build(context), attribute.label
        last = 0
        for unknown in context.unknown_parameters:
            key = (Level.OPTIONAL, unknown.number)
            if not last < unknown.number < 1 << 14 or key in self.attributes:
                raise InvalidContext("unknown_parameters", "numbers must be unknown, of 14 bits, and ascend")
            last = unknown.number
            yield Level.OPTIONAL, unknown.number, unknown.value, f"O{unknown.number}"
        for vendor in context.vendor_parameters:
            value = build(VENDOR_PARAMETER, {"parameter": vendor}, "V0 vendor parameter")
            yield Level.VENDOR, VENDOR_NUMBER, value, "V0 vendor parameter"

    # --- decode ---

    def decode(self, encoded: EncodedContext) -> AnyContext:
        """The context.  :raises MalformedContext: naming parameter and octet."""
        parameters = self._frame(encoded.data)
        self._check(parameters, encoded.presence_vector)
        arguments: dict[str, Any] = {}
        unknown: list[UnknownParameter] = []
        vendor: list[VendorParameter] = []
        for parameter in parameters:
            attribute = self.attributes.get(parameter.key)
            if attribute is not None:
                container = self._parse(attribute.format, parameter, attribute.label)
                arguments.update((field, container[field]) for field in attribute.fields)
            elif parameter.key[0] == Level.VENDOR:
                vendor.append(self._parse(VENDOR_PARAMETER, parameter, "V0 vendor parameter")["parameter"])
            else:
                unknown.append(UnknownParameter(parameter.key[1], parameter.value))
        for attribute in self.attributes.values():
            if attribute.fields[0] not in arguments:
                arguments[attribute.fields[0]] = attribute.absent
        return self.cls(**arguments, unknown_parameters=tuple(unknown), vendor_parameters=tuple(vendor))

    def _frame(self, data: bytes) -> list[Parameter]:
        """The parameters, unread; the header is checked and trailing padding dropped."""
        if len(data) < HEADER_OCTETS:
            raise self._malformed("header", len(data), "cut short", "2.1")
        header = HEADER.parse(data)
        if header["format_version"] != FORMAT_VERSION:
            reason = f"format version {header['format_version']}, known is {FORMAT_VERSION}"
            raise self._malformed("Format Version", 0, reason, "2.1", StatusCode.UNSUPPORTED_PARAMETER)
        if header["parameter_count"] > MAXIMUM_PARAMETERS:
            raise self._malformed("Parameter Count", 2, f"more than {MAXIMUM_PARAMETERS}", "2.1")
        total = header["total_length"]
        if not HEADER_OCTETS <= total <= MAXIMUM_OCTETS:
            raise self._malformed("Total Length", 4, f"not {HEADER_OCTETS} to {MAXIMUM_OCTETS}", "2.1")
        if total > len(data):
            raise self._malformed("Total Length", 4, f"{total} octets announced, {len(data)} came", "2.1")
        if len(data) - total > MAXIMUM_PADDING or any(data[total:]):
            raise self._malformed("padding", total, f"not at most {MAXIMUM_PADDING} octets of zero", "2.1")
        try:
            frame = FRAME.parse(data[:total])
        except NotParsed as refused:
            raise self._malformed("parameters", refused.offset, reason_of(refused.error), "2.2") from None
        return [
            Parameter((part["header"]["level"], part["header"]["number"]), part["start"], part["value"])
            for part in frame["parameters"]
        ]

    def _check(self, parameters: list[Parameter], presence: int | None) -> None:
        """Order, levels, presence vector and mandatory parameters (docs/context-formats.md, 7)."""
        last = (-1, 0)
        found = 0
        for parameter in parameters:
            attribute = self.attributes.get(parameter.key)
            if attribute is not None and parameter.key > last:
                found |= attribute.bit
            else:
                self._check_one(parameter, last)
                found |= presence_bit(*parameter.key)
            last = parameter.key
        if presence is None:
            raise self._malformed("presence vector", 0, "missing", "2.3")
        if presence != found:
            reason = f"{presence:#010x} does not agree with the parameters, whose is {found:#010x}"
            raise self._malformed("presence vector", 0, reason, "2.3")
        if self.mandatory & ~found:
            missing = next(row for row in self.attributes.values() if row.bit & self.mandatory & ~found)
            raise MissingParameter(self.name, missing.label, section=self.section)

    def _check_one(self, parameter: Parameter, last: tuple[int, int]) -> None:
        """Of a parameter that is not simply the next known one."""
        level, number = parameter.key
        if level not in Level._value2member_map_:
            raise self._malformed("Level", parameter.offset, f"unknown level {level}", "2.2")
        known = parameter.key in self.attributes
        name = self.attributes[parameter.key].label if known else label(level, number, "").strip()
        repeatable = parameter.key == (Level.VENDOR, VENDOR_NUMBER)
        if parameter.key < last or (parameter.key == last and not repeatable):
            raise self._malformed(name, parameter.offset, "comes twice or out of order", "2.2")
        if known or repeatable:
            return
        if level != Level.OPTIONAL:
            raise self._malformed(
                name, parameter.offset, "unknown parameter", "7", StatusCode.UNSUPPORTED_PARAMETER
            )
        if number == 0:
            raise self._malformed(name, parameter.offset, "number 0 is reserved", "2.2")

    def _parse(self, format_: Compiled, parameter: Parameter, where: str) -> Any:
        """A parameter's value, the fields of its row by name."""
        try:
            return format_.parse(parameter.value)
        except NotParsed as refused:
            error = refused.error
            offset = parameter.offset + PARAMETER_HEADER_OCTETS + refused.offset
            path = field_path(error)
            unsupported = isinstance(error, Refusal) and not error.supported
            status = StatusCode.UNSUPPORTED_PARAMETER if unsupported else None
            reason = f"{path}: {reason_of(error)}" if path else reason_of(error)
            raise MalformedContext(
                self.name, where, offset, reason, status=status, section=self.section
            ) from None

    def _malformed(
        self, parameter: str, offset: int, reason: str, section: str, status: int | None = None
    ) -> MalformedContext:
        where = f"docs/context-formats.md, {section}"
        return MalformedContext(self.name, parameter, offset, reason, status=status, section=where)
