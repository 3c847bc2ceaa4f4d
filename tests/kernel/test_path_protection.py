"""Whether the path is protected, by the kernel's own policies and SAs, set with iproute2 (RFC 4067, 6.2)."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from node_helpers import until

from cxtp.adapters.xfrm import XfrmClient
from cxtp.path_protection import GuardedEndpoint, PathGuard, PathVerdict, check_path, sctp, udp
from cxtp.roles.events import Peer
from cxtp.transports.endpoint import Router
from cxtp.transports.udp import UdpEndpoint
from kernel.network import Network

both_versions = pytest.mark.parametrize("version", [4, 6])

GCM = "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128"
CBC = "enc cbc(aes) 0x" + "22" * 16 + " auth-trunc hmac(sha256) 0x" + "33" * 32 + " 128"
NULL = 'enc cipher_null "" auth-trunc hmac(sha256) 0x' + "33" * 32 + " 128"
GMAC = "aead rfc4543(gcm(aes)) 0x" + "11" * 20 + " 128"
UNCHECKED = "enc cbc(aes) 0x" + "22" * 16 + ' auth digest_null ""'


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b")
    yield made
    made.close()


def ip(network: Network, name: str, *lines: str) -> None:
    with network.inside(name):
        batch = "\n".join(lines) + "\n"
        done = subprocess.run(["ip", "-batch", "-"], input=batch, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _nothing_before(network: Network) -> None:
    for name in network.names:
        ip(network, name, "xfrm policy flush", "xfrm state flush")


class Path:
    """What a's kernel is told about b, and both ways for a real exchange."""

    def __init__(self, network: Network, version: int) -> None:
        self.network = network
        self.a, self.b = network.address("a", version), network.address("b", version)
        self.bits = 32 if version == 4 else 128

    def associations(self, algorithms: str = GCM, window: int = 32, mode: str = "transport") -> list[str]:
        return [
            f"xfrm state add src {one} dst {other} proto esp spi {spi} mode {mode} replay-window {window} {algorithms}"
            for one, other, spi in ((self.a, self.b, "0x100"), (self.b, self.a, "0x200"))
        ]

    def policy(self, name: str, direction: str, mode: str = "transport", **options: object) -> str:
        ours, theirs = (self.a, self.b) if name == "a" else (self.b, self.a)
        source, destination = (ours, theirs) if direction == "out" else (theirs, ours)
        template = f"tmpl src {source} dst {destination} proto esp mode {mode} level {options.get('level', 'required')}"
        return (
            f"xfrm policy add src {source}/{self.bits} dst {destination}/{self.bits} {options.get('selector', '')} "
            f"dir {direction} priority {options.get('priority', 100)} action {options.get('action', 'allow')} "
            f"{template if options.get('template', True) else ''}"
        )

    def protect(self, **options: object) -> None:
        for name in ("a", "b"):
            lines = [self.policy(name, "out", **options), self.policy(name, "in", **options)]  # type: ignore[arg-type]
            ip(self.network, name, *self.associations(), *lines)

    def check(self) -> PathVerdict:
        with self.network.inside("a"):
            return check_path(self.a, self.b, sctp(5091, 5091))


@both_versions
@pytest.mark.parametrize("algorithms", [GCM, CBC])
@pytest.mark.parametrize("selector", ["", "proto sctp", "proto sctp dport 5091"])
def test_a_protected_path(network: Network, version: int, algorithms: str, selector: str) -> None:
    path = Path(network, version)
    inward = selector.replace("dport", "sport")
    lines = [path.policy("a", "out", selector=selector), path.policy("a", "in", selector=inward)]
    ip(network, "a", *path.associations(algorithms), *lines)
    verdict = path.check()
    assert (verdict.is_protected, verdict.reasons) == (True, ())
    assert [[sa.spi for sa in found.associations] for found in verdict.found] == [[0x100], [0x200]]
    for octet in (0x11, 0x22, 0x33):  # the keys, in either way to write them; a time may have some digits of one
        key = bytes([octet]) * 16
        assert key.hex() not in repr(verdict)
        assert repr(key)[2:-1] not in repr(verdict)


@both_versions
@pytest.mark.parametrize(
    ("reason", "build"),
    [
        ("outbound: no policy covers it", lambda p: [*p.associations(), p.policy("a", "in")]),
        ("inbound: no policy covers it", lambda p: [*p.associations(), p.policy("a", "out")]),
        ("no SA is there yet", lambda p: [p.policy("a", "out"), p.policy("a", "in")]),
        (
            "ESP is in tunnel mode",
            lambda p: [*p.associations(mode="tunnel"), p.policy("a", "out", "tunnel"), p.policy("a", "in", "tunnel")],
        ),
        (
            "does not encrypt (ecb(cipher_null))",
            lambda p: [*p.associations(NULL), p.policy("a", "out"), p.policy("a", "in")],
        ),
        (
            "does not encrypt (rfc4543(gcm(aes)))",
            lambda p: [*p.associations(GMAC), p.policy("a", "out"), p.policy("a", "in")],
        ),
        (
            "has no integrity check",
            lambda p: [*p.associations(UNCHECKED), p.policy("a", "out"), p.policy("a", "in")],
        ),
        (
            "has no anti-replay window",
            lambda p: [*p.associations(window=0), p.policy("a", "out"), p.policy("a", "in")],
        ),
        (
            "the policy that decides demands no ESP",
            lambda p: [*p.associations(), p.policy("a", "out", level="use"), p.policy("a", "in", level="use")],
        ),
        (
            "a policy blocks it",
            lambda p: [*p.associations(), p.policy("a", "out", action="block"), p.policy("a", "in")],
        ),
        (
            "the policy that decides demands no ESP",  # the lower priority number wins
            lambda p: [
                *p.associations(),
                p.policy("a", "out"),
                p.policy("a", "in"),
                p.policy("a", "out", selector="proto sctp", priority=1, template=False),
            ],
        ),
        (
            "no policy covers it",
            lambda p: [
                *p.associations(),
                p.policy("a", "out", selector="proto udp"),
                p.policy("a", "in", selector="proto udp"),
            ],
        ),
    ],
)
def test_a_path_that_is_not_protected(
    network: Network, version: int, reason: str, build: Callable[[Path], list[str]]
) -> None:
    path = Path(network, version)
    ip(network, "a", *build(path))
    verdict = path.check()
    assert not verdict.is_protected
    assert any(reason in told for told in verdict.reasons), verdict.reasons


def test_an_spi_without_an_sa_yet_changes_nothing(network: Network) -> None:
    """An IKE daemon keeps an SPI before each rekeying: the old SA serves on, and alone it is no SA."""
    path = Path(network, 4)
    larval = f"xfrm state allocspi src {path.b} dst {path.a} proto esp mode transport min 0x900 max 0x900"
    ip(network, "a", path.policy("a", "out"), path.policy("a", "in"), larval)
    assert "inbound: no SA is there yet: have the IKE daemon set one up" in path.check().reasons
    ip(network, "a", *path.associations())
    assert path.check().reasons == ()


@pytest.mark.parametrize("priority", [99, 100])
def test_a_policy_for_one_interface_may_decide(network: Network, priority: int) -> None:
    """Better than, or as good as, the one that protects: the kernel takes it for what goes by that interface."""
    path = Path(network, 4)
    path.protect()
    open_door = path.policy("a", "out", selector="dev eth0", priority=priority, template=False)
    ip(network, "a", open_door)
    assert path.check().reasons == ("outbound: another policy that may come first says something else",)
    ip(network, "a", "xfrm policy flush", path.policy("a", "out"), path.policy("a", "in"))
    ip(network, "a", path.policy("a", "out", selector="dev eth0", priority=101, template=False))
    assert path.check().is_protected


def test_the_kernel_takes_the_policy_of_the_interface(network: Network) -> None:
    """The real kernel's own choice: nothing goes through the SA, since the policy for eth0 asks for none."""
    path = Path(network, 4)
    path.protect()
    ip(network, "a", path.policy("a", "out", selector="dev eth0", priority=99, template=False))
    with network.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"in the clear", (str(path.b), 5091))
    text = network.run("a", "ip", "-s", "xfrm", "state", "get", "src", str(path.a), "dst", str(path.b), "proto", "esp",
                       "spi", "0x100")
    assert "0(bytes), 0(packets)" in text


@both_versions
def test_the_command(network: Network, version: int) -> None:
    path = Path(network, version)
    command = [sys.executable, "-m", "cxtp", "check-path", str(path.b), "--json"]
    answer = json.loads(network.run("a", *command, check=False))
    assert (answer["protected"], answer["local"]) == (False, str(path.a))
    path.protect()
    answer = json.loads(network.run("a", *command))
    assert (answer["protected"], answer["reasons"]) == (True, [])
    (outbound, inbound) = answer["found"]
    assert inbound["associations"] == [
        {
            "spi": "00000200",
            "encryption": "rfc4106(gcm(aes))",
            "authentication": "rfc4106(gcm(aes))",
            "replay_window": 32,
        }
    ]
    assert outbound["direction"] == "out"


def test_what_the_kernel_has_is_what_iproute2_says(network: Network) -> None:
    """SAs and policies as we read them against ``ip -json``-less iproute2's text."""
    path = Path(network, 4)
    esn = (
        f"xfrm state add src {path.a} dst {path.b} proto esp spi 0x300 mode tunnel reqid 77 {GCM} "
        "flag esn replay-window 128"
    )
    ip(network, "a", esn, path.policy("a", "out", priority=4711, selector="proto tcp sport 80"))
    with network.inside("a"), XfrmClient() as client:
        (sa,) = client.security_associations()
        (policy,) = client.policies()
    text = network.run("a", "ip", "xfrm", "state")
    assert (sa.spi, sa.mode, sa.request_id, sa.replay_window) == (0x300, 1, 77, 128)
    assert sa.aead is not None
    assert sa.aead.name == "rfc4106(gcm(aes))"
    assert "replay_window 128" in text.replace("replay-window", "replay_window")
    assert (policy.priority, policy.direction, policy.selector.protocol) == (4711, 1, 6)
    assert (policy.selector.source_port, policy.selector.source_port_mask) == (80, 0xFFFF)
    (template,) = policy.templates
    assert (template.source, template.destination, template.protocol, template.optional) == (path.a, path.b, 50, False)


@both_versions
def test_a_guarded_endpoint_carries_nothing_in_the_clear(network: Network, version: int) -> None:
    path = Path(network, version)
    received: dict[str, list[bytes]] = {"a": [], "b": []}

    def guarded(name: str, knows: str) -> GuardedEndpoint:
        ours, theirs = network.address(name, version), network.address(knows, version)
        return GuardedEndpoint(
            lambda receiver: UdpEndpoint(
                (ours, 5091), [Router(knows, theirs)], receiver, allow_cleartext_keys_on_the_network=True
            ),
            lambda octets, peer: received[name].append(octets),
            PathGuard(ours, lambda peer: udp(5091, 5091)),
        )

    async def main() -> None:
        a, b = guarded("a", "b"), guarded("b", "a")
        for name, end in (("a", a), ("b", b)):
            with network.inside(name):
                await end.start()
        to_b = Peer(path.b, 5091, name="b", is_router=True)

        async def send(octets: bytes, arrived: Callable[[], bool] | None = None) -> None:
            # A guard asks in the namespace of its node; here both are one process.
            with network.inside("a"):
                a.send(octets, to_b)
            with network.inside("b"):
                if arrived is None:
                    await asyncio.sleep(0.1)
                else:
                    await until(arrived)

        with network.inside("a"):
            assert "no policy covers it" in (a.obstacle(to_b) or "")
        await send(b"in the clear")
        assert (a.counters["unprotected_path"], a.counters["sent"]) == (1, 0)
        path.protect()
        await send(b"protected", lambda: bool(received["b"]))
        assert received["b"] == [b"protected"]
        ip(network, "b", "xfrm policy flush")  # what comes from now on is not taken, whoever protects it
        await send(b"b does not demand it", lambda: b.counters["unprotected_path"] == 1)
        assert received["b"] == [b"protected"]
        assert b.counters["unprotected_path"] == 1
        ip(network, "a", "xfrm policy flush")
        await send(b"in the clear again")
        assert a.counters["unprotected_path"] == 2
        await a.close()
        await b.close()

    asyncio.run(main())
