"""From ``ha`` messages to records of SAs: which attributes each needs, and what their absence means."""

from __future__ import annotations

import hmac
from typing import TypeVar

from contexts.values import HostAddress, IkeSpis, IpsecMode, Nonces, RekeyedFrom

from .attributes import Attribute, AttributeValue, HaMessage, HaTrafficSelector, IkeSaId
from .state import ChildRecord, HaReportKind, IkeRecord

_Value = TypeVar("_Value", bound=AttributeValue)


class Refused(Exception):
    """A message that is not applied, and the report to make of it."""

    def __init__(self, kind: HaReportKind, detail: str, spis: IkeSpis | None, inbound_spi: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.spis = spis
        self.inbound_spi = inbound_spi


def required(
    message: HaMessage, attribute: Attribute, kind: type[_Value], spis: IkeSpis, inbound_spi: int | None = None
) -> _Value:
    """The attribute's value; Refused where the message lacks it."""
    value = message.first(attribute)
    if not isinstance(value, kind):
        detail = f"{message.type.name} without {attribute.name}"
        raise Refused(HaReportKind.MISSING_ATTRIBUTE, detail, spis, inbound_spi)
    return value


def _optional(message: HaMessage, attribute: Attribute, default: _Value) -> _Value:
    value = message.first(attribute)
    return value if isinstance(value, type(default)) else default


def _nonces(message: HaMessage, spis: IkeSpis) -> Nonces:
    return Nonces(
        required(message, Attribute.NONCE_I, bytes, spis), required(message, Attribute.NONCE_R, bytes, spis)
    )


def ike_record(message: HaMessage, identity: IkeSaId, time: float) -> IkeRecord:
    """The IKE_SA that an IKE_ADD tells of; its place among others (``chain``) is the caller's to say."""
    spis = identity.spis
    old = message.first(Attribute.IKE_REKEY_ID)
    old_skd = message.first(Attribute.OLD_SKD)
    rekeyed_from = None
    if isinstance(old, IkeSaId) or old_skd is not None:
        prf = required(message, Attribute.ALG_OLD_PRF, int, spis)
        rekeyed_from = RekeyedFrom(prf, required(message, Attribute.OLD_SKD, bytes, spis))
    additional = _optional(message, Attribute.ADD_SECRET, b"")
    initiator = identity.initiator
    remote = message.first(Attribute.REMOTE_ADDR)
    psk = message.first(Attribute.PSK)
    method = message.first(Attribute.AUTH_METHOD)
    return IkeRecord(
        spis=spis,
        ike_version=identity.ike_version,
        initiator=initiator,
        chain=0,
        time=time,
        nonces=_nonces(message, spis),
        secret=required(message, Attribute.SECRET, bytes, spis),
        prf=required(message, Attribute.ALG_PRF, int, spis),
        encryption=required(message, Attribute.ALG_ENCR, int, spis),
        encryption_key_length=_optional(message, Attribute.ALG_ENCR_LEN, 0),
        integrity=_optional(message, Attribute.ALG_INTEG, 0),
        key_exchange=_optional(message, Attribute.ALG_KE, 0),
        additional_key_exchanges=_optional(message, Attribute.ALG_ADD_KES, ()),
        rekeyed_from=rekeyed_from,
        predecessor=old.spis if isinstance(old, IkeSaId) else None,
        additional_secrets=[additional] if additional else [],
        psk=psk if isinstance(psk, bytes) else None,
        auth_method=method if isinstance(method, int) else None,
        # IKE_SA_INIT took Message ID 0 of its initiator; a rekeyed IKE_SA starts at 0 both ways (RFC 7296, 2.2)
        next_request_to_send=int(initiator and rekeyed_from is None),
        next_request_expected=int(not initiator and rekeyed_from is None),
        remote_host=remote if isinstance(remote, HostAddress) else None,
    )


def child_record(message: HaMessage, source: IkeRecord, time: float) -> ChildRecord:
    """The CHILD_SA that a CHILD_ADD under the IKE_SA ``source`` tells of."""
    spis = source.spis
    inbound_spi = required(message, Attribute.INBOUND_SPI, int, spis)

    def needed(attribute: Attribute, kind: type[_Value]) -> _Value:
        return required(message, attribute, kind, spis, inbound_spi)

    mode = needed(Attribute.IPSEC_MODE, int)
    if mode not in IpsecMode._value2member_map_:
        raise Refused(HaReportKind.UNSUPPORTED, f"IPsec mode {mode}", spis, inbound_spi)
    encryption = message.first(Attribute.ALG_ENCR)
    if encryption is None:
        needed(Attribute.ALG_INTEG, int)  # AH then: no message names the protocol
    local, remote = (
        tuple(value for value in message.all(attribute) if isinstance(value, HaTrafficSelector))
        for attribute in (Attribute.LOCAL_TS, Attribute.REMOTE_TS)
    )
    needed(Attribute.LOCAL_TS, HaTrafficSelector)
    needed(Attribute.REMOTE_TS, HaTrafficSelector)
    name = message.first(Attribute.CONFIG_NAME)
    return ChildRecord(
        serial=0,
        time=time,
        source=source,
        owner=source,
        initiator=bool(needed(Attribute.INITIATOR, int)),
        inbound_spi=inbound_spi,
        outbound_spi=needed(Attribute.OUTBOUND_SPI, int),
        inbound_cpi=_optional(message, Attribute.INBOUND_CPI, 0),
        outbound_cpi=_optional(message, Attribute.OUTBOUND_CPI, 0),
        ipcomp=_optional(message, Attribute.IPCOMP, 0),
        mode=IpsecMode(mode),
        name=name if isinstance(name, str) else None,
        encryption=encryption if isinstance(encryption, int) else None,
        encryption_key_length=_optional(message, Attribute.ALG_ENCR_LEN, 0) if encryption is not None else 0,
        integrity=_optional(message, Attribute.ALG_INTEG, 0),
        key_exchange=_optional(message, Attribute.ALG_KE, 0),
        extended_sequence_numbers=bool(_optional(message, Attribute.ESN, 0)),
        nonces=_nonces(message, spis),
        secret=_optional(message, Attribute.SECRET, b""),
        additional_secret=_optional(message, Attribute.ADD_SECRET, b""),
        local_selectors=local,
        remote_selectors=remote,
    )


def same_child(one: ChildRecord, other: ChildRecord) -> bool:
    """Two CHILD_ADDs with the same inbound SPI tell of the same SA."""
    return (
        one.source.spis == other.source.spis
        and one.outbound_spi == other.outbound_spi
        and one.nonces == other.nonces
        and hmac.compare_digest(one.secret, other.secret)
    )
