"""ESP sessions move between two kernels while traffic flows: exact numbers, nothing replayed, nothing used twice.

A peer and two gateways; the gateways share an address that moves along.  The peer's SAs are iproute2's; the
gateways' are installed by the node from contexts.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import PROTOCOL

from contexts.base import decode, encode
from contexts.ipsec import IpsecSaContext
from contexts.values import (
    AntiReplayWindow,
    HostAddress,
    IpComp,
    IpsecKeys,
    IpsecMode,
    IpsecProposal,
    ProcessingUnit,
    SequenceNumbers,
    TrafficSelector,
)
from cxtp.adapters.context_file import FileSession, write_context_file
from cxtp.adapters.xfrm import XfrmClient, XfrmError
from cxtp.constants import StatusCode
from cxtp.control import ControlClient
from cxtp.kernel_keeper import KernelKeeper
from cxtp.kernel_sink import XfrmSink
from cxtp.node import Node, NodeConfig
from cxtp.service import Service, ServiceConfig
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore
from cxtp.transports.endpoint import Router
from cxtp.transports.udp import UdpEndpoint
from kernel.gateways import numbers_on_the_wire
from kernel.network import Network

SHARED = {4: ip_address("10.9.0.100"), 6: ip_address("fd00:9::100")}
PATIENCE = 20
"""Seconds that a datagram may take: long, since it only ends a test that fails."""
IN_KEY, OUT_KEY = bytes(range(64)), bytes(range(100, 164))

# IANA numbers of cipher and integrity, key lengths in octets (salt included), and iproute2's words.
SUITES = {
    "gcm": (20, 256, 36, 0, 0, "aead rfc4106(gcm(aes)) {e} 128"),
    "cbc-sha256": (12, 128, 16, 12, 32, "enc cbc(aes) {e} auth-trunc hmac(sha256) {i} 128"),
    "chacha20": (28, 0, 36, 0, 0, "aead rfc7539esp(chacha20,poly1305) {e} 128"),
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("peer", "a", "b")
    yield made
    made.close()


def run_ip(network: Network, name: str, *lines: str) -> str:
    with network.inside(name):
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Gateways:
    """Nodes a and b, a peer, and one IPsec session between the peer and the shared address."""

    def __init__(self, network: Network, directory: Path, version: int, suite: str, **options: object) -> None:
        self.network, self.directory, self.version = network, directory, version
        self.shared, self.peer = SHARED[version], network.address("peer", version)
        self.mn = self.peer
        encryption, bits, octets, integrity, integrity_octets, self.words = SUITES[suite]
        self.keys = IpsecKeys(
            IN_KEY[:octets], IN_KEY[:integrity_octets], OUT_KEY[:octets], OUT_KEY[:integrity_octets]
        )
        self.window, self.extended = int(options.get("window", 32)), bool(options.get("extended"))  # type: ignore[call-overload]
        width = 32 if version == 4 else 128
        self.context = IpsecSaContext(
            ike_spis=None,
            local_host=HostAddress(self.shared),
            remote_host=HostAddress(self.peer),
            inbound_spi=0x1001,
            outbound_spi=0x2002,
            window=AntiReplayWindow(self.window),
            sequence_numbers=SequenceNumbers(),
            mode=IpsecMode.TRANSPORT,
            local_selectors=(TrafficSelector(self.shared, self.shared),),
            remote_selectors=(TrafficSelector(self.peer, self.peer),),
            proposal=IpsecProposal(3, encryption, bits, integrity, 0, self.extended),
            keying=self.keys,
            processing_unit=ProcessingUnit(reqid=7),
        )
        self.width = width
        self.nodes: dict[str, Node] = {}
        self.routers = {name: Router(name, network.address(name, 4)) for name in ("a", "b")}

    async def start(self, name: str) -> Node:
        other = tuple(router for router in self.routers.values() if router.name != name)
        own = self.routers[name]
        path = self.directory / f"{name}.db"
        key_file = path.with_suffix(".key")
        key = StoreKey.load(key_file) if key_file.exists() else StoreKey.create(key_file)
        sink = XfrmSink(namespace=name)
        node = Node(
            NodeConfig(name, other, PROTOCOL),
            SqliteStore.open(path, key),
            lambda receiver: UdpEndpoint(
                (own.address, own.port), other, receiver, allow_cleartext_keys_on_the_network=True
            ),
            sinks=[sink],
        )
        with self.network.inside(name):
            await node.endpoint.start()
        node.endpoint.start = _nothing  # type: ignore[method-assign]
        await node.start()
        self.nodes[name] = node
        return node

    def algorithms(self, encryption: bytes, integrity: bytes) -> str:
        return self.words.format(e="0x" + encryption.hex(), i="0x" + integrity.hex())

    def set_peer_up(self) -> None:
        """The peer's own SAs and policies, as an IKE daemon would have made them."""
        flags = f"flag esn replay-window {self.window}" if self.extended else "replay-window 32"
        keys, shared, peer = self.keys, self.shared, self.peer
        inward = self.algorithms(keys.inbound_encryption, keys.inbound_integrity)
        outward = self.algorithms(keys.outbound_encryption, keys.outbound_integrity)
        tmpl = "tmpl src {} dst {} proto esp reqid 7 mode transport"
        run_ip(
            self.network,
            "peer",
            "xfrm state flush",
            "xfrm policy flush",
            f"xfrm state add src {peer} dst {shared} proto esp spi 0x1001 mode transport reqid 7 {flags} {inward}",
            f"xfrm state add src {shared} dst {peer} proto esp spi 0x2002 mode transport reqid 7 {flags} {outward}",
            f"xfrm policy add src {peer}/{self.width} dst {shared}/{self.width} dir out {tmpl.format(peer, shared)}",
            f"xfrm policy add src {shared}/{self.width} dst {peer}/{self.width} dir in {tmpl.format(shared, peer)}",
        )

    def give_address(self, name: str, other: str) -> None:
        """The shared address moves, and the peer is told where it is now."""
        address = f"{self.shared}/{24 if self.version == 4 else 64}"
        with self.network.inside(other):
            subprocess.run(["ip", "addr", "del", address, "dev", "eth0"], capture_output=True)
        run_ip(self.network, name, f"addr add {address} dev eth0 nodad")
        mac = re.search(r"link/ether (\S+)", self.network.run(name, "ip", "link", "show", "eth0"))
        assert mac is not None
        run_ip(self.network, "peer", f"neigh replace {self.shared} lladdr {mac[1]} dev eth0")

    def errors(self) -> dict[str, int]:
        """/proc/net/xfrm_stat of all three, what is not 0."""
        found = {}
        for name in ("peer", "a", "b"):
            with self.network.inside(name):
                text = Path("/proc/thread-self/net/xfrm_stat").read_text()
            for line in text.splitlines():
                key, value = line.split()
                if int(value):
                    found[f"{name} {key}"] = int(value)
        return found

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.close()
            node.sessions.store.close()
        for name in ("peer", "a", "b"):
            run_ip(self.network, name, "xfrm state flush", "xfrm policy flush")
        for name in ("a", "b"):
            with self.network.inside(name):
                address = f"{self.shared}/{24 if self.version == 4 else 64}"
                subprocess.run(["ip", "addr", "del", address, "dev", "eth0"], capture_output=True)


async def _nothing() -> None:
    pass


@asynccontextmanager
async def gateways(
    network: Network, directory: Path, version: int, suite: str = "gcm", **options: object
) -> AsyncIterator[Gateways]:
    made = Gateways(network, directory, version, suite, **options)
    try:
        for name in ("a", "b"):
            await made.start(name)
        made.set_peer_up()
        made.give_address("a", "b")
        await made.nodes["a"].sessions.load(made.mn, [encode(made.context)])
        yield made
    finally:
        await made.close()


class Echo:
    """UDP both ways through the tunnel: the gateway that has the address answers what the peer sends."""

    def __init__(self, made: Gateways) -> None:
        self.made = made
        family = socket.AF_INET if made.version == 4 else socket.AF_INET6
        with made.network.inside("peer"):
            self.peer = socket.socket(family, socket.SOCK_DGRAM)
        self.peer.bind((str(made.peer), 0))
        self.peer.settimeout(PATIENCE)
        self.answers = 0

    def ask(self, name: str, count: int) -> None:
        family = self.peer.family
        with self.made.network.inside(name):
            gateway = socket.socket(family, socket.SOCK_DGRAM)
        gateway.bind((str(self.made.shared), 7777))
        gateway.settimeout(PATIENCE)
        with gateway:
            for number in range(count):
                self.peer.sendto(struct.pack("!I", number), (str(self.made.shared), 7777))
                octets, source = gateway.recvfrom(100)
                gateway.sendto(octets, source)
                assert self.peer.recv(100) == struct.pack("!I", number)
                self.answers += 1

    def close(self) -> None:
        self.peer.close()


OPTIONS = [
    (4, "gcm", {}),
    (6, "gcm", {}),
    (4, "cbc-sha256", {}),
    (4, "chacha20", {}),
    (4, "gcm", {"extended": True, "window": 128}),
    (6, "cbc-sha256", {"extended": True, "window": 32}),
]


@pytest.mark.parametrize(("version", "suite", "options"), OPTIONS)
def test_a_session_moves_there_and_back(
    network: Network, tmp_path: Path, version: int, suite: str, options: dict[str, object]
) -> None:
    async def main() -> None:
        async with gateways(network, tmp_path, version, suite, **options) as made:
            echo = Echo(made)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                echo.ask("a", 20)
                for one, other in (("a", "b"), ("b", "a")) * 2:
                    await made.nodes[one].move(made.mn, other)
                    made.give_address(other, one)
                    echo.ask(other, 20)
                echo.close()
            assert echo.answers == 100
            assert made.errors() == before  # no replay, no failed check, no packet without its SA
            wire = numbers_on_the_wire(capture)
            for spi in (0x1001, 0x2002):
                numbers = wire[spi]
                # Each once, in order, no gap: exact.  IPv6's neighbour discovery goes through the tunnel too.
                assert numbers == list(range(1, len(numbers) + 1)), numbers
                assert len(numbers) >= 100

    asyncio.run(main())


def test_the_window_travels_too(network: Network, tmp_path: Path) -> None:
    """What A has seen, B refuses to see again: the bitmap is the same, by iproute2's reading."""

    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            echo = Echo(made)
            echo.ask("a", 5)
            text = network.run("a", "ip", "-s", "xfrm", "state", "get", "src", str(made.peer), "dst",
                               str(made.shared), "proto", "esp", "spi", "0x1001")  # fmt: skip
            context = re.search(r"anti-replay context: (.*)", text)
            assert context is not None
            await made.nodes["a"].move(made.mn, "b")
            made.give_address("b", "a")
            moved = network.run("b", "ip", "-s", "xfrm", "state", "get", "src", str(made.peer), "dst",
                                str(made.shared), "proto", "esp", "spi", "0x1001")  # fmt: skip
            assert context[1] in moved
            assert "seq 0x5" in context[1]
            assert "bitmap 0x0000001f" in context[1]
            record = made.nodes["b"].sessions.get(made.mn)
            assert record is not None
            held = decode(record.contexts[0])
            assert isinstance(held, IpsecSaContext)
            assert held.window.bitmap == 0x1F
            assert network.run("a", "ip", "xfrm", "state") == ""
            assert network.run("a", "ip", "xfrm", "policy") == ""
            echo.close()

    asyncio.run(main())


def test_the_kernel_sends_no_further_than_the_ceiling(network: Network, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            node = made.nodes["a"]
            record = node.sessions.get(made.mn)
            assert record is not None
            sink = node.sessions._sinks[0]
            low = replace(made.context, sequence_numbers=SequenceNumbers(outbound=3))
            await sink.raise_ceiling(replace(record, contexts=(encode(low),)))
            with network.inside("a"):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((str(made.shared), 0))
            with network.capture("peer", tmp_path / "esp.pcap") as capture, sock:
                for _ in range(8):
                    try:
                        sock.sendto(b"x", (str(made.peer), 9))
                    except OSError:
                        break
            assert numbers_on_the_wire(capture)[0x2002] == [1, 2, 3]

    asyncio.run(main())


def test_what_the_kernel_refuses_stays_where_it_is(network: Network, tmp_path: Path) -> None:
    """An SA that is there already: the new router says no, and the old one goes on."""

    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            run_ip(
                network, "b",
                f"xfrm state add src {made.peer} dst {made.shared} proto esp spi 0x1001 mode transport "
                f"{made.algorithms(made.keys.inbound_encryption, b'')}",
            )  # fmt: skip
            echo = Echo(made)
            echo.ask("a", 3)
            with pytest.raises(Exception, match="refused"):
                await made.nodes["a"].move(made.mn, "b")
            record = made.nodes["a"].sessions.get(made.mn)
            assert record is not None
            assert record.state is SessionState.OWNED
            # What was b's before is b's still, and nothing else is there.
            text = network.run("b", "ip", "xfrm", "state")
            assert re.findall(r"spi (\S+)", text) == ["0x00001001"]
            assert network.run("b", "ip", "xfrm", "policy") == ""
            echo.ask("a", 3)
            echo.close()

    asyncio.run(main())


def test_a_restarted_node_leaves_the_kernel_alone_and_a_restarted_machine_jumps(
    network: Network, tmp_path: Path
) -> None:
    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            echo = Echo(made)
            echo.ask("a", 5)
            for power in (False, True):
                node = made.nodes.pop("a")
                await node.close()
                node.sessions.store.close()
                if power:
                    run_ip(network, "a", "xfrm state flush", "xfrm policy flush")
                await made.start("a")
                with network.inside("a"), XfrmClient() as client:
                    assert {sa.spi for sa in client.security_associations()} == {0x1001, 0x2002}
                before = made.errors()
                with network.capture("peer", tmp_path / f"{power}.pcap") as capture:
                    echo.ask("a", 5)
                numbers = numbers_on_the_wire(capture)[0x2002]
                assert numbers[0] == (65_537 if power else 6)  # above the ceiling, or just on
                assert made.errors() == before
            echo.close()

    asyncio.run(main())


def test_the_keeper_stays_ahead_of_what_is_sent(network: Network, tmp_path: Path) -> None:
    """With a small reserve, far more packets go out than it holds; what is on disk is ahead at each look."""

    async def main() -> None:
        async with gateways(network, tmp_path, 4) as made:
            node = made.nodes["a"]
            node.sessions._reserve = 40
            namespace = node.sessions._sinks[0]
            assert isinstance(namespace, XfrmSink)
            low = replace(made.context, sequence_numbers=SequenceNumbers(outbound=40))
            record = node.sessions.get(made.mn)
            assert record is not None
            await node.sessions.writer.put(replace(record, contexts=(encode(low),)))
            await namespace.raise_ceiling(replace(record, contexts=(encode(low),)))
            keeper = KernelKeeper(node.sessions, namespace, 40)
            echo = Echo(made)
            raised = 0
            for _ in range(20):
                echo.ask("a", 15)
                raised += await keeper.look()
                held = node.sessions.get(made.mn)
                assert held is not None
                context = decode(held.contexts[0])
                assert isinstance(context, IpsecSaContext)
                assert context.sequence_numbers.outbound > echo.answers
            assert echo.answers == 300
            assert raised >= 10
            echo.close()

    asyncio.run(main())


def test_two_nodes_as_an_operator_runs_them(network: Network, tmp_path: Path) -> None:
    """``cxtp node run --kernel``: a session from a context file is taken into use, moved, and taken out again."""

    async def main() -> None:
        made = Gateways(network, tmp_path, 4, "gcm")
        made.set_peer_up()
        made.give_address("a", "b")
        services, tasks = {}, []
        for name in ("a", "b"):
            other = tuple(router for router in made.routers.values() if router.name != name)
            own, state = made.routers[name], tmp_path / f"state-{name}"
            config = ServiceConfig(
                name, (own.address, own.port), other, state, state / "control.sock", "udp", protocol=PROTOCOL,
                allow_cleartext_keys_on_the_network=True, kernel=True, sequence_reserve=1000,
            )  # fmt: skip
            with network.inside(name):
                services[name] = Service(config)
                ready = asyncio.Event()
                tasks.append(asyncio.create_task(services[name].run(ready.set)))
                await ready.wait()
        file = tmp_path / "session.ctx"
        write_context_file(file, [FileSession(made.mn, (made.context,))], None, True)
        echo = Echo(made)
        async with ControlClient(tmp_path / "state-a" / "control.sock") as a:
            await a.ask("import", file=str(file))
            echo.ask("a", 10)
            await a.ask("move", mn_address=str(made.mn), to="b")
            made.give_address("b", "a")
            echo.ask("b", 10)
            assert network.run("a", "ip", "xfrm", "state") == ""
            limit = network.run("b", "ip", "-s", "xfrm", "state", "get", "src", str(made.shared), "dst", str(made.peer),
                                "proto", "esp", "spi", "0x2002")  # fmt: skip
            assert "hard 1010(packets)" in limit, limit  # 10 were sent at a, 1000 are in reserve
            await a.ask("stop")
        async with ControlClient(tmp_path / "state-b" / "control.sock") as b:
            await b.ask("forget", mn_address=str(made.mn))
            assert network.run("b", "ip", "xfrm", "state") == ""
            await b.ask("stop")
        await asyncio.gather(*tasks)
        echo.close()
        await made.close()

    asyncio.run(main())


def test_what_the_kernel_has_not_is_said_and_nothing_stays(network: Network, tmp_path: Path) -> None:
    """Linux has the number of LZS (RFC 2395) and not the transform: after policies and ESP's SAs were asked for."""

    async def main() -> None:
        made = Gateways(network, tmp_path, 4, "gcm")
        context = replace(made.context, ipcomp=IpComp(0x1111, 0x2222, 3))
        record = SessionRecord(
            mn_address=made.mn, state=SessionState.OWNED, generation=1, contexts=(encode(context),), updated=1.0
        )
        sink = XfrmSink(namespace="a")
        with pytest.raises(XfrmError) as caught:
            await sink.install(record, record)
        assert caught.value.status is StatusCode.UNSUPPORTED_ALGORITHM, caught.value
        assert network.run("a", "ip", "xfrm", "state") == network.run("a", "ip", "xfrm", "policy") == ""
        sink.close()

    asyncio.run(main())
