"""UDP endpoints on loopback: datagrams in, datagrams out, and what is dropped under which name."""

from __future__ import annotations

import asyncio
import secrets
import socket
from ipaddress import ip_address

import pytest
from node_helpers import until

from cxtp.errors import ConfigurationError, TransportError
from cxtp.messages import IPAddress
from cxtp.roles.events import Peer
from cxtp.transports.endpoint import Router, parse_socket_address
from cxtp.transports.udp import UdpEndpoint

V4, V6 = ip_address("127.0.0.1"), ip_address("::1")


class Inbox:
    """What an endpoint received."""

    def __init__(self) -> None:
        self.items: list[tuple[bytes, Peer]] = []

    def __call__(self, octets: bytes, peer: Peer) -> None:
        self.items.append((octets, peer))


async def pair(address: IPAddress) -> tuple[UdpEndpoint, Inbox, UdpEndpoint, Inbox]:
    """b knows a as a router; a knows nobody."""
    at_a, at_b = Inbox(), Inbox()
    a = UdpEndpoint((address, 0), [], at_a)
    await a.start()
    b = UdpEndpoint((address, 0), [Router("a", *a.address)], at_b)
    await b.start()
    return a, at_a, b, at_b


@pytest.mark.parametrize("address", [V4, V6], ids=str)
def test_a_datagram_is_one_message_and_its_source_tells_the_router(address: IPAddress) -> None:
    async def main() -> None:
        a, at_a, b, at_b = await pair(address)
        a.send(b"to b", Peer(*b.address, name="b", is_router=True))
        await until(lambda: bool(at_b.items))
        ((octets, peer),) = at_b.items
        assert octets == b"to b"
        assert peer == Peer(*a.address, name="a", reliable=False, is_router=True)
        b.send(b"to a", peer)
        await until(lambda: bool(at_a.items))
        ((octets, peer),) = at_a.items
        # a knows no router there: it may be a mobile node, and has no name.
        assert (octets, peer) == (b"to a", Peer(*b.address, name="", is_router=False))
        assert (a.counters, b.counters) == ({"sent": 1, "received": 1}, {"sent": 1, "received": 1})
        await a.close()
        await b.close()

    asyncio.run(main())


@pytest.mark.parametrize(("address", "largest"), [(V4, 65_507), (V6, 65_527)], ids=str)
def test_the_largest_datagram_and_one_octet_more(address: IPAddress, largest: int) -> None:
    """65,535 octets less UDP's header of 8, and with IPv4, whose Total Length counts it, its header of 20."""

    async def main() -> None:
        a, _, b, at_b = await pair(address)
        assert a.maximum_message == largest
        message = secrets.token_bytes(largest)
        a.send(message, Peer(*b.address))
        await until(lambda: bool(at_b.items))
        assert at_b.items[0][0] == message
        a.send(message + b"\0", Peer(*b.address))
        assert a.counters == {"sent": 1, "send_too_large": 1}
        await a.close()
        await b.close()

    asyncio.run(main())


def test_an_address_of_another_port_is_no_router() -> None:
    async def main() -> None:
        _, _, b, at_b = await pair(V4)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"hello", (str(b.address[0]), b.address[1]))
            await until(lambda: bool(at_b.items))
            _, peer = at_b.items[0]
            assert (peer.name, peer.is_router, peer.port) == ("", False, stranger.getsockname()[1])
        await b.close()

    asyncio.run(main())


def test_nobody_listens() -> None:
    """The kernel's ICMP error is counted by its name; whether to send again is for the roles."""

    async def main() -> None:
        a, _, b, _ = await pair(V4)
        gone = Peer(*b.address)
        await b.close()
        a.send(b"anybody?", gone)
        # Linux tells an unconnected socket of it only where that asked: sending goes on either way.
        a.send(b"anybody?", gone)
        assert a.counters["sent"] == 2
        a.error_received(ConnectionRefusedError(111, "refused"))
        assert a.counters["error_ECONNREFUSED"] == 1
        a.error_received(ValueError())  # type: ignore[arg-type]
        assert a.counters["error_unknown"] == 1
        await a.close()

    asyncio.run(main())


def test_an_address_of_the_other_family_is_counted_not_raised() -> None:
    async def main() -> None:
        a, _, b, _ = await pair(V4)
        a.send(b"x", Peer(V6, 5091))
        assert sum(n for name, n in a.counters.items() if name.startswith("error_")) == 1
        await a.close()
        await b.close()

    asyncio.run(main())


def test_the_kernels_buffer_is_full() -> None:
    async def main() -> None:
        a, _, b, at_b = await pair(V4)
        a.pause_writing()
        a.send(b"dropped", Peer(*b.address))
        a.resume_writing()
        a.send(b"sent", Peer(*b.address))
        await until(lambda: bool(at_b.items))
        assert [octets for octets, _ in at_b.items] == [b"sent"]
        assert a.counters == {"send_queue_full": 1, "sent": 1}
        await a.close()
        await b.close()

    asyncio.run(main())


def test_before_the_start_and_after_the_end() -> None:
    async def main() -> None:
        a = UdpEndpoint((V4, 0), [], Inbox())
        await a.close()
        with pytest.raises(TransportError, match="not started"):
            _ = a.address
        a.send(b"x", Peer(V4, 5091))
        await a.start()
        _, port = a.address
        with pytest.raises(TransportError, match=f"port {port}: Address already in use"):
            await UdpEndpoint((V4, port), [], Inbox()).start()
        await a.close()
        a.send(b"x", Peer(V4, 5091))
        assert a.counters == {"send_after_close": 2}
        again = UdpEndpoint((V4, port), [], Inbox())
        await again.start()  # the port is free
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize("off", ["192.0.2.1", "2001:db8::1", "0.0.0.0", "::"])
def test_every_address_off_loopback_is_refused(off: str) -> None:
    for listen, router in ((off, "127.0.0.1"), ("127.0.0.1", off)):
        with pytest.raises(ConfigurationError, match="--allow-cleartext-keys-on-the-network") as refused:
            UdpEndpoint((ip_address(listen), 0), [Router("b", ip_address(router))], Inbox())
        assert off in str(refused.value)


# --- how routers are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 5091),
        ("192.0.2.1:6000", "192.0.2.1", 6000),
        ("2001:db8::1", "2001:db8::1", 5091),
        ("[2001:db8::1]", "2001:db8::1", 5091),
        ("[2001:db8::1]:6000", "2001:db8::1", 6000),
        ("127.0.0.1:0", "127.0.0.1", 0),
    ],
)
def test_addresses_as_they_are_written(text: str, address: str, port: int) -> None:
    assert parse_socket_address(text) == (ip_address(address), port)
    assert Router.parse(f"beta={text}") == Router("beta", ip_address(address), port)


@pytest.mark.parametrize(
    "text",
    ["", ":5", "example.org", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:65536", "192.0.2.1:-1", "[::1", "[::1]6", "[]:6"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no IP address"):
        parse_socket_address(text)


@pytest.mark.parametrize("text", ["beta", "=192.0.2.1", "192.0.2.1"])
def test_a_router_has_a_name_and_an_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write NAME=ADDRESS"):
        Router.parse(text)
