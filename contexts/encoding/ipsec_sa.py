"""The IPsec_SA context's parameters (docs/context-formats.md, 4.3): the formats and the table."""

from __future__ import annotations

from construct import Int8ub, Int16ub, Int32ub, Int64ub

from cxtp.bit_fields import BitFields
from cxtp.constants import SecurityProtocol

from ..ipsec import IpsecSaContext
from ..values import (
    AntiReplayWindow,
    CounterKnowledge,
    IpComp,
    IpsecKeys,
    IpsecLifetime,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    LifetimeLimits,
    ProcessingUnit,
    SequenceNumbers,
)
from .elements import (
    HOST_ADDRESS,
    MAXIMUM_WINDOW,
    OCTETS,
    TRAFFIC_SELECTOR,
    Alternatives,
    Checked,
    Listed,
    Maybe,
    Numbered,
    Record,
    reserved,
    window,
)
from .framing import Attribute, ContextFormat, Level
from .ike_sa import IKE_SPIS, NONCES, SECRET_COUNT, SECRETS

IPCOMP = Maybe(
    "compressed",
    Record(IpComp, "algorithm" / Int8ub, "inbound_cpi" / Int16ub, "outbound_cpi" / Int16ub),
    nothing=IpComp(inbound_cpi=0, outbound_cpi=0, algorithm=0),
)

SEQUENCE_NUMBERS = Record(
    SequenceNumbers,
    "flags" / BitFields(Int8ub, overflow_allowed=1, reserved=7),
    "knowledge" / Numbered(CounterKnowledge),
    reserved(2),
    "outbound" / Int64ub,
    "inbound" / Int64ub,
)

LIFETIME_LIMITS = Record(
    LifetimeLimits,
    "flags" / BitFields(Int32ub, has_soft=1, has_hard=1, reserved=30),
    "soft" / Int64ub,
    "hard" / Int64ub,
    "used" / Int64ub,
)
LIFETIME = Record(
    IpsecLifetime, "seconds" / LIFETIME_LIMITS, "octets" / LIFETIME_LIMITS, "packets" / LIFETIME_LIMITS
)

SELECTORS = Listed(TRAFFIC_SELECTOR, reserved_octets=3)


def _protocol_fits(proposal: IpsecProposal) -> bool:
    if proposal.protocol == SecurityProtocol.AH:
        return proposal.encryption is None
    return proposal.protocol == SecurityProtocol.ESP and proposal.encryption is not None


PROPOSAL = Checked(
    Record(
        IpsecProposal,
        "protocol" / Int8ub,
        "flags" / BitFields(Int8ub, extended_sequence_numbers=1, has_encryption=1, reserved=6),
        "encryption" / Int16ub,
        "encryption_key_length" / Int16ub,
        "integrity" / Int16ub,
        "integrity_key_length" / Int16ub,
        "key_exchange" / Int16ub,
    ),
    _protocol_fits,
    "neither ESP with an encryption algorithm nor AH without one",
)

KEYMAT = Alternatives(
    {
        1: Record(
            IpsecKeys,
            reserved(3),
            "inbound_encryption" / OCTETS,
            "inbound_integrity" / OCTETS,
            "outbound_encryption" / OCTETS,
            "outbound_integrity" / OCTETS,
        ),
        2: Record(
            KeymatDerivation,
            "flags" / BitFields(Int8ub, initiator=1, reserved=7),
            SECRET_COUNT,
            reserved(1),
            "ike_spis" / IKE_SPIS,
            "nonces" / NONCES,
            "shared_secret" / OCTETS,
            "additional_secrets" / SECRETS,
        ),
    },
    "unknown kind of KEYMAT",
)

PROCESSING_UNIT = Record(
    ProcessingUnit,
    "flags"
    / BitFields(
        Int32ub,
        has_instance_id=1,
        has_flow_id=1,
        has_reqid=1,
        has_mark=1,
        has_mark_mask=1,
        has_if_id=1,
        reserved=26,
    ),
    "instance_id" / Int32ub,
    "flow_id" / Int32ub,
    "reqid" / Int32ub,
    "mark" / Int32ub,
    "mark_mask" / Int32ub,
    "if_id" / Int32ub,
)

IPSEC_SA = ContextFormat(
    IpsecSaContext,
    IpsecSaContext.name,
    "4.3",
    (
        Attribute(Level.MANDATORY, 1, "host addresses", {"local_host": HOST_ADDRESS, "remote_host": HOST_ADDRESS}),
        Attribute(Level.MANDATORY, 2, "SPIs", {"inbound_spi": Int32ub, "outbound_spi": Int32ub}),
        Attribute(Level.MANDATORY, 3, "IPComp", {"ipcomp": IPCOMP}),
        Attribute(Level.MANDATORY, 4, "sequence numbers", {"sequence_numbers": SEQUENCE_NUMBERS}),
        Attribute(Level.MANDATORY, 5, "anti-replay window", {"window": window(AntiReplayWindow, 0, MAXIMUM_WINDOW)}),
        Attribute(Level.MANDATORY, 6, "mode", {"mode": Numbered(IpsecMode)}),
        Attribute(Level.MANDATORY, 7, "lifetime", {"lifetime": LIFETIME}),
        Attribute(Level.MANDATORY, 8, "path MTU", {"path_mtu": Int32ub}),
        Attribute(Level.MANDATORY, 9, "upper-layer protocol", {"upper_layer_protocol": Int8ub}),
        Attribute(
            Level.MANDATORY, 10, "traffic selectors", {"local_selectors": SELECTORS, "remote_selectors": SELECTORS}
        ),
        Attribute(Level.MANDATORY, 11, "protocol and algorithms", {"proposal": PROPOSAL}),
        Attribute(Level.MANDATORY, 12, "KEYMAT", {"keying": KEYMAT}),
        Attribute(Level.OPTIONAL, 1, "IKE_SA", {"ike_spis": IKE_SPIS}, absent=None),
        Attribute(Level.VENDOR, 1, "processing unit", {"processing_unit": PROCESSING_UNIT}, absent=None),
    ),
)
