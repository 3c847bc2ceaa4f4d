"""One node as a process: store, transport, control socket, put together from options (``cxtp node run``)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from contexts.base import Context, decode, encode
from contexts.key_cases import with_key_case

from .adapters.capture import PcapWriter
from .adapters.context_file import FileSession, read_context_file, write_context_file
from .adapters.context_file_seal import KeyFile, Passphrase, Unseal
from .adapters.strongswan_ha import read_ha_capture
from .config import ProtocolConfig
from .constants import PAYLOAD_PROTOCOL_IDENTIFIER, PORT
from .control import ControlServer, Handler
from .errors import ConfigurationError, CxtpError, LocalError
from .gateway import Gateway, GatewayConfig
from .messages import IPAddress
from .node import Node, NodeConfig
from .path_protection import GuardedEndpoint, PathGuard, Transport, icmp, sctp, udp
from .pki import node_paths
from .privileges import Capability, drop_privileges
from .proof import compare_keys, open_capture, suite_of
from .roles.events import Peer
from .session_view import ike_rows_of, rows_of
from .sessions import SEQUENCE_RESERVE
from .store.records import SessionRecord, SessionState
from .store.sealing import StoreKey
from .store.sqlite import SqliteStore
from .transports.endpoint import Endpoint, Receiver, Router
from .transports.icmp import IcmpEndpoint
from .transports.sctp import SctpEndpoint, SctpSettings
from .transports.tls import TlsEndpoint
from .transports.udp import UdpEndpoint
from .wire import ICMP_TYPES, IcmpMessage, build_icmp

log = logging.getLogger(__name__)


STOP_DELAY = 0.1
"""Seconds between the stop command's answer and the stop."""


@dataclass(frozen=True)
class ServiceConfig:
    """What ``cxtp node run`` takes.  ``pki`` is the directory that ``cxtp pki`` made; only TLS needs it.

    ``icmp``: the address at which mobile nodes reach us by ICMP, None for none; ``user``: who to become once all
    sockets are open; ``allow_cleartext_keys_on_the_network``: for a lab, SCTP, UDP and ICMP carry messages whether ESP
    protects the path or not; ``capture`` names a pcap that gets all CXTP messages in the clear, keys included: for a
    lab.
    """

    name: str
    listen: tuple[IPAddress, int]
    routers: tuple[Router, ...]
    state: Path
    control: Path
    transport: str = "tls"
    icmp: IPAddress | None = None
    user: str | None = None
    payload_protocol_identifier: int = PAYLOAD_PROTOCOL_IDENTIFIER
    pki: Path | None = None
    allow_cleartext_keys_on_the_network: bool = False
    protocol: ProtocolConfig = ProtocolConfig()
    mobile_node_keys: Mapping[IPAddress, bytes] = field(default_factory=dict, repr=False)
    capture: Path | None = None
    kernel: bool = False
    """Sessions that this node owns are in use in this machine's kernel."""
    sequence_reserve: int = SEQUENCE_RESERVE
    gateway: GatewayConfig | None = None
    """Somebody else makes SAs in that kernel: they are learned, and followed.  ``kernel`` is on."""


def make_endpoint(config: ServiceConfig, receiver: Receiver) -> Endpoint:
    """The transport between routers that the options ask for.  Raises ConfigurationError."""
    ports = {router.address: router.port for router in config.routers}
    own_port = config.listen[1]
    if config.transport == "sctp":
        return _guarded(
            config,
            config.listen[0],
            lambda peer: sctp(own_port, ports.get(peer, PORT)),
            receiver,
            lambda receiver: SctpEndpoint(
                config.listen,
                config.routers,
                receiver,
                payload_protocol_identifier=config.payload_protocol_identifier,
                settings=SctpSettings(lifetime=config.protocol.timers.max_transfer_time),
                associations=config.protocol.limits.connections,
                events=lambda event: log.info("%s", event),
            ),
        )
    if config.transport == "udp":
        return _guarded(
            config,
            config.listen[0],
            lambda peer: udp(own_port, ports.get(peer, PORT)),
            receiver,
            # The guard looks at what protects the path; loopback needs nothing.
            lambda receiver: UdpEndpoint(
                config.listen, config.routers, receiver, allow_cleartext_keys_on_the_network=True
            ),
        )
    if config.pki is None:
        raise ConfigurationError("TLS needs certificates: give --pki with the directory that 'cxtp pki' made")
    return TlsEndpoint(
        config.listen,
        config.routers,
        node_paths(config.pki, config.name),
        receiver,
        connections=config.protocol.limits.connections,
    )


def make_mobile_endpoint(config: ServiceConfig, receiver: Receiver) -> Endpoint:
    """The transport to mobile nodes (RFC 4067, 3.2)."""
    address = config.icmp
    assert address is not None  # noqa: S101  # narrows the type: callers have looked
    return _guarded(
        config, address, lambda peer: icmp(address.version), receiver, lambda receiver: IcmpEndpoint(address, receiver)
    )


def _guarded(
    config: ServiceConfig,
    local: IPAddress,
    transport_to: Callable[[IPAddress], Transport],
    receiver: Receiver,
    make: Callable[[Receiver], Endpoint],
) -> Endpoint:
    if config.allow_cleartext_keys_on_the_network:
        log.warning("messages are carried whether ESP protects the path or not: for a lab only")
        return make(receiver)
    return GuardedEndpoint(make, receiver, PathGuard(local, transport_to))


def open_store(state: Path) -> SqliteStore:
    """The store in the state directory; both are made where they are missing."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"can't make the state directory {state}: {error.strerror}") from error
    key_file = state / "store.key"
    key = StoreKey.load(key_file) if key_file.exists() else StoreKey.create(key_file)
    return SqliteStore.open(state / "sessions.db", key)


class Service:
    """A node that runs until it is told to stop."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._capture = PcapWriter(config.capture) if config.capture is not None else None
        self.store = open_store(config.state)
        try:
            self.gateway = Gateway(
                config.name,
                config.gateway,
                config.protocol.context_types,
                config.sequence_reserve,
                kernel=config.kernel,
            )
        except CxtpError:
            self.store.close()
            raise
        try:
            self.node = Node(
                NodeConfig(
                    config.name,
                    config.routers,
                    config.protocol,
                    config.mobile_node_keys,
                    sequence_reserve=config.sequence_reserve,
                ),
                self.store,
                lambda receiver: make_endpoint(config, receiver),
                make_mobile_endpoint=(
                    None if config.icmp is None else lambda receiver: make_mobile_endpoint(config, receiver)
                ),
                sinks=self.gateway.sinks,
                tap=self._record if self._capture is not None else None,
            )
            self.gateway.join(self.node)
        except CxtpError:
            self.gateway.discard()
            self.store.close()
            raise
        self._stop = asyncio.Event()
        handlers: dict[str, Handler] = {
            "status": self._status,
            "sessions": self._sessions,
            "gateway-sessions": self._gateway_sessions,
            "load-ha": self._load_ha,
            "import": self._import,
            "export": self._export,
            "move": self._move,
            "request": self._request,
            "takeover": self._takeover,
            "drop-standby": self._drop_standby,
            "forget": self._forget,
            "prove": self._prove,
            "stop": self._stop_command,
        }
        self.control = ControlServer(config.control, handlers)

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM, SIGINT or the stop command."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self.gateway.open()
            await self.node.start()
            await self.gateway.start()
            await self.control.start()
            if self.config.user is not None:
                # The guard of the path goes on asking the kernel.
                drop_privileges(self.config.user, keep=[Capability.NET_ADMIN] if self._asks_the_kernel else [])
            ready()
            await self._stop.wait()
        finally:
            await self.control.close()
            await self.gateway.stop()
            await self.node.close()
            await self.gateway.close()
            self.store.close()
            if self._capture is not None:
                self._capture.close()

    @property
    def _asks_the_kernel(self) -> bool:
        endpoints = (self.node.endpoint, self.node.mobile_endpoint)
        return self.gateway.asks_the_kernel or any(isinstance(endpoint, GuardedEndpoint) for endpoint in endpoints)

    def _record(self, octets: bytes, peer: Peer, outgoing: bool) -> None:
        """Into the capture, as cleartext: over TLS this is what was inside."""
        if self._capture is None:
            return
        ours, theirs = self.config.listen, (peer.address, peer.port)
        source, destination = (ours, theirs) if outgoing else (theirs, ours)
        if not peer.is_router and self.config.icmp is not None:
            kind = ICMP_TYPES[peer.address.version]
            addresses = (self.config.icmp, peer.address) if outgoing else (peer.address, self.config.icmp)
            packet = build_icmp(IcmpMessage(kind, octets), addresses)
            return self._capture.write_icmp(self.node.wall_clock(), *addresses, packet)
        writers: dict[str, Callable[..., object]] = {
            "udp": self._capture.write_udp, "sctp": self._capture.write_sctp,
        }  # fmt: skip
        write = writers.get(self.config.transport, self._capture.write_tcp)
        write(self.node.wall_clock(), *source, *destination, octets)

    # --- commands -----------------------------------------------------------------------------------------------

    async def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        counters = {f"node.{name}": n for name, n in self.node.counters.items()}
        counters |= {f"sessions.{name}": n for name, n in self.node.sessions.counters.items()}
        counters |= {f"transport.{name}": n for name, n in self.node.endpoint.counters.items()}
        if self.node.mobile_endpoint is not self.node.endpoint:
            counters |= {f"icmp.{name}": n for name, n in self.node.mobile_endpoint.counters.items()}
        counters |= {f"replicas.{name}": n for name, n in self.node.replicas.counters.items()}
        counters |= self.gateway.counters
        counters |= {f"dropped.{reason.name.lower()}": n for reason, n in self.node.router.counters.items()}
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "transport": self.config.transport,
            "sessions": self.store.count(),
            "commits": self.node.sessions.writer.commits,
            "counters": dict(sorted(counters.items())),
        }

    async def _sessions(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"sessions": [self._row(record) for record in self.store.records()]}

    async def _gateway_sessions(self, request: Mapping[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        ike_rows: list[dict[str, Any]] = []
        daemons = {sa.spis: sa.rekey_in for sa in await self.gateway.ike_sas()}
        for record in self.store.records():
            contexts = self.gateway.current(record)
            decoded = tuple(decode(context, self.config.protocol.context_types) for context in contexts)
            rows += rows_of(record, decoded, self.config.name, self.node.wall_clock())
            ike_rows += ike_rows_of(record, decoded, self.config.name, daemons)
        return {
            "sessions": rows,
            "ike_sas": ike_rows,
            "not_learned": [{"sa": str(item.identifier), "reason": item.reason} for item in self.gateway.not_learned],
        }

    def _row(self, record: SessionRecord) -> dict[str, Any]:
        return {
            "mn_address": str(record.mn_address),
            "state": record.state.value,
            "generation": record.generation,
            "peer": record.peer,
            "contexts": len(record.contexts),
            "octets": sum(len(context.data) for context in record.contexts),
            "suite": suite_of(self._decoded(record)),
        }

    def _decoded(self, record: SessionRecord) -> tuple[Context, ...]:
        return tuple(decode(context, self.config.protocol.context_types) for context in record.contexts)

    def _held(self, mn_address: str) -> SessionRecord:
        record = self.store.get(ip_address(mn_address))
        if record is None or not record.contexts:
            raise LocalError(f"this node holds no contexts of {mn_address}")
        return record

    async def _load_ha(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sessions from captures of strongSwan's ``ha`` messages."""
        captures, keep_deleted = map(Path, request["captures"]), bool(request.get("keep_deleted"))
        tracker = await asyncio.to_thread(read_ha_capture, *captures, keep_deleted=keep_deleted)
        loaded = []
        for session in tracker.sessions():
            contexts = with_key_case(session.contexts, int(request.get("key_case", 1)))
            record = await self._load(session.mn_address, contexts)
            loaded.append(self._row(record))
        return {
            "sessions": loaded,
            "reports": [str(report) for report in tracker.reports],
            "withheld": [str(report) for report in tracker.withheld()],
        }

    async def _load(self, mn_address: IPAddress, contexts: tuple[Context, ...]) -> SessionRecord:
        types = self.config.protocol.context_types
        return await self.node.sessions.load(mn_address, [encode(context, types) for context in contexts])

    async def _import(self, request: Mapping[str, Any]) -> dict[str, Any]:
        # Opening and sealing take a passphrase's time, which others' transfers do not have.
        sessions = await asyncio.to_thread(read_context_file, Path(request["file"]), _unseal(request))
        return {"sessions": [self._row(await self._load(s.mn_address, s.contexts)) for s in sessions]}

    async def _export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A copy; the session stays here."""
        addresses = request.get("mn_addresses") or [str(r.mn_address) for r in self.store.records() if r.contexts]
        records = [self._held(address) for address in addresses]
        sessions = [FileSession(record.mn_address, self._decoded(record)) for record in records]
        plaintext_keys = bool(request.get("plaintext_keys"))
        await asyncio.to_thread(write_context_file, Path(request["file"]), sessions, _unseal(request), plaintext_keys)
        return {"sessions": [self._row(record) for record in records]}

    async def _move(self, request: Mapping[str, Any]) -> dict[str, Any]:
        ahead = bool(request.get("ahead"))
        report = await self.node.move(ip_address(request["mn_address"]), str(request["to"]), ahead=ahead)
        return {**vars(report), "mn_address": str(report.mn_address)}

    async def _request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        await self.node.request(ip_address(request["mn_address"]), str(request["from"]))
        return {}

    async def _takeover(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One session's replica, or those of all sessions of a node that is gone."""
        outcome = await self.node.sessions.take_over(ip_address(request["mn_address"]))
        agreed = await self.gateway.synchronise(outcome.mn_address) if outcome.taken else []
        return {**vars(outcome), "mn_address": str(outcome.mn_address), "ike_sas": agreed}

    async def _drop_standby(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The operator says that the standby will never take over what it has: go on without it."""
        dropped = []
        for record in self.store.records():
            if record.standby == request["node"] and record.state is SessionState.OWNED:
                await self.node.sessions.assign_standby(record.mn_address, "")
                if record.mn_address in self.node.sessions.waiting:
                    await self.node.sessions.go_on(record.mn_address)
                dropped.append(str(record.mn_address))
        return {"mn_addresses": dropped}

    async def _forget(self, request: Mapping[str, Any]) -> dict[str, Any]:
        await self.node.sessions.forget(ip_address(request["mn_address"]), frozen=bool(request.get("frozen")))
        return {}

    async def _prove(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open what a capture holds of a session, with its contexts alone."""
        record = self._held(request["mn_address"])
        contexts = self._decoded(record)
        proof = await asyncio.to_thread(open_capture, contexts, Path(request["capture"]))
        keys = request.get("keys")
        return {
            "suite": suite_of(contexts),
            "contexts": len(contexts),
            "seen": dict(proof.seen),
            "opened": dict(proof.opened),
            "failures": proof.failures,
            "keys_match": None if keys is None else compare_keys(contexts, Path(keys)),
        }

    async def _stop_command(self, request: Mapping[str, Any]) -> dict[str, Any]:
        # The answer goes out first: stopping closes this very connection.
        asyncio.get_running_loop().call_later(STOP_DELAY, self._stop.set)
        return {}


def _unseal(request: Mapping[str, Any]) -> Unseal | None:
    """Sealing of a context file: ``passphrase`` (text) or ``key_file`` (a path) in the request."""
    if request.get("passphrase") is not None:
        return Passphrase(str(request["passphrase"]))
    return KeyFile(Path(request["key_file"])) if request.get("key_file") is not None else None


def run(config: ServiceConfig, ready: Callable[[], None] = lambda: None) -> None:
    """Run a node in this process until it is told to stop.  Raises CxtpError."""

    async def main() -> None:
        await Service(config).run(ready)

    asyncio.run(main())
