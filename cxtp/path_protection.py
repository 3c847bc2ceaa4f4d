"""Whether ESP protects the path to a peer, by the kernel's own word (RFC 4067, 6.2).

Contexts hold keys.  SCTP, UDP and ICMP carry them as they are, so that nothing is sent to or taken from a peer unless
the kernel's policies demand ESP for it in both directions - in transport mode, with encryption, integrity and
anti-replay - and SAs that do that are there.  Whatever can't be found out counts as no.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from .adapters.xfrm import (
    Direction,
    Flow,
    Mode,
    PolicyAction,
    PolicyTemplate,
    SecurityAssociation,
    SecurityPolicy,
    XfrmClient,
    XfrmError,
    XfrmEvents,
)
from .adapters.xfrm.constants import ESP
from .messages import IPAddress
from .roles.events import Peer
from .transports.endpoint import Endpoint, Receiver

log = logging.getLogger(__name__)

VERDICT_LIFETIME = 30.0
"""Seconds that a verdict is believed while the kernel tells of no change."""

REMEMBERED_PEERS = 4096
"""Verdicts kept at once: anybody can make us ask for one."""

_NO_ENCRYPTION = ("ecb(cipher_null)", "cipher_null", "rfc4543(gcm(aes))")  # the last is GMAC: integrity alone
_NO_INTEGRITY = ("digest_null",)


@dataclass(frozen=True)
class Transport:
    """What the packets look like: IP protocol, and our and the peer's port (for ICMP its type, and code)."""

    name: str
    protocol: int
    local_port: int
    remote_port: int


def sctp(local_port: int, remote_port: int) -> Transport:
    """CXTP between routers (RFC 4067, 3.1)."""
    return Transport("SCTP", 132, local_port, remote_port)


def udp(local_port: int, remote_port: int) -> Transport:
    """CXTP over UDP."""
    return Transport("UDP", 17, local_port, remote_port)


def icmp(version: int) -> Transport:
    """CXTP with mobile nodes (RFC 4067, 3.2)."""
    return Transport("ICMP", 1, 41, 0) if version == 4 else Transport("ICMPv6", 58, 150, 0)


@dataclass(frozen=True)
class Found:
    """What the kernel has for one direction."""

    direction: Direction
    policy: SecurityPolicy | None
    associations: tuple[SecurityAssociation, ...] = ()


@dataclass(frozen=True)
class PathVerdict:
    """``reasons``: why the path is not protected; none means that it is."""

    local: IPAddress
    remote: IPAddress
    transport: Transport
    reasons: tuple[str, ...]
    found: tuple[Found, ...] = ()

    @property
    def is_protected(self) -> bool:
        return not self.reasons


def judge_path(
    local: IPAddress,
    remote: IPAddress,
    transport: Transport,
    policies: Iterable[SecurityPolicy],
    associations: Iterable[SecurityAssociation],
) -> PathVerdict:
    """Look at both directions of the path; pure, for what was read from the kernel."""
    policies, associations = tuple(policies), tuple(associations)
    is_icmp = transport.name.startswith("ICMP")
    ours, theirs = transport.local_port, transport.remote_port
    out = Flow(local, remote, transport.protocol, ours, theirs)
    back = Flow(remote, local, transport.protocol, ours if is_icmp else theirs, theirs if is_icmp else ours)
    reasons: list[str] = []
    found = []
    for direction, flow in ((Direction.OUT, out), (Direction.IN, back)):
        item, why_not = _judge_direction(direction, flow, policies, associations)
        found.append(item)
        reasons += [f"{direction.name.lower()}bound: {reason}" for reason in why_not]
    return PathVerdict(local, remote, transport, tuple(reasons), tuple(found))


def _judge_direction(
    direction: Direction,
    flow: Flow,
    policies: tuple[SecurityPolicy, ...],
    associations: tuple[SecurityAssociation, ...],
) -> tuple[Found, list[str]]:
    covering = [policy for policy in policies if policy.direction == direction and policy.covers(flow)]
    if not covering:
        return Found(direction, None), ["no policy covers it: packets pass in the clear"]
    policy = min(covering, key=lambda policy: policy.priority)
    if policy.action != PolicyAction.ALLOW:
        return Found(direction, policy), ["a policy blocks it"]
    # Which of these comes first can't be told for a packet whose interface and mark are not known: all must do.
    if any(
        other.direction == direction
        and other.priority <= policy.priority
        and other.may_cover(flow)
        and (other.action, other.templates) != (policy.action, policy.templates)
        for other in policies
    ):
        return Found(direction, policy), ["another policy that may come first says something else"]
    esp = [template for template in policy.templates if template.protocol == ESP and not template.optional]
    if not esp:
        return Found(direction, policy), ["the policy that decides demands no ESP"]
    transport_mode = [template for template in esp if template.mode == Mode.TRANSPORT]
    if not transport_mode:
        mode = _mode_name(esp[0].mode)
        return Found(direction, policy), [f"ESP is in {mode} mode; RFC 4067, 6.2 asks for transport mode"]
    usable = tuple(sa for sa in associations if _serves(sa, transport_mode[0], flow))
    if not usable:
        return Found(direction, policy), ["no SA is there yet: have the IKE daemon set one up"]
    faults = [fault for sa in usable for fault in _faults(sa, inbound=direction is Direction.IN)]
    return Found(direction, policy, usable), faults


def _serves(sa: SecurityAssociation, template: PolicyTemplate, flow: Flow) -> bool:
    """Whether the SA may carry what the template asks for (transport mode: the packet's own addresses)."""
    return (
        (sa.source, sa.destination) == (flow.source, flow.destination)
        and sa.protocol == ESP
        and sa.mode == template.mode
        and template.request_id in (0, sa.request_id)
        and template.spi in (0, sa.spi)
        and (sa.mark is None or sa.mark.value == 0)
        and not sa.interface_id
        and not sa.is_larval  # an SPI that an IKE daemon keeps for an SA to come, at each rekeying
    )


def _faults(sa: SecurityAssociation, *, inbound: bool) -> list[str]:
    cipher = sa.aead or sa.encryption
    faults = []
    if cipher is None or cipher.name in _NO_ENCRYPTION:
        faults.append(f"SA {sa.spi:08x} does not encrypt ({cipher.name if cipher else 'no cipher'})")
    if not sa.aead and (sa.authentication is None or sa.authentication.name in _NO_INTEGRITY):
        faults.append(f"SA {sa.spi:08x} has no integrity check")
    if inbound and sa.replay_window == 0:
        faults.append(f"SA {sa.spi:08x} has no anti-replay window")
    return faults


def _mode_name(number: int) -> str:
    return Mode(number).name.lower() if number in Mode._value2member_map_ else str(number)


def check_path(local: IPAddress, remote: IPAddress, transport: Transport) -> PathVerdict:
    """Ask the kernel.  Raises XfrmError where it can't be asked."""
    with XfrmClient() as client:
        return judge_path(local, remote, transport, client.policies(), client.security_associations())


class Guard(Protocol):
    """Tells why a peer may not be talked to."""

    def obstacle(self, remote: IPAddress) -> str | None: ...


class PathGuard:
    """Verdicts about the peers of one local address, asked anew whenever the kernel's IPsec database changes."""

    def __init__(self, local: IPAddress, transport_to: Callable[[IPAddress], Transport]) -> None:
        """``transport_to`` gives what the packets to a peer look like."""
        self._local = local
        self._transport_to = transport_to
        self._verdicts: dict[IPAddress, tuple[float, str | None]] = {}
        self._events: XfrmEvents | None = None

    def start(self) -> None:
        """Listen to changes; without, each verdict would be asked for anew.  Needs a running event loop."""
        try:
            self._events = XfrmEvents()
        except XfrmError as error:
            log.warning("%s", error)
        else:
            asyncio.get_running_loop().add_reader(self._events, self._changed)

    def close(self) -> None:
        """Listen no more."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def obstacle(self, remote: IPAddress) -> str | None:
        """Why the path to this address is not protected; None: it is, or it does not leave this machine."""
        if remote.is_loopback and self._local.is_loopback:
            return None
        now = asyncio.get_running_loop().time()
        self._changed()
        known = self._verdicts.get(remote)
        if known is not None and now < known[0]:
            return known[1]
        reason = self._ask(remote)
        if reason != (known[1] if known is not None else None):
            log.warning("the path to %s is %s", remote, f"not protected: {reason}" if reason else "protected")
        if self._events is not None:
            while len(self._verdicts) >= REMEMBERED_PEERS:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[remote] = now + VERDICT_LIFETIME, reason
        return reason

    def _ask(self, remote: IPAddress) -> str | None:
        try:
            verdict = check_path(self._local, remote, self._transport_to(remote))
        except XfrmError as error:
            return f"the kernel can't be asked whether ESP protects it ({error})"
        return "; ".join(verdict.reasons) or None

    def _changed(self) -> None:
        """What was true may be so no more.  Read before every use: an event must not come later than its packet."""
        if self._events is None:
            return
        try:
            changed = self._events.drain()
        except XfrmError as error:
            log.warning("%s", error)
            changed = True
        if changed:
            self._verdicts = {remote: (0.0, reason) for remote, (_, reason) in self._verdicts.items()}


class GuardedEndpoint:
    """An endpoint that carries nothing to or from a peer whose path is not protected."""

    def __init__(self, make_endpoint: Callable[[Receiver], Endpoint], receiver: Receiver, guard: PathGuard) -> None:
        self._receiver = receiver
        self._guard = guard
        self.endpoint = make_endpoint(self._received)
        self.reliable = self.endpoint.reliable
        self.maximum_message = self.endpoint.maximum_message
        self.counters: Counter[str] = self.endpoint.counters
        """The endpoint's own, and ``unprotected_path``: messages not sent or not taken."""

    async def start(self) -> None:
        """As the endpoint's."""
        await self.endpoint.start()
        self._guard.start()

    def send(self, octets: bytes, peer: Peer) -> None:
        """As the endpoint's, where the path is protected."""
        if self._guard.obstacle(peer.address) is None:
            self.endpoint.send(octets, peer)
        else:
            self.counters["unprotected_path"] += 1

    def obstacle(self, peer: Peer) -> str | None:
        """Why the path is not protected, or what the endpoint says."""
        return self._guard.obstacle(peer.address) or self.endpoint.obstacle(peer)

    async def close(self) -> None:
        """As the endpoint's."""
        self._guard.close()
        await self.endpoint.close()

    def _received(self, octets: bytes, peer: Peer) -> None:
        if self._guard.obstacle(peer.address) is None:
            self._receiver(octets, peer)
        else:
            self.counters["unprotected_path"] += 1
