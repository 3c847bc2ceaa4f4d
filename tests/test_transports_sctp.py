"""SCTP without a kernel that has it: the layouts of RFC 6458 as linux/sctp.h declares them."""

from __future__ import annotations

import asyncio
import errno
import struct
from ipaddress import ip_address

import pytest

from cxtp.errors import ConfigurationError, TransportError
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


def test_what_is_sent_is_unordered_on_stream_0_with_the_ppid_and_a_lifetime() -> None:
    """RFC 6458, 5.3.4 and 5.3.7: SCTP_SNDINFO is 2, SCTP_PRINFO 5; SCTP_UNORDERED is 1, SCTP_PR_SCTP_TTL 0x10."""
    assert api.sending(0x43585450, 200) == [
        (132, 2, struct.pack("=HH", 0, 1) + b"CXTP" + struct.pack("=Ii", 0, 0)),
        (132, 5, struct.pack("=HHI", 0x10, 0, 200)),
    ]


def test_what_is_received_says_stream_ppid_order_and_association() -> None:
    info = struct.pack("=HHHH", 0, 3, 1, 0) + b"CXTP" + struct.pack("=IIIi", 1, 1, 0, 7)
    assert api.parse_received([(41, 52, b"else"), (132, 3, info)]) == api.Received(0, True, 0x43585450, 7)
    assert api.parse_received([(132, 3, info[:20])]) is None
    assert api.parse_received([]) is None


def test_the_wildcard_is_refused() -> None:
    """It would offer all addresses: multihoming, which RFC 4067, 3.1 does not want."""
    for address in ("0.0.0.0", "::"):
        with pytest.raises(ConfigurationError, match="one address"):
            SctpEndpoint((ip_address(address), 5091), [], lambda octets, peer: None)


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT])
def test_a_kernel_without_sctp_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(number, "not supported")

    async def run() -> None:
        endpoint = SctpEndpoint((ip_address("127.0.0.1"), 5091), [], lambda octets, peer: None)
        with monkeypatch.context() as patch:
            patch.setattr("socket.socket", refuse)
            with pytest.raises(TransportError, match=r"modprobe sctp.*--transport tls"):
                await endpoint.start()

    asyncio.run(run())
