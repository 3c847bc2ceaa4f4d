"""The test bed itself: namespaces, loss, captures, SCTP, and ESP that really encrypts."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.network import Network

PATIENCE = 20
"""Seconds that what has to come may take: long, since it only ends a test that fails."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b")
    yield made
    made.close()


def udp(network: Network, name: str, version: int) -> socket.socket:
    with network.inside(name):
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((str(network.address(name, version)), 0))
    made.settimeout(PATIENCE)
    return made


@pytest.mark.parametrize("version", [4, 6])
def test_namespaces_reach_each_other(network: Network, version: int, tmp_path: Path) -> None:
    with udp(network, "a", version) as a, udp(network, "b", version) as b:
        with network.capture("b", tmp_path / "b.pcap") as capture:
            a.sendto(b"from a, in the clear", b.getsockname()[:2])
            assert b.recv(100) == b"from a, in the clear"
        assert b"in the clear" in capture.read_bytes()


def test_netem_loses_what_it_is_told_to(network: Network) -> None:
    with udp(network, "a", 4) as a, udp(network, "b", 4) as b:
        b.settimeout(0.3)
        network.netem("a", "loss", "100%")
        a.sendto(b"lost", b.getsockname())
        with pytest.raises(TimeoutError):
            b.recv(100)
        network.netem("a")
        b.settimeout(PATIENCE)  # its address may have to be asked for once more
        a.sendto(b"there", b.getsockname())
        assert b.recv(100) == b"there"


def test_a_pulled_cable(network: Network) -> None:
    with udp(network, "a", 4) as a, udp(network, "b", 4) as b:
        b.settimeout(0.3)
        network.set_link("b", up=False)
        a.sendto(b"lost", b.getsockname())
        with pytest.raises(TimeoutError):
            b.recv(100)
        network.set_link("b", up=True)
        for _ in range(10 * PATIENCE):  # the bridge's port takes its time, and what comes before is dropped
            a.sendto(b"there", b.getsockname())
            if select.select([b], [], [], 0.1)[0]:
                break
        assert b.recv(100) == b"there"


def test_the_kernel_has_sctp(network: Network) -> None:
    with network.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, 132) as sctp:
        sctp.bind((str(network.ipv4("a")), 5091))


def test_the_kernel_has_esp(network: Network, tmp_path: Path) -> None:
    a, b = network.ipv4("a"), network.ipv4("b")
    aead = "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128"
    for name, source, destination in (("a", a, b), ("b", a, b)):
        direction = "out" if name == "a" else "in"
        lines = [
            f"xfrm state add src {source} dst {destination} proto esp spi 0x1000 mode transport {aead}",
            f"xfrm policy add src {source}/32 dst {destination}/32 dir {direction} "
            f"tmpl src {source} dst {destination} proto esp mode transport",
        ]
        with network.inside(name):
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    try:
        with udp(network, "a", 4) as sender, udp(network, "b", 4) as receiver:
            with network.capture("b", tmp_path / "esp.pcap") as capture:
                sender.sendto(b"not in the clear", receiver.getsockname())
                assert receiver.recv(100) == b"not in the clear"
            octets = capture.read_bytes()
        assert b"in the clear" not in octets
        assert bytes.fromhex("00001000 00000001") in octets  # SPI, sequence number
    finally:
        for name in ("a", "b"):
            network.run(name, "ip", "xfrm", "policy", "flush")
            network.run(name, "ip", "xfrm", "state", "flush")
