"""A node of ours provoked over the kernel's SCTP and ICMP: it breaks no rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxtp.config import ProtocolConfig
from cxtp.conformance import live
from cxtp.conformance.live import LiveConfig, Probe, Prober
from cxtp.conformance.verdicts import Report, Verdict
from cxtp.dissect import Transport
from cxtp.doubts import Doubts
from cxtp.mobile import MobileNodeClient
from cxtp.transports.endpoint import Endpoint, Peer, Receiver
from cxtp.transports.icmp import IcmpEndpoint
from cxtp.transports.sctp import SctpEndpoint, SctpSettings
from kernel.network import Network
from kernel.test_flows import KEY, TIMERS, nodes


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network("a", "b", "c", "mobile")
    yield made
    made.close()


def told(report: Report) -> str:
    return "\n".join(f"{r.rule.id}: {r.faults[0]}" for r in report.failed())


async def run(prober: Prober, network: Network, name: str, probes: tuple[Probe, ...] | None = None) -> Report:
    with network.inside(name):
        await prober._endpoint.start()
    started = prober._endpoint.start

    async def again() -> None:
        """It is started: sockets are made in their namespace."""

    prober._endpoint.start = again  # type: ignore[method-assign]
    try:
        return await prober.run(probes)
    finally:
        prober._endpoint.start = started  # type: ignore[method-assign]


@pytest.mark.parametrize("role", ["previous-router", "new-router"])
def test_routers_over_sctp(network: Network, tmp_path: Path, role: str) -> None:
    async def probe() -> Report:
        async with nodes(network, tmp_path, 4, "a") as made:
            node = made.nodes["a"]
            node._doubts = Doubts(60.0, 60.0, node._ask_again)
            own, peer = made.routers["b"], made.routers["a"]
            # A previous router has the session; a new one is given another mobile node's.
            mn = made.mn if role == "previous-router" else made.mn + 1

            def endpoint(receiver: Receiver) -> Endpoint:
                settings = SctpSettings(lifetime=2.0, retransmissions=4)
                return SctpEndpoint((own.address, own.port), [peer], receiver, settings=settings)

            there = Peer(peer.address, peer.port, "a", reliable=True, is_router=True)
            config = LiveConfig(role, there, (own.address, own.port), Transport.SCTP, mn, KEY, TIMERS)
            return await run(Prober(config, endpoint, seed=7), network, "b")

    report = asyncio.run(probe())
    allowed = {"2.5.6-null-answer"} if role == "new-router" else set()  # this mobile node has no key
    assert {r.rule.id for r in report.failed()} <= allowed, told(report)
    rule = "2.5.4-reply" if role == "new-router" else "content-mandatory"
    assert report.of(rule).verdict is Verdict.PASS


def test_a_router_and_a_mobile_node_over_icmp(network: Network, tmp_path: Path) -> None:
    async def probe() -> tuple[Report, Report]:
        async with nodes(network, tmp_path, 4, "a") as made:
            own, peer = network.address("mobile", 4), made.routers["a"].address
            config = LiveConfig("new-router", Peer(peer, 0), (own, 0), Transport.ICMP, made.mn + 1, KEY, TIMERS)
            prober = Prober(config, lambda receiver: IcmpEndpoint(own, receiver), seed=7)
            flood = await run(prober, network, "mobile", (live._flood,))
        new, previous = network.address("b", 4), network.address("c", 4)
        config = LiveConfig("mobile-node", Peer(own, 0), (new, 0), Transport.ICMP, made.mn, KEY, TIMERS, patience=10.0)
        prober = Prober(config, lambda receiver: IcmpEndpoint(new, receiver))
        client = MobileNodeClient(lambda receiver: IcmpEndpoint(own, receiver), ProtocolConfig(timers=TIMERS))
        with network.inside("mobile"):
            await client.start()
        asking = asyncio.ensure_future(client.activate(made.mn, previous, new, KEY))
        try:
            report = await run(prober, network, "b")
            await asking
        finally:
            await client.close()
        return flood, report

    flood, mobile = asyncio.run(probe())
    assert not flood.failed(), told(flood)
    assert not mobile.failed(), told(mobile)
    assert mobile.of("3.2-backoff").verdict is Verdict.PASS
    assert mobile.of("2.5.1-token").verdict is Verdict.PASS
