"""Two gateways and their peer in namespaces of the real kernel, with SAs that iproute2 made."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cxtp.config import ProtocolConfig, Timers
from cxtp.control import ControlClient
from cxtp.service import GatewayConfig, Service, ServiceConfig
from cxtp.transports.endpoint import Router

from .network import Network

HOOKS = Path(__file__).parents[2] / "examples" / "hooks"
MOVE_ADDRESS, HOLD = "virtual_address.py", "hold_traffic.py"
TRAFFIC = Path(__file__).with_name("traffic.py")
SHARED = {4: ip_address("10.9.0.100"), 6: ip_address("fd00:9::100")}
INNER = {4: ("10.100.0.1", "10.200.0.1"), 6: ("fd00:100::1", "fd00:200::1")}
RATE = 1000
# A slow kernel, and maybe a busy machine: a move that is not confirmed at once is asked after for so long.
PROTOCOL = ProtocolConfig(timers=Timers(max_transfer_time=2.0, max_handover_time=20.0))
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

    def __init__(self, network: Network, directory: Path, kind: Kind, hook: str, environment: str) -> None:
        self.network, self.directory, self.kind = network, directory, kind
        self.peer = network.address("peer", kind.version)
        self.routers = {name: Router(name, network.address(name, 4)) for name in ("a", "b")}
        self.services: dict[str, Service] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self.moved: list[tuple[float, float]] = []
        self._link_addresses: dict[str, str] = {}
        self._hold = hook == HOLD
        self._hooks = {name: self._hook(name, hook, environment) for name in ("a", "b")}

    def _hook(self, name: str, hook: str, environment: str) -> Path:
        """The example, in the namespace: services of both are one process here."""
        path = self.directory / f"hook-{name}"
        path.write_text(
            "#!/bin/sh\n"
            f"export CXTP_VIRTUAL_ADDRESSES={self.directory}/virtual-{name} CXTP_HOLD={self.directory}/hold-{name}\n"
            f"export CXTP_INTERFACE=eth0 {environment}\n"
            f"exec ip netns exec {name} {HOOKS / hook} \"$@\"\n"
        )
        path.chmod(0o755)
        return path

    async def start(self, name: str, *, reserve: int = 20_000, **options: object) -> None:
        other = tuple(router for router in self.routers.values() if router.name != name)
        own, hook, state = self.routers[name], self._hooks[name], self.directory / f"state-{name}"
        config = ServiceConfig(
            name, (own.address, own.port), other, state, state / "control.sock", "udp", protocol=PROTOCOL,
            allow_cleartext_keys_on_the_network=True, kernel=True, sequence_reserve=reserve,
            gateway=GatewayConfig(
                hook, hook, name, on_releasing=hook if self._hold else None, **options  # type: ignore[arg-type]
            ),
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
        """And wait until the address is there, and the peer knows."""
        begin = time.monotonic()
        await self.ask(source, "move", mn_address=str(self.peer), to=target)
        await self.until(lambda: self.has_address(target))
        if not self._hold:  # which switches the peer over when it has passed on what it held
            await self.until(lambda: self._link_address(target) in (told := self._neighbour()) or "lladdr" not in told)
        self.moved.append((begin, time.monotonic()))

    def has_address(self, name: str) -> bool:
        family = socket.AF_INET if self.kind.version == 4 else socket.AF_INET6
        with self.network.inside(name), socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(SHARED[self.kind.version]), 0))
            except OSError:
                return False
        return True

    def _neighbour(self) -> str:
        """Where the peer thinks that the shared address is."""
        return self.network.run("peer", "ip", "neigh", "show", str(SHARED[self.kind.version]), "dev", "eth0")

    def _link_address(self, name: str) -> str:
        if name not in self._link_addresses:
            shown = self.network.run(name, "ip", "-br", "link", "show", "dev", "eth0")
            self._link_addresses[name] = shown.split()[2]
        return self._link_addresses[name]

    async def until(self, holds: object, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < end, "it did not come to be"
            await asyncio.sleep(0.02)

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
                if int(value) and (self._hold or key not in ("XfrmOutPolBlock", "XfrmOutError")):
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
    network: Network, directory: Path, kind: Kind, hook: str = MOVE_ADDRESS, environment: str = ""
) -> AsyncIterator[Gateways]:
    made = Gateways(network, directory, kind, hook, environment)
    try:
        shared = f"{SHARED[kind.version]}/{kind.width}"
        run_ip(network, "peer", *lines_for(kind, network, at_peer=True))
        if kind.mode == "tunnel":
            gateway, peer = kind.inner
            source = "" if hook == HOLD else f"src {gateway}"  # there a host behind the gateways has it
            for name in ("a", "b"):
                run_ip(network, name, f"route replace {peer} via {made.peer} dev eth0 {source}")
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
