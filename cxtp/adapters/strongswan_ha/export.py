"""From records of SAs to contexts that can be moved, one session per mobile node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar, Union

from contexts.encoding.vendor import VendorValue, vendor_parameter
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import derive_ike_keys, derive_ipsec_keys
from contexts.values import (
    AntiReplayWindow,
    ConfiguredCredentials,
    CounterKnowledge,
    Credentials,
    HostAddress,
    IkeExtension,
    IkeProposal,
    IkeVersion,
    IPAddress,
    IpComp,
    IpsecKeys,
    IpsecProposal,
    KeymatDerivation,
    MessageIds,
    PresharedKey,
    SequenceNumbers,
    SharedSecret,
    StrongswanVendorNumber,
    TrafficSelector,
    VendorParameter,
)
from contexts.values import CommonVendorNumber as Common
from cxtp.constants import IKE_PORT, NAT_TRAVERSAL_PORT, SecurityProtocol
from cxtp.errors import LocalError, RemoteError

from .attributes import HaTrafficSelector
from .flags import Condition, ike_extensions
from .state import ChildRecord, HaReportKind, IkeRecord

Context = Union[IkeSaContext, IpsecSaContext]

_Told = TypeVar("_Told")


@dataclass(frozen=True)
class ExportedSession:
    """All that moves together: the SAs with the clients behind one outer address.

    ``contexts``: IKE_SAs first, then IPsec_SAs, each in the order in which they were made.  ``suite`` as strongSwan
    writes it: ``AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384 ESP:AES_GCM_16-256``.
    """

    mn_address: IPAddress
    contexts: tuple[Context, ...]
    suite: str


def why_not_exported(record: IkeRecord) -> tuple[HaReportKind, str] | None:
    """Why an IKE_SA can't be moved; None: it can."""
    if record.ike_version != 2:
        return HaReportKind.UNSUPPORTED, f"IKE version {record.ike_version}"
    missing = [
        name.replace("_", " ")
        for name in ("local_host", "remote_host", "local_identity", "remote_identity")
        if getattr(record, name) is None
    ]
    if record.name is None and record.psk is None:
        missing.append("connection name")
    if missing:
        return HaReportKind.NOT_ESTABLISHED, f"no IKE_UPDATE told its {', '.join(missing)}"
    if _depends_on_ppk(record):
        return HaReportKind.UNSUPPORTED, "its SK_d depends on a post-quantum preshared key (RFC 8784)"
    return None


def _depends_on_ppk(record: IkeRecord) -> bool:
    """SK_d is not what SECRET gives; a rekeyed IKE_SA's is, as OLD_SKD has the key in it."""
    return bool(record.conditions & Condition.PPK) and record.rekeyed_from is None


def _told(value: _Told | None) -> _Told:
    if value is None:
        raise LocalError("an IKE_SA of which too little is known can't be exported: see why_not_exported()")
    return value


# --- IKE_SA -----------------------------------------------------------------------------------------------------


def ike_sa_context(record: IkeRecord) -> IkeSaContext:
    """The context of an IKE_SA for which :func:`why_not_exported` finds no reason."""
    extensions = ike_extensions(record.conditions, record.extensions)
    if record.additional_secrets and record.rekeyed_from is None:
        extensions |= IkeExtension.INTERMEDIATE  # its additional key exchanges were IKE_INTERMEDIATE ones (RFC 9370)
    return IkeSaContext(
        version=IkeVersion(),
        initiator=record.initiator,
        local_host=_told(record.local_host),
        remote_host=_told(record.remote_host),
        spis=record.spis,
        message_ids=MessageIds(record.next_request_to_send, record.next_request_expected),
        keying=_ike_keying(record),
        proposal=_ike_proposal(record),
        extensions=extensions,
        local_identity=_told(record.local_identity),
        remote_identity=_told(record.remote_identity),
        credentials=_credentials(record),
        vendor_parameters=_ike_vendor_parameters(record),
    )


def _ike_keying(record: IkeRecord) -> SharedSecret:
    return SharedSecret(record.secret, record.nonces, record.rekeyed_from, tuple(record.additional_secrets))


def _ike_proposal(record: IkeRecord) -> IkeProposal:
    return IkeProposal(
        encryption=record.encryption,
        encryption_key_length=record.encryption_key_length,
        integrity=record.integrity,
        integrity_key_length=0,
        prf=record.prf,
        key_exchange=record.key_exchange,
        additional_key_exchanges=record.additional_key_exchanges,
    )


def _credentials(record: IkeRecord) -> Credentials:
    if record.psk is not None:
        return PresharedKey(record.psk)
    return ConfiguredCredentials(_text(record.name or ""))


def _text(name: str) -> str:
    """A name that can be written as UTF-8; octets that were none are shown as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _ike_vendor_parameters(record: IkeRecord) -> tuple[VendorParameter, ...]:
    peers = tuple(host.address for host in record.peer_addresses)
    values: list[tuple[Common | StrongswanVendorNumber, VendorValue | None]] = [
        (Common.CONNECTION_NAME, _text(record.name) if record.name is not None else None),
        (Common.REMOTE_EAP_IDENTITY, record.eap_identity),
        (Common.LOCAL_VIRTUAL_ADDRESSES, record.local_virtual or None),
        (Common.REMOTE_VIRTUAL_ADDRESSES, record.remote_virtual or None),
        (Common.PEER_ADDRESSES, peers or None),
        (StrongswanVendorNumber.CONDITIONS, record.conditions),
        (StrongswanVendorNumber.EXTENSIONS, record.extensions),
        (StrongswanVendorNumber.PRIVATE_CONDITIONS, record.private_conditions),
        (StrongswanVendorNumber.PRIVATE_EXTENSIONS, record.private_extensions),
        (StrongswanVendorNumber.AUTH_METHOD, record.auth_method),
    ]
    return tuple(vendor_parameter(number, value) for number, value in values if value is not None)


# --- IPsec_SA ---------------------------------------------------------------------------------------------------


def ipsec_sa_context(child: ChildRecord, window: int, *, source_moves: bool = True) -> IpsecSaContext:
    """The context of a CHILD_SA, under the IKE_SA that it belongs to now.

    ``source_moves``: the IKE_SA whose SK_d made its keys moves too.  Where that one was rekeyed and is gone, the
    keys themselves are carried; UnsupportedAlgorithm where they can't be derived.
    """
    owner = child.owner
    encapsulated = bool(owner.conditions & Condition.NAT_ANY) and child.encryption is not None
    selectors = (*child.local_selectors, *child.remote_selectors)
    protocols = {selector.protocol for selector in selectors}
    name = () if child.name is None else (vendor_parameter(Common.CHILD_NAME, _text(child.name)),)
    return IpsecSaContext(
        ike_spis=owner.spis,
        local_host=_esp_host(_told(owner.local_host), encapsulated),
        remote_host=_esp_host(_told(owner.remote_host), encapsulated),
        inbound_spi=child.inbound_spi,
        outbound_spi=child.outbound_spi,
        ipcomp=IpComp(child.inbound_cpi, child.outbound_cpi, child.ipcomp) if child.ipcomp else None,
        sequence_numbers=SequenceNumbers(knowledge=CounterKnowledge.UNKNOWN),
        window=AntiReplayWindow(window),
        mode=child.mode,
        upper_layer_protocol=protocols.pop() if len(protocols) == 1 else 0,
        local_selectors=tuple(map(_selector, child.local_selectors)),
        remote_selectors=tuple(map(_selector, child.remote_selectors)),
        proposal=_ipsec_proposal(child),
        keying=_ipsec_keying(child) if source_moves else _ipsec_keys(child),
        vendor_parameters=name,
    )


def _ipsec_keying(child: ChildRecord) -> KeymatDerivation:
    return KeymatDerivation(
        ike_spis=child.source.spis,
        initiator=child.initiator,
        nonces=child.nonces,
        shared_secret=child.secret,
        additional_secrets=(child.additional_secret,) if child.additional_secret else (),
    )


def _ipsec_keys(child: ChildRecord) -> IpsecKeys:
    source = child.source
    sk_d = derive_ike_keys(_ike_keying(source), _ike_proposal(source), source.spis).sk_d
    return derive_ipsec_keys(_ipsec_keying(child), _ipsec_proposal(child), sk_d, source.prf)


def _ipsec_proposal(child: ChildRecord) -> IpsecProposal:
    return IpsecProposal(
        protocol=SecurityProtocol.AH if child.encryption is None else SecurityProtocol.ESP,
        encryption=child.encryption,
        encryption_key_length=child.encryption_key_length,
        integrity=child.integrity,
        integrity_key_length=0,
        extended_sequence_numbers=child.extended_sequence_numbers,
        key_exchange=child.key_exchange,
    )


def _esp_host(host: HostAddress, encapsulated: bool) -> HostAddress:
    """charon encapsulates ESP in UDP where it knows of a NAT, on the IKE_SA's ports; not merely since IKE is on port
    4500, as it is with MOBIKE."""
    if not encapsulated:
        return HostAddress(host.address)
    return HostAddress(host.address, NAT_TRAVERSAL_PORT if host.port in (0, IKE_PORT) else host.port)


def _selector(selector: HaTrafficSelector) -> TrafficSelector:
    return TrafficSelector(
        selector.start_address, selector.end_address, selector.start_port, selector.end_port, selector.protocol
    )


# --- sessions ---------------------------------------------------------------------------------------------------


def sessions_of(ike_sas: Iterable[IkeRecord], children: Iterable[ChildRecord], window: int) -> list[ExportedSession]:
    """Sessions of the SAs that can be moved, in the order of their first IKE_SA.

    IKE_SAs that were rekeyed from each other stay together, under the latest one's remote address; those that end
    up under one address move together (docs/decisions.md, 10).
    """
    exported = {id(record): record for record in ike_sas if why_not_exported(record) is None}
    address_of_chain = {record.chain: _told(record.remote_host).address for record in exported.values()}
    moving: dict[IPAddress, tuple[list[IkeSaContext], list[IpsecSaContext]]] = {}
    for record in exported.values():
        moving.setdefault(address_of_chain[record.chain], ([], []))[0].append(ike_sa_context(record))
    for child in children:
        if id(child.owner) in exported:
            context = _child_context(child, window, id(child.source) in exported)
            if context is not None:
                moving[address_of_chain[child.owner.chain]][1].append(context)
    return [_session(address, *contexts) for address, contexts in moving.items()]


def withheld_children(
    ike_sas: Iterable[IkeRecord], children: Iterable[ChildRecord]
) -> Iterator[tuple[ChildRecord, str]]:
    """The CHILD_SAs that :func:`sessions_of` leaves out though their IKE_SA moves, and why."""
    exported = {id(record) for record in ike_sas if why_not_exported(record) is None}
    for child in children:
        lacks_source = id(child.owner) in exported and id(child.source) not in exported
        if lacks_source and _child_context(child, 0, False) is None:
            ppk = _depends_on_ppk(child.source)
            reason = "its keys depend on a PPK (RFC 8784)" if ppk else "its algorithms are not known here"
            yield child, f"the IKE_SA that made its keys does not move, and {reason}"


def _child_context(child: ChildRecord, window: int, source_moves: bool) -> IpsecSaContext | None:
    if not source_moves and _depends_on_ppk(child.source):
        return None
    try:
        return ipsec_sa_context(child, window, source_moves=source_moves)
    except RemoteError:  # an algorithm, or a length, from which no keys can be made
        return None


def _session(address: IPAddress, ike_sas: list[IkeSaContext], ipsec_sas: list[IpsecSaContext]) -> ExportedSession:
    names = dict.fromkeys(sa.proposal.name for sa in ipsec_sas)
    suite = " ".join([ike_sas[-1].proposal.name, *names])
    return ExportedSession(address, (*ike_sas, *ipsec_sas), suite)
