"""RFC 6311 with strongSwan as the client: it announces that it can, and answers who took its IKE_SA over.

strongSwan's gateways never announce it, so that its clients don't use it with them.  The gateway here is a responder of
IKE_SA_INIT and IKE_AUTH alone, by RFC 7296 and with a pre-shared key, which does announce it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contexts.ikev2 import IkeSaContext
from contexts.keys import derive_ike_keys, prf
from contexts.session import IkeSaSession
from contexts.session.ike_message import IkeHeader, IkePayloadItem, build_header, build_payloads, split_message
from contexts.values import (
    ConfiguredCredentials,
    HostAddress,
    Identification,
    IkeExtension,
    IkeProposal,
    IkeSpis,
    IkeVersion,
    MessageIds,
    Nonces,
    SharedSecret,
)
from cxtp.constants import IkePayload as Payload
from cxtp.message_id_agreement import MARGIN, MessageIdAgreement
from kernel.network import Network
from kernel.strongswan import Bed, Charon
from kernel.strongswan_kinds import GATEWAY, KINDS

KIND = KINDS["psk-gcm"]
PROPOSAL = IkeProposal(20, 128, 0, 0, 5, 31)  # aes128gcm16-prfsha256-x25519, what the client offers
RESPONSE = 0x20
ID_FQDN = b"\2\0\0\0"
SHARED_KEY = b"\2\0\0\0"
SUPPORTED, NO_PROPOSAL_CHOSEN = b"\0\0" + (16420).to_bytes(2, "big"), b"\0\0\0\x0e"


class Responder:
    """Up to the end of IKE_AUTH, without a CHILD_SA."""

    def __init__(self, network: Network) -> None:
        self.address = network.ipv4("a")
        with network.inside("a"):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(30)
        self.socket.bind((str(self.address), 500))

    def serve(self) -> IkeSaContext:
        """The IKE_SA that the client made."""
        request, client = self.socket.recvfrom(4096)
        header, items, _ = split_message(request)
        sa, key_exchange, nonce = (
            next(item.body for item in items if item.type == kind)
            for kind in (Payload.SECURITY_ASSOCIATION, Payload.KEY_EXCHANGE, Payload.NONCE)
        )
        private, own_nonce = X25519PrivateKey.generate(), os.urandom(32)
        spis = IkeSpis(header.spis.initiator, int.from_bytes(os.urandom(8), "big"))
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        answer = [
            IkePayloadItem(Payload.SECURITY_ASSOCIATION, sa),  # it offers one transform of each type
            IkePayloadItem(Payload.KEY_EXCHANGE, key_exchange[:4] + public),
            IkePayloadItem(Payload.NONCE, own_nonce),
        ]
        first, chain = build_payloads(answer)
        response = build_header(IkeHeader(spis, first, 34, RESPONSE, 0, 28 + len(chain))) + chain
        self.socket.sendto(response, client)
        secret = private.exchange(X25519PublicKey.from_public_bytes(key_exchange[4:]))
        keying = SharedSecret(secret, Nonces(nonce, own_nonce))
        context = IkeSaContext(
            version=IkeVersion(),
            initiator=False,
            local_host=HostAddress(self.address, 500),
            remote_host=HostAddress(KIND.client, client[1]),
            spis=spis,
            message_ids=MessageIds(0, 2),
            keying=keying,
            proposal=PROPOSAL,
            extensions=IkeExtension.MESSAGE_ID_SYNC,
            local_identity=Identification(2, GATEWAY.encode()),
            remote_identity=Identification(2, KIND.identity.encode()),
            credentials=ConfiguredCredentials(KIND.name),
        )
        self._authenticate(context, keying, response, nonce)
        return context

    def _authenticate(self, context: IkeSaContext, keying: SharedSecret, sent: bytes, their_nonce: bytes) -> None:
        session = IkeSaSession(context)
        opened = None
        while opened is None:  # it may have said IKE_SA_INIT once more
            request, client = self.socket.recvfrom(4096)
            opened = session.open(request)
        assert any(item.type == Payload.NOTIFY and item.body == SUPPORTED for item in opened.payloads)
        identity = ID_FQDN + GATEWAY.encode()
        sk_pr = derive_ike_keys(keying, PROPOSAL, context.spis).sk_pr
        signed = sent + their_nonce + prf(PROPOSAL.prf, sk_pr, identity)  # RFC 7296, 2.15
        padded = prf(PROPOSAL.prf, f"the secret of {KIND.name}".encode(), b"Key Pad for IKEv2")
        payloads = [
            IkePayloadItem(Payload.IDENTIFICATION_RESPONDER, identity),
            IkePayloadItem(Payload.AUTHENTICATION, SHARED_KEY + prf(PROPOSAL.prf, padded, signed)),
            IkePayloadItem(Payload.NOTIFY, SUPPORTED),
            IkePayloadItem(Payload.NOTIFY, NO_PROPOSAL_CHOSEN),
        ]
        self.socket.sendto(session.seal(35, 1, payloads, os.urandom(8), response=True), client)


@pytest.fixture(scope="module")
def client() -> Iterator[Charon]:
    network = Network("client", "a")
    made = Bed(network, [KIND], ())
    connection = made.client.connections[KIND.name]
    connection["remote_addrs"] = [str(network.ipv4("a"))]
    network.run("client", "ip", "addr", "add", f"{KIND.client}/32", "dev", "eth0")
    network.run("a", "ip", "route", "add", f"{KIND.client}/32", "dev", "eth0")
    made.client.start()
    yield made.client
    made.close()
    network.close()


def test_the_client_and_the_heir_of_its_gateway_agree(client: Charon) -> None:
    async def main() -> None:
        responder = Responder(client.network)
        serving = asyncio.create_task(asyncio.to_thread(responder.serve))
        initiating = asyncio.create_task(asyncio.to_thread(client.initiate, KIND.child()))
        context = await serving
        await asyncio.gather(initiating, return_exceptions=True)  # there is no CHILD_SA, and it says so
        client.wait_for(rf"IKE_SA {KIND.name}\[\d+\] established")
        agreement = MessageIdAgreement(lambda context, number: None, "a")
        try:
            agreed = await agreement.agree(context)
        finally:
            agreement.close()
        client.wait_for("responder requested MID sync")
        assert agreed.next_request_to_send >= context.message_ids.next_request_to_send + MARGIN
        # What they agreed on holds: our next request is answered, theirs comes under the number that we expect.
        session = IkeSaSession(context)
        responder.socket.settimeout(20)
        request = session.seal(37, agreed.next_request_to_send, (), os.urandom(8))
        responder.socket.sendto(request, (str(KIND.client), context.remote_host.port))
        client.rekey(ike=KIND.name)
        seen = {}
        while len(seen) < 2:
            message, _ = responder.socket.recvfrom(4096)
            opened = session.open(message)
            assert opened is not None
            seen[opened.header.response] = opened.header.message_id
            if opened.header.response and opened.header.message_id == 0:
                del seen[True]  # the answer to the synchronisation, which the socket got too
        assert seen == {True: agreed.next_request_to_send, False: agreed.next_request_expected}
        responder.socket.close()

    asyncio.run(main())
