"""CXTP in ICMP between mobile nodes and routers, through the real kernel's raw sockets (RFC 4067, 3.2; RFC 4065)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from cxtp.adapters.xfrm import XfrmClient, XfrmError
from cxtp.config import ProtocolConfig, Timers
from cxtp.errors import ConfigurationError, TransportError
from cxtp.messages import ContextTransferActivateAcknowledge, ContextTransferActivateRequest, ContextTransferCancel
from cxtp.mobile import MobileNodeClient
from cxtp.privileges import Capability, drop_privileges
from cxtp.roles.events import Peer
from cxtp.transports.icmp import IcmpEndpoint, open_icmp_socket
from cxtp.wire import IcmpMessage, build, build_icmp, parse
from kernel.network import Network

MN = {4: ip_address("192.0.2.100"), 6: ip_address("2001:db8::100")}
KEY = bytes(range(16))
CLOCK = 0.02
"""Seconds: how exactly timers are kept, and read."""
both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("mobile", "previous", "new")
    yield made
    made.close()


class End:
    """An ICMP endpoint, and what it got."""

    def __init__(self, network: Network, name: str, version: int) -> None:
        self.network, self.name = network, name
        self.received: list[tuple[bytes, Peer]] = []
        self.address = network.address(name, version)
        self.endpoint = IcmpEndpoint(self.address, lambda octets, peer: self.received.append((octets, peer)))

    async def start(self) -> None:
        with self.network.inside(self.name):
            await self.endpoint.start()


@asynccontextmanager
async def ends(network: Network, version: int) -> AsyncIterator[tuple[End, End]]:
    mobile, new = End(network, "mobile", version), End(network, "new", version)
    await mobile.start()
    await new.start()
    try:
        yield mobile, new
    finally:
        await mobile.endpoint.close()
        await new.endpoint.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


def ctar(version: int) -> bytes:
    return build(
        ContextTransferActivateRequest(
            mn_previous_address=MN[version],
            access_router_address=MN[version] + 1,
            sequence_number=7,
            authorization_token=b"tokn",
            acknowledge=True,
        )
    )


def raw(network: Network, version: int) -> socket.socket:
    """The mobile node's raw socket, to forge with."""
    with network.inside("mobile"):
        family, protocol = ((socket.AF_INET, 1), (socket.AF_INET6, 58))[version == 6]
        made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.bind((str(network.address("mobile", version)), 0))
    return made


def tshark(capture: Path, *arguments: str) -> list[dict[str, object]]:
    command = ["tshark", "-r", str(capture), "-T", "json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


@both_versions
def test_a_request_and_its_answer_and_what_is_on_the_wire(network: Network, version: int, tmp_path: Path) -> None:
    answer = build(ContextTransferActivateAcknowledge(mn_previous_address=MN[version]))

    async def main() -> None:
        async with ends(network, version) as (mobile, new):
            mobile.endpoint.send(ctar(version), Peer(new.address, 0))
            await until(lambda: bool(new.received))
            octets, peer = new.received[0]
            assert (octets, peer) == (ctar(version), Peer(mobile.address, 0))
            new.endpoint.send(answer, peer)
            await until(lambda: bool(mobile.received))
            assert mobile.received == [(answer, Peer(new.address, 0))]

    with network.capture("new", tmp_path / "icmp.pcap") as capture:
        asyncio.run(main())
    layer, ip, number, hop = (
        ("icmp", "ip", "41", "ip.ttl") if version == 4 else ("icmpv6", "ipv6", "150", "ipv6.hlim")
    )
    packets = tshark(capture, "-Y", f"{layer}.type == {number}", "-o", "ip.check_checksum:TRUE")
    assert len(packets) == 2
    for packet in packets:
        fields = packet[layer]
        assert isinstance(fields, dict)
        assert fields[f"{layer}.code"] == "0"
        assert fields[f"{layer}.checksum.status"] == "1"  # good, says tshark
        outer = packet[ip]
        assert isinstance(outer, dict)
        assert outer[hop] == "255"
        if version == 4:  # behind type 150 Wireshark looks for FMIPv6 (RFC 5568) and finds none
            assert "_ws.malformed" not in packet
    octets = capture.read_bytes()
    for message in (ctar(version), answer):
        at = octets.index(message)
        assert octets[at - 4 : at] == bytes((1, 0, 0, 0))  # subtype CXTP, reserved (RFC 4065, 8)


@both_versions
@pytest.mark.parametrize(
    ("what", "counter"),
    [
        ("another hop limit", "hop_limit"),
        ("a code", "malformed_code"),
        ("CARD", "card"),
        ("another subtype", "malformed_subtype"),
        ("a CTC", "not_for_icmp"),
    ],
)
def test_what_is_not_taken(network: Network, version: int, what: str, counter: str) -> None:
    async def main() -> None:
        async with ends(network, version) as (mobile, new):
            number = 41 if version == 4 else 150
            addresses = (mobile.address, new.address)
            message = ctar(version)
            if what == "a CTC":
                message = build(ContextTransferCancel(mn_previous_address=MN[version]))
            changed: dict[str, dict[str, int]] = {
                "a code": {"code": 1}, "CARD": {"subtype": 0}, "another subtype": {"subtype": 9}
            }  # fmt: skip
            packet = build_icmp(IcmpMessage(number, message, **changed.get(what, {})), addresses)
            with raw(network, version) as sock:
                limit = 254 if what == "another hop limit" else 255
                option = (socket.IPPROTO_IP, socket.IP_TTL) if version == 4 else (
                    socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
                )  # fmt: skip
                sock.setsockopt(*option, limit)
                sock.sendto(packet, (str(new.address), 0))
            await until(lambda: new.endpoint.counters[counter] == 1)
            mobile.endpoint.send(ctar(version), Peer(new.address, 0))
            await until(lambda: len(new.received) == 1)
            assert new.endpoint.counters == Counter({counter: 1, "received": 1})

    asyncio.run(main())


def test_a_bad_checksum_is_not_taken(network: Network) -> None:
    """IPv4's the kernel leaves to us; of IPv6 it drops the packet itself."""

    async def main() -> None:
        async with ends(network, 4) as (mobile, new):
            packet = bytearray(build_icmp(IcmpMessage(41, ctar(4)), (mobile.address, new.address)))
            packet[-1] ^= 1
            with raw(network, 4) as sock:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
                sock.sendto(packet, (str(new.address), 0))
            await until(lambda: new.endpoint.counters["malformed_checksum"] == 1)
            assert new.received == []

    asyncio.run(main())


@both_versions
def test_other_icmp_never_gets_to_us(network: Network, version: int) -> None:
    async def main() -> None:
        async with ends(network, version) as (mobile, new):
            echo = (b"\x08\0\xf7\xff" if version == 4 else b"\x80\0\0\0") + bytes(4)
            with raw(network, version) as sock:
                for _ in range(5):
                    sock.sendto(echo, (str(new.address), 0))
            mobile.endpoint.send(ctar(version), Peer(new.address, 0))
            await until(lambda: len(new.received) == 1)
            assert new.endpoint.counters == Counter({"received": 1})

    asyncio.run(main())


@both_versions
def test_a_message_fits_one_packet_or_is_not_sent(network: Network, version: int) -> None:
    async def main() -> None:
        async with ends(network, version) as (mobile, new):
            room = {4: 1472, 6: 1232}[version]  # 1500 - 20 - 8; 1280 - 40 - 8
            full = ctar(version)[:1] + bytes(room - 1)
            mobile.endpoint.send(full, Peer(new.address, 0))
            mobile.endpoint.send(full + b"\0", Peer(new.address, 0))
            await until(lambda: len(new.received) == 1)
            assert new.received[0][0] == full
            assert mobile.endpoint.counters == Counter({"sent": 1, "send_too_large": 1})

    asyncio.run(main())


@both_versions
def test_the_mobile_node_repeats_itself_twice_as_late_each_time(network: Network, version: int) -> None:
    """RFC 4067, 3.2: the same CTAR, after CT_REQUEST_RETRY, doubling, until CT_RETRY_MAX."""

    async def main() -> None:
        new, previous = End(network, "new", version), End(network, "previous", version)
        await new.start()
        await previous.start()
        timers = Timers(request_retry=0.1, retry_max=1.0)
        address = network.address("mobile", version)
        client = MobileNodeClient(
            lambda receiver: IcmpEndpoint(address, receiver), ProtocolConfig(timers=timers), random=random.Random(1)
        )
        with network.inside("mobile"):
            await client.start()
        done = await client.activate(MN[version], previous.address, new.address, KEY, predictive=True)
        assert (done.answered, done.is_complete) == (False, False)
        sent = [rung for rung in done.ladder if rung.router == new.address]
        # At 0, 0.1, 0.3 and 0.7 s; where the machine was busy, later, and the last one or two then no more.
        waits = [later.at - earlier.at for earlier, later in itertools.pairwise(sent)]
        wanted = [timers.request_retry * 2**n for n in range(len(sent))]
        assert all(waited > least - CLOCK for waited, least in zip(waits, wanted, strict=False)), waits
        assert sent[-1].at - sent[0].at < timers.retry_max + CLOCK
        assert sent[-1].at - sent[0].at + wanted[-1] > timers.retry_max - CLOCK, waits
        await until(lambda: len(new.received) == len(previous.received) == len(sent))
        assert len({octets for octets, _ in new.received}) == 1
        numbers = {
            message.sequence_number
            for message in (parse(octets) for octets, _ in new.received + previous.received)
            if isinstance(message, ContextTransferActivateRequest)
        }
        assert numbers == {done.sequence_number}
        for end in (client.endpoint, new.endpoint, previous.endpoint):
            await end.close()

    asyncio.run(main())


def test_the_command_says_that_nobody_answered(network: Network, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY.hex())
    key.chmod(0o600)
    output = network.run(
        "mobile", sys.executable, "-m", "cxtp", "mobile-node", "--previous-address", "192.0.2.100",
        "--previous-router", str(network.ipv4("previous")), "--new-router", str(network.ipv4("new")),
        "--key-file", str(key), "--retry", "0.05", "--retry-max", "0.2", check=False,
    )  # fmt: skip
    assert "the new router gave no answer" in output
    assert 1 <= output.count("CTAR") <= 3  # at 0, 0.05 and 0.15 s, if the machine is not busy


def test_privileges_are_gone_once_the_socket_is_open(network: Network) -> None:
    """In a child: what is given up does not come back."""
    with network.inside("mobile"):
        sock = open_icmp_socket(network.ipv4("mobile"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            drop_privileges("nobody")
            packet = build_icmp(IcmpMessage(41, ctar(4)), (network.ipv4("mobile"), network.ipv4("new")))
            sock.sendto(packet, (str(network.ipv4("new")), 0))  # it goes on working
            try:
                open_icmp_socket(network.ipv4("mobile"))
            except TransportError as error:
                code = 0 if "CAP_NET_RAW" in str(error) and os.getuid() != 0 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sock.close()


@pytest.mark.parametrize("keep", [[], [Capability.NET_ADMIN]])
def test_what_is_kept_is_kept_alone(network: Network, keep: list[Capability]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            drop_privileges("nobody", keep)
            try:
                with XfrmClient() as client:
                    client.policies()
                asks = True
            except XfrmError as error:
                asks = "CAP_NET_ADMIN" not in str(error)
            try:
                open_icmp_socket(network.ipv4("mobile"))
            except TransportError:
                code = 0 if asks is bool(keep) else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_users_that_nobody_can_become() -> None:
    for user in ("root", "no-such-user"):
        with pytest.raises(ConfigurationError, match=user):
            drop_privileges(user)
