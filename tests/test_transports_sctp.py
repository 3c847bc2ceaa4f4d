"""SCTP without a kernel that has it: the layouts of RFC 6458 as linux/sctp.h declares them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from cxtp.roles.events import Peer
from cxtp.transports.endpoint import Router
from cxtp.transports.sctp import SctpEndpoint
from cxtp.transports.sctp import socket_api as api


def test_notifications_are_read_as_linux_lays_them_out() -> None:
    change = struct.pack("=HHIHHHHi", 0x8001, 0, 20, 1, 0, 1, 1, 7)
    assert api.parse_notification(change) == api.AssociationChange(1, 0, 7)
    failed = struct.pack("=HHIIHHIIii", 0x800D, 0, 32, 5, 0, 1, 0, 0, 3, 9)
    assert api.parse_notification(failed) == api.SendFailure(9, 5)
    aborted = struct.pack("=HHIIiII", 0x8006, 0, 24, 0, 7, 0, 0)
    assert api.parse_notification(aborted) == api.PartialDeliveryAborted(7)


@pytest.mark.parametrize("length", range(20))
def test_a_cut_notification_is_no_association_change(length: int) -> None:
    change = struct.pack("=HHIHHHHi", 0x8001, 0, 20, 1, 0, 1, 1, 7)[:length]
    assert not isinstance(api.parse_notification(change), api.AssociationChange)


def test_an_aborted_partial_delivery_leaves_nothing_before_the_next_message() -> None:
    got: list[tuple[bytes, Peer]] = []
    router = Router("a", ip_address("192.0.2.1"))
    endpoint = SctpEndpoint(
        (ip_address("192.0.2.2"), 5091), [router], lambda *message: got.append(message), payload_protocol_identifier=6
    )
    up = struct.pack("=HHIHHHHi", 0x8001, 0, 20, 0, 0, 1, 1, 7)
    endpoint._notified(up, ("192.0.2.1", 5091))
    about = api.Received(0, True, 6, 7)
    endpoint._piece(b"begun", about, complete=False)
    endpoint._notified(struct.pack("=HHIIiII", 0x8006, 0, 24, 0, 7, 0, 0), ("192.0.2.1", 5091))
    endpoint._piece(b"next", about, complete=True)
    assert [octets for octets, _ in got] == [b"next"]
    assert endpoint.counters["partial_delivery_aborted"] == 1
