"""A node of ours under a prober, in each role, over UDP or TLS on loopback; what stands between it and the wire."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import loopback
from node_helpers import PROTOCOL, Lab, lab, recorded_contexts
from simulation import scratch

from cxtp.config import ProtocolConfig, Timers
from cxtp.conformance.live import LiveConfig, Probe, Prober
from cxtp.conformance.probes import PROBES
from cxtp.conformance.verdicts import Report, Verdict
from cxtp.dissect import Transport
from cxtp.doubts import Doubts
from cxtp.messages import EncodedContext
from cxtp.mobile import MobileNodeClient
from cxtp.node import Node
from cxtp.store.records import SessionState
from cxtp.transports.endpoint import Endpoint, Peer, Receiver
from cxtp.transports.udp import UdpEndpoint

MN = ip_address("192.0.2.100")
KEY = b"shared by the mobile node and A"
QUICK = replace(PROTOCOL, timers=Timers(max_transfer_time=0.4, max_handover_time=4.0))
MOBILE_TIMERS = Timers(request_retry=0.2, retry_max=4.0)

SHOWN = {
    "new-router": {
        "2.3-unknown-type", "2.5-malformed", "2.5.2-answer", "2.5.2-unasked", "2.5.4-failure", "2.5.4-reply",
        "2.5.4-unasked", "2.5.6-answered", "2.5.6-verbatim", "3.2-duplicate", "5.1-predictive", "6.1-flood",
        "6.3-activated", "6.3-request-rate", "formats-receipt", "safety-generation",
        "safety-one-taker",
    },
    "previous-router": {
        "2.1-scenarios", "2.5-malformed", "2.5.1-requested-types", "2.5.2-answer", "2.5.2-unasked", "2.5.3-key",
        "2.5.3-resent", "2.5.4-ends", "2.5.5-cancel", "2.5.6-empty-refusal", "6.1-flood", "6.3-request-rate",
        "6.3-validated", "content-keys", "content-mandatory", "formats-manifest-digest",
    },
    "mobile-node": {
        "2-started", "2.5.1-layout", "2.5.1-null-token", "2.5.1-other-router", "2.5.1-token", "3.2-answered",
        "3.2-backoff", "4-request-retry", "4-retry-max",
    },
}  # fmt: skip
"""What each run must show, whatever the transport."""


def told(report: Report) -> str:
    return "\n".join(f"{r.rule.id}: {r.faults[0]}" for r in report.failed())


def passed(report: Report) -> set[str]:
    return {result.rule.id for result in report.results if result.verdict is Verdict.PASS}


def failed(report: Report) -> set[str]:
    return {result.rule.id for result in report.failed()}


def patient(node: Node) -> None:
    """What was not confirmed is asked after again later than a probe takes."""
    node._doubts = Doubts(30.0, 60.0, node._ask_again)


# --- between a node and the wire ----------------------------------------------------------------------------------

Packet = tuple[bytes, Peer]
Pass = Callable[["Wire", bytes, Peer], Iterable[Packet]]


def as_it_is(wire: Wire, octets: bytes, peer: Peer) -> Iterable[Packet]:
    return ((octets, peer),)


@dataclass
class Wire:
    """What a broken node does to messages on their way out and in; ``memory`` is the deviation's own."""

    out: Pass = as_it_is
    into: Pass = as_it_is
    memory: dict[str, Any] = field(default_factory=dict)
    router: Peer | None = None
    stranger: Peer | None = None
    mobile: Peer | None = None
    _put: Callable[[bytes, Peer], None] = field(default=lambda octets, peer: None)

    def send(self, octets: bytes, peer: Peer, after: float = 0.0) -> None:
        """Send a message of the deviation's own."""
        asyncio.get_running_loop().call_later(after, self._put, octets, peer)

    def around(self, make: Callable[[Receiver], Endpoint], receiver: Receiver) -> Endpoint:
        """The node's endpoint with this wire in between."""

        def receive(octets: bytes, peer: Peer) -> None:
            for one, of in self.into(self, octets, peer):
                receiver(one, of)

        made = make(receive)
        self._put = made.send

        def send(octets: bytes, peer: Peer) -> None:
            for one, to in self.out(self, octets, peer):
                self._put(one, to)

        made.send = send  # type: ignore[method-assign]
        return made


# --- roles --------------------------------------------------------------------------------------------------------


async def probe_router(
    role: str,
    transport: str = "udp",
    probes: Sequence[Probe] | None = None,
    *,
    wire: Wire | None = None,
    timers: Timers = QUICK.timers,
    key: bytes = KEY,
    contexts: Sequence[EncodedContext] | None = None,
    two_ways: bool = False,
) -> Report:
    """A node A of ours, provoked by a prober in B's place; after all probes, A has what it had before.

    ``timers`` are the judge's; a deviation may make it less patient than the node is.  ``two_ways``: CTARs come from
    another port than the routers' messages, and the prober calls the one way ICMP and the other SCTP.

    The node's store is in memory, where there is such a place: the prober is not patient, and a disk may be busy.
    """
    with tempfile.TemporaryDirectory(dir=scratch()) as memory:
        async with lab(Path(memory), transport, start=(), protocol=QUICK) as nodes:
            own, there = _ends(nodes, transport)
            strange = ip_address(f"{nodes.subnet}.66")
            if wire is not None:
                wire.router, wire.stranger = own, Peer(strange, own.port, "", is_router=True)
                _put_between(nodes, wire)
            node = await nodes.start("a", mobile_node_keys={MN: key}, prepare=patient)
            if role == "previous-router":
                await node.sessions.load(MN, contexts or recorded_contexts())
            stranger = (strange, lambda receiver: UdpEndpoint((strange, own.port), [nodes.routers["a"]], receiver))

            def mobile_way(receiver: Receiver) -> Endpoint:
                made = UdpEndpoint((own.address, 5092), [], receiver)
                if wire is not None:
                    wire.mobile = Peer(own.address, 5092)
                return made

            config = LiveConfig(
                role,
                there,
                (own.address, own.port),
                Transport.UDP if transport == "udp" else Transport.TCP,
                MN,
                key,
                timers,
                stranger=stranger if transport == "udp" else None,
            )
            if two_ways:
                config.transport, config.mobile = Transport.SCTP, (Transport.ICMP, mobile_way)
            prober = Prober(config, lambda receiver: nodes.endpoint("b", receiver), seed=7)
            if two_ways:
                prober._ways["mobile"].peer = there  # ICMP has no ports, this has
            report = await prober.run(PROBES[role] if probes is None else probes)
            if probes is None:
                record = node.sessions.get(MN)
                owned = record is not None and record.state is SessionState.OWNED
                assert owned == (role == "previous-router")
            return report


def _ends(nodes: Lab, transport: str) -> tuple[Peer, Peer]:
    routers = {name: nodes.routers[name] for name in ("b", "a")}
    own, there = (Peer(r.address, r.port, name, transport != "udp", True) for name, r in routers.items())
    return own, there


def _put_between(nodes: Lab, wire: Wire) -> None:
    make = nodes.endpoint

    def endpoint(name: str, receiver: Receiver) -> Endpoint:
        if name != "a":
            return make(name, receiver)
        return wire.around(lambda inner: make(name, inner), receiver)

    nodes.endpoint = endpoint  # type: ignore[method-assign]


async def probe_mobile_node(
    probes: Sequence[Probe] | None = None,
    *,
    wire: Wire | None = None,
    timers: Timers = MOBILE_TIMERS,
    own_timers: Timers = MOBILE_TIMERS,
) -> Report:
    """A mobile node of ours asks a prober, who is its new router, over UDP."""
    subnet = loopback.subnet()
    previous, new, mobile = (ip_address(f"{subnet}.{n}") for n in (2, 3, 4))
    config = LiveConfig("mobile-node", Peer(mobile, 0), (new, 5091), Transport.UDP, MN, KEY, timers, patience=2.0)
    prober = Prober(config, lambda receiver: UdpEndpoint((new, 5091), [], receiver))
    wire = wire or Wire()
    client = MobileNodeClient(
        lambda receiver: wire.around(lambda inner: UdpEndpoint((mobile, 0), [], inner), receiver),
        ProtocolConfig(timers=own_timers),
    )
    await prober.start()
    await client.start()
    asking = asyncio.ensure_future(client.activate(MN, previous, new, KEY))
    try:
        await prober.provoke(PROBES["mobile-node"] if probes is None else probes)
        if probes is None:
            assert (await asking).answered
        return prober.report()
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await client.close()
        await prober.close()
