"""Message IDs that a cluster and its peer agree on after a take-over (RFC 6311, 5.1 and 7): the two messages.

The member that took over says what it would send and expect next; the peer answers with numbers above all that either
side has used.  Both are INFORMATIONAL messages with Message ID 0, which no other of these has by then.
"""

from __future__ import annotations

import hmac

from contexts.values import MessageIds
from cxtp.constants import IkeExchange, IkePayload
from cxtp.errors import LocalError, ProtectionError

from .ike import IkeSaSession
from .ike_message import IkePayloadItem

IKEV2_MESSAGE_ID_SYNC = 16422
"""The Notify Message Type (RFC 6311, 7)."""

NONCE_OCTETS = 4
_NUMBER_OCTETS = 4
_NOTIFY_HEADER = bytes(2) + IKEV2_MESSAGE_ID_SYNC.to_bytes(2, "big")  # no protocol, no SPI (RFC 7296, 3.10)
_SECTION = "RFC 6311, 5.1"


def build_synchronisation(session: IkeSaSession, nonce: bytes, message_ids: MessageIds, iv: bytes) -> bytes:
    """The request.  ``message_ids``: the next request that we would send (M1), above all that the cluster can have
    sent, and the one that we expect (P1).  ``nonce`` has 4 octets, ``iv`` ``session.iv_octets``.

    Raises LocalError.
    """
    numbers = (message_ids.next_request_to_send, message_ids.next_request_expected)
    if len(nonce) != NONCE_OCTETS or not all(0 <= number < 1 << 8 * _NUMBER_OCTETS for number in numbers):
        raise LocalError("a nonce of 4 octets and Message IDs of 32 bits are wanted")
    data = b"".join(number.to_bytes(_NUMBER_OCTETS, "big") for number in numbers)
    notify = IkePayloadItem(IkePayload.NOTIFY, _NOTIFY_HEADER + nonce + data)
    return session.seal(IkeExchange.INFORMATIONAL, 0, [notify], iv)


def read_synchronisation(session: IkeSaSession, message: bytes, nonce: bytes) -> MessageIds:
    """What the peer's answer means for us: the next request to send (M2) and the one to expect (P2).

    Raises ProtectionError for whatever is no answer to the request with that nonce.
    """
    opened = session.open(message)
    if opened is None or not opened.header.response or opened.header.from_initiator is session.context.initiator:
        raise ProtectionError("no response of the peer's", section=_SECTION)
    if (opened.header.exchange_type, opened.header.message_id) != (IkeExchange.INFORMATIONAL, 0):
        raise ProtectionError("no INFORMATIONAL with Message ID 0", section=_SECTION)
    for item in opened.payloads:
        if item.type == IkePayload.NOTIFY and item.body.startswith(_NOTIFY_HEADER):
            data = item.body[len(_NOTIFY_HEADER) :]
            if len(data) != NONCE_OCTETS + 2 * _NUMBER_OCTETS:
                raise ProtectionError(f"IKEV2_MESSAGE_ID_SYNC of {len(data)} octets", section="RFC 6311, 7")
            if not hmac.compare_digest(data[:NONCE_OCTETS], nonce):
                raise ProtectionError("another nonce than that of the request", section=_SECTION)
            expected_send, expected_receive = data[NONCE_OCTETS : -_NUMBER_OCTETS], data[-_NUMBER_OCTETS:]
            # The peer's view: what it will send is what we are to expect.
            return MessageIds(int.from_bytes(expected_receive, "big"), int.from_bytes(expected_send, "big"))
    raise ProtectionError("no IKEV2_MESSAGE_ID_SYNC", section=_SECTION)
