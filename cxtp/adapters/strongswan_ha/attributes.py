"""strongSwan's ``ha`` plugin: message types, attributes and the form of each attribute's body.

A message is version 8 | type 8 | attributes; an attribute is its number, 8 bits, and a body whose form the number
decides.  There is no length: an unknown number ends all reading.  Three versions are spoken, by octet 0:

====  ====================  =====================================================================================
3     5.9.x up to 6.0.0     attributes 1 to 41
4     6.0.1                 ADD_SECRET and ALG_ADD_KES come in between, what follows them moves up
5     6.0.2 and later       as 4; CONDITIONS and EXTENSIONS are sent twice, the second time with bit 31 set
====  ====================  =====================================================================================

:data:`DECLARATIONS` is the one list of attributes: its order makes the numbers, as the C enumeration does there.
:func:`attribute_table` gives a version's table, which parser and builder both read.

Sources: recordings of 5.9.8 (version 3) and 6.0.6 (version 5) in pcaps/strongswan; strongSwan's
src/libcharon/plugins/ha/ha_message.{h,c}, for version 4 that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cache
from types import MappingProxyType
from typing import Union

from contexts.values import HostAddress, Identification, IkeSpis, IPAddress

VERSIONS = (3, 4, 5)

HA_PORT = 4510
"""UDP port, source and destination alike (ha_socket.c)."""

RECEIVE_BUFFER = 2048
"""Octets that the daemon takes of one datagram (strongswan.conf, charon.plugins.ha.buflen)."""


class HaMessageType(IntEnum):
    """Octet 1; the same in all versions."""

    IKE_ADD = 1
    IKE_UPDATE = 2
    IKE_MID_INITIATOR = 3
    IKE_MID_RESPONDER = 4
    IKE_DELETE = 5
    CHILD_ADD = 6
    CHILD_DELETE = 7
    SEGMENT_DROP = 8
    SEGMENT_TAKE = 9
    STATUS = 10
    RESYNC = 11
    IKE_IV = 12


class Attribute(Enum):
    """An attribute, whatever its number in a version is; names are strongSwan's without ``HA_``."""

    IKE_ID = "IKE_ID"
    IKE_REKEY_ID = "IKE_REKEY_ID"
    LOCAL_ID = "LOCAL_ID"
    REMOTE_ID = "REMOTE_ID"
    REMOTE_EAP_ID = "REMOTE_EAP_ID"
    LOCAL_ADDR = "LOCAL_ADDR"
    REMOTE_ADDR = "REMOTE_ADDR"
    CONFIG_NAME = "CONFIG_NAME"
    CONDITIONS = "CONDITIONS"
    EXTENSIONS = "EXTENSIONS"
    LOCAL_VIP = "LOCAL_VIP"
    REMOTE_VIP = "REMOTE_VIP"
    PEER_ADDR = "PEER_ADDR"
    INITIATOR = "INITIATOR"
    NONCE_I = "NONCE_I"
    NONCE_R = "NONCE_R"
    SECRET = "SECRET"
    ADD_SECRET = "ADD_SECRET"
    OLD_SKD = "OLD_SKD"
    ALG_PRF = "ALG_PRF"
    ALG_OLD_PRF = "ALG_OLD_PRF"
    ALG_ENCR = "ALG_ENCR"
    ALG_ENCR_LEN = "ALG_ENCR_LEN"
    ALG_INTEG = "ALG_INTEG"
    ALG_KE = "ALG_KE"  # ALG_DH in version 3
    ALG_ADD_KES = "ALG_ADD_KES"
    IPSEC_MODE = "IPSEC_MODE"
    IPCOMP = "IPCOMP"
    INBOUND_SPI = "INBOUND_SPI"
    OUTBOUND_SPI = "OUTBOUND_SPI"
    INBOUND_CPI = "INBOUND_CPI"
    OUTBOUND_CPI = "OUTBOUND_CPI"
    LOCAL_TS = "LOCAL_TS"
    REMOTE_TS = "REMOTE_TS"
    MID = "MID"
    SEGMENT = "SEGMENT"
    ESN = "ESN"
    IKE_VERSION = "IKE_VERSION"
    LOCAL_DH = "LOCAL_DH"
    REMOTE_DH = "REMOTE_DH"
    PSK = "PSK"
    IV = "IV"
    AUTH_METHOD = "AUTH_METHOD"


# --- values of attributes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IkeSaId:
    """IKE_ID: version of IKE (1 or 2), the SPIs, and whether the sender is the IKE_SA's initiator."""

    ike_version: int
    spis: IkeSpis
    initiator: bool


@dataclass(frozen=True)
class HaTrafficSelector:
    """LOCAL_TS, REMOTE_TS.  ``dynamic``: the range stood for "the peer's own address" when it was configured."""

    protocol: int
    start_port: int
    end_port: int
    dynamic: bool
    start_address: IPAddress
    end_address: IPAddress


AttributeValue = Union[int, bytes, str, IkeSaId, Identification, HostAddress, HaTrafficSelector, tuple[int, ...]]


@dataclass(frozen=True)
class HaAttribute:
    """One attribute of a message.  The value of a secret one is not in its ``repr``."""

    attribute: Attribute
    value: AttributeValue

    def __repr__(self) -> str:
        shown = "<secret>" if self.attribute in SECRETS else repr(self.value)
        return f"HaAttribute({self.attribute.name}, {shown})"


@dataclass(frozen=True)
class HaMessage:
    """One datagram of the ``ha`` plugin; the order of attributes counts."""

    version: int
    type: HaMessageType
    attributes: tuple[HaAttribute, ...] = field(default=())

    def first(self, attribute: Attribute) -> AttributeValue | None:
        """The value of the first such attribute, or None."""
        return next((a.value for a in self.attributes if a.attribute is attribute), None)

    def all(self, attribute: Attribute) -> tuple[AttributeValue, ...]:
        """The values of all such attributes, in order."""
        return tuple(a.value for a in self.attributes if a.attribute is attribute)


# --- the list ---------------------------------------------------------------------------------------------------


class Form(Enum):
    """The forms that bodies have; bodies.py declares them octet by octet."""

    IKE_SA_ID = "IKE version 8, SPI initiator 64, SPI responder 64, is-initiator 8"
    IDENTIFICATION = "ID type 8, length 8, data"
    HOST = "port 16, address family 8, address 32 or 128"
    NAME = "octets up to a NUL"
    NUMBER_8 = "8 bits"
    NUMBER_16 = "16 bits"
    NUMBER_32 = "32 bits"
    SWAPPED_16 = "16 bits, in the sending host's own octet order"
    SWAPPED_32 = "32 bits, in the sending host's own octet order"
    OCTETS = "length 16, octets"
    NUMBERS = "length 16, 16-bit numbers"
    TRAFFIC_SELECTOR = "type 8, protocol 8, from port 16, to port 16, dynamic 8, from address, to address"


@dataclass(frozen=True)
class Declaration:
    """An attribute, the form of its body, and the first version that has it."""

    attribute: Attribute
    form: Form
    since: int = 3


DECLARATIONS: tuple[Declaration, ...] = (
    Declaration(Attribute.IKE_ID, Form.IKE_SA_ID),
    Declaration(Attribute.IKE_REKEY_ID, Form.IKE_SA_ID),
    Declaration(Attribute.LOCAL_ID, Form.IDENTIFICATION),
    Declaration(Attribute.REMOTE_ID, Form.IDENTIFICATION),
    Declaration(Attribute.REMOTE_EAP_ID, Form.IDENTIFICATION),
    Declaration(Attribute.LOCAL_ADDR, Form.HOST),
    Declaration(Attribute.REMOTE_ADDR, Form.HOST),
    Declaration(Attribute.CONFIG_NAME, Form.NAME),
    Declaration(Attribute.CONDITIONS, Form.NUMBER_32),
    Declaration(Attribute.EXTENSIONS, Form.NUMBER_32),
    Declaration(Attribute.LOCAL_VIP, Form.HOST),
    Declaration(Attribute.REMOTE_VIP, Form.HOST),
    Declaration(Attribute.PEER_ADDR, Form.HOST),
    Declaration(Attribute.INITIATOR, Form.NUMBER_8),
    Declaration(Attribute.NONCE_I, Form.OCTETS),
    Declaration(Attribute.NONCE_R, Form.OCTETS),
    Declaration(Attribute.SECRET, Form.OCTETS),
    Declaration(Attribute.ADD_SECRET, Form.OCTETS, since=4),
    Declaration(Attribute.OLD_SKD, Form.OCTETS),
    Declaration(Attribute.ALG_PRF, Form.NUMBER_16),
    Declaration(Attribute.ALG_OLD_PRF, Form.NUMBER_16),
    Declaration(Attribute.ALG_ENCR, Form.NUMBER_16),
    Declaration(Attribute.ALG_ENCR_LEN, Form.NUMBER_16),  # in bits
    Declaration(Attribute.ALG_INTEG, Form.NUMBER_16),
    Declaration(Attribute.ALG_KE, Form.NUMBER_16),
    Declaration(Attribute.ALG_ADD_KES, Form.NUMBERS, since=4),
    Declaration(Attribute.IPSEC_MODE, Form.NUMBER_8),
    Declaration(Attribute.IPCOMP, Form.NUMBER_8),
    Declaration(Attribute.INBOUND_SPI, Form.SWAPPED_32),
    Declaration(Attribute.OUTBOUND_SPI, Form.SWAPPED_32),
    Declaration(Attribute.INBOUND_CPI, Form.SWAPPED_16),
    Declaration(Attribute.OUTBOUND_CPI, Form.SWAPPED_16),
    Declaration(Attribute.LOCAL_TS, Form.TRAFFIC_SELECTOR),
    Declaration(Attribute.REMOTE_TS, Form.TRAFFIC_SELECTOR),
    Declaration(Attribute.MID, Form.NUMBER_32),
    Declaration(Attribute.SEGMENT, Form.NUMBER_16),
    Declaration(Attribute.ESN, Form.NUMBER_16),
    Declaration(Attribute.IKE_VERSION, Form.NUMBER_8),
    Declaration(Attribute.LOCAL_DH, Form.OCTETS),
    Declaration(Attribute.REMOTE_DH, Form.OCTETS),
    Declaration(Attribute.PSK, Form.OCTETS),
    Declaration(Attribute.IV, Form.OCTETS),
    Declaration(Attribute.AUTH_METHOD, Form.NUMBER_16),
)

SECRETS = frozenset({Attribute.SECRET, Attribute.ADD_SECRET, Attribute.OLD_SKD, Attribute.PSK})
"""Attributes whose values are keys."""


@cache
def attribute_table(version: int) -> Mapping[int, Declaration]:
    """The attributes of one of :data:`VERSIONS` by their number there: those that it has, counted from 1."""
    known = (declaration for declaration in DECLARATIONS if declaration.since <= version)
    return MappingProxyType(dict(enumerate(known, 1)))


@cache
def attribute_numbers(version: int) -> Mapping[Attribute, tuple[int, Form]]:
    """The same table, by attribute: number and form."""
    table = attribute_table(version)
    return MappingProxyType({declared.attribute: (number, declared.form) for number, declared in table.items()})
