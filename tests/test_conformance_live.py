"""A node of ours is provoked in every role, over UDP and TLS, and breaks no rule."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import PROTOCOL, Lab, lab, recorded_contexts

from cxtp.config import ProtocolConfig, Timers
from cxtp.conformance import live, probes
from cxtp.conformance.live import LiveConfig, Probe, Prober
from cxtp.conformance.verdicts import Report, Verdict
from cxtp.dissect import Transport
from cxtp.doubts import Doubts
from cxtp.mobile import MobileNodeClient
from cxtp.node import Node
from cxtp.roles.schedule import Backoff
from cxtp.store.records import SessionState
from cxtp.transports.endpoint import Endpoint, Peer, Receiver
from cxtp.transports.udp import UdpEndpoint

MN = ip_address("192.0.2.100")
KEY = b"shared by the mobile node and A"
QUICK = replace(PROTOCOL, timers=Timers(max_transfer_time=0.4, max_handover_time=4.0))


def told(report: Report) -> str:
    return "\n".join(f"{r.rule.id}: {r.faults[0]}" for r in report.failed())


def patient(node: Node) -> None:
    """What was not confirmed is asked after again later than a probe takes."""
    node._doubts = Doubts(30.0, 60.0, node._ask_again)


async def probe(
    directory: Path,
    role: str,
    transport: str,
    *,
    probes: tuple[Probe, ...] | None = None,
) -> Report:
    """A node A of ours, provoked by a prober in B's place; afterwards A has what it had before."""
    async with lab(directory, transport, start=(), protocol=QUICK) as nodes:
        node = await nodes.start("a", mobile_node_keys={MN: KEY}, prepare=patient)
        if role == "previous-router":
            await node.sessions.load(MN, recorded_contexts())
        own, peer = nodes.routers["b"], nodes.routers["a"]
        config = LiveConfig(
            role,
            Peer(peer.address, peer.port, "a", reliable=transport != "udp", is_router=True),
            (own.address, own.port),
            Transport.UDP if transport == "udp" else Transport.TCP,
            MN,
            KEY,
            QUICK.timers,
        )
        prober = Prober(config, lambda receiver: nodes.endpoint("b", receiver), seed=7)
        report = await prober.run(probes)
        if probes is None:
            record = node.sessions.get(MN)
            state = None if record is None else record.state
            owned = SessionState.OWNED
            assert state is owned if role == "previous-router" else state is not owned
        return report


@pytest.mark.parametrize("transport", ["udp", "tls"])
def test_a_new_router(tmp_path: Path, transport: str) -> None:
    chosen = None if transport == "udp" else probes.PROBES["new-router"][:1] + probes.PROBES["new-router"][3:7]
    report = asyncio.run(probe(tmp_path, "new-router", transport, probes=chosen))
    assert not report.failed(), told(report)
    for rule in ("2.5.4-reply", "2.5-malformed", "6.3-activated", "2.3-unknown-type", "formats-receipt"):
        assert report.of(rule).verdict is Verdict.PASS, rule


@pytest.mark.parametrize("transport", ["udp", "tls"])
def test_a_previous_router(tmp_path: Path, transport: str) -> None:
    chosen = None if transport == "udp" else probes.PROBES["previous-router"][3:7]
    report = asyncio.run(probe(tmp_path, "previous-router", transport, probes=chosen))
    assert not report.failed(), told(report)
    for rule in ("2.5-malformed", "6.3-validated", "2.5.5-cancel", "formats-manifest-digest", "content-mandatory"):
        assert report.of(rule).verdict is Verdict.PASS, rule
    if transport == "udp":
        assert report.of("3.1-backoff").verdict is Verdict.PASS


def test_a_mobile_node(tmp_path: Path) -> None:
    timers = Timers(request_retry=0.2, retry_max=4.0)
    previous, new, mobile = (ip_address(f"127.77.{secrets.randbelow(250) + 1}.{n}") for n in (1, 2, 3))

    async def run() -> Report:
        config = LiveConfig("mobile-node", Peer(mobile, 0), (new, 5091), Transport.UDP, MN, KEY, timers, patience=5.0)
        prober = Prober(config, lambda receiver: UdpEndpoint((new, 5091), [], receiver))
        client = MobileNodeClient(
            lambda receiver: UdpEndpoint((mobile, 0), [], receiver), ProtocolConfig(timers=timers)
        )
        await client.start()
        try:
            asking = asyncio.ensure_future(client.activate(MN, previous, new, KEY))
            report = await prober.run()
            assert (await asking).answered
        finally:
            await client.close()
        return report

    report = asyncio.run(run())
    assert not report.failed(), told(report)
    for rule in ("3.2-backoff", "3.2-answered", "4-request-retry", "2.5.1-token"):
        assert report.of(rule).verdict is Verdict.PASS, rule


# --- variants of the node with one deviation each -----------------------------------------------------------------


Mangle = Callable[[bytes], bytes]


def without_receipt(octets: bytes) -> bytes:
    """A CTDR less its last four records."""
    if octets[0] & 31 != 5:
        return octets
    return octets[:2] + (len(octets) - 16).to_bytes(2, "big") + octets[4:-16]


def another_digest(octets: bytes) -> bytes:
    """One bit of the manifest's digest turned."""
    at = octets.find(b"\xff\x03\x06\x00")
    return octets if at < 0 else octets[: at + 28] + bytes((octets[at + 28] ^ 1,)) + octets[at + 29 :]


BROKEN: dict[str, tuple[str, Mangle, tuple[str, ...]]] = {
    "reserved bits": ("new-router", lambda o: o[:1] + bytes((o[1] | 1,)) + o[2:], ("2.5-reserved",)),
    "version 2": ("previous-router", lambda o: bytes((o[0] & 31 | 64,)) + o[1:], ("2.2-version",)),
    "S = 0 beside zeros": (
        "new-router",
        lambda o: bytes((o[0], o[1] & 0xBF)) + o[2:10] + b"\0" + o[11:] if o[0] & 31 == 5 else o,
        ("2.5.4-failure",),
    ),
    "no receipt": (
        "new-router",
        lambda o: o[:2] + (len(o) - 16).to_bytes(2, "big") + o[4:-16] if o[0] & 31 == 5 else o,
        ("formats-receipt",),
    ),
    "a type that is none": ("previous-router", lambda o: bytes((o[0] | 31,)) + o[1:], ("2.5-type",)),
    "a wrong Length": ("previous-router", lambda o: o[:3] + bytes((o[3] ^ 1,)) + o[4:], ("2.5-length",)),
    "a wrong digest": ("previous-router", another_digest, ("formats-manifest-digest",)),
    "a key of none": (
        "previous-router",
        lambda o: o[:13] + b"\2" + o[14:] if o[0] & 31 == 4 else o,
        ("2.5.3-algorithm",),
    ),
}


def mangled(monkeypatch: pytest.MonkeyPatch, mangle: Mangle) -> None:
    """Whatever node A sends goes through ``mangle``; what can't be understood is not waited for long."""
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.5)
    true_endpoint = Lab.endpoint

    def endpoint(self: Lab, of: str, receiver: Receiver) -> Endpoint:
        made = true_endpoint(self, of, receiver)
        if of == "a":
            send = made.send
            made.send = lambda octets, peer: send(mangle(octets), peer)  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(Lab, "endpoint", endpoint)


def same(octets: bytes) -> bytes:
    return octets


def one_wait(self: Backoff, now: float) -> None:
    self.at = now + self.wait


# What is put in the place of a piece of the node's code, and of each message that it sends.
BEHAVIOUR: dict[str, tuple[str, str, object, Mangle, Probe, str]] = {
    "tokens unchecked": (
        "previous-router",
        "cxtp.roles.previous_router.verify_token",
        lambda *arguments, **named: None,
        same,
        probes.forged_request,
        "6.3-validated",
    ),
    "waits that don't grow": (
        "previous-router",
        "cxtp.roles.schedule.Backoff.step",
        one_wait,
        same,
        probes.silence,
        "3.1-backoff",
    ),
    "no rate limit": (
        "new-router",
        "cxtp.roles.memory.RequestRate.admit",
        lambda *arguments, **named: True,
        same,
        probes.flood,
        "6.3-request-rate",
    ),
    "Elapsed Time 0": (
        "previous-router",
        "",
        None,
        lambda o: o[:4] + bytes(4) + o[8:] if o[0] & 31 in (3, 4) else o,
        probes.silence,
        "2.5.3-elapsed",
    ),
}


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_a_node_that_acts_otherwise_fails_that_rule(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    role, place, substitute, mangle, probe_of_it, expected = BEHAVIOUR[name]
    if substitute is not None:
        monkeypatch.setattr(place, substitute)
    mangled(monkeypatch, mangle)
    report = asyncio.run(probe(tmp_path, role, "udp", probes=(probe_of_it,)))
    assert {r.rule.id for r in report.failed()} == {expected}, told(report)


@pytest.mark.parametrize("name", BROKEN)
def test_a_node_with_one_deviation_fails_that_rule(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    role, mangle, expected = BROKEN[name]
    mangled(monkeypatch, mangle)
    probe_of = {"new-router": probes.whole_transfer, "previous-router": probes.null_request}
    report = asyncio.run(probe(tmp_path, role, "udp", probes=(probe_of[role],)))
    assert {r.rule.id for r in report.failed()} == set(expected), told(report)
