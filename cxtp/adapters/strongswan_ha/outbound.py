"""From contexts to the messages that make a daemon have the session: what ``ha`` would have told it, in that order.

An IKE_SA's IKE_ADD, once more for each additional key exchange, then an IKE_UPDATE (the daemon has it PASSIVE from
there on), its CHILD_ADDs, its virtual addresses and its Message IDs; SEGMENT_TAKE and SEGMENT_DROP make what is
PASSIVE ESTABLISHED (:func:`activation`).

Keys are derived by the daemon, from the shared secret and nonces that the messages carry.  So an IKE_SA has to come
in key case 1 or 2 (docs/context-formats.md); the keys of a CHILD_SA that come as they are (its IKE_SA was rekeyed) have
no place in a CHILD_ADD: :func:`messages_of` makes one with a random nonce, and whoever feeds it sets the kernel's keys.

Sources: src/libcharon/plugins/ha/ha_dispatcher.c of strongSwan 5.9.8; recordings in pcaps/strongswan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Union

from contexts.encoding.vendor import VendorValue, find_vendor_value
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import CommonVendorNumber as Common
from contexts.values import (
    ConfiguredCredentials,
    HostAddress,
    Identification,
    IkeSpis,
    KeymatDerivation,
    Nonces,
    SharedSecret,
    StrongswanVendorNumber,
    TrafficSelector,
)
from cxtp.constants import SecurityProtocol
from cxtp.errors import RemoteError

from .attributes import (
    VERSIONS,
    Attribute,
    AttributeValue,
    HaAttribute,
    HaMessage,
    HaMessageType,
    HaTrafficSelector,
    IkeSaId,
)
from .codec import NotRepresentable, re_encode
from .flags import conditions_of, extensions_of

Context = Union[IkeSaContext, IpsecSaContext]

NONCE_OCTETS = 32
"""Of a nonce that stands for none: a CHILD_SA whose keys are not derived."""


class NotExpressible(RemoteError):
    """A context that no ``ha`` message of this version can express; the text says which part and why."""

    section = "strongSwan, ha_dispatcher.c"


def messages_of(contexts: Iterable[Context], version: int, random: Callable[[int], bytes]) -> list[HaMessage]:
    """All messages of a session, for a daemon that speaks ``version``; ``random`` gives so many octets.

    Raises :class:`NotExpressible`.
    """
    if version not in VERSIONS:
        raise NotExpressible(f"version {version} of strongSwan's ha messages is not known here")
    contexts = tuple(contexts)
    found: list[HaMessage] = []
    for ike_sa in (context for context in contexts if isinstance(context, IkeSaContext)):
        children = [c for c in contexts if isinstance(c, IpsecSaContext) and c.ike_spis == ike_sa.spis]
        found += _ike_sa_messages(ike_sa, children, random)
    known = {context.spis for context in contexts if isinstance(context, IkeSaContext)}
    for context in contexts:
        if isinstance(context, IpsecSaContext) and context.ike_spis not in known:
            raise NotExpressible(f"the IPsec_SA {context.inbound_spi:08x} belongs to no IKE_SA that moves with it")
    try:
        return [re_encode(message, version) for message in found]
    except NotRepresentable as error:
        raise NotExpressible(str(error)) from error


def activation(segments: Sequence[int], version: int) -> list[HaMessage]:
    """Makes the daemon use what it has PASSIVE.  It looks only where a segment changes, so it is first told that we
    take them; SAs in use are PASSIVE until the next message."""

    def message(kind: HaMessageType) -> HaMessage:
        return HaMessage(version, kind, tuple(HaAttribute(Attribute.SEGMENT, segment) for segment in segments))

    return [message(HaMessageType.SEGMENT_TAKE), message(HaMessageType.SEGMENT_DROP)]


def heartbeat(version: int) -> HaMessage:
    """STATUS without any segment: the daemon shall keep its own.  One that hears none sends deletes to its peers when
    it is stopped."""
    return HaMessage(version, HaMessageType.STATUS)


def resync(segments: Sequence[int], version: int) -> HaMessage:
    """Asks the daemon for all that it has cached; it rekeys the CHILD_SAs, which it has not."""
    return HaMessage(version, HaMessageType.RESYNC, tuple(HaAttribute(Attribute.SEGMENT, s) for s in segments))


def deletion(spis: IkeSpis, initiator: bool, version: int) -> HaMessage:
    """Makes the daemon forget an IKE_SA and all of its CHILD_SAs, without a word to the peer."""
    return HaMessage(version, HaMessageType.IKE_DELETE, (_identity(spis, initiator),))


def peer_moved(spis: IkeSpis, local: HostAddress, remote: HostAddress) -> HaMessage:
    """What a daemon could say, and does not, when a peer comes from another address (RFC 4555)."""
    hosts = (HaAttribute(Attribute.LOCAL_ADDR, local), HaAttribute(Attribute.REMOTE_ADDR, remote))
    return HaMessage(max(VERSIONS), HaMessageType.IKE_UPDATE, (_identity(spis, False), *hosts))


def message_id(context: IkeSaContext, version: int) -> list[HaMessage]:
    """Its Message IDs: the next request to send, and the one to expect (0 says nothing to a daemon)."""
    numbers = (
        (HaMessageType.IKE_MID_INITIATOR, context.message_ids.next_request_to_send),
        (HaMessageType.IKE_MID_RESPONDER, context.message_ids.next_request_expected),
    )
    return [_message(kind, context, (Attribute.MID, number), version=version) for kind, number in numbers if number]


# --- IKE_SA -------------------------------------------------------------------------------------------------------


def _ike_sa_messages(
    context: IkeSaContext, children: Sequence[IpsecSaContext], random: Callable[[int], bytes]
) -> Iterator[HaMessage]:
    keying = context.keying
    if not isinstance(keying, SharedSecret):
        raise NotExpressible(
            f"IKE_SA {context.spis}: strongSwan derives keys from the shared secret g^ir and the nonces, "
            "which its context does not have: send it in key case 2"
        )
    rekeyed = keying.rekeyed_from is not None
    additional = keying.additional_secrets
    yield _ike_add(context, keying, joined=b"".join(additional) if rekeyed else b"")
    for secret in () if rekeyed else additional:
        yield _message(
            HaMessageType.IKE_ADD,
            context,
            (Attribute.NONCE_I, keying.nonces.initiator),
            (Attribute.NONCE_R, keying.nonces.responder),
            (Attribute.SECRET, secret),
            (Attribute.REMOTE_ADDR, context.remote_host),
            first=HaAttribute(Attribute.IKE_VERSION, context.version.major),
        )
    yield _ike_update(context)
    for child in children:
        yield _child_add(context, child, random)
    virtual = find_vendor_value(context.vendor_parameters, Common.REMOTE_VIRTUAL_ADDRESSES)
    if isinstance(virtual, tuple):
        yield _message(HaMessageType.IKE_UPDATE, context, *((Attribute.REMOTE_VIP, HostAddress(a)) for a in virtual))
    yield from message_id(context, max(VERSIONS))


def _ike_add(context: IkeSaContext, keying: SharedSecret, joined: bytes) -> HaMessage:
    proposal, old = context.proposal, keying.rekeyed_from
    return _message(
        HaMessageType.IKE_ADD,
        context,
        (Attribute.ALG_OLD_PRF, None if old is None else old.prf),
        (Attribute.OLD_SKD, None if old is None else old.sk_d),
        (Attribute.ALG_ENCR, proposal.encryption),
        (Attribute.ALG_ENCR_LEN, proposal.encryption_key_length or None),
        (Attribute.ALG_INTEG, proposal.integrity or None),
        (Attribute.ALG_PRF, proposal.prf),
        (Attribute.ALG_KE, proposal.key_exchange or None),
        (Attribute.ALG_ADD_KES, proposal.additional_key_exchanges or None),
        (Attribute.NONCE_I, keying.nonces.initiator),
        (Attribute.NONCE_R, keying.nonces.responder),
        (Attribute.SECRET, keying.shared_secret),
        (Attribute.ADD_SECRET, joined or None),
        (Attribute.REMOTE_ADDR, context.remote_host),
        first=HaAttribute(Attribute.IKE_VERSION, context.version.major),
    )


def _ike_update(context: IkeSaContext) -> HaMessage:
    """Vendor parameters come back as they were; of a session from elsewhere the extensions say the same."""
    parameters = context.vendor_parameters
    bits: list[tuple[Attribute, AttributeValue | VendorValue | None]] = [
        (Attribute.CONDITIONS, find_vendor_value(parameters, StrongswanVendorNumber.CONDITIONS)),
        (Attribute.EXTENSIONS, find_vendor_value(parameters, StrongswanVendorNumber.EXTENSIONS)),
    ]
    if bits[0][1] is None:
        bits = [
            (Attribute.CONDITIONS, int(conditions_of(context.extensions))),
            (Attribute.EXTENSIONS, int(extensions_of(context.extensions))),
        ]
    private = (
        (Attribute.CONDITIONS, find_vendor_value(parameters, StrongswanVendorNumber.PRIVATE_CONDITIONS)),
        (Attribute.EXTENSIONS, find_vendor_value(parameters, StrongswanVendorNumber.PRIVATE_EXTENSIONS)),
    )
    peers = find_vendor_value(parameters, Common.PEER_ADDRESSES)
    addresses = peers if isinstance(peers, tuple) else (context.remote_host.address,)
    return _message(
        HaMessageType.IKE_UPDATE,
        context,
        (Attribute.LOCAL_ID, context.local_identity),
        (Attribute.REMOTE_ID, context.remote_identity),
        (Attribute.REMOTE_EAP_ID, _eap_identity(context)),
        (Attribute.LOCAL_ADDR, context.local_host),
        (Attribute.REMOTE_ADDR, context.remote_host),
        *bits,
        *private,
        (Attribute.CONFIG_NAME, connection_name(context)),
        *((Attribute.PEER_ADDR, HostAddress(address, context.remote_host.port)) for address in addresses),
    )


def connection_name(context: IkeSaContext) -> str:
    """What the connection is called in the daemon's configuration.  Raises :class:`NotExpressible`."""
    name = find_vendor_value(context.vendor_parameters, Common.CONNECTION_NAME)
    if isinstance(name, str):
        return name
    if isinstance(context.credentials, ConfiguredCredentials):
        return context.credentials.name
    raise NotExpressible(f"IKE_SA {context.spis}: it names no connection that strongSwan could look up")


def child_name(context: IpsecSaContext) -> str:
    """What the CHILD_SA is called there.  Raises :class:`NotExpressible`."""
    name = find_vendor_value(context.vendor_parameters, Common.CHILD_NAME)
    if not isinstance(name, str):
        raise NotExpressible(f"IPsec_SA {context.inbound_spi:08x}: it names no child that strongSwan could look up")
    return name


def _eap_identity(context: IkeSaContext) -> Identification | None:
    identity = find_vendor_value(context.vendor_parameters, Common.REMOTE_EAP_IDENTITY)
    return identity if isinstance(identity, Identification) else None


# --- CHILD_SA -----------------------------------------------------------------------------------------------------


def has_derived_keys(context: IpsecSaContext, ike_sa: IkeSaContext) -> bool:
    """Whether a daemon that is told of both derives the CHILD_SA's own keys."""
    return isinstance(context.keying, KeymatDerivation) and context.keying.ike_spis == ike_sa.spis


def _child_add(ike_sa: IkeSaContext, context: IpsecSaContext, random: Callable[[int], bytes]) -> HaMessage:
    if context.proposal.protocol != SecurityProtocol.ESP:
        raise NotExpressible(
            f"IPsec_SA {context.inbound_spi:08x} is AH: strongSwan's ha messages name no protocol, and their receiver "
            "takes each for ESP"
        )
    proposal, keying, ipcomp = context.proposal, context.keying, context.ipcomp
    if isinstance(keying, KeymatDerivation) and has_derived_keys(context, ike_sa):
        initiator, nonces, secret = keying.initiator, keying.nonces, keying.shared_secret
        additional = b"".join(keying.additional_secrets)
    else:  # keys that nobody has: what is sent with them by mistake is noise, and no number is used twice
        initiator, secret, additional = ike_sa.initiator, b"", b""
        nonces = Nonces(random(NONCE_OCTETS), random(NONCE_OCTETS))
    return _message(
        HaMessageType.CHILD_ADD,
        ike_sa,
        (Attribute.INITIATOR, int(initiator)),
        (Attribute.INBOUND_SPI, context.inbound_spi),
        (Attribute.OUTBOUND_SPI, context.outbound_spi),
        (Attribute.INBOUND_CPI, ipcomp.inbound_cpi if ipcomp else 0),
        (Attribute.OUTBOUND_CPI, ipcomp.outbound_cpi if ipcomp else 0),
        (Attribute.IPSEC_MODE, int(context.mode)),
        (Attribute.IPCOMP, ipcomp.algorithm if ipcomp else 0),
        (Attribute.CONFIG_NAME, child_name(context)),
        (Attribute.ALG_ENCR, proposal.encryption),
        (Attribute.ALG_ENCR_LEN, proposal.encryption_key_length or None),
        (Attribute.ALG_INTEG, proposal.integrity or None),
        (Attribute.ALG_KE, proposal.key_exchange if secret and proposal.key_exchange else None),
        (Attribute.ESN, int(proposal.extended_sequence_numbers)),
        (Attribute.NONCE_I, nonces.initiator),
        (Attribute.NONCE_R, nonces.responder),
        (Attribute.SECRET, secret or None),
        (Attribute.ADD_SECRET, additional or None),
        *((Attribute.LOCAL_TS, _selector(selector)) for selector in context.local_selectors),
        *((Attribute.REMOTE_TS, _selector(selector)) for selector in context.remote_selectors),
    )


def _selector(selector: TrafficSelector) -> HaTrafficSelector:
    return HaTrafficSelector(
        selector.protocol,
        selector.start_port,
        selector.end_port,
        False,
        selector.start_address,
        selector.end_address,
    )


# --- messages -----------------------------------------------------------------------------------------------------


def _identity(spis: IkeSpis, initiator: bool) -> HaAttribute:
    return HaAttribute(Attribute.IKE_ID, IkeSaId(2, spis, initiator))


def _message(
    kind: HaMessageType,
    context: IkeSaContext,
    *values: tuple[Attribute, AttributeValue | VendorValue | None],
    first: HaAttribute | None = None,
    version: int = max(VERSIONS),
) -> HaMessage:
    """``values`` that are None are left out."""
    head = () if first is None else (first,)
    rest = (HaAttribute(attribute, value) for attribute, value in values if value is not None)  # type: ignore[arg-type]
    return HaMessage(version, kind, (*head, _identity(context.spis, context.initiator), *rest))
