"""The IKE_SA context (seed draft, 4.1): all that a gateway must know to go on with an IKEv2 session."""

from __future__ import annotations

from dataclasses import dataclass

from cxtp.constants import FeatureProfileType

from .values import (
    Credentials,
    HostAddress,
    Identification,
    IkeExtension,
    IkeKeying,
    IkeLifetime,
    IkeProposal,
    IkeSpis,
    IkeVersion,
    MessageIds,
    MessageWindow,
    UnknownParameter,
    VendorParameter,
)


@dataclass(frozen=True, kw_only=True)
class IkeSaContext:
    """One IKE_SA as its gateway (``local``) sees it; numbers in comments are the seed draft's parameters."""

    feature_profile_type = FeatureProfileType.IKE_SA
    name = "IKE_SA"

    version: IkeVersion = IkeVersion()  # M1
    initiator: bool  # M2: we are the original initiator
    local_host: HostAddress  # M3
    remote_host: HostAddress
    spis: IkeSpis  # M4
    message_ids: MessageIds  # M5
    keying: IkeKeying  # M7
    proposal: IkeProposal  # M8
    extensions: IkeExtension  # M9; bits that we do not know survive
    local_identity: Identification  # M10
    remote_identity: Identification
    credentials: Credentials  # M11
    window: MessageWindow = MessageWindow()  # M12
    lifetime: IkeLifetime | None = None  # O1
    vendor_ids: tuple[bytes, ...] = ()  # O2
    vendor_parameters: tuple[VendorParameter, ...] = ()  # V
    unknown_parameters: tuple[UnknownParameter, ...] = ()  # O, beyond those that we know
