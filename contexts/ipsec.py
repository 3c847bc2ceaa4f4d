"""The IPsec_SA context (seed draft, 4.2): one CHILD_SA, both directions."""

from __future__ import annotations

from dataclasses import dataclass

from cxtp.constants import FeatureProfileType

from .values import (
    AntiReplayWindow,
    HostAddress,
    IkeSpis,
    IpComp,
    IpsecKeying,
    IpsecLifetime,
    IpsecMode,
    IpsecProposal,
    ProcessingUnit,
    SequenceNumbers,
    TrafficSelector,
    UnknownParameter,
    VendorParameter,
)


@dataclass(frozen=True, kw_only=True)
class IpsecSaContext:
    """One CHILD_SA as its gateway (``local``) sees it; numbers in comments are the seed draft's parameters."""

    feature_profile_type = FeatureProfileType.IPSEC_SA
    name = "IPsec_SA"

    ike_spis: IkeSpis | None  # O1: the IKE_SA that it belongs to; None where no IKE daemon told (plain XFRM)
    local_host: HostAddress  # M1; ports other than 0: ESP in UDP (RFC 3948)
    remote_host: HostAddress
    inbound_spi: int  # M2
    outbound_spi: int
    ipcomp: IpComp | None = None  # M3
    sequence_numbers: SequenceNumbers = SequenceNumbers()  # M4
    window: AntiReplayWindow  # M5
    mode: IpsecMode  # M6
    lifetime: IpsecLifetime = IpsecLifetime()  # M7
    path_mtu: int = 0  # M8: octets; 0: not known
    upper_layer_protocol: int = 0  # M9: IP protocol number; 0: any
    local_selectors: tuple[TrafficSelector, ...]  # M10
    remote_selectors: tuple[TrafficSelector, ...]
    proposal: IpsecProposal  # M11
    keying: IpsecKeying  # M12
    processing_unit: ProcessingUnit | None = None  # V1
    vendor_parameters: tuple[VendorParameter, ...] = ()  # V
    unknown_parameters: tuple[UnknownParameter, ...] = ()  # O, beyond those that we know
