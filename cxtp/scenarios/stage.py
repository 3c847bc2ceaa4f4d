"""The stage: a mobile node and two access routers in virtual time; what they send is written into a capture."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from itertools import count

from ..adapters.capture import PcapWriter, SentData
from ..config import ProtocolConfig, Timers
from ..constants import PORT, FeatureProfileType
from ..errors import LocalError
from ..messages import ContextStatus, EncodedContext, IPAddress, Message
from ..roles import MobileNode
from ..roles.access_router import AccessRouter
from ..roles.events import (
    ActivateContexts,
    ActivationRequested,
    ContextsReceived,
    ContextsRequested,
    Event,
    Outgoing,
    Peer,
    TransferAborted,
)
from ..wire import ICMP_TYPES, IcmpMessage, build, build_icmp, parse
from .tls_link import TlsLink

BEGIN = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC."""
LATENCY = (0.004, 0.009)
"""Seconds from one party to another: a metropolitan network."""
AHEAD = 0.05
"""Seconds before a story begins that its routers connect: the channel stands in advance (RFC 4067, 6.2)."""
REPEAT_AFTER = 0.05
"""Seconds until SCTP sends again what nobody acknowledged: its timer's lower bound in ``cxtp node``."""
INSTALLING = 0.002
"""Seconds that a router takes to store and install contexts."""
MN_KEY = bytes(range(20))
"""What the mobile node shares with the previous router."""
GENERATION = 2
ADDRESSES = {
    4: {"previous": "192.0.2.1", "new": "192.0.2.2", "mn": "198.51.100.77", "moved": "203.0.113.9"},
    6: {"previous": "2001:db8::1", "new": "2001:db8::2", "mn": "2001:db8:a::77", "moved": "2001:db8:b::9"},
}
# The initial waits of the RFC's timers are meant for a wire; a story's repetitions come soon.
CONFIG = ProtocolConfig(Timers(max_transfer_time=4.0, max_handover_time=20.0))

Fate = Callable[[Message, int], bool]
"""Whether a message arrives; the number counts messages of its type, from 1."""


def always(message: Message, number: int) -> bool:
    """It does."""
    return True


@dataclass
class Script:
    """What happens beside the protocol's own course."""

    fate: Fate = always
    statuses: tuple[ContextStatus, ...] = ()
    """What the new router says of the contexts."""
    success: bool | None = None
    """Whether it has them nevertheless; None: where there are no statuses."""
    refuse: int | None = None
    """The previous router answers requests with this status."""
    installing: float = INSTALLING


class Stage:
    """Three parties; drive them by :attr:`mobile`, :attr:`previous` and :attr:`new`, then :meth:`run`."""

    def __init__(
        self,
        writer: PcapWriter,
        seed: int,
        contexts: Sequence[EncodedContext],
        script: Script | None = None,
        *,
        version: int = 4,
        transport: str = "sctp",
    ) -> None:
        self.writer, self.contexts, self.script = writer, tuple(contexts), script or Script()
        self.transport = transport
        self.link: Callable[[float, IPAddress, IPAddress, bytes], None] | None = None
        """What writes a message between routers, where no transport of ``transport`` does."""
        self.now = BEGIN
        rng = self._random = random.Random(seed)
        named = {name: ip_address(text) for name, text in ADDRESSES[version].items()}
        self.mn: IPAddress = named["mn"]
        reliable = transport not in ("udp", "esp")
        self.previous_peer = Peer(named["previous"], PORT, "previous-router", reliable, True)
        self.new_peer = Peer(named["new"], PORT, "new-router", reliable, True)
        self.mobile_peer = Peer(named["moved"], PORT)
        self._peers = {p.address: p for p in (self.previous_peer, self.new_peer, self.mobile_peer)}
        known = {p.address: p for p in (self.previous_peer, self.new_peer)}
        self.previous = AccessRouter(known, rng, lambda mn: True, CONFIG)
        self.new = AccessRouter(known, rng, lambda mn: False, CONFIG)
        self.mobile = MobileNode(rng, CONFIG)
        self._routers = {self.previous_peer.address: self.previous, self.new_peer.address: self.new}
        self._parties: tuple[AccessRouter | MobileNode, ...] = (self.previous, self.new, self.mobile)
        self._in_flight: list[tuple[float, int, bytes, Peer, IPAddress]] = []
        self._tasks: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._sent: dict[tuple[str, IPAddress], int] = {}
        self._tls: TlsLink | None = None
        writer.delay = LATENCY[0]
        ends = (named["previous"], PORT, named["new"], PORT)
        if transport == "sctp":
            writer.open_sctp(BEGIN - AHEAD, *ends)
        elif transport == "tcp":
            writer.open_tcp(BEGIN - AHEAD, *ends)
        elif transport == "tls":
            routers = (("previous.example.org", named["previous"]), ("new.example.org", named["new"]))
            self._tls = TlsLink(writer, random.Random(seed), BEGIN - AHEAD, routers)
            self.link = self._tls.carry

    def at(self, seconds: float, task: Callable[[], None]) -> None:
        """Later, from now."""
        heapq.heappush(self._tasks, (self.now + seconds, next(self._order), task))

    def run(self, seconds: float = 15.0) -> None:
        """Until nothing happens any more, or for so long."""
        end = self.now + seconds
        self._settle()
        while (when := self._next()) is not None and when <= end:
            self.now = max(self.now, when)
            while self._tasks and self._tasks[0][0] <= self.now:
                heapq.heappop(self._tasks)[2]()
                self._settle()
            while self._in_flight and self._in_flight[0][0] <= self.now:
                _, _, octets, source, destination = heapq.heappop(self._in_flight)
                self._deliver(octets, source, destination)
                self._settle()
            for party in self._parties:
                due = party.deadline()
                if due is not None and due <= self.now:
                    party.handle_timer(self.now)
                    self._settle()

    def close(self) -> None:
        """The routers' connection, where it has an end of its own."""
        if self._tls is not None:
            self._tls.close(self.now + AHEAD)

    def _next(self) -> float | None:
        times = [queue[0][0] for queue in (self._in_flight, self._tasks) if queue]
        times += [d for party in self._parties if (d := party.deadline()) is not None]
        return min(times, default=None)

    def _deliver(self, octets: bytes, source: Peer, destination: IPAddress) -> None:
        if destination in self._routers:
            self._routers[destination].receive(octets, source, self.now)
        else:
            self.mobile.receive(parse(octets), source, self.now)

    def _settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for router in self._routers.values():
                while (event := router.next_event()) is not None:
                    busy = True
                    self._obey(router, event)
            while self.mobile.next_event() is not None:
                busy = True
            for address, router in self._routers.items():
                self._send(self._peers[address], router.messages_to_send(self.now))
            self._send(self.mobile_peer, self.mobile.to_send(self.now))

    # --- what the nodes do ------------------------------------------------------------------------------------------

    def _obey(self, router: AccessRouter, event: Event) -> None:
        script = self.script
        if isinstance(event, (ActivationRequested, ContextsRequested)):
            if script.refuse is not None:
                router.previous.refuse(event.mn_address, script.refuse, self.now)
            else:
                router.previous.provide(event.mn_address, self.contexts, GENERATION, MN_KEY, self.now)
        elif isinstance(event, ContextsReceived):
            self.at(script.installing, lambda: self._installed(router, event))
        elif isinstance(event, ActivateContexts):
            router.new.activated(event.mn_address, event.transfer_id, (), self.now)
        elif isinstance(event, TransferAborted) and event.transfer_id is not None:
            statuses = (ContextStatus(0, event.status),)
            router.new.refused(event.mn_address, event.transfer_id, statuses, self.now)

    def _installed(self, router: AccessRouter, event: ContextsReceived) -> None:
        with suppress(LocalError):  # it was given up meanwhile
            router.new.installed(
                event.mn_address, event.transfer_id, self.script.statuses, self.now, success=self.script.success
            )

    # --- the link ---------------------------------------------------------------------------------------------------

    def _send(self, source: Peer, messages: Sequence[Outgoing]) -> None:
        for outgoing in messages:
            message, destination = outgoing.message, outgoing.peer.address
            kind = (message.short_name, source.address)
            number = self._sent[kind] = self._sent.get(kind, 0) + 1
            arrives = self.script.fate(message, number)
            note = f", number {number} of its kind" if number > 1 else ""
            sent = self.say(message, build(message), source.address, destination, lost=not arrives, note=note)
            delay = 0.0
            if sent is not None and not arrives:  # the association repeats it, and no role knows
                arrives, delay = True, REPEAT_AFTER
                self.at(delay, partial(self._repeat, message, sent))
            if arrives:
                when = self.now + delay + self._random.uniform(*LATENCY)
                heapq.heappush(self._in_flight, (when, next(self._order), build(message), source, destination))

    def _repeat(self, message: Message, sent: SentData) -> None:
        self.writer.comment = f"{message.short_name}: its last packet once more, by SCTP"
        self.writer.repeat_sctp(self.now, sent)

    def say(
        self, message: Message, octets: bytes, source: IPAddress, destination: IPAddress, *, lost: bool = False,
        note: str = "",
    ) -> SentData | None:
        """Into the capture, which is taken where the sender is: what is lost later is there."""
        mobile = self.mobile_peer.address in (source, destination)
        if lost:
            what = "its last packet is lost" if self.transport == "sctp" and not mobile else "lost"
            note += f": {what} behind this point"
        self.writer.comment = message.short_name + note
        if mobile:
            icmp = IcmpMessage(ICMP_TYPES[source.version], octets)
            self.writer.write_icmp(self.now, source, destination, build_icmp(icmp, (source, destination)))
        elif self.link is not None:
            self.link(self.now, source, destination, octets)
        elif self.transport == "sctp":
            return self.writer.write_sctp(self.now, source, PORT, destination, PORT, octets, lost=lost)
        else:
            write = self.writer.write_udp if self.transport == "udp" else self.writer.write_tcp
            write(self.now, source, PORT, destination, PORT, octets)
        return None


def failed(contexts: Sequence[EncodedContext], status: int) -> tuple[ContextStatus, ...]:
    """The status for the first of the contexts."""
    kind = contexts[0].feature_profile_type if contexts else FeatureProfileType.RESERVED
    return (ContextStatus(kind, status),)


