"""``cxtp gateway linux`` beside two kernels whose SAs iproute2 made: learned, moved under load, followed, kept.

The peer knows nothing of all this: one pair of SAs with the address that the gateways share.  That address moves by
the hook of examples/, which is run as an operator would have it run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import PROTOCOL

from cxtp.control import CommandFailed, ControlClient
from cxtp.service import GatewayConfig, Service, ServiceConfig
from cxtp.transports.endpoint import Router
from kernel.network import Network

HOOK = Path(__file__).parents[2] / "examples" / "hooks" / "virtual_address.py"
TRAFFIC = Path(__file__).with_name("traffic.py")
SHARED = {4: ip_address("10.9.0.100"), 6: ip_address("fd00:9::100")}
INNER = {4: ("10.100.0.1", "10.200.0.1"), 6: ("fd00:100::1", "fd00:200::1")}
RATE = 1000
SUITES = {
    "gcm": "aead rfc4106(gcm(aes)) 0x{:072x} 128",
    "cbc-sha256": "enc cbc(aes) 0x{0:032x} auth-trunc hmac(sha256) 0x{0:064x} 128",
    "chacha20": "aead rfc7539esp(chacha20,poly1305) 0x{:072x} 128",
}
IN, OUT = 0x1001, 0x2002


@dataclass(frozen=True)
class Kind:
    """One way to protect the traffic; ``extended``: the window with ESN, 0 without."""

    version: int = 4
    suite: str = "gcm"
    mode: str = "tunnel"
    extended: int = 0
    udp: bool = False
    ipcomp: bool = False

    @property
    def inner(self) -> tuple[str, str]:
        """The gateways' and the peer's address inside."""
        if self.mode == "tunnel":
            return INNER[self.version]
        return str(SHARED[self.version]), "fd00:9::1" if self.version == 6 else "10.9.0.1"

    @property
    def width(self) -> int:
        return 32 if self.version == 4 else 128


KINDS = {
    "transport-gcm": Kind(mode="transport"),
    "tunnel-gcm-ipv6": Kind(version=6),
    "tunnel-cbc-sha256-esn-32": Kind(suite="cbc-sha256", extended=32),
    "transport-chacha20-ipv6-esn-128": Kind(6, "chacha20", "transport", 128),
    "tunnel-gcm-udp": Kind(udp=True),
    "tunnel-gcm-ipcomp": Kind(ipcomp=True),
}


TEN = ("transport-gcm", "tunnel-gcm-ipv6")
"""Moved ten times; the others twice, for time's sake."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("peer", "a", "b")
    for name in ("a", "b", "peer"):
        for version in (4, 6):
            local, remote = INNER[version]
            run_ip(made, name, f"addr add {remote if name == 'peer' else local}/{32 if version == 4 else 128} dev lo")
    yield made
    made.close()


def run_ip(network: Network, name: str, *lines: str) -> str:
    with network.inside(name):
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False
        )
    assert done.returncode == 0, done.stderr + "\n".join(lines)
    return done.stdout


def lines_for(kind: Kind, network: Network, *, at_peer: bool, spis: tuple[int, int] = (IN, OUT)) -> list[str]:
    """iproute2's commands for both SAs and the policies, as either end has them."""
    peer, shared = network.address("peer", kind.version), SHARED[kind.version]
    inner_gateway, inner_peer = (f"{address}/{kind.width}" for address in kind.inner)
    to_gateway, to_peer = spis
    flags = f"flag esn replay-window {kind.extended}" if kind.extended else "replay-window 32"
    lines = []
    comp = "proto comp spi {} mode " + kind.mode + " reqid 7 comp deflate"
    both = ((peer, shared, to_gateway, "4501 4500"), (shared, peer, to_peer, "4500 4501"))
    for source, destination, spi, ports in both:
        udp = f"encap espinudp {ports} 0.0.0.0" if kind.udp else ""
        if kind.ipcomp:
            lines.append(f"xfrm state add src {source} dst {destination} {comp.format(spi & 0xFFFF)}")
        mode = "transport" if kind.ipcomp else kind.mode
        lines.append(
            f"xfrm state add src {source} dst {destination} proto esp spi {spi:#x} mode {mode} reqid 7 {flags} "
            f"{SUITES[kind.suite].format(spi * 7919)} {udp}"
        )
    ends = {"out": (shared, peer, inner_gateway, inner_peer), "in": (peer, shared, inner_peer, inner_gateway)}
    for direction in ("out", "in", *(["fwd"] if kind.mode == "tunnel" else [])):
        towards = ("in" if direction == "out" else "out") if at_peer else ("in" if direction == "fwd" else direction)
        if at_peer and direction == "fwd":
            towards = "out"
        source, destination, inner_source, inner_destination = ends[towards]
        outer = f"src {source} dst {destination}" if kind.mode == "tunnel" else ""
        template = f"tmpl {outer} proto esp reqid 7 mode {kind.mode}"
        if kind.ipcomp:
            level = "" if direction == "out" else "level use"
            template = (
                f"tmpl {outer} proto comp reqid 7 mode {kind.mode} {level} tmpl proto esp reqid 7 mode transport"
            )
        lines.append(f"xfrm policy add src {inner_source} dst {inner_destination} dir {direction} {template}")
    return lines


class Gateways:
    """Services a and b, as an operator runs them, each in its namespace."""

    def __init__(self, network: Network, directory: Path, kind: Kind) -> None:
        self.network, self.directory, self.kind = network, directory, kind
        self.peer = network.address("peer", kind.version)
        self.routers = {name: Router(name, network.address(name, 4)) for name in ("a", "b")}
        self.services: dict[str, Service] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self.moved: list[tuple[float, float]] = []
        self._hooks = {name: self._hook(name) for name in ("a", "b")}

    def _hook(self, name: str) -> Path:
        """The example, in the namespace: services of both are one process here."""
        path = self.directory / f"hook-{name}"
        path.write_text(
            "#!/bin/sh\n"
            f"CXTP_VIRTUAL_ADDRESSES={self.directory}/virtual-{name} exec ip netns exec {name} {HOOK} \"$@\"\n"
        )
        path.chmod(0o755)
        return path

    async def start(self, name: str, **options: object) -> None:
        other = tuple(router for router in self.routers.values() if router.name != name)
        own, state = self.routers[name], self.directory / f"state-{name}"
        config = ServiceConfig(
            name, (own.address, own.port), other, state, state / "control.sock", "udp", protocol=PROTOCOL,
            allow_cleartext_keys_on_the_network=True, kernel=True, sequence_reserve=20_000,
            gateway=GatewayConfig(self._hooks[name], self._hooks[name], name, **options),  # type: ignore[arg-type]
        )  # fmt: skip
        with self.network.inside(name):
            service = self.services[name] = Service(config)
            ready = asyncio.Event()
            self.tasks[name] = asyncio.create_task(service.run(ready.set))
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait([waiting, self.tasks[name]], return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), self.tasks[name]

    async def ask(self, name: str, command: str, **values: object) -> dict[str, object]:
        async with ControlClient(self.directory / f"state-{name}" / "control.sock") as client:
            return await client.ask(command, **values)

    async def rows(self, name: str) -> list[dict[str, object]]:
        answer = await self.ask(name, "gateway-sessions")
        rows = answer["sessions"]
        assert isinstance(rows, list)
        return rows

    async def move(self, source: str, target: str) -> None:
        """And wait until the address is there."""
        begin = time.monotonic()
        await self.ask(source, "move", mn_address=str(self.peer), to=target)
        await self.until(lambda: self.has_address(target))
        self.moved.append((begin, time.monotonic()))

    def has_address(self, name: str) -> bool:
        return f" {SHARED[self.kind.version]}/" in self.network.run(name, "ip", "addr", "show", "dev", "eth0")

    async def until(self, holds: object, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < end, "it did not come to be"
            await asyncio.sleep(0.01)

    def process(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        made = self.network.start(
            name, sys.executable, "-SE", str(TRAFFIC), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.processes.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        return made

    def errors(self) -> dict[str, int]:
        found = {}
        for name in ("peer", "a", "b"):
            with self.network.inside(name):
                text = Path("/proc/thread-self/net/xfrm_stat").read_text()
            for key, value in map(str.split, text.splitlines()):
                # What a policy blocks while the session leaves is meant to be blocked.
                if int(value) and key not in ("XfrmOutPolBlock", "XfrmOutError"):
                    found[f"{name} {key}"] = int(value)
        return found

    async def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for name in self.services:
            if not self.tasks[name].done():
                await self.ask(name, "stop")
        await asyncio.gather(*self.tasks.values())
        for name in ("peer", "a", "b"):
            run_ip(self.network, name, "xfrm state flush", "xfrm policy flush")
            with self.network.inside(name):
                address = f"{SHARED[self.kind.version]}/{self.kind.width}"
                subprocess.run(["ip", "addr", "del", address, "dev", "eth0"], capture_output=True)


@asynccontextmanager
async def gateways(
    network: Network, directory: Path, kind: Kind
) -> AsyncIterator[Gateways]:
    made = Gateways(network, directory, kind)
    try:
        shared = f"{SHARED[kind.version]}/{kind.width}"
        run_ip(network, "peer", *lines_for(kind, network, at_peer=True))
        if kind.mode == "tunnel":
            gateway, peer = kind.inner
            for name in ("a", "b"):
                run_ip(network, name, f"route replace {peer} via {made.peer} dev eth0 src {gateway}")
            run_ip(network, "peer", f"route replace {gateway} dev eth0 src {peer}")
        run_ip(network, "a", f"addr add {shared} dev eth0{' nodad' if kind.version == 6 else ''}")
        run_ip(network, "peer", f"route replace {SHARED[kind.version]} dev eth0")
        run_ip(network, "a", *lines_for(kind, network, at_peer=False))
        if kind.udp:
            for name in ("a", "b", "peer"):
                open_encapsulation(network, name, 4501 if name == "peer" else 4500)
        yield made
    finally:
        await made.close()


def open_encapsulation(network: Network, name: str, port: int) -> None:
    """ESP in UDP is taken out by a socket that says so (RFC 3948); an IKE daemon has one."""
    with network.inside(name):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
    made.bind(("", port))
    _ENCAPSULATION.append(made)


_ENCAPSULATION: list[object] = []


def numbers_on_the_wire(capture: Path) -> dict[int, list[int]]:
    """By SPI, the sequence numbers in the capture's order, as tshark reads them."""
    fields = ["-T", "fields", "-e", "esp.spi", "-e", "esp.sequence"]
    command = ["tshark", "-r", str(capture), "-Y", "esp", *fields]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[int, list[int]] = {}
    for line in done.stdout.splitlines():
        spi, number = line.split()
        found.setdefault(int(spi, 16), []).append(int(number))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_moves_under_load(network: Network, tmp_path: Path, name: str) -> None:
    """1,000 packets per second each way, moved from A to B and back."""
    kind = KINDS[name]
    times = 5 if name in TEN else 1

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            for gateway in ("a", "b"):
                await made.start(gateway)
            (row,) = await made.rows("a")
            assert (row["peer"], row["owner"], row["ike_sa"]) == (str(made.peer), "a", "absent")
            assert (row["spi_in"], row["spi_out"]) == (f"{IN:08x}", f"{OUT:08x}")
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, str(RATE))
                await asyncio.sleep(0.3)
                for source, target in (("a", "b"), ("b", "a")) * times:
                    await made.move(source, target)
                    await asyncio.sleep(0.2)
                text, _ = await asyncio.to_thread(sender.communicate)
            told = json.loads(text)
            answered = set(told["back"])
            assert len(answered) == len(told["back"])
            lost = [when for number, when in enumerate(told["sent"]) if number not in answered]
            # A packet is lost only where it was on its way while the session was.
            stray = [when for when in lost if not any(begin - 0.1 < when < end + 0.05 for begin, end in made.moved)]
            assert not stray, (len(lost), len(told["sent"]))
            assert len(answered) > len(told["sent"]) / 3
            duration = told["sent"][-1] - told["sent"][0]
            assert len(told["sent"]) / duration > 0.9 * RATE
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            # What comes to a gateway whose session has just left finds no SA there: those are lost, and no others.
            assert sum(errors.pop(f"{gateway} XfrmInNoStates", 0) for gateway in ("a", "b")) <= len(lost)
            assert errors == {}
            wire = numbers_on_the_wire(capture)
            for spi in (IN, OUT):
                numbers = wire[spi]
                assert len(numbers) >= len(answered)
                assert all(one < other for one, other in itertools.pairwise(numbers))
            print(f"{name}: {len(told['sent'])} sent, {len(lost)} lost in {len(made.moved)} moves, {duration:.1f} s")

    asyncio.run(main())


def test_what_an_ike_daemon_does_is_followed(
    network: Network, tmp_path: Path
) -> None:
    """Rekeyed, deleted, made anew; an SPI that is only kept; an SA without policy; ceilings in the kernel."""
    kind = KINDS["tunnel-gcm-ipv6"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("a")
            peer, shared = made.peer, SHARED[6]
            ids = f"src {shared} dst {peer} proto esp spi {OUT:#x}"
            assert "hard 20000(packets)" in network.run("a", *f"ip -s xfrm state get {ids}".split())
            lines = lines_for(kind, network, at_peer=False, spis=(0x3003, 0x4004))
            states = [line for line in lines if "state" in line]
            run_ip(network, "a", *states)

            async def spis() -> set[object]:
                return {row["spi_in"] for row in await made.rows("a") if row["state"] == "owned"}

            async def become(wanted: set[object]) -> None:
                end = time.monotonic() + 10
                while await spis() != wanted:
                    assert time.monotonic() < end, await made.rows("a")
                    await asyncio.sleep(0.05)

            await become({f"{IN:08x}", "00003003"})
            run_ip(
                network, "a",
                f"xfrm state delete {ids}", f"xfrm state delete src {peer} dst {shared} proto esp spi {IN:#x}",
            )  # fmt: skip
            await become({"00003003"})
            new = f"src {shared} dst {peer} proto esp spi 0x4004"
            assert re.search(r"hard 20000\(packets\)", network.run("a", *f"ip -s xfrm state get {new}".split()))
            assert "dir out action allow" in re.sub(r"\s+", " ", network.run("a", "ip", "-s", "xfrm", "policy"))
            run_ip(network, "a", "xfrm state flush")
            await become(set())
            assert "dir out" in network.run("a", "ip", "xfrm", "policy")  # the daemon's trap is the daemon's
            run_ip(network, "a", *states)
            await become({"00003003"})

    asyncio.run(main())


FAULTS = {
    "an SPI that is taken": ("xfrm state add src {peer} dst {shared} proto esp spi 0x1001 mode tunnel "
                             "aead rfc4106(gcm(aes)) 0x" + "00" * 20 + " 128", "SPI_COLLISION"),
    "an SPI that is taken, outbound": ("xfrm state add src {shared} dst {peer} proto esp spi 0x2002 mode tunnel "
                                       "aead rfc4106(gcm(aes)) 0x" + "00" * 20 + " 128", "SPI_COLLISION"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refusal_leaves_the_session_where_it_was(
    network: Network, tmp_path: Path, fault: str
) -> None:
    kind = KINDS["tunnel-gcm-ipv6"]
    line, status = FAULTS[fault]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            run_ip(network, "b", line.format(peer=made.peer, shared=SHARED[6]))
            policy = network.run("a", "ip", "xfrm", "policy")
            for gateway in ("a", "b"):
                await made.start(gateway)
            local, remote = kind.inner
            made.process("a", "echo", local)
            with pytest.raises(CommandFailed, match=f"b refused .*{status}"):
                await made.ask("a", "move", mn_address=str(made.peer), to="b")
            (row,) = await made.rows("a")
            assert (row["state"], row["owner"]) == ("owned", "a")
            held = network.run("b", "ip", "xfrm", "state")
            assert len(re.findall(r"^src ", held, re.MULTILINE)) == 1  # what was there before
            assert network.run("b", "ip", "xfrm", "policy") == ""
            assert network.run("a", "ip", "xfrm", "policy") == policy
            sender = made.process("peer", "send", remote, local, "100")
            await asyncio.sleep(0.5)
            text, _ = await asyncio.to_thread(sender.communicate)
            told = json.loads(text)
            assert len(told["back"]) == len(told["sent"]) > 20

    asyncio.run(main())


def test_take_over_under_load(network: Network, tmp_path: Path) -> None:
    """The active gateway's link is cut under 1,000 packets per second; its standby goes on above the fence.

    Then the link comes back: the old gateway, which knows of nothing, finds that it is the owner no more.
    """
    kind = KINDS["transport-gcm"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("b")
            await made.start("a", standby="b", replica_interval=0.2, replica_packets=200)
            local, remote = kind.inner
            for gateway in ("a", "b"):
                made.process(gateway, "echo", local)
            before = made.errors()
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, str(RATE))
                await asyncio.sleep(2)
                (replica,) = await made.rows("b")
                assert (replica["state"], replica["owner"]) == ("replica", "a")
                assert int(str(replica["received"])) > 0  # the window travels along
                network.set_link("a", up=False)
                cut = time.monotonic()
                outcome = await made.ask("b", "takeover", mn_address=str(made.peer))
                assert (outcome["taken"], outcome["dropped"]) == (True, [])
                await made.until(lambda: made.has_address("b"))
                await asyncio.sleep(1)
                text, _ = await asyncio.to_thread(sender.communicate)
                network.set_link("a", up=True)
                end = time.monotonic() + 60
                while [row["state"] for row in await made.rows("a")] != ["released"]:
                    assert time.monotonic() < end, await made.rows("a")
                    await asyncio.sleep(0.2)
            told = json.loads(text)
            answered = set(told["back"])
            assert len(answered) == len(told["back"])
            first = min(told["sent"][number] for number in answered if told["sent"][number] > cut)
            lost = [number for number in range(len(told["sent"])) if number not in answered]
            numbers = numbers_on_the_wire(capture)[OUT]
            assert len(set(numbers)) == len(numbers)
            assert all(one < other for one, other in itertools.pairwise(numbers))
            fence = next(index for index, (one, other) in enumerate(itertools.pairwise(numbers)) if other > one + 1000)
            assert numbers[fence + 1] > 20_000 >= numbers[fence]  # above all that A was allowed to send
            assert network.run("a", "ip", "xfrm", "state") == ""
            await made.until(lambda: not made.has_address("a"))
            errors = {key: n - before.get(key, 0) for key, n in made.errors().items() if n != before.get(key, 0)}
            assert errors.keys() <= {"a XfrmInNoStates", "b XfrmInNoStates"}, errors
            status = await made.ask("a", "status")
            assert status["counters"]["sessions.deposed"] == 1  # type: ignore[index]
            print(f"take-over: {(first - cut) * 1000:.0f} ms without answers, {len(lost)} of {len(told['sent'])} lost")

    asyncio.run(main())


def test_nothing_is_sent_above_what_the_standby_knows(network: Network, tmp_path: Path) -> None:
    """With its standby gone, the active gateway stops at the ceiling that is confirmed, until an operator decides."""
    kind = KINDS["transport-gcm"]

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            await made.start("b")
            await made.start("a", standby="b", replica_interval=0.2)
            local, remote = kind.inner
            made.process("a", "echo", local)
            end = time.monotonic() + 10
            while not await made.rows("b"):
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            await made.ask("b", "stop")
            await made.tasks["b"]
            with network.capture("peer", tmp_path / "esp.pcap") as capture:
                sender = made.process("peer", "send", remote, local, "4000")
                await asyncio.sleep(9)
                sender.communicate()
            numbers = numbers_on_the_wire(capture)
            assert len(numbers[IN]) > 20_500, len(numbers[IN])
            assert max(numbers[OUT]) == 20_000

    asyncio.run(main())


def test_as_an_operator_does_it(network: Network, tmp_path: Path) -> None:
    """Two agents from the command line, and the commands beside them."""
    kind = KINDS["transport-gcm"]

    def cxtp(name: str, *arguments: str, code: int = 0) -> str:
        control = ["--control", str(tmp_path / f"{name}.sock")]
        with network.inside(name):
            done = subprocess.run(
                [sys.executable, "-m", "cxtp", *arguments, *control], capture_output=True, text=True, check=False
            )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    async def main() -> None:
        async with gateways(network, tmp_path, kind) as made:
            agents = []
            for name, other in (("a", "b"), ("b", "a")):
                address = {router: str(made.routers[router].address) for router in ("a", "b")}
                agents.append(
                    network.start(
                        name, sys.executable, "-m", "cxtp", "gateway", "linux", "--name", name,
                        "--listen", address[name], "--peer", f"{other}={address[other]}", "--transport", "udp",
                        "--allow-cleartext-keys-on-the-network", "--max-transfer-time", "5",
                        "--state", str(tmp_path / f"cli-{name}"), "--control", str(tmp_path / f"{name}.sock"),
                        *(["--standby", "b"] if name == "a" else []),
                        stdout=subprocess.PIPE,
                    )
                )  # fmt: skip
            for agent in agents:
                assert agent.stdout is not None
                assert "serves this kernel" in agent.stdout.readline()
            table = cxtp("a", "sessions")
            assert table.splitlines()[0].split()[:3] == ["peer", "state", "owner"]
            assert f"{IN:08x}" in table
            assert "absent" in table
            (move,) = json.loads(cxtp("a", "move", "--all", "--to", "b", "--json"))["moves"]
            assert move["moved"], move
            (row,) = json.loads(cxtp("b", "sessions", "--json"))["sessions"]
            assert (row["owner"], row["state"], row["suite"]) == ("b", "owned", "ESP:AES_GCM_16-256")
            assert "no replica of a's is here" in cxtp("b", "takeover", "a", code=1)
            assert "10.9.0.1" in cxtp("b", "move", "10.9.0.1", "--to", "a")
            for agent in agents:
                agent.terminate()
                assert agent.wait(20) == 0

    asyncio.run(main())
