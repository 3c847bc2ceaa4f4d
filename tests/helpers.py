"""What the role tests stand on: a clock, a link that loses, doubles and reorders, and roles joined over it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from typing import Protocol

from cxtp.config import ProtocolConfig
from cxtp.messages import ContextStatus, EncodedContext, IPAddress, Message
from cxtp.roles import AccessRouter, Event, MobileNode, Outgoing, Peer
from cxtp.roles.events import Dropped
from cxtp.wire import build, parse

MN = ip_address("192.0.2.77")
"""The mobile node's previous address, which names it."""
PREVIOUS_ADDRESS = ip_address("198.51.100.1")
NEW_ADDRESS = ip_address("198.51.100.2")
OTHER_ADDRESS = ip_address("198.51.100.3")
MOBILE_ADDRESS = ip_address("203.0.113.9")

PREVIOUS = Peer(PREVIOUS_ADDRESS, 5091, "previous", is_router=True)
NEW = Peer(NEW_ADDRESS, 5091, "new", is_router=True)
OTHER = Peer(OTHER_ADDRESS, 5091, "other", is_router=True)
STRANGER = Peer(ip_address("198.51.100.66"), 5091, "stranger", is_router=True)
MOBILE = Peer(MOBILE_ADDRESS, 0)

ROUTERS: Mapping[IPAddress, Peer] = {peer.address: peer for peer in (PREVIOUS, NEW, OTHER)}

KEY = b"the mobile node's and pAR's"
CONTEXTS = (
    EncodedContext(0xFF01, b"an IKE_SA's context, in octets that no role reads"),
    EncodedContext(0xFF02, bytes(range(40)), presence_vector=0x80000001),
    EncodedContext(0xFF02, b"another"),
)


class FakeClock:
    """Monotonic seconds that pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def advance_to(self, when: float) -> None:
        assert when >= self.now, "time does not go back"
        self.now = when


class Fixed:
    """Randomness that says what the test wants: 32-bit numbers in turn, and one fraction."""

    def __init__(self, *numbers: int, fraction: float = 0.0) -> None:
        self.numbers = list(numbers)
        self.fraction = fraction

    def getrandbits(self, k: int, /) -> int:
        return self.numbers.pop(0) if self.numbers else 0

    def random(self) -> float:
        return self.fraction


@dataclass(frozen=True)
class LinkQuality:
    """Shares of messages lost and doubled (each copy with its own delay), and the delay's bounds in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.001, 0.001)


@dataclass(order=True)
class _InFlight:
    when: float
    order: int
    message: Message = field(compare=False)
    source: IPAddress = field(compare=False)
    destination: IPAddress = field(compare=False)


class LossyLink:
    """Carries messages; ``ladder`` keeps what it did, for a human."""

    def __init__(self, rng: random.Random, quality: LinkQuality = LinkQuality()) -> None:
        self.quality = quality
        self.ladder: list[str] = []
        self._rng = rng
        self._order = count()
        self._in_flight: list[_InFlight] = []

    def send(self, message: Message, source: IPAddress, destination: IPAddress, now: float) -> None:
        copies = 0 if self._rng.random() < self.quality.loss else 1
        copies += self._rng.random() < self.quality.duplication
        self.note(now, f"{source} -> {destination} {_tell(message)}" + ("", " LOST")[copies == 0])
        for _ in range(copies):
            when = now + self._rng.uniform(*self.quality.delay)
            heapq.heappush(self._in_flight, _InFlight(when, next(self._order), message, source, destination))

    def next(self) -> float | None:
        return self._in_flight[0].when if self._in_flight else None

    def take_due(self, now: float) -> Iterator[tuple[Message, IPAddress, IPAddress]]:
        while self._in_flight and self._in_flight[0].when <= now:
            flight = heapq.heappop(self._in_flight)
            self.note(now, f"{flight.source} => {flight.destination} {flight.message.short_name}")
            yield flight.message, flight.source, flight.destination

    def note(self, now: float, text: str) -> None:
        self.ladder.append(f"{now - 1000:9.4f}  {text}")


def _tell(message: Message) -> str:
    parts = [message.short_name]
    for name in ("sequence_number", "elapsed_time", "acknowledge", "success"):
        if hasattr(message, name):
            parts.append(f"{name}={getattr(message, name)}")
    statuses = getattr(message, "statuses", ())
    return " ".join(parts) + "".join(f" {s.feature_profile_type:04x}:{s.status:02x}" for s in statuses)


class Endpoint(Protocol):
    """What the link drives: an AccessRouter or a MobileNode, by the verbs that both have."""

    def deadline(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def next_event(self) -> Event | None: ...


class RolePair:
    """Two access routers and a mobile node joined over a link, under one clock.

    Events go to ``on_event(address, event, now)``; ``tasks`` are done at their time.  With ``octets`` each
    message is built and parsed on its way.
    """

    def __init__(
        self,
        seed: int = 0,
        quality: LinkQuality = LinkQuality(),
        config: ProtocolConfig = ProtocolConfig(),
        *,
        serves: Callable[[IPAddress, IPAddress], bool] = lambda router, mn: router == PREVIOUS_ADDRESS,
        outcome_of: Callable[[IPAddress, int], Sequence[ContextStatus] | None] = lambda router, transfer_id: None,
        reliable: bool = False,
        octets: bool = False,
    ) -> None:
        rng = random.Random(seed)
        self.clock = FakeClock()
        self.link = LossyLink(rng, quality)
        self.octets = octets
        self.peers = {
            peer.address: Peer(peer.address, peer.port, peer.name, reliable, peer.is_router)
            for peer in (PREVIOUS, NEW, MOBILE)
        }
        known = {address: peer for address, peer in self.peers.items() if peer.is_router}

        def new_router(address: IPAddress) -> AccessRouter:
            return AccessRouter(
                known,
                rng,
                lambda mn: serves(address, mn),
                config,
                outcome_of=lambda peer, mn, transfer_id: outcome_of(address, transfer_id),
            )

        self._new_router = new_router
        self.routers = {address: new_router(address) for address in known}
        self.mobile = MobileNode(rng, config)
        self.mobile_address = MOBILE_ADDRESS
        self.events: list[tuple[IPAddress, Event]] = []
        self.on_event: Callable[[IPAddress, Event, float], None] = lambda address, event, now: None
        self._tasks: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()

    @property
    def endpoints(self) -> dict[IPAddress, Endpoint]:
        return {**self.routers, MOBILE_ADDRESS: self.mobile}

    def restart(self, address: IPAddress) -> None:
        """The router's role starts anew, with no memory."""
        self.routers[address] = self._new_router(address)

    def later(self, delay: float, task: Callable[[float], None]) -> None:
        heapq.heappush(self._tasks, (self.clock.now + delay, next(self._order), task))

    def run(self, until: float = float("inf")) -> None:
        """Until nothing is left to happen, or the clock would pass ``until``."""
        self._settle()
        while (when := self.next()) is not None and when <= until:
            self.clock.advance_to(max(when, self.clock.now))
            now = self.clock.now
            while self._tasks and self._tasks[0][0] <= now:
                heapq.heappop(self._tasks)[2](now)
                self._settle()
            for message, source, destination in self.link.take_due(now):
                self._deliver(message, source, destination, now)
                self._settle()
            for endpoint in self.endpoints.values():
                due = endpoint.deadline()
                if due is not None and due <= now:
                    endpoint.handle_timer(now)
                    self._settle()

    def next(self) -> float | None:
        """When something happens next."""
        times = [self._tasks[0][0] if self._tasks else None, self.link.next()]
        times += [endpoint.deadline() for endpoint in self.endpoints.values()]
        return min((t for t in times if t is not None), default=None)

    def _deliver(self, message: Message, source: IPAddress, destination: IPAddress, now: float) -> None:
        if destination in self.routers:
            self.routers[destination].receive_message(message, self.peers[source], now)
        else:
            self.mobile.receive(message, self.peers[source], now)

    def _settle(self) -> None:
        """Take what the roles have to give, until they have no more."""
        now = self.clock.now
        busy = True
        while busy:
            busy = False
            for address, endpoint in self.endpoints.items():
                while (event := endpoint.next_event()) is not None:
                    busy = True
                    self.events.append((address, event))
                    self.link.note(now, f"{address}    {_tell_event(event)}")
                    self.on_event(address, event, now)
            for address, router in self.routers.items():
                self._send(address, router.messages_to_send(now), now)
            self._send(MOBILE_ADDRESS, self.mobile.to_send(now), now)

    def _send(self, source: IPAddress, messages: list[Outgoing], now: float) -> None:
        for outgoing in messages:
            message = parse(build(outgoing.message)) if self.octets else outgoing.message
            self.link.send(message, source, outgoing.peer.address, now)


def _tell_event(event: Event) -> str:
    if isinstance(event, Dropped):
        return f"! {event.reason.name} {event.detail}"
    transfer_id = getattr(event, "transfer_id", None)
    return f"* {type(event).__name__}" + (f" {transfer_id:08x}" if transfer_id is not None else "")
