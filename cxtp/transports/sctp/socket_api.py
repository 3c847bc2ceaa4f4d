"""The octets of the SCTP socket API (RFC 6458) as Linux has it: options, ancillary data, notifications.

Python's socket module passes them on as octets, in the machine's own order but for the PPID, which nobody swaps.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Union

IPPROTO_SCTP = 132
MSG_NOTIFICATION = 0x8000
END_OF_RECORD = 0x80  # MSG_EOR

# Options (linux/sctp.h).
_RTO_INFORMATION = 0
_ASSOCIATION_INFORMATION = 1
_INITIAL_MESSAGE = 2
_NO_DELAY = 3
_PEER_ADDRESS_PARAMETERS = 9
_DELAYED_SACK = 16
_RECEIVE_INFORMATION = 32
_EVENT = 127

# Ancillary data.
_SEND_INFORMATION = 2
_RECEIVE_INFORMATION_DATA = 3
_PARTIAL_RELIABILITY = 5

_UNORDERED = 1
_ABORT = 0x0004
_LIFETIME_POLICY = 0x0010  # PR-SCTP: abandon after so many milliseconds (RFC 3758, 3.4)

_SEND_FORMAT = struct.Struct("=HH4sIi")
_RECEIVE_FORMAT = struct.Struct("=HHH2x4sIIIi")
_LIFETIME_FORMAT = struct.Struct("=H2xI")
_SENDING_FAILED_HEADER = struct.Struct("=HHII")
_ASSOCIATION_CHANGE = struct.Struct("=HHIHHHHi")


class NotificationType(IntEnum):
    """sn_type (RFC 6458, 6.1)."""

    ASSOCIATION_CHANGE = 0x8001
    PEER_ADDRESS_CHANGE = 0x8002
    SEND_FAILED = 0x8003
    REMOTE_ERROR = 0x8004
    SHUTDOWN = 0x8005
    PARTIAL_DELIVERY = 0x8006
    ADAPTATION_INDICATION = 0x8007
    AUTHENTICATION = 0x8008
    SENDER_DRY = 0x8009
    STREAM_RESET = 0x800A
    ASSOCIATION_RESET = 0x800B
    STREAM_CHANGE = 0x800C
    SEND_FAILED_EVENT = 0x800D


class AssociationState(IntEnum):
    """sac_state (RFC 6458, 6.1.1)."""

    COMMUNICATION_UP = 0
    COMMUNICATION_LOST = 1
    RESTART = 2
    SHUTDOWN_COMPLETE = 3
    CANNOT_START = 4


SUBSCRIBED = (
    NotificationType.ASSOCIATION_CHANGE,
    NotificationType.SHUTDOWN,
    NotificationType.REMOTE_ERROR,
    NotificationType.PARTIAL_DELIVERY,
    NotificationType.SEND_FAILED_EVENT,
)


@dataclass(frozen=True)
class AssociationChange:
    """An association came, went, or its peer started anew."""

    state: int
    error: int
    association: int


@dataclass(frozen=True)
class SendFailure:
    """A message that was accepted for sending and not delivered."""

    association: int
    error: int


@dataclass(frozen=True)
class PartialDeliveryAborted:
    """The rest of a message that was being delivered in pieces will not come (RFC 6458, 6.1.7)."""

    association: int


@dataclass(frozen=True)
class OtherNotification:
    """One that tells nothing that we act on; ``flags`` and the type are kept for the counter."""

    kind: int


Notification = Union[AssociationChange, SendFailure, PartialDeliveryAborted, OtherNotification]


@dataclass(frozen=True)
class Received:
    """What the kernel says of a message's piece: its stream, PPID, whether it came unordered, and the association."""

    stream: int
    unordered: bool
    payload_protocol_identifier: int
    association: int


def parse_notification(octets: bytes) -> Notification | None:
    """None for what is no notification."""
    if len(octets) < 8:
        return None
    (kind,) = struct.unpack_from("=H", octets)
    if kind == NotificationType.ASSOCIATION_CHANGE and len(octets) >= _ASSOCIATION_CHANGE.size:
        _, _, _, state, error, _, _, association = _ASSOCIATION_CHANGE.unpack_from(octets)
        return AssociationChange(state, error, association)
    if kind == NotificationType.SEND_FAILED_EVENT and len(octets) >= 32:
        # header 8, error 4, sctp_sndinfo 16, association 4
        (error,) = struct.unpack_from("=I", octets, 8)
        (association,) = struct.unpack_from("=i", octets, 28)
        return SendFailure(association, error)
    if kind == NotificationType.PARTIAL_DELIVERY and len(octets) >= 16:
        # header 8, indication 4, association 4: Linux has it before the stream, RFC 6458 after
        indication, association = struct.unpack_from("=Ii", octets, 8)
        if indication == 0:  # SCTP_PARTIAL_DELIVERY_ABORTED, the only one there is
            return PartialDeliveryAborted(association)
    return OtherNotification(kind)


def parse_received(ancillary: list[tuple[int, int, bytes]]) -> Received | None:
    """From recvmsg's ancillary data; None where the kernel told nothing."""
    for level, kind, octets in ancillary:
        if (level, kind) == (IPPROTO_SCTP, _RECEIVE_INFORMATION_DATA) and len(octets) >= _RECEIVE_FORMAT.size:
            stream, _, flags, identifier, _, _, _, association = _RECEIVE_FORMAT.unpack_from(octets)
            return Received(stream, bool(flags & _UNORDERED), int.from_bytes(identifier, "big"), association)
    return None


def sending(payload_protocol_identifier: int, lifetime_ms: int) -> list[tuple[int, int, bytes]]:
    """Ancillary data for one message: stream 0, unordered, this PPID, abandoned after so many milliseconds."""
    identifier = payload_protocol_identifier.to_bytes(4, "big")
    return [
        (IPPROTO_SCTP, _SEND_INFORMATION, _SEND_FORMAT.pack(0, _UNORDERED, identifier, 0, 0)),
        (IPPROTO_SCTP, _PARTIAL_RELIABILITY, _LIFETIME_FORMAT.pack(_LIFETIME_POLICY, lifetime_ms)),
    ]


def aborting(association: int) -> list[tuple[int, int, bytes]]:
    """Ancillary data that ends an association at once."""
    return [(IPPROTO_SCTP, _SEND_INFORMATION, _SEND_FORMAT.pack(0, _ABORT, bytes(4), 0, association))]


def set_streams(sock: socket.socket, streams: int, attempts: int, timeout_ms: int) -> None:
    """So many in each direction; INIT is sent so often, at most so far apart."""
    sock.setsockopt(IPPROTO_SCTP, _INITIAL_MESSAGE, struct.pack("=HHHH", streams, streams, attempts, timeout_ms))


def set_retransmission(sock: socket.socket, initial_ms: int, maximum_ms: int, minimum_ms: int) -> None:
    """The retransmission timer's bounds (RFC 9260, 6.3.1)."""
    sock.setsockopt(IPPROTO_SCTP, _RTO_INFORMATION, struct.pack("=iIII", 0, initial_ms, maximum_ms, minimum_ms))


def set_maximum_retransmissions(sock: socket.socket, count: int) -> None:
    """So many in a row without an answer, and the association is lost (RFC 9260, 8.1)."""
    sock.setsockopt(IPPROTO_SCTP, _ASSOCIATION_INFORMATION, struct.pack("=iHHIII", 0, count, 0, 0, 0, 0))


def set_sack_delay(sock: socket.socket, milliseconds: int, packets: int) -> None:
    """Acknowledge after so long or so many packets (RFC 6458, 8.1.19)."""
    sock.setsockopt(IPPROTO_SCTP, _DELAYED_SACK, struct.pack("=iII", 0, milliseconds, packets))


def set_heartbeat(sock: socket.socket, interval_ms: int) -> None:
    """How often an idle association is asked whether it lives (RFC 9260, 8.3; RFC 6458, 8.1.12)."""
    enable = 0x01
    # ... flow label 32, DSCP 8, padding 8
    option = struct.pack("=i128sIHIIIIBx", 0, bytes(128), interval_ms, 0, 0, 0, enable, 0, 0)
    sock.setsockopt(IPPROTO_SCTP, _PEER_ADDRESS_PARAMETERS, option)


def set_no_delay(sock: socket.socket) -> None:
    """Send each message at once: nothing waits to be bundled with the next."""
    sock.setsockopt(IPPROTO_SCTP, _NO_DELAY, 1)


def subscribe(sock: socket.socket) -> None:
    """Be told of each message's PPID and association, and of what becomes of associations."""
    sock.setsockopt(IPPROTO_SCTP, _RECEIVE_INFORMATION, 1)
    for kind in SUBSCRIBED:
        sock.setsockopt(IPPROTO_SCTP, _EVENT, struct.pack("=iHBx", 0, kind, 1))
