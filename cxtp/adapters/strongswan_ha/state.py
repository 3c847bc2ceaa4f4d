"""What is remembered of the SAs that ``ha`` messages told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from contexts.values import HostAddress, Identification, IkeSpis, IPAddress, IpsecMode, Nonces, RekeyedFrom

from .attributes import HaTrafficSelector


class HaReportKind(Enum):
    """Why a message, or a part of it, was not applied."""

    MALFORMED = "a datagram that is no message"
    UNKNOWN_IKE_SA = "a message for an IKE_SA whose IKE_ADD was not seen"
    UNKNOWN_CHILD_SA = "a CHILD_DELETE for a CHILD_SA whose CHILD_ADD was not seen"
    MISSING_ATTRIBUTE = "a message without an attribute that it needs"
    CONFLICT = "a message that contradicts an earlier one"
    UNSUPPORTED = "what can't be moved"
    NOT_ESTABLISHED = "an IKE_SA of which no IKE_UPDATE told identities and addresses"
    STALE = "a Message ID for an IKE_SA that is gone or was rekeyed"
    LIMIT = "more SAs than are held at once"
    REPEATED = "a message that was applied before"


@dataclass(frozen=True)
class HaReport:
    """One message that was not applied: when, for which IKE_SA and inbound SPI where they are known, and why."""

    kind: HaReportKind
    time: float
    ike_spis: IkeSpis | None
    inbound_spi: int | None
    detail: str

    def __str__(self) -> str:
        about = " ".join(
            part
            for part in (
                f"IKE_SA {self.ike_spis}" if self.ike_spis else "",
                f"CHILD_SA {self.inbound_spi:08x}" if self.inbound_spi is not None else "",
            )
            if part
        )
        return f"{about + ': ' if about else ''}{self.kind.name}: {self.detail}"


@dataclass
class IkeRecord:
    """One IKE_SA.  ``chain``: the same for all IKE_SAs that were rekeyed from each other."""

    spis: IkeSpis
    ike_version: int
    initiator: bool
    chain: int
    time: float
    nonces: Nonces
    secret: bytes = field(repr=False)
    prf: int
    encryption: int
    encryption_key_length: int
    integrity: int
    key_exchange: int
    additional_key_exchanges: tuple[int, ...] = ()
    rekeyed_from: RekeyedFrom | None = None
    predecessor: IkeSpis | None = None
    successor: IkeSpis | None = None
    additional_secrets: list[bytes] = field(default_factory=list, repr=False)
    psk: bytes | None = field(default=None, repr=False)
    auth_method: int | None = None
    next_request_to_send: int = 0
    next_request_expected: int = 0
    deleted: bool = False
    children: dict[int, ChildRecord] = field(default_factory=dict, repr=False)

    # what IKE_UPDATEs say; a rekeyed IKE_SA inherits it
    local_host: HostAddress | None = None
    remote_host: HostAddress | None = None
    local_identity: Identification | None = None
    remote_identity: Identification | None = None
    eap_identity: Identification | None = None
    name: str | None = None
    conditions: int = 0
    extensions: int = 0
    private_conditions: int | None = None
    private_extensions: int | None = None
    local_virtual: tuple[IPAddress, ...] = ()
    remote_virtual: tuple[IPAddress, ...] = ()
    peer_addresses: tuple[HostAddress, ...] = ()


INHERITED = (
    "local_host",
    "remote_host",
    "local_identity",
    "remote_identity",
    "eap_identity",
    "name",
    "conditions",
    "extensions",
    "private_conditions",
    "private_extensions",
    "local_virtual",
    "remote_virtual",
    "peer_addresses",
    "psk",
    "auth_method",
)
"""What a rekeyed IKE_SA has from its predecessor until an IKE_UPDATE says else; virtual addresses are never told
again."""


@dataclass
class ChildRecord:
    """One CHILD_SA.  ``source``: the IKE_SA whose SK_d made its keys; ``owner``: the one that it belongs to now."""

    serial: int
    time: float
    source: IkeRecord
    owner: IkeRecord
    initiator: bool
    inbound_spi: int
    outbound_spi: int
    inbound_cpi: int
    outbound_cpi: int
    ipcomp: int
    mode: IpsecMode
    name: str | None
    encryption: int | None
    encryption_key_length: int
    integrity: int
    key_exchange: int
    extended_sequence_numbers: bool
    nonces: Nonces
    secret: bytes = field(repr=False)
    additional_secret: bytes = field(repr=False)
    local_selectors: tuple[HaTrafficSelector, ...]
    remote_selectors: tuple[HaTrafficSelector, ...]
    deleted: bool = False
