"""Octets to messages of strongSwan's ``ha`` plugin and back, and from one of its versions to another.

Both directions read the same table (:func:`.attribute_table`), so what is parsed is built again octet for octet.
Nothing is guessed: where a number is not known, reading stops with an error that says which and where.
"""

from __future__ import annotations

import io

from construct import ConstructError

from cxtp.errors import LocalError, RemoteError

from .attributes import (
    RECEIVE_BUFFER,
    VERSIONS,
    Attribute,
    HaAttribute,
    HaMessage,
    HaMessageType,
    attribute_numbers,
    attribute_table,
)
from .bodies import BODIES

MAXIMUM_DATAGRAM = 65_535
"""Octets of a message that are taken; the daemon itself takes RECEIVE_BUFFER."""

PRIVATE_BIT = 1 << 31
"""Set in the second CONDITIONS and EXTENSIONS of version 5, which hold the private bits."""

__all__ = [
    "MAXIMUM_DATAGRAM",
    "PRIVATE_BIT",
    "RECEIVE_BUFFER",
    "MalformedHaMessage",
    "NotRepresentable",
    "UnknownAttribute",
    "UnknownMessageType",
    "UnknownVersion",
    "build_message",
    "parse_message",
    "re_encode",
]


class MalformedHaMessage(RemoteError):
    """A datagram that is no ``ha`` message: ``number`` is the version, type or attribute at fault, ``offset`` where
    it stands."""

    section = "strongSwan, ha_message.c"

    def __init__(self, what: str, number: int, offset: int, reason: str) -> None:
        super().__init__(f"{what} {number} at octet {offset}: {reason}")
        self.number = number
        self.offset = offset
        self.reason = reason


class UnknownVersion(MalformedHaMessage):
    """A version that is not known here: the daemon drops such messages too."""


class UnknownMessageType(MalformedHaMessage):
    """A message type that the version does not have."""


class UnknownAttribute(MalformedHaMessage):
    """An attribute that the version does not have: it has no length, so what follows can't be read."""


class NotRepresentable(LocalError):
    """A message that the version asked for can't express, or a value that its attribute can't hold."""


def parse_message(datagram: bytes, *, byte_order: str = "little") -> HaMessage:
    """The message in one UDP datagram.

    ``byte_order`` is the sending host's own ("little" or "big"): SPIs and CPIs come in it.  Raises
    :class:`MalformedHaMessage` or one of its three subclasses.
    """
    bodies = BODIES[_checked(byte_order)]
    if len(datagram) > MAXIMUM_DATAGRAM:
        raise MalformedHaMessage("message of length", len(datagram), 0, f"at most {MAXIMUM_DATAGRAM} octets are taken")
    version = datagram[0] if datagram else 0
    if version not in VERSIONS:
        raise UnknownVersion("version", version, 0, "not spoken here" if datagram else "an empty datagram")
    if len(datagram) < 2:
        raise MalformedHaMessage("version", version, 0, "the message ends before its type")
    if datagram[1] not in HaMessageType._value2member_map_:
        raise UnknownMessageType("message type", datagram[1], 1, f"not known in version {version}")
    table = attribute_table(version)
    stream = io.BytesIO(datagram)
    stream.seek(2)
    attributes = []
    while (offset := stream.tell()) < len(datagram):
        number = datagram[offset]
        declared = table.get(number)
        if declared is None:
            raise UnknownAttribute("attribute", number, offset, f"not known in version {version}")
        stream.seek(offset + 1)
        try:
            value = bodies[declared.form].parse_stream(stream)
        except (ConstructError, ValueError) as error:
            reason = f"{declared.attribute.name} is no {declared.form.value}"
            raise MalformedHaMessage("attribute", number, offset, reason) from error
        attributes.append(HaAttribute(declared.attribute, value))
    return HaMessage(version, HaMessageType(datagram[1]), tuple(attributes))


def build_message(message: HaMessage, *, byte_order: str = "little") -> bytes:
    """The datagram of a message, attributes in their order; ``byte_order`` is the receiving host's own.

    A daemon with its default settings takes :data:`RECEIVE_BUFFER` octets.  Raises :class:`NotRepresentable`.
    """
    bodies = BODIES[_checked(byte_order)]
    if message.version not in VERSIONS:
        raise NotRepresentable(f"version {message.version} is not one of {VERSIONS}")
    numbers = attribute_numbers(message.version)
    octets = bytearray((message.version, HaMessageType(message.type)))
    for attribute in message.attributes:
        name = attribute.attribute.name
        if attribute.attribute not in numbers:
            raise NotRepresentable(f"{name} has no place in version {message.version}")
        number, form = numbers[attribute.attribute]
        try:
            body = bodies[form].build(attribute.value)
        except (ConstructError, ValueError, TypeError, AttributeError, OverflowError):
            # from None: construct's text may repeat the value, which may be a key
            raise NotRepresentable(f"the value of {name} is no {form.value}") from None
        octets.append(number)
        octets += body
    if len(octets) > MAXIMUM_DATAGRAM:
        raise NotRepresentable(f"{len(octets)} octets do not fit into a datagram")
    return bytes(octets)


def re_encode(message: HaMessage, version: int) -> HaMessage:
    """The same message in another version.

    Into 3 and 4 the second CONDITIONS and EXTENSIONS of version 5 (private bits) are left out: receivers of 5 take
    their absence, so nothing is put in their place on the way back.  Raises :class:`NotRepresentable` for what
    version 3 can't say: ADD_SECRET, ALG_ADD_KES, and the IKE_ADD of an additional key exchange, which a daemon of
    that version would take for a new IKE_SA.
    """
    if version not in VERSIONS:
        raise NotRepresentable(f"version {version} is not one of {VERSIONS}")
    if version == message.version:
        return message
    attributes = message.attributes
    if version < 5:
        attributes = tuple(attribute for attribute in attributes if not is_private_copy(attribute))
    numbers = attribute_numbers(version)
    for attribute in attributes:
        if attribute.attribute not in numbers:
            raise NotRepresentable(f"{attribute.attribute.name} has no place in version {version}")
    if version == 3 and is_additional_key_exchange(message):
        raise NotRepresentable("the IKE_ADD of an additional key exchange has no place in version 3")
    return HaMessage(version, message.type, attributes)


def is_private_copy(attribute: HaAttribute) -> bool:
    """A CONDITIONS or EXTENSIONS that holds private bits (version 5)."""
    sets = (Attribute.CONDITIONS, Attribute.EXTENSIONS)
    return attribute.attribute in sets and isinstance(attribute.value, int) and bool(attribute.value & PRIVATE_BIT)


def is_additional_key_exchange(message: HaMessage) -> bool:
    """An IKE_ADD that tells of one more key exchange of an IKE_SA (RFC 9370, 2.2.2): it repeats nonces and SPIs and
    names no algorithm."""
    return (
        message.type is HaMessageType.IKE_ADD
        and message.first(Attribute.ALG_PRF) is None
        and message.first(Attribute.ALG_ENCR) is None
    )


def _checked(byte_order: str) -> str:
    if byte_order not in BODIES:
        raise LocalError(f"a byte order is 'little' or 'big', not {byte_order!r}")
    return byte_order
