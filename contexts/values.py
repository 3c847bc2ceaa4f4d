"""The values that parameters of IKE_SA and IPsec_SA contexts are made of.

Addresses are ``ipaddress`` objects, SPIs integers, times seconds, sizes octets unless a name says else.  Key
material is never in a ``repr``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Union

from cxtp.constants import (
    EncryptionAlgorithm,
    IdentificationType,
    IntegrityAlgorithm,
    KeyExchangeMethod,
    PseudorandomFunction,
)

IPAddress = Union[IPv4Address, IPv6Address]


@dataclass(frozen=True)
class HostAddress:
    """An address and the UDP port IKE or UDP-encapsulated ESP uses there (0: no UDP)."""

    address: IPAddress
    port: int = 0


@dataclass(frozen=True)
class IkeSpis:
    """The pair of SPIs in the IKE header, 64 bits each (RFC 7296, 3.1)."""

    initiator: int
    responder: int

    def __str__(self) -> str:
        return f"{self.initiator:016x}_i {self.responder:016x}_r"


@dataclass(frozen=True)
class Identification:
    """Identification payload: ID type (IDr/IDi, RFC 7296, 3.5) and its data."""

    type: int
    data: bytes

    def __str__(self) -> str:
        kind = self.type
        if kind in (IdentificationType.FQDN, IdentificationType.RFC822_ADDR):
            return self.data.decode("utf-8", "backslashreplace")
        if kind == IdentificationType.IPV4_ADDR and len(self.data) == 4:
            return str(IPv4Address(self.data))
        if kind == IdentificationType.IPV6_ADDR and len(self.data) == 16:
            return str(IPv6Address(self.data))
        name = IdentificationType(kind).name if kind in IdentificationType._value2member_map_ else str(kind)
        return f"{name}:{self.data.hex()}"


# --- cryptographic material of an IKE_SA: the seed draft's three cases -----------------------------------------


@dataclass(frozen=True)
class Nonces:
    """Ni and Nr of the exchange that made the keys (not secret: they cross the network in the clear)."""

    initiator: bytes
    responder: bytes


@dataclass(frozen=True)
class RekeyedFrom:
    """What a rekeyed IKE_SA's SKEYSEED depends on: the old SA's prf and SK_d (RFC 7296, 2.18)."""

    prf: int
    sk_d: bytes = field(repr=False)


@dataclass(frozen=True)
class DiffieHellmanPrivate:
    """Case 1: our Diffie-Hellman private key, the peer's KE content and the nonces.

    ``private_key`` is the private value in the method's own form: big-endian, as long as the prime (MODP) or the
    field (ECP); the 32 or 56 octets of RFC 7748 (Curve25519, Curve448).  ``additional_secrets`` as in
    :class:`SharedSecret`.
    """

    private_key: bytes = field(repr=False)
    peer_key_exchange: bytes
    nonces: Nonces
    rekeyed_from: RekeyedFrom | None = None
    additional_secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SharedSecret:
    """Case 1 in the variant of the draft's Annex A: the Diffie-Hellman shared secret g^ir and the nonces.

    ``additional_secrets``: SK(1), SK(2), ... of additional key exchanges in their order (RFC 9370, 2.2.2 and
    2.2.4).
    """

    shared_secret: bytes = field(repr=False)
    nonces: Nonces
    rekeyed_from: RekeyedFrom | None = None
    additional_secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Skeyseed:
    """Case 2: SKEYSEED and the nonces.

    ``earlier``: the SKEYSEEDs before each IKE_INTERMEDIATE key update, oldest first (RFC 9370, 2.2.2); they open
    what was sent before that update, and may be left out.
    """

    skeyseed: bytes = field(repr=False)
    nonces: Nonces
    earlier: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class IkeKeys:
    """SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr (RFC 7296, 2.14).

    SK_ai and SK_ar are empty for an AEAD; SK_ei and SK_er end with the salt where the algorithm has one
    (RFC 5282, 7.1); SK_pi and SK_pr may be empty: they only matter while authenticating.
    """

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(default=b"", repr=False)
    sk_pr: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class DerivedKeys:
    """Case 3: the SK_* themselves.  ``earlier`` as in :class:`Skeyseed`."""

    keys: IkeKeys
    earlier: tuple[IkeKeys, ...] = ()


IkeKeying = Union[DiffieHellmanPrivate, SharedSecret, Skeyseed, DerivedKeys]


# --- other parameters of an IKE_SA ------------------------------------------------------------------------------


@dataclass(frozen=True)
class IkeVersion:
    """Major and minor version of IKE; only 2.0 can be moved."""

    major: int = 2
    minor: int = 0


@dataclass(frozen=True)
class MessageIds:
    """Outgoing: the next request we send; incoming: the next request we expect (RFC 7296, 2.2)."""

    next_request_to_send: int
    next_request_expected: int


@dataclass(frozen=True)
class IkeProposal:
    """The negotiated transforms, by IANA number; key lengths in bits, 0 where the algorithm fixes it.

    ``integrity`` is 0 (NONE) for an AEAD.  ``additional_key_exchanges`` as negotiated (RFC 9370), in order.
    """

    encryption: int
    encryption_key_length: int
    integrity: int
    integrity_key_length: int
    prf: int
    key_exchange: int
    additional_key_exchanges: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As ``AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384``: names where we know them, else numbers."""
        parts = [_transform_name(EncryptionAlgorithm, self.encryption, self.encryption_key_length)]
        if self.integrity:
            parts.append(_transform_name(IntegrityAlgorithm, self.integrity))
        parts.append("PRF_" + _transform_name(PseudorandomFunction, self.prf))
        methods = [method for method in (self.key_exchange, *self.additional_key_exchanges) if method]
        return "/".join([*parts, *(_transform_name(KeyExchangeMethod, method) for method in methods)])


def _transform_name(enum: type[IntEnum], number: int, key_length: int = 0) -> str:
    name = enum(number).name if number in enum._value2member_map_ else f"{number}"
    return f"{name}-{key_length}" if key_length else name


class IkeExtension(IntFlag):
    """Extensions and conditions of an IKE_SA, one bit each (docs/context-formats.md, IKE_SA parameter 9)."""

    NONE = 0
    NAT_LOCAL = 1 << 0
    NAT_REMOTE = 1 << 1
    EAP = 1 << 2
    MOBIKE = 1 << 3
    FRAGMENTATION = 1 << 4
    CHILDLESS = 1 << 5
    REDIRECT = 1 << 6
    MESSAGE_ID_SYNC = 1 << 7
    REPLAY_COUNTER_SYNC = 1 << 8
    HASH_ALGORITHMS = 1 << 9
    INTERMEDIATE = 1 << 10
    PPK = 1 << 11
    NAT_FORCED = 1 << 12
    CERTIFICATE_REQUEST_SEEN = 1 << 13


@dataclass(frozen=True)
class PresharedKey:
    """Credentials: the pre-shared key itself."""

    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Certificates:
    """Credentials: DER certificates, the end entity's first.  Private keys never travel."""

    chain: tuple[bytes, ...]


@dataclass(frozen=True)
class ConfiguredCredentials:
    """Credentials: a name under which the target has them configured (a connection's name, say)."""

    name: str


Credentials = Union[PresharedKey, Certificates, ConfiguredCredentials]


@dataclass(frozen=True)
class MessageWindow:
    """IKEv2 window (RFC 7296, 2.3): how many requests may be open, and which of those from
    ``next_request_expected`` on were already taken (bit 0: the next expected one)."""

    size: int = 1
    bitmap: int = 0


@dataclass(frozen=True)
class IkeLifetime:
    """What is left of the IKE_SA's life, in seconds; None: no limit."""

    soft_remaining: int | None
    hard_remaining: int | None


# --- parameters of an IPsec_SA ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class IpComp:
    """IPComp is on: CPIs of both directions and the transform (RFC 3173)."""

    inbound_cpi: int
    outbound_cpi: int
    algorithm: int


class CounterKnowledge(IntEnum):
    """How far a sequence counter can be trusted; what may be sent with it is docs/safety.md's matter."""

    EXACT = 0
    """The sender was frozen before it was read."""
    AT_LEAST = 1
    """Read while the SA was in use: the true value is this or higher."""
    UNKNOWN = 2
    """The source can't tell (strongSwan's ``ha`` messages): nothing may be sent before it is learned."""


@dataclass(frozen=True)
class SequenceNumbers:
    """Last sequence number sent, highest received: 64 bits with ESN, else 32 (RFC 4303, 2.2)."""

    outbound: int = 0
    inbound: int = 0
    overflow_allowed: bool = False
    knowledge: CounterKnowledge = CounterKnowledge.EXACT


@dataclass(frozen=True)
class AntiReplayWindow:
    """Receive window: ``size`` in packets (0: no anti-replay), ``bitmap`` bit 0 = the highest number received,
    bit n = n below it (RFC 4303, 3.4.3)."""

    size: int
    bitmap: int = 0


class IpsecMode(IntEnum):
    """IPsec mode."""

    TRANSPORT = 1
    TUNNEL = 2
    BEET = 3


@dataclass(frozen=True)
class LifetimeLimits:
    """Limits of one kind; None: no such limit."""

    soft: int | None = None
    hard: int | None = None
    used: int = 0


@dataclass(frozen=True)
class IpsecLifetime:
    """Lifetime of an IPsec_SA: seconds (``used``: its age), octets and packets."""

    seconds: LifetimeLimits = LifetimeLimits()
    octets: LifetimeLimits = LifetimeLimits()
    packets: LifetimeLimits = LifetimeLimits()


@dataclass(frozen=True)
class TrafficSelector:
    """A traffic selector (RFC 7296, 3.13.1): ``protocol`` 0 means any; ranges include both ends."""

    start_address: IPAddress
    end_address: IPAddress
    start_port: int = 0
    end_port: int = 65535
    protocol: int = 0


@dataclass(frozen=True)
class IpsecProposal:
    """Protocol and algorithms of an IPsec_SA, by IANA number; key lengths in bits, 0 where the algorithm fixes
    it.  ``encryption`` is None for AH; ``integrity`` is 0 for an AEAD."""

    protocol: int
    encryption: int | None
    encryption_key_length: int
    integrity: int
    integrity_key_length: int
    extended_sequence_numbers: bool = False
    key_exchange: int = 0

    @property
    def name(self) -> str:
        """As ``ESP:AES_GCM_16-256``."""
        parts = []
        if self.encryption is not None:
            parts.append(_transform_name(EncryptionAlgorithm, self.encryption, self.encryption_key_length))
        if self.integrity:
            parts.append(_transform_name(IntegrityAlgorithm, self.integrity))
        head = "ESP:" if self.encryption is not None else "AH:"
        return head + "/".join(parts) + ("/ESN" if self.extended_sequence_numbers else "")


@dataclass(frozen=True)
class IpsecKeys:
    """KEYMAT cut into keys, per direction as seen from the gateway whose context it is (RFC 7296, 2.17).

    Encryption keys end with the salt where the algorithm has one; integrity keys are empty for an AEAD,
    encryption keys for AH and NULL.
    """

    inbound_encryption: bytes = field(repr=False)
    inbound_integrity: bytes = field(repr=False)
    outbound_encryption: bytes = field(repr=False)
    outbound_integrity: bytes = field(repr=False)


@dataclass(frozen=True)
class KeymatDerivation:
    """What derives KEYMAT from an IKE_SA's SK_d (RFC 7296, 2.17; RFC 9370, 2.2.4).

    ``ike_spis``: the IKE_SA under which the exchange ran (its SK_d is used; not always the one that the SA
    belongs to today).  ``initiator``: we started the exchange.  ``shared_secret``: g^ir (new), empty without
    PFS.  ``additional_secrets``: SK(1), SK(2), ... of additional key exchanges.
    """

    ike_spis: IkeSpis
    initiator: bool
    nonces: Nonces
    shared_secret: bytes = field(default=b"", repr=False)
    additional_secrets: tuple[bytes, ...] = field(default=(), repr=False)


IpsecKeying = Union[IpsecKeys, KeymatDerivation]


@dataclass(frozen=True)
class ProcessingUnit:
    """Vendor parameter 1 of an IPsec_SA: which processing unit has it, and Linux' own marks of it."""

    instance_id: int | None = None
    flow_id: int | None = None
    reqid: int | None = None
    mark: int | None = None
    mark_mask: int | None = None
    if_id: int | None = None


# --- what is kept without being understood ----------------------------------------------------------------------


@dataclass(frozen=True)
class VendorParameter:
    """A vendor-level parameter: the vendor's IANA private enterprise number, its number there, its value."""

    enterprise: int
    number: int
    value: bytes = field(repr=False)


@dataclass(frozen=True)
class UnknownParameter:
    """An optional parameter that this implementation does not know: kept and passed on."""

    number: int
    value: bytes = field(repr=False)


class CommonVendorNumber(IntEnum):
    """Vendor parameters under enterprise 0, this project's own (docs/context-formats.md): what real daemons need."""

    CONNECTION_NAME = 1
    REMOTE_EAP_IDENTITY = 2
    LOCAL_VIRTUAL_ADDRESSES = 3
    REMOTE_VIRTUAL_ADDRESSES = 4
    PEER_ADDRESSES = 5
    CHILD_NAME = 6


ENTERPRISE_CXTP = 0
ENTERPRISE_STRONGSWAN = 36906


class StrongswanVendorNumber(IntEnum):
    """Vendor parameters under strongSwan's enterprise number: its own bit sets, as 32 bits big-endian."""

    CONDITIONS = 1
    EXTENSIONS = 2
    PRIVATE_CONDITIONS = 3
    PRIVATE_EXTENSIONS = 4
    AUTH_METHOD = 5
    SEGMENT = 6
