"""The IKE_SA context's parameters (docs/context-formats.md, 4.2): the formats and the table."""

from __future__ import annotations

from typing import Any

from construct import Adapter, Array, If, Int8ub, Int16ub, Int32ub, Int64ub, this

from cxtp.bit_fields import BitFields

from ..ikev2 import IkeSaContext
from ..values import (
    Certificates,
    ConfiguredCredentials,
    DerivedKeys,
    DiffieHellmanPrivate,
    Identification,
    IkeExtension,
    IkeKeys,
    IkeLifetime,
    IkeProposal,
    IkeSpis,
    IkeVersion,
    MessageIds,
    MessageWindow,
    Nonces,
    PresharedKey,
    RekeyedFrom,
    SharedSecret,
    Skeyseed,
)
from .elements import (
    HOST_ADDRESS,
    OCTETS,
    TEXT,
    Alternatives,
    Checked,
    FlagOctet,
    Listed,
    Record,
    counted,
    octets,
    reserved,
    window,
)
from .framing import Attribute, ContextFormat, Level

MAXIMUM_ADDITIONAL_KEY_EXCHANGES = 7
"""Additional key exchanges of one SA: ADDKE1 to ADDKE7 (RFC 9370, 2.2.1)."""

MAXIMUM_CERTIFICATES = 32
"""Certificates in a chain; ours."""

SECRETS = Array(this.count, OCTETS)
SECRET_COUNT = counted("additional_secrets", maximum=MAXIMUM_ADDITIONAL_KEY_EXCHANGES)
EARLIER_COUNT = counted("earlier", maximum=MAXIMUM_ADDITIONAL_KEY_EXCHANGES)

NONCE = octets(16, 256)  # RFC 7296, 3.9
NONCES = Record(Nonces, "initiator" / NONCE, "responder" / NONCE)
IKE_SPIS = Record(IkeSpis, "initiator" / Int64ub, "responder" / Int64ub)

VERSION = Checked(
    Record(IkeVersion, "flags" / BitFields(Int8ub, major=4, minor=4)),
    lambda version: version.major == 2,
    "only IKE version 2 can be moved",
    supported=False,
)

MESSAGE_IDS = Record(MessageIds, "next_request_to_send" / Int32ub, "next_request_expected" / Int32ub)

REKEYED_FROM = Record(RekeyedFrom, "prf" / Int16ub, "sk_d" / OCTETS)

REKEYED = (
    "flags" / BitFields(Int8ub, has_rekeyed_from=1, reserved=7),
    SECRET_COUNT,
    reserved(1),
)
REKEYED_TAIL = (
    "nonces" / NONCES,
    "rekeyed_from" / If(this.flags["has_rekeyed_from"], REKEYED_FROM),
    "additional_secrets" / SECRETS,
)

IKE_KEYS = Record(
    IkeKeys,
    "sk_d" / OCTETS,
    "sk_ai" / OCTETS,
    "sk_ar" / OCTETS,
    "sk_ei" / OCTETS,
    "sk_er" / OCTETS,
    "sk_pi" / OCTETS,
    "sk_pr" / OCTETS,
)

KEYING = Alternatives(
    {
        1: Record(
            DiffieHellmanPrivate, *REKEYED, "private_key" / OCTETS, "peer_key_exchange" / OCTETS, *REKEYED_TAIL
        ),
        2: Record(
            Skeyseed,
            reserved(1),
            EARLIER_COUNT,
            reserved(1),
            "skeyseed" / OCTETS,
            "nonces" / NONCES,
            "earlier" / Array(this.count, OCTETS),
        ),
        3: Record(
            DerivedKeys,
            reserved(1),
            EARLIER_COUNT,
            reserved(1),
            "keys" / IKE_KEYS,
            "earlier" / Array(this.count, IKE_KEYS),
        ),
        4: Record(SharedSecret, *REKEYED, "shared_secret" / OCTETS, *REKEYED_TAIL),
    },
    "unknown case of cryptographic material",
)

PROPOSAL = Record(
    IkeProposal,
    "encryption" / Int16ub,
    "encryption_key_length" / Int16ub,
    "integrity" / Int16ub,
    "integrity_key_length" / Int16ub,
    "prf" / Int16ub,
    "key_exchange" / Int16ub,
    counted("additional_key_exchanges", maximum=MAXIMUM_ADDITIONAL_KEY_EXCHANGES),
    reserved(1),
    "additional_key_exchanges" / Array(this.count, Int16ub),
)


class _Extensions(Adapter):  # type: ignore[misc]
    def _decode(self, obj: int, context: Any, path: str) -> IkeExtension:
        return IkeExtension(obj)

    def _encode(self, obj: IkeExtension, context: Any, path: str) -> int:
        return int(obj)


IDENTIFICATION = Record(Identification, "type" / Int8ub, reserved(1), "data" / OCTETS)

CREDENTIALS = Alternatives(
    {
        1: Record(PresharedKey, reserved(3), "key" / OCTETS),
        2: Record(
            Certificates,
            counted("chain", minimum=1, maximum=MAXIMUM_CERTIFICATES),
            reserved(2),
            "chain" / Array(this.count, OCTETS),
        ),
        3: Record(ConfiguredCredentials, reserved(3), "name" / TEXT),
    },
    "unknown kind of credentials",
)

IKE_LIFETIME = Record(
    IkeLifetime,
    "flags" / BitFields(Int32ub, has_soft_remaining=1, has_hard_remaining=1, reserved=30),
    "soft_remaining" / Int32ub,
    "hard_remaining" / Int32ub,
)

IKE_SA = ContextFormat(
    IkeSaContext,
    IkeSaContext.name,
    "4.2",
    (
        Attribute(Level.MANDATORY, 1, "IKE version", {"version": VERSION}),
        Attribute(Level.MANDATORY, 2, "initiator flag", {"initiator": FlagOctet()}),
        Attribute(Level.MANDATORY, 3, "host addresses", {"local_host": HOST_ADDRESS, "remote_host": HOST_ADDRESS}),
        Attribute(Level.MANDATORY, 4, "SPIs", {"spis": IKE_SPIS}),
        Attribute(Level.MANDATORY, 5, "Message IDs", {"message_ids": MESSAGE_IDS}),
        # the seed draft has no number 6
        Attribute(Level.MANDATORY, 7, "cryptographic material", {"keying": KEYING}),
        Attribute(Level.MANDATORY, 8, "SA proposal", {"proposal": PROPOSAL}),
        Attribute(Level.MANDATORY, 9, "extensions", {"extensions": _Extensions(Int32ub)}),
        Attribute(
            Level.MANDATORY, 10, "identities", {"local_identity": IDENTIFICATION, "remote_identity": IDENTIFICATION}
        ),
        Attribute(Level.MANDATORY, 11, "credentials", {"credentials": CREDENTIALS}),
        Attribute(Level.MANDATORY, 12, "window", {"window": window(MessageWindow, 1, 0xFFFFFFFF)}),
        Attribute(Level.OPTIONAL, 1, "IKE lifetime", {"lifetime": IKE_LIFETIME}, absent=None),
        Attribute(Level.OPTIONAL, 2, "vendor IDs", {"vendor_ids": Listed(OCTETS, reserved_octets=1)}, absent=()),
    ),
)
