"""Where a node's sessions are in use - nowhere, in a kernel, in a strongSwan - and the tasks that follow them there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Union

from .adapters.strongswan_vici import Daemon, IkeSa
from .adapters.xfrm import Namespace
from .config import ContextTypes
from .errors import CxtpError
from .hooks import Hooks
from .kernel_agent import KernelAgent
from .kernel_keeper import KernelKeeper
from .kernel_learning import NotLearned
from .kernel_sink import XfrmSink
from .messages import EncodedContext, IPAddress
from .node import Node
from .replicator import Replicator
from .store.records import SessionRecord, SessionState
from .strongswan_agent import StrongswanAgent
from .strongswan_config import DAEMON_ADDRESS, NODE_ADDRESS, VICI_SOCKET
from .strongswan_daemon import StrongswanDaemon
from .strongswan_sink import StrongswanSink


@dataclass(frozen=True)
class StrongswanConfig:
    """The daemon beside us: its control socket, and the two ends of its ``ha`` link."""

    vici: Path = Path(VICI_SOCKET)
    ha_node: IPAddress = ip_address(NODE_ADDRESS)
    ha_daemon: IPAddress = ip_address(DAEMON_ADDRESS)


@dataclass(frozen=True)
class GatewayConfig:
    """The agent beside a kernel: what to run when a session came or went, and the namespace that it looks at."""

    on_activated: Path | None = None
    on_released: Path | None = None
    namespace: Namespace = None
    standby: str | None = None
    """The router that gets a replica of each session, to take it over should this machine be gone."""
    replica_interval: float = 1.0
    """Seconds after which a changed replica is sent anew."""
    replica_packets: int = 1000
    """Packets of an SA after which it is."""
    on_releasing: Path | None = None
    strongswan: StrongswanConfig | None = None
    """The IKE daemon that has the IKE_SAs; None: the kernel's SAs alone are moved."""


class Gateway:
    """``kernel``: sessions are in use in this machine's kernel; ``config``: somebody else makes them there.

    ``sinks`` are for the node, which :meth:`join` is then called with.
    """

    def __init__(
        self,
        name: str,
        config: GatewayConfig | None,
        context_types: ContextTypes,
        sequence_reserve: int,
        *,
        kernel: bool,
    ) -> None:
        """Raises ConfigurationError, TransportError."""
        self._config = config
        self._context_types = context_types
        self._reserve = sequence_reserve
        self._daemon: StrongswanDaemon | None = None
        self._sink: XfrmSink | None = None
        self._keeper: KernelKeeper | None = None
        self._agent: Union[KernelAgent, StrongswanAgent, None] = None
        self._replicator: Replicator | None = None
        self.hooks = None if config is None else _hooks(name, config, context_types)
        if config is not None and config.strongswan is not None:
            self._daemon = _daemon(config.strongswan)
        if kernel:
            try:
                self._sink = self._make_sink()
            except CxtpError:
                self.discard()
                raise

    def _make_sink(self) -> XfrmSink:
        config, quarter = self._config, max(self._reserve // 4, 1)
        namespace = None if config is None else config.namespace
        # Packets of an SA after which the kernel tells of it: in time for the ceiling, and for the standby.
        standby = config is not None and config.standby is not None
        report_after = min(quarter, config.replica_packets) if config is not None and standby else quarter
        if self._daemon is not None:
            return StrongswanSink(self._daemon, self._context_types, namespace, report_after=report_after)
        return XfrmSink(self._context_types, namespace, report_after=report_after)

    def discard(self) -> None:
        """Where it was never opened: give back its sockets."""
        if self._daemon is not None:
            self._daemon.link.close_socket()
        if self._sink is not None:
            self._sink.close()

    @property
    def sinks(self) -> list[XfrmSink]:
        """One, or none."""
        return [] if self._sink is None else [self._sink]

    def join(self, node: Node) -> None:
        """What follows the node's sessions.  Raises TransportError."""
        if self.hooks is not None:
            node.sessions.listeners.append(self.hooks)
        if self._sink is None:
            return
        self._keeper = KernelKeeper(node.sessions, self._sink, self._reserve)
        config, types = self._config, self._context_types
        if config is None:
            return
        hurried: list[Callable[[], None]] = [self._keeper.hurry]
        if config.standby is not None:
            self._replicator = Replicator(
                node,
                self._sink,
                config.standby,
                interval=config.replica_interval,
                packets=config.replica_packets,
                context_types=types,
            )
            hurried.append(self._replicator.hurry)
        if isinstance(self._sink, StrongswanSink):
            self._agent = StrongswanAgent(node.sessions, self._sink, hurried, config.namespace, types)
        else:
            self._agent = KernelAgent(node.sessions, self._sink, hurried, config.namespace, types)

    async def open(self) -> None:
        """Before the node takes its sessions into use.  Raises DaemonError."""
        if self._daemon is not None:
            await self._daemon.start()

    async def start(self) -> None:
        """Once it has."""
        if self._keeper is not None:
            self._keeper.start()
        if self._agent is not None:
            await self._agent.start()
        if self._replicator is not None:
            self._replicator.start()

    async def stop(self) -> None:
        """Follow nothing more; what is in use goes on up to its ceilings."""
        for task in (self._agent, self._replicator, self._keeper):
            if task is not None:
                await task.close()

    async def close(self) -> None:
        """Once the node is closed, which may need the sinks until then."""
        if self._daemon is not None:
            await self._daemon.close()
        if self._sink is not None:
            self._sink.close()

    # --- what is told of it -----------------------------------------------------------------------------------------

    @property
    def asks_the_kernel(self) -> bool:
        """Whether it needs CAP_NET_ADMIN as long as it runs."""
        return self._sink is not None

    @property
    def not_learned(self) -> list[NotLearned]:
        """SAs of the kernel that no session could be made of, and why."""
        return self._agent.not_learned if isinstance(self._agent, KernelAgent) else []

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """Its contexts as they are now, where it is in use here."""
        live = record.state is SessionState.OWNED and self._sink is not None
        return record.contexts if not live or self._sink is None else self._sink.current(record)

    async def synchronise(self, mn_address: IPAddress) -> list[str]:
        """After a take-over: agree with the peer on Message IDs; in words, what came of it for each IKE_SA."""
        return await self._agent.synchronise(mn_address) if isinstance(self._agent, StrongswanAgent) else []

    async def ike_sas(self) -> list[IkeSa]:
        """The IKE daemon's own list; none where there is none."""
        return [] if self._daemon is None else list((await self._daemon.ike_sas()).values())

    @property
    def counters(self) -> Counter[str]:
        """Of hooks and daemon, by dotted names."""
        found: Counter[str] = Counter()
        if self.hooks is not None:
            found.update({f"hooks.{name}": n for name, n in self.hooks.counters.items()})
        if self._daemon is not None:
            found.update({f"strongswan.{name}": n for name, n in self._daemon.counters.items()})
            found.update({f"strongswan.link.{name}": n for name, n in self._daemon.link.counters.items()})
            reports = self._daemon.link.tracker.counters.items()
            found.update({f"strongswan.reports.{kind.name.lower()}": n for kind, n in reports})
        return found


def _hooks(name: str, config: GatewayConfig, context_types: ContextTypes) -> Hooks:
    return Hooks(name, config.on_activated, config.on_released, context_types, releasing=config.on_releasing)


def _daemon(config: StrongswanConfig) -> StrongswanDaemon:
    return StrongswanDaemon(Daemon(config.vici), config.ha_node, config.ha_daemon)


