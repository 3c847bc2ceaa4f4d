"""The hook that queues: ten moves under load, between hosts on either side of the gateways, and not one packet lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cxtp.control import CommandFailed
from kernel.answers import Answers
from kernel.gateways import HOLD, HOOKS, IN, OUT, RATE, SHARED, Gateways, Kind, gateways, numbers_on_the_wire, run_ip
from kernel.network import Network

ROUTER = {4: "10.8.0.100", 6: "fd00:8::100"}
"""What the host behind the gateways has as its router."""
KINDS = {
    "ipv4": (Kind(), 5),
    "ipv6": (Kind(version=6, suite="cbc-sha256", extended=32), 1),
}
"""And how often each is moved there and back."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    # One processor's receive queue is that of all four machines here.
    Path("/proc/sys/net/core/netdev_max_backlog").write_text("20000")
    made = Network("peer", "a", "b", "host", inside=("a", "b", "host"))
    host = {4: made.ipv4("host") - 0x10000, 6: made.ipv6("host") - (1 << 96)}
    for version, width in ((4, 32), (6, 128)):
        gateway, peer = Kind(version=version).inner
        run_ip(made, "peer", f"addr add {peer}/{width} dev lo")
        run_ip(made, "host", f"addr add {gateway}/{width} dev lo")
        run_ip(made, "host", f"route add {peer} via {ROUTER[version]} dev eth1 src {gateway}")
        for name in ("a", "b"):
            run_ip(made, name, f"route add {gateway} via {host[version]} dev eth1")
            setting = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
            made.run(name, "sysctl", "-q", "-w", f"{setting}=1")
    yield made
    made.close()


@asynccontextmanager
async def holding(network: Network, directory: Path, kind: Kind) -> AsyncIterator[Gateways]:
    router = ROUTER[kind.version]
    environment = f"CXTP_INSIDE_INTERFACE=eth1 CXTP_INSIDE_ADDRESSES={router} CXTP_RELEASE_RATE=5000"
    async with gateways(network, directory, kind, HOLD, environment) as made:
        for name in ("a", "b"):
            await made.start(name)
        await made.until(lambda: f" {router}/" in network.run("a", "ip", "addr", "show", "dev", "eth1"))
        try:
            yield made
        finally:
            for name in ("a", "b"):
                network.run(name, "ip", "addr", "del", f"{router}/{kind.width}", "dev", "eth1", check=False)


async def settled(made: Gateways, owner: str) -> None:
    """Both sides' addresses are at one gateway, and its hook is done."""
    other = "b" if owner == "a" else "a"
    await made.until(lambda: made.has_address(owner) and not made.has_address(other))


def dropped_by_the_processor() -> int:
    """Packets for which its receive queue had no room."""
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())


@pytest.mark.parametrize("name", KINDS)
def test_no_packet_is_lost(network: Network, tmp_path: Path, name: str) -> None:
    """1,000 packets per second each way, through the gateways; all come back, in each direction none twice."""
    kind, times = KINDS[name]
    times = 5 if os.environ.get("CXTP_SOAK") == "1" else times

    async def main() -> None:
        async with holding(network, tmp_path, kind) as made:
            local, remote = kind.inner
            made.process("host", "echo", local)
            before, dropped = made.errors(), dropped_by_the_processor()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, str(RATE))
                await asyncio.sleep(0.3)
                for source, target in (("a", "b"), ("b", "a")) * times:
                    await made.move(source, target)
                    await settled(made, target)
                    await asyncio.sleep(0.2)
                text, _ = await asyncio.to_thread(sender.communicate)
            told = Answers.read(text)
            assert len(told.sent) / told.duration > 0.9 * RATE
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            drops = f"{dropped_by_the_processor() - dropped} dropped by the processor"
            assert (len(told.lost), told.refused, errors) == (0, 0, {}), f"{told.story(made.moved)}; {drops}"
            wire = numbers_on_the_wire(capture)
            for spi in (IN, OUT):
                assert len(wire[spi]) >= len(told.sent)
                assert all(one < other for one, other in itertools.pairwise(wire[spi]))
            print(f"{name}: {len(told.sent)} sent, none lost in {len(made.moved)} moves, {told.duration:.1f} s")

    asyncio.run(main())


def test_what_was_held_comes_in_here_where_the_session_stays(network: Network, tmp_path: Path) -> None:
    """The new gateway refuses it; the packets that came meanwhile are taken by the old one."""
    kind = Kind()

    async def main() -> None:
        async with holding(network, tmp_path, kind) as made:
            line = f"xfrm state add src {made.peer} dst {SHARED[4]} proto esp spi {IN:#x} mode tunnel "
            run_ip(network, "b", line + "aead rfc4106(gcm(aes)) 0x" + "00" * 20 + " 128")
            local, remote = kind.inner
            made.process("host", "echo", local)
            sender = made.process("peer", "send", remote, local, str(RATE))
            await asyncio.sleep(0.2)
            with pytest.raises(CommandFailed, match="SPI_COLLISION"):
                await made.ask("a", "move", mn_address=str(made.peer), to="b")
            await made.until(lambda: "hold" not in network.run("a", "ip", "-br", "link"))
            await asyncio.sleep(0.2)
            text, _ = await asyncio.to_thread(sender.communicate)
            told = Answers.read(text)
            assert len(told.sent) > 300
            assert not told.lost, told.story(made.moved)

    asyncio.run(main())


DRAINED = """
import sys
sys.path.insert(0, sys.argv[1])
import hold_traffic as hook
side = hook.Side(1, 0, "eth0", [], [(sys.argv[2], sys.argv[3])])
hook.ip(f"link add name {side.queue} type veth peer name {side.exit}", f"link set dev {side.queue} up",
        f"link set dev {side.exit} up")
hook.tc("qdisc add dev eth0 clsact", may_fail=True)
hook.tc(*side.queues(), *side.filters(f"action mirred egress redirect dev {side.queue}"), side.open())
hook.drain([side])
print("drained", flush=True)
sys.stdin.read()
print(hook.backlog(side.queue))
hook.tc(*side.no_filters())
hook.remove_queues([side])
"""


def test_a_burst_does_not_wait_in_a_queue_that_is_about_to_go(network: Network) -> None:
    """What was held has gone, at a limited rate; from then on nothing stays in the queue, however much comes at once:
    it would be lost with it."""
    peer, gateway = network.ipv4("peer"), network.ipv4("a")
    hook = network.start(
        "a", "env", "CXTP_RELEASE_RATE=100", sys.executable, "-BSE", "-c", DRAINED, str(HOOKS), str(peer), str(gateway),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert hook.stdout is not None
    assert hook.stdout.readline() == "drained\n"
    with network.inside("peer"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(300):
            sock.sendto(bytes(100), (str(gateway), 9))
    told, _ = hook.communicate()
    assert told == "0\n"
