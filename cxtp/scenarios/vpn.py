"""An IKEv2 client and a gateway: messages and ESP packets with true keys, made of one seed.

IKE_SA_INIT and IKE_AUTH as RFC 7296, 1.2 has them, with a pre-shared key; AES-GCM-16-256, PRF_HMAC_SHA2_256,
Curve25519.  The gateway's end is what moves: :meth:`Vpn.contexts`, and :meth:`Vpn.move_to` goes on from them alone.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from contexts.base import decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.key_exchange import diffie_hellman, public_value
from contexts.keys import prf
from contexts.session import RestoredSession
from contexts.session.esp import IpsecSaSession
from contexts.session.ike_message import IkeHeader, IkePayloadItem, build_header, build_payloads
from contexts.values import (
    AntiReplayWindow,
    ConfiguredCredentials,
    HostAddress,
    Identification,
    IkeExtension,
    IkeProposal,
    IkeSpis,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    MessageIds,
    Nonces,
    SequenceNumbers,
    SharedSecret,
    TrafficSelector,
)

from ..constants import (
    EncryptionAlgorithm,
    IdentificationType,
    IkeExchange,
    IkePayload,
    KeyExchangeMethod,
    PseudorandomFunction,
    SecurityProtocol,
)
from ..errors import LocalError
from ..messages import EncodedContext, IPAddress
from ..wire import internet_checksum

PRESHARED_KEY = b"cxtp scenarios"
CLIENT, GATEWAY = "client.example.org", "gateway.example.org"
INNER_CLIENT, INNER_HOST = IPv4Address("10.3.0.1"), IPv4Address("10.1.0.10")
KEY_BITS = 256
REKEY_SA = 16393  # RFC 7296, 3.10.1
_KEY_PAD = b"Key Pad for IKEv2"  # RFC 7296, 2.15
_SHARED_KEY_MIC = 2  # RFC 7296, 3.8
_PSEUDORANDOM = PseudorandomFunction.HMAC_SHA2_256
_SELECTORS = (IkePayload.TRAFFIC_SELECTOR_INITIATOR, IkePayload.TRAFFIC_SELECTOR_RESPONDER)
_IDENTIFICATIONS = (IkePayload.IDENTIFICATION_INITIATOR, IkePayload.IDENTIFICATION_RESPONDER)
_IP_IN_IP, _UDP = 4, 17
_INITIATOR, _RESPONSE = 0x08, 0x20


class Vpn:
    """One IKE_SA with one CHILD_SA; datagrams and packets come out of its methods, in their order."""

    def __init__(self, seed: int, client: IPAddress, gateway: IPAddress, *, udp: bool = False) -> None:
        self._random = random.Random(seed)
        self.client, self.gateway, self.udp = client, gateway, udp
        self.spis = IkeSpis(self._random.getrandbits(64) | 1, self._random.getrandbits(64) | 1)
        self._private = (self._octets(32), self._octets(32))
        self._public = tuple(public_value(KeyExchangeMethod.CURVE25519, key) for key in self._private)
        self.nonces = Nonces(self._octets(32), self._octets(32))
        self.inbound_spi, self.outbound_spi = (0xC0000000 | self._random.getrandbits(24) for _ in range(2))
        self._init = (b"", b"")
        self._from_client = 0
        self._ivs = 0
        self._identification = 0
        self._next_id = {True: 2, False: 0}  # of requests, by whether the client asks
        self.session = RestoredSession()
        self.retired: list[IpsecSaContext] = []
        """CHILD_SAs that were deleted."""
        self._ike: IkeSaContext = self._ike_context()
        self._children: dict[int, IpsecSaContext] = {self.inbound_spi: self._child_context()}
        self._restore()

    # --- negotiation --------------------------------------------------------------------------------------------

    def ike_sa_init(self) -> tuple[bytes, bytes]:
        """Request and response."""
        made = []
        for responder in (False, True):
            items = [
                IkePayloadItem(IkePayload.SECURITY_ASSOCIATION, self._ike_proposal()),
                IkePayloadItem(IkePayload.KEY_EXCHANGE, struct.pack("!HH", KeyExchangeMethod.CURVE25519, 0)
                               + self._public[responder]),
                IkePayloadItem(IkePayload.NONCE, (self.nonces.initiator, self.nonces.responder)[responder]),
            ]  # fmt: skip
            first, chain = build_payloads(items)
            spis = self.spis if responder else IkeSpis(self.spis.initiator, 0)
            flags = _RESPONSE if responder else _INITIATOR
            header = IkeHeader(spis, first, IkeExchange.IKE_SA_INIT, flags, 0, 28 + len(chain))
            made.append(build_header(header) + chain)
        self._init = made[0], made[1]
        return self._init

    def ike_auth(self) -> tuple[bytes, bytes]:
        """Request and response, each authenticated with the pre-shared key (RFC 7296, 2.15)."""
        keys = self.session.ike_keys(self.spis)
        made = []
        for responder in (False, True):
            name = GATEWAY if responder else CLIENT
            identity = struct.pack("!B3x", IdentificationType.FQDN) + name.encode()
            nonce = (self.nonces.responder, self.nonces.initiator)[responder]
            signed = self._init[responder] + nonce + prf(_PSEUDORANDOM, (keys.sk_pi, keys.sk_pr)[responder], identity)
            authentication = prf(_PSEUDORANDOM, prf(_PSEUDORANDOM, PRESHARED_KEY, _KEY_PAD), signed)
            items = [
                IkePayloadItem(_IDENTIFICATIONS[responder], identity),
                IkePayloadItem(IkePayload.AUTHENTICATION, struct.pack("!B3x", _SHARED_KEY_MIC) + authentication),
                *self._child_items(self.inbound_spi if responder else self.outbound_spi),
            ]
            made.append(self._seal(IkeExchange.IKE_AUTH, 1, items, from_client=not responder, response=responder))
        return made[0], made[1]

    def liveness(self, *, from_client: bool) -> tuple[bytes, bytes]:
        """An empty INFORMATIONAL exchange (RFC 7296, 1.4)."""
        return self._exchange(IkeExchange.INFORMATIONAL, [], [], from_client=from_client)

    def rekey_child(self, *, from_client: bool = False) -> tuple[bytes, bytes]:
        """CREATE_CHILD_SA in place of the CHILD_SA (RFC 7296, 1.3.3); its successor is used from now on."""
        old = self._children[self.inbound_spi]
        nonces = Nonces(self._octets(32), self._octets(32))
        spis = tuple(0xC0000000 | self._random.getrandbits(24) for _ in range(2))
        ours = struct.pack("!I", old.inbound_spi if not from_client else old.outbound_spi)
        notify = IkePayloadItem(IkePayload.NOTIFY, struct.pack("!BBH", SecurityProtocol.ESP, 4, REKEY_SA) + ours)
        offers = []
        for responder in (False, True):
            gateway_speaks = responder is from_client
            nonce = IkePayloadItem(IkePayload.NONCE, (nonces.initiator, nonces.responder)[responder])
            proposal, *selectors = self._child_items(spis[0] if gateway_speaks else spis[1])
            # Selectors are the exchange's: its initiator's first.
            ordered = selectors if from_client else self._selectors(swapped=True)
            offers.append([*([] if responder else [notify]), proposal, nonce, *ordered])
        exchange = self._exchange(IkeExchange.CREATE_CHILD_SA, *offers, from_client=from_client)
        keying = KeymatDerivation(self.spis, not from_client, nonces)
        self.inbound_spi, self.outbound_spi = spis
        self._from_client = 0
        self._children[self.inbound_spi] = replace(
            old, inbound_spi=spis[0], outbound_spi=spis[1], keying=keying, sequence_numbers=SequenceNumbers()
        )
        self._restore()
        return exchange

    def delete_child(self, context: IpsecSaContext) -> tuple[bytes, bytes]:
        """The gateway deletes an old CHILD_SA (RFC 7296, 1.4.1)."""
        self.retired.append(self._children.pop(context.inbound_spi))
        bodies = (
            struct.pack("!BBHI", SecurityProtocol.ESP, 4, 1, spi) for spi in (context.inbound_spi, context.outbound_spi)
        )
        ours, theirs = ([IkePayloadItem(IkePayload.DELETE, body)] for body in bodies)
        return self._exchange(IkeExchange.INFORMATIONAL, ours, theirs, from_client=False)

    @property
    def child(self) -> IpsecSaContext:
        """The CHILD_SA in use."""
        return self._children[self.inbound_spi]

    # --- traffic ------------------------------------------------------------------------------------------------

    def ping(self, number: int) -> tuple[bytes, bytes]:
        """ESP with an ICMP echo request of the client, and with its answer."""
        esp = self._esp()
        self._from_client += 1
        request = self._echo(8, number, INNER_CLIENT, INNER_HOST)
        sealed = esp.seal_inbound(request, _IP_IN_IP, self._iv(8), self._from_client)
        answer = self._echo(0, number, INNER_HOST, INNER_CLIENT)
        back = esp.seal_outbound(answer, _IP_IN_IP, self._iv(8))
        numbers = replace(self.child.sequence_numbers, inbound=self._from_client)
        numbers = replace(numbers, outbound=numbers.outbound + 1)
        window = AntiReplayWindow(64, (1 << min(self._from_client, 64)) - 1)
        self._children[self.inbound_spi] = replace(self.child, sequence_numbers=numbers, window=window)
        return sealed, back

    def protect(self, datagram: bytes, *, from_client: bool) -> bytes:
        """A UDP datagram in ESP, in transport mode."""
        esp = self._esp()
        if not from_client:
            return esp.seal_outbound(datagram, _UDP, self._iv(8))
        self._from_client += 1
        return esp.seal_inbound(datagram, _UDP, self._iv(8), self._from_client)

    # --- what moves ---------------------------------------------------------------------------------------------

    def contexts(self) -> tuple[EncodedContext, ...]:
        """The gateway's end, exact."""
        ids = MessageIds(self._next_id[False], self._next_id[True])
        return (encode(replace(self._ike, message_ids=ids)), *map(encode, self._children.values()))

    def all_contexts(self) -> tuple[IkeSaContext | IpsecSaContext, ...]:
        """For the keys of all that was sent."""
        return (self._ike, *self._children.values(), *self.retired)

    def move_to(self, contexts: Sequence[EncodedContext], *, forgetful: bool = False) -> None:
        """Another machine has the gateway's address now, and knows these contexts, nothing else.

        ``forgetful``: it begins at sequence number 1 again, as no machine may.
        """
        decoded = [decode(item) for item in contexts]
        self._ike = next(c for c in decoded if isinstance(c, IkeSaContext))
        self._children = {c.inbound_spi: c for c in decoded if isinstance(c, IpsecSaContext)}
        if forgetful:
            self._children = {
                spi: replace(child, sequence_numbers=replace(child.sequence_numbers, outbound=0))
                for spi, child in self._children.items()
            }
        self._restore()

    def _restore(self) -> None:
        self.session = RestoredSession.restore([self._ike, *self._children.values()])

    # --- parts --------------------------------------------------------------------------------------------------

    def _ike_context(self) -> IkeSaContext:
        secret = diffie_hellman(KeyExchangeMethod.CURVE25519, self._private[1], self._public[0])
        port = 4500 if self.udp else 500
        return IkeSaContext(
            initiator=False,
            local_host=HostAddress(self.gateway, port),
            remote_host=HostAddress(self.client, port),
            spis=self.spis,
            message_ids=MessageIds(0, 2),
            keying=SharedSecret(secret, self.nonces),
            proposal=IkeProposal(
                EncryptionAlgorithm.AES_GCM_16, KEY_BITS, 0, 0, _PSEUDORANDOM, KeyExchangeMethod.CURVE25519
            ),
            extensions=IkeExtension.NONE,
            local_identity=Identification(IdentificationType.FQDN, GATEWAY.encode()),
            remote_identity=Identification(IdentificationType.FQDN, CLIENT.encode()),
            credentials=ConfiguredCredentials("scenarios"),
        )

    def _child_context(self) -> IpsecSaContext:
        port = 4500 if self.udp else 0
        return IpsecSaContext(
            ike_spis=self.spis,
            local_host=HostAddress(self.gateway, port),
            remote_host=HostAddress(self.client, port),
            inbound_spi=self.inbound_spi,
            outbound_spi=self.outbound_spi,
            window=AntiReplayWindow(64),
            mode=IpsecMode.TUNNEL,
            local_selectors=(TrafficSelector(ip_address("10.1.0.0"), ip_address("10.1.0.255")),),
            remote_selectors=(TrafficSelector(INNER_CLIENT, INNER_CLIENT),),
            proposal=IpsecProposal(SecurityProtocol.ESP, EncryptionAlgorithm.AES_GCM_16, KEY_BITS, 0, 0),
            keying=KeymatDerivation(self.spis, False, self.nonces),
        )

    def _child_items(self, spi: int) -> list[IkePayloadItem]:
        """SA, TSi, TSr of the CHILD_SA that the client asks for."""
        transforms = [(1, EncryptionAlgorithm.AES_GCM_16, KEY_BITS), (5, 0, 0)]
        body = _proposal(SecurityProtocol.ESP, struct.pack("!I", spi), transforms)
        return [IkePayloadItem(IkePayload.SECURITY_ASSOCIATION, body), *self._selectors()]

    def _selectors(self, *, swapped: bool = False) -> list[IkePayloadItem]:
        client = _selector(INNER_CLIENT, INNER_CLIENT)
        network = _selector(IPv4Address("10.1.0.0"), IPv4Address("10.1.0.255"))
        pair = (network, client) if swapped else (client, network)
        return [IkePayloadItem(kind, body) for kind, body in zip(_SELECTORS, pair, strict=True)]

    def _ike_proposal(self) -> bytes:
        curve = KeyExchangeMethod.CURVE25519
        transforms = [(1, EncryptionAlgorithm.AES_GCM_16, KEY_BITS), (2, _PSEUDORANDOM, 0), (4, curve, 0)]
        return _proposal(SecurityProtocol.IKE, b"", transforms)

    def _exchange(
        self, kind: int, ours: list[IkePayloadItem], theirs: list[IkePayloadItem], *, from_client: bool
    ) -> tuple[bytes, bytes]:
        number = self._next_id[from_client]
        self._next_id[from_client] += 1
        request = self._seal(kind, number, ours, from_client=from_client, response=False)
        return request, self._seal(kind, number, theirs, from_client=not from_client, response=True)

    def _seal(
        self, kind: int, number: int, items: list[IkePayloadItem], *, from_client: bool, response: bool
    ) -> bytes:
        ike = self.session.ike_sa(self.spis)
        return ike.seal(kind, number, items, self._iv(8), response=response, as_peer=from_client)

    def _echo(self, kind: int, number: int, source: IPv4Address, destination: IPv4Address) -> bytes:
        icmp = struct.pack("!BBHHH", kind, 0, 0, 0x4067, number) + bytes(range(48))
        icmp = icmp[:2] + struct.pack("!H", internet_checksum(icmp)) + icmp[4:]
        self._identification += 1
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), self._identification, 0, 64, 1, 0)
        head += source.packed + destination.packed
        return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + icmp

    def _iv(self, octets: int) -> bytes:
        """Never the same."""
        self._ivs += 1
        return self._ivs.to_bytes(octets, "big")

    def _esp(self) -> IpsecSaSession:
        """The CHILD_SA in use."""
        session = self.session.ipsec_sa(self.inbound_spi)
        if not isinstance(session, IpsecSaSession):
            raise LocalError("the CHILD_SA of a scenario is one of ESP")
        return session

    def _octets(self, count: int) -> bytes:
        return self._random.getrandbits(8 * count).to_bytes(count, "big")


def _proposal(protocol: int, spi: bytes, transforms: Sequence[tuple[int, int, int]]) -> bytes:
    """One proposal (RFC 7296, 3.3.1): type, number and key length in bits of each transform."""
    body = b""
    for place, (kind, number, bits) in enumerate(transforms, 1):
        attribute = struct.pack("!HH", 0x800E, bits) if bits else b""
        more = 0 if place == len(transforms) else 3
        body += struct.pack("!BxHBxH", more, 8 + len(attribute), kind, number) + attribute
    head = struct.pack("!BxHBBBB", 0, 8 + len(spi) + len(body), 1, protocol, len(spi), len(transforms))
    return head + spi + body


def _selector(start: IPv4Address, end: IPv4Address) -> bytes:
    """A TS payload's content with one IPv4 range (RFC 7296, 3.13)."""
    return struct.pack("!B3xBBHHH", 1, 7, 0, 16, 0, 65535) + start.packed + end.packed
