"""The seven messages of RFC 4067 and the Context Data Block, as frozen and validated values.

What they look like on the wire is :mod:`cxtp.wire`'s business.  Addresses are ``ipaddress`` objects; all
addresses of one message are of one family, since one V bit tells them apart.  ``reserved`` keeps the bits that
a sender should have left at 0: they survive, and :func:`unusual` reports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Union

from .constants import MAXIMUM_BLOCK, NULL_TOKEN, TOKEN_LENGTH, MessageType, StatusCode, TokenAlgorithm
from .errors import LocalError

IPAddress = Union[IPv4Address, IPv6Address]


def _check_range(owner: object, name: str, bits: int) -> None:
    value = getattr(owner, name)
    if not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise LocalError(f"{type(owner).__name__}.{name} must be an integer of {bits} bits, not {value!r}")


@dataclass(frozen=True)
class ContextBlock:
    """One Context Data Block (RFC 4067, 2.4).

    ``data`` is what stands after the presence vector, at most 2,036 octets (2,032 with one).  Built, it is
    padded with zeros to a multiple of 64 bits; parsed, it holds that padding, for the block does not tell its
    data's true length (our decision 3: context types carry their own).
    """

    feature_profile_type: int
    data: bytes = field(default=b"", repr=False)  # may hold keys
    presence_vector: int | None = None
    reserved: int = 0

    def __post_init__(self) -> None:
        _check_range(self, "feature_profile_type", 16)
        _check_range(self, "reserved", 7)
        if self.presence_vector is not None:
            _check_range(self, "presence_vector", 32)
        if len(self.data) > MAXIMUM_BLOCK - self.header_octets:
            raise LocalError(f"ContextBlock.data has {len(self.data)} octets, more than one block holds")

    @property
    def header_octets(self) -> int:
        """Octets before the data: 4, or 8 with a presence vector."""
        return 4 if self.presence_vector is None else 8

    @property
    def length(self) -> int:
        """The Length field: the block's 8-octet words, its first 4 octets included."""
        return (self.header_octets + len(self.data) + 7) // 8

    @property
    def padded(self) -> ContextBlock:
        """The same block as it arrives: its data padded to the block's end."""
        octets = self.length * 8 - self.header_octets
        return ContextBlock(
            self.feature_profile_type, self.data.ljust(octets, b"\0"), self.presence_vector, self.reserved
        )


@dataclass(frozen=True)
class EncodedContext:
    """One whole context as it is moved: what a Context Data Block and its continuation blocks carry together.

    Out of a message, ``data`` may end in the last block's padding; context types carry their own lengths.
    """

    feature_profile_type: int
    data: bytes = field(repr=False)  # may hold keys
    presence_vector: int | None = None

    def __post_init__(self) -> None:
        _check_range(self, "feature_profile_type", 16)
        if self.presence_vector is not None:
            _check_range(self, "presence_vector", 32)


@dataclass(frozen=True)
class ContextRequest:
    """A Context Data Block that asks for a context type in a CTAR or CT-Req: its first 4 octets alone.

    Those have no 8-octet length (our decision 1): ``length`` 0 stands for 4 octets, 1 for 8, zero padded.
    ``flags`` is the octet after Length: the P bit, meaningless here, and the reserved ones.
    """

    feature_profile_type: int
    length: int = 0
    flags: int = 0

    def __post_init__(self) -> None:
        _check_range(self, "feature_profile_type", 16)
        _check_range(self, "length", 1)
        _check_range(self, "flags", 8)


@dataclass(frozen=True)
class ContextStatus:
    """What became of one context type: an entry of a CTAA or CTDR (RFC 4067, 2.5.2 and 2.5.4)."""

    feature_profile_type: int
    status: int
    reserved: int = 0

    def __post_init__(self) -> None:
        _check_range(self, "feature_profile_type", 16)
        _check_range(self, "status", 8)
        _check_range(self, "reserved", 8)


@dataclass(frozen=True, kw_only=True)
class _Message:
    """What all messages share: the mobile node's previous (care-of) address and the reserved flag bits."""

    type: ClassVar[MessageType]
    short_name: ClassVar[str]
    section: ClassVar[str]
    reserved_bits: ClassVar[int]

    mn_previous_address: IPAddress
    reserved: int = 0

    def __post_init__(self) -> None:
        _check_range(self, "reserved", self.reserved_bits)
        if not isinstance(self.mn_previous_address, (IPv4Address, IPv6Address)):
            raise LocalError(f"{type(self).__name__}.mn_previous_address must be an IPv4 or IPv6 address")

    @property
    def is_ipv4(self) -> bool:
        """The V bit: the message's addresses are IPv4 ones."""
        return self.mn_previous_address.version == 4


@dataclass(frozen=True, kw_only=True)
class _AuthorizedRequest(_Message):
    """What a CTAR and the CT-Req made from it have in common, verbatim (RFC 4067, 2.5.1 and 2.5.6)."""

    sequence_number: int
    authorization_token: bytes = NULL_TOKEN
    requested: tuple[ContextRequest, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self, "sequence_number", 32)
        if len(self.authorization_token) != TOKEN_LENGTH:
            raise LocalError(f"{type(self).__name__}.authorization_token must have {TOKEN_LENGTH} octets")


@dataclass(frozen=True, kw_only=True)
class ContextTransferActivateRequest(_AuthorizedRequest):
    """CTAR: a mobile node asks that its contexts be moved and activated (RFC 4067, 2.5.1).

    ``access_router_address`` is the previous router's when sent to the new one, the new one's when sent to the
    previous; ``requested`` empty means all contexts; ``acknowledge`` asks for a CTAA.
    """

    type = MessageType.CONTEXT_TRANSFER_ACTIVATE_REQUEST
    short_name = "CTAR"
    section = "RFC 4067, 2.5.1"
    reserved_bits = 6

    access_router_address: IPAddress
    acknowledge: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.access_router_address.version != self.mn_previous_address.version:
            raise LocalError("one V bit: a CTAR's two addresses must be of the same family")


@dataclass(frozen=True, kw_only=True)
class ContextTransferActivateAcknowledge(_Message):
    """CTAA: a router tells the mobile node which contexts were not transferred (RFC 4067, 2.5.2)."""

    type = MessageType.CONTEXT_TRANSFER_ACTIVATE_ACKNOWLEDGE
    short_name = "CTAA"
    section = "RFC 4067, 2.5.2"
    reserved_bits = 7

    statuses: tuple[ContextStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContextTransferData(_Message):
    """CTD: the previous router hands contexts over (RFC 4067, 2.5.3).

    ``elapsed_time`` is in milliseconds since the first CTD for this mobile node; ``acknowledge`` asks for a
    CTDR.
    """

    type = MessageType.CONTEXT_TRANSFER_DATA
    short_name = "CTD"
    section = "RFC 4067, 2.5.3"
    reserved_bits = 6

    elapsed_time: int
    blocks: tuple[ContextBlock, ...] = ()
    acknowledge: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self, "elapsed_time", 32)


@dataclass(frozen=True, kw_only=True)
class PredictiveContextTransferData(ContextTransferData):
    """PCTD: contexts sent ahead, with the key to check the mobile node's token with (RFC 4067, 2.5.3)."""

    type = MessageType.PREDICTIVE_CONTEXT_TRANSFER_DATA
    short_name = "PCTD"
    section = "RFC 4067, 2.5.3"

    key: bytes = field(default=b"", repr=False)
    algorithm: int = TokenAlgorithm.HMAC_SHA1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self, "algorithm", 16)
        if len(self.key) > 0xFFFF:
            raise LocalError("PredictiveContextTransferData.key is longer than its 16-bit Key Length tells")


@dataclass(frozen=True, kw_only=True)
class ContextTransferDataReply(_Message):
    """CTDR: the new router says what became of a CTD or PCTD; ``success`` (S): all was received (2.5.4)."""

    type = MessageType.CONTEXT_TRANSFER_DATA_REPLY
    short_name = "CTDR"
    section = "RFC 4067, 2.5.4"
    reserved_bits = 6

    success: bool
    statuses: tuple[ContextStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContextTransferCancel(_Message):
    """CTC: the new router gives a transfer up that can't be finished in time (RFC 4067, 2.5.5)."""

    type = MessageType.CONTEXT_TRANSFER_CANCEL
    short_name = "CTC"
    section = "RFC 4067, 2.5.5"
    reserved_bits = 7


@dataclass(frozen=True, kw_only=True)
class ContextTransferRequest(_AuthorizedRequest):
    """CT-Req: the new router asks the previous one for a mobile node's contexts (RFC 4067, 2.5.6)."""

    type = MessageType.CONTEXT_TRANSFER_REQUEST
    short_name = "CT-Req"
    section = "RFC 4067, 2.5.6"
    reserved_bits = 7


Message = Union[
    ContextTransferActivateRequest,
    ContextTransferActivateAcknowledge,
    ContextTransferData,
    PredictiveContextTransferData,
    ContextTransferDataReply,
    ContextTransferCancel,
    ContextTransferRequest,
]

MESSAGE_CLASSES: dict[MessageType, type[Message]] = {
    cls.type: cls
    for cls in (
        ContextTransferActivateRequest,
        ContextTransferActivateAcknowledge,
        ContextTransferData,
        PredictiveContextTransferData,
        ContextTransferDataReply,
        ContextTransferCancel,
        ContextTransferRequest,
    )
}


def unusual(message: Message) -> Iterator[str]:
    """What a message holds that is legal and yet worth a look: reserved bits, unknown status codes."""
    if message.reserved:
        yield f"reserved bits {message.reserved:#x} set in the flags ({message.section})"
    for field_ in fields(message):
        value = getattr(message, field_.name)
        for index, item in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(item, (ContextBlock, ContextStatus)) and item.reserved:
                yield f"reserved bits {item.reserved:#x} set in {field_.name}[{index}]"
            if isinstance(item, ContextRequest) and item.flags:
                yield f"flags {item.flags:#x} set in {field_.name}[{index}]"
            if isinstance(item, ContextStatus) and item.status not in StatusCode._value2member_map_:
                yield f"unknown status code {item.status:#x} in {field_.name}[{index}]"
