"""Real nodes on loopback in one process: real sockets, real stores, the default clock."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import loopback

from contexts.base import encode
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.config import Limits, ProtocolConfig, Timers
from cxtp.messages import EncodedContext, IPAddress
from cxtp.node import Node, NodeConfig
from cxtp.pki import create_authority, create_node_certificate, node_paths
from cxtp.sessions import Sink
from cxtp.store.records import SessionRecord, SessionState
from cxtp.store.sealing import StoreKey
from cxtp.store.sqlite import SqliteStore
from cxtp.transports.endpoint import Endpoint, Receiver, Router
from cxtp.transports.tls import TlsEndpoint
from cxtp.transports.udp import UdpEndpoint

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
MN = ip_address("192.0.2.100")

# The wire's 200 ms are for mobile nodes; a busy test machine gets more, and doubt is to end soon.
PROTOCOL = ProtocolConfig(timers=Timers(max_transfer_time=2.0, max_handover_time=4.0))


@cache
def recorded_contexts(trace: str = "v5-plain") -> tuple[EncodedContext, ...]:
    (session,) = read_ha_capture(TRACES / trace / "ha.pcap", keep_deleted=True).sessions()
    return tuple(encode(context) for context in session.contexts)


def opaque(octets: int, feature_profile_type: int = 0x7001) -> EncodedContext:
    """A context of a type that nobody knows, its data as long as a block's (so that it comes back the same)."""
    return EncodedContext(feature_profile_type, (b"cxtp" * (octets // 4 + 1))[: octets // 8 * 8 + 4])


def arrived_whole(received: Iterable[EncodedContext], sent: Iterable[EncodedContext]) -> bool:
    """The same contexts, but for the zeros that fill the last block of each."""
    pairs = list(zip(received, sent, strict=True))
    same_types = all(r.feature_profile_type == s.feature_profile_type for r, s in pairs)
    return same_types and all(r.data.rstrip(b"\0") == s.data.rstrip(b"\0") for r, s in pairs)


def without_parameter(context: EncodedContext, number: int) -> EncodedContext:
    """An IKE_SA or IPsec_SA context less its mandatory parameter ``number`` (docs/context-formats.md, 2)."""
    assert context.presence_vector is not None
    (_, _, count, total) = struct.unpack_from(">BBHI", context.data)
    offset, kept = 8, b""
    for _ in range(count):
        head, length = struct.unpack_from(">HH", context.data, offset)
        if head != number:
            kept += context.data[offset : offset + 4 + length]
        offset += 4 + length
    assert offset == total
    data = context.data[:2] + struct.pack(">HI", count - 1, 8 + len(kept)) + kept
    return EncodedContext(context.feature_profile_type, data, context.presence_vector & ~(1 << (32 - number)))


class Lab:
    """Names, addresses, certificates and stores of some nodes; each can be started and stopped."""

    def __init__(self, directory: Path, transport: str, names: Iterable[str], protocol: ProtocolConfig) -> None:
        subnet = loopback.subnet()
        self.directory, self.transport, self.protocol = directory, transport, protocol
        self.routers = {name: Router(name, ip_address(f"{subnet}.{n}"), 5091) for n, name in enumerate(names, 2)}
        self.nodes: dict[str, Node] = {}
        self.subnet = subnet
        self.pki = directory / "pki"
        if transport == "tls":
            now = datetime.now(timezone.utc)
            create_authority(self.pki, "test", 2, now=now)
            for name in self.routers:
                create_node_certificate(self.pki, name, [], 1, now=now)

    def endpoint(self, name: str, receiver: Receiver) -> Endpoint:
        own = self.routers[name]
        others = [router for router in self.routers.values() if router.name != name]
        if self.transport == "udp":
            return UdpEndpoint((own.address, own.port), others, receiver)
        return TlsEndpoint((own.address, own.port), others, node_paths(self.pki, name), receiver)

    def open_store(self, name: str) -> SqliteStore:
        state = self.directory / name
        state.mkdir(exist_ok=True)
        key_file = state / "store.key"
        key = StoreKey.load(key_file) if key_file.exists() else StoreKey.create(key_file)
        return SqliteStore.open(state / "sessions.db", key)

    async def start(
        self,
        name: str,
        *,
        protocol: ProtocolConfig | None = None,
        mobile_node_keys: dict[IPAddress, bytes] | None = None,
        sinks: Iterable[Sink] = (),
        prepare: Callable[[Node], None] = lambda node: None,
    ) -> Node:
        others = tuple(router for router in self.routers.values() if router.name != name)
        config = NodeConfig(
            name, others, protocol or self.protocol, mobile_node_keys or {}, resend_interval=0.2
        )
        node = Node(config, self.open_store(name), lambda receiver: self.endpoint(name, receiver), sinks=sinks)
        prepare(node)
        await node.start()
        self.nodes[name] = node
        return node

    async def stop(self, name: str) -> None:
        node = self.nodes.pop(name)
        await node.close()
        node.sessions.store.close()

    def states(self, mn_address: IPAddress = MN) -> dict[str, SessionState]:
        found = {name: node.sessions.get(mn_address) for name, node in self.nodes.items()}
        return {name: record.state for name, record in found.items() if record is not None}

    def check(self, mn_address: IPAddress = MN) -> None:
        """At most one owner, and the contexts are somewhere."""
        records = [node.sessions.get(mn_address) for node in self.nodes.values()]
        known = [record for record in records if record is not None]
        assert sum(record.state is SessionState.OWNED for record in known) <= 1
        assert any(record.contexts for record in known)


@contextlib.asynccontextmanager
async def lab(
    directory: Path,
    transport: str,
    names: Iterable[str] = ("a", "b"),
    *,
    start: Iterable[str] | None = None,
    protocol: ProtocolConfig = PROTOCOL,
) -> AsyncIterator[Lab]:
    made = Lab(directory, transport, names, protocol)
    try:
        for name in made.routers if start is None else start:
            await made.start(name)
        yield made
    finally:
        for name in list(made.nodes):
            await made.stop(name)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what is to happen; the bound only ends a test that fails."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def owned(mn_address: IPAddress, contexts: tuple[EncodedContext, ...], **changes: object) -> SessionRecord:
    record = SessionRecord(
        mn_address=mn_address, state=SessionState.OWNED, generation=1, contexts=contexts, updated=1.0
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def limited(**limits: float) -> ProtocolConfig:
    return replace(PROTOCOL, limits=replace(Limits(), **limits))  # type: ignore[arg-type]
