"""A node of ours provoked over the kernel's SCTP and ICMP, in every role: it breaks no MUST."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from deviations import DEVIATIONS
from live_nodes import SHOWN, failed, passed, told

from cxtp.config import ProtocolConfig
from cxtp.conformance.live import LiveConfig, Prober
from cxtp.conformance.probes import PROBES
from cxtp.conformance.verdicts import Level, Report
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


async def run(prober: Prober, network: Network, name: str) -> Report:
    """All probes, spoken from that namespace."""
    with network.inside(name):
        await prober.start()
    try:
        await prober.provoke(PROBES[prober.config.role])
    finally:
        await prober.close()
    return prober.report()


@pytest.mark.parametrize(
    ("role", "peer", "own", "version"),
    [("previous-router", "a", "b", 6), ("new-router", "b", "c", 4)],
)
def test_a_router_over_sctp_and_icmp(
    network: Network, tmp_path: Path, role: str, peer: str, own: str, version: int
) -> None:
    """Router to router by SCTP; CTARs and CTAAs by ICMP, from the prober's own address."""

    async def probe() -> Report:
        started = ("a",) if peer == "a" else ("a", "b")
        async with nodes(network, tmp_path, version, *started) as made:
            node = made.nodes[peer]
            node._doubts = Doubts(60.0, 60.0, node._ask_again)
            ours, theirs = made.routers[own], made.routers[peer]

            def endpoint(receiver: Receiver) -> Endpoint:
                settings = SctpSettings(lifetime=2.0, retransmissions=4)
                return SctpEndpoint((ours.address, ours.port), [theirs], receiver, settings=settings)

            config = LiveConfig(
                role,
                Peer(theirs.address, theirs.port, peer, reliable=True, is_router=True),
                (ours.address, ours.port),
                Transport.SCTP,
                made.mn,
                KEY,
                TIMERS,
                mobile=(Transport.ICMP, lambda receiver: IcmpEndpoint(ours.address, receiver)),
            )
            return await run(Prober(config, endpoint, seed=7), network, own)

    check(asyncio.run(probe()), role)


def check(report: Report, role: str) -> None:
    assert not report.failed(Level.MUST), told(report)
    assert not failed(report), told(report)
    assert passed(report) >= SHOWN[role], SHOWN[role] - passed(report)
    assert passed(report) >= {"3.1-messages", "3.2-messages"}, "neither SCTP nor ICMP carried anything"
    assert passed(report) <= DEVIATIONS.keys(), passed(report) - DEVIATIONS.keys()


def test_a_router_over_icmp_alone(network: Network, tmp_path: Path) -> None:
    """The prober has a mobile node's place and no other: CTARs with a wrong token, without A, and a flood of them."""

    async def probe() -> Report:
        async with nodes(network, tmp_path, 4, "a") as made:
            own, peer = network.address("mobile", 4), made.routers["a"]
            there = Peer(peer.address, peer.port, "a", is_router=True)
            config = LiveConfig("previous-router", there, (own, 0), Transport.ICMP, made.mn, KEY, TIMERS)
            return await run(Prober(config, lambda receiver: IcmpEndpoint(own, receiver), seed=7), network, "mobile")

    report = asyncio.run(probe())
    assert not report.failed(), told(report)
    assert passed(report) >= {"2.5.2-answer", "2.5.2-unasked", "2.5.2-failures", "3.2-messages", "6.3-request-rate"}


def test_a_mobile_node_over_icmp(network: Network) -> None:
    own, new, previous = (network.address(name, 4) for name in ("mobile", "b", "c"))
    mn = own + 100

    async def probe() -> Report:
        config = LiveConfig("mobile-node", Peer(own, 0), (new, 0), Transport.ICMP, mn, KEY, TIMERS, patience=10.0)
        prober = Prober(config, lambda receiver: IcmpEndpoint(new, receiver))
        client = MobileNodeClient(lambda receiver: IcmpEndpoint(own, receiver), ProtocolConfig(timers=TIMERS))
        with network.inside("mobile"):
            await client.start()
        asking = asyncio.ensure_future(client.activate(mn, previous, new, KEY))
        try:
            report = await run(prober, network, "b")
            assert (await asking).answered
        finally:
            await client.close()
        return report

    report = asyncio.run(probe())
    assert not report.failed(), told(report)
    assert passed(report) >= SHOWN["mobile-node"] - {"4-retry-max"}
