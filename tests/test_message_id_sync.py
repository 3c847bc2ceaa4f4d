"""IKEV2_MESSAGE_ID_SYNC (RFC 6311), octet by octet by the RFC's figure, and refused where it is not the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session_examples import ike_context, octets

from contexts.ikev2 import IkeSaContext
from contexts.session import IkeSaSession
from contexts.session.ike_message import IkePayloadItem
from contexts.session.message_id_sync import build_synchronisation, read_synchronisation
from contexts.values import IkeProposal, MessageIds, Nonces, SharedSecret
from cxtp.errors import LocalError, ProtectionError

NONCE = bytes.fromhex("a1a2a3a4")
IV = bytes(range(8))
NOTIFY = 41


@pytest.fixture
def context() -> IkeSaContext:
    proposal = IkeProposal(20, 128, 0, 0, 5, 31)  # AES-GCM with 16 octets of ICV, PRF_HMAC_SHA2_256, Curve25519
    nonces = Nonces(octets(32), octets(32, 1))
    return ike_context(proposal, SharedSecret(octets(32, 2), nonces))


def peer_of(context: IkeSaContext) -> IkeSaSession:
    return IkeSaSession(replace(context, initiator=not context.initiator))


def answer(
    context: IkeSaContext, data: str, *, message_id: int = 0, response: bool = True, exchange: int = 37
) -> bytes:
    """RFC 6311, 7: Protocol ID 0, SPI Size 0, type 16422, then ``data``: nonce, expected send, expected receive."""
    notify = IkePayloadItem(NOTIFY, bytes.fromhex("00 00 40 26" + data))
    return peer_of(context).seal(exchange, message_id, [notify], IV, response=response)


def test_the_request_has_the_rfcs_layout(context: IkeSaContext) -> None:
    request = build_synchronisation(IkeSaSession(context), NONCE, MessageIds(0x1005, 0x77), IV)
    opened = peer_of(context).open(request)
    assert opened is not None
    assert (opened.header.exchange_type, opened.header.message_id, opened.header.response) == (37, 0, False)
    (item,) = opened.payloads
    assert item.type == NOTIFY
    assert item.body == bytes.fromhex("00 00 4026  a1a2a3a4  00001005  00000077")


def test_the_answer_is_the_peers_view(context: IkeSaContext) -> None:
    """It will send 0x99 and expects 0x1006: so we expect 0x99 and send 0x1006."""
    message = answer(context, "a1a2a3a4 00000099 00001006")
    assert read_synchronisation(IkeSaSession(context), message, NONCE) == MessageIds(0x1006, 0x99)


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        ("a1a2a3a5 00000099 00001006", {}, "another nonce"),
        ("a1a2a3a4 00000099", {}, "of 8 octets"),
        ("a1a2a3a4 00000099 00001006 00", {}, "of 13 octets"),
        ("a1a2a3a4 00000099 00001006", {"response": False}, "no response"),
        ("a1a2a3a4 00000099 00001006", {"message_id": 1}, "Message ID 0"),
        ("a1a2a3a4 00000099 00001006", {"exchange": 36}, "INFORMATIONAL"),
    ],
)
def test_what_is_no_answer(context: IkeSaContext, data: str, options: dict[str, int], reason: str) -> None:
    with pytest.raises(ProtectionError, match=reason):
        read_synchronisation(IkeSaSession(context), answer(context, data, **options), NONCE)  # type: ignore[arg-type]


def test_our_own_message_and_another_notify_are_no_answer(context: IkeSaContext) -> None:
    session = IkeSaSession(context)
    ours = session.seal(37, 0, [IkePayloadItem(NOTIFY, bytes(4))], IV, response=True)
    with pytest.raises(ProtectionError, match="no response of the peer's"):
        read_synchronisation(session, ours, NONCE)
    other = peer_of(context).seal(37, 0, [IkePayloadItem(NOTIFY, bytes.fromhex("00004024"))], IV, response=True)
    with pytest.raises(ProtectionError, match="no IKEV2_MESSAGE_ID_SYNC"):
        read_synchronisation(session, other, NONCE)


def test_what_can_not_be_asked(context: IkeSaContext) -> None:
    session = IkeSaSession(context)
    for nonce, message_ids in ((NONCE[:3], MessageIds(1, 1)), (NONCE, MessageIds(1 << 32, 1))):
        with pytest.raises(LocalError):
            build_synchronisation(session, nonce, message_ids, IV)
