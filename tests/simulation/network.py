"""The network between nodes and mobile nodes: it loses, doubles, delays, reorders and is cut in two."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cxtp.errors import RemoteError
from cxtp.messages import IPAddress, Message
from cxtp.roles.events import Peer
from cxtp.transports.endpoint import Receiver
from cxtp.wire import parse

from .virtual_time import VirtualLoop


@dataclass(frozen=True)
class Quality:
    """Shares of messages; ``delay`` in seconds from and to, ``late`` the share that takes up to ``latest``."""

    loss: float
    duplication: float
    delay: tuple[float, float]
    late: float
    latest: float


class Network:
    """Carries octets between addresses.  ``tell`` gets a line for the ladder for each fate of a message."""

    def __init__(self, rng: random.Random, loop: VirtualLoop, quality: Quality, tell: Callable[[str], None]) -> None:
        self.rng, self.loop, self.quality, self.tell = rng, loop, quality, tell
        self.endpoints: dict[IPAddress, SimulatedEndpoint] = {}
        self.cut: frozenset[frozenset[IPAddress]] = frozenset()
        self.on_send: Callable[[IPAddress, str], None] = lambda sender, name: None

    def carries(self, one: IPAddress, other: IPAddress) -> bool:
        return frozenset((one, other)) not in self.cut

    def send(self, octets: bytes, sender: SimulatedEndpoint, destination: IPAddress) -> None:
        rng, quality = self.rng, self.quality
        name = describe(octets)
        self.on_send(sender.address, name)
        if not self.carries(sender.address, destination):
            return self.tell(f"{sender.address} -X {destination} {name} cut off")
        if sender.reliable:
            return self._send_in_order(octets, sender, destination, name)
        copies = (rng.random() >= quality.loss) + (rng.random() < quality.duplication)
        self.tell(f"{sender.address} -> {destination} {name}" + (" LOST", "", " DOUBLED")[copies])
        for _ in range(copies):
            late = rng.random() < quality.late
            delay = rng.uniform(*quality.delay) if not late else rng.uniform(0, quality.latest)
            self.loop.call_later(delay, self._deliver, octets, sender.address, destination, name)

    def _send_in_order(self, octets: bytes, sender: SimulatedEndpoint, destination: IPAddress, name: str) -> None:
        """As a connection carries it: whole, once, in order, while both ends live and are joined."""
        self.tell(f"{sender.address} -> {destination} {name}")
        receiver = self.endpoints.get(destination)
        when = max(self.loop.now + self.rng.uniform(*self.quality.delay), sender.last.get(destination, 0.0))
        sender.last[destination] = when

        def deliver() -> None:
            if receiver is not None and not receiver.closed and not sender.closed:
                self._deliver(octets, sender.address, destination, name)

        self.loop.call_at(when, deliver)

    def _deliver(self, octets: bytes, source: IPAddress, destination: IPAddress, name: str) -> None:
        endpoint = self.endpoints.get(destination)
        if endpoint is None or endpoint.closed or not self.carries(source, destination):
            return self.tell(f"{source} =X {destination} {name}")
        self.tell(f"{source} => {destination} {name}")
        endpoint.receive(octets, source)


class SimulatedEndpoint:
    """One node's transport (:class:`cxtp.transports.endpoint.Endpoint`)."""

    maximum_message = 65_535

    def __init__(
        self, network: Network, address: IPAddress, routers: dict[IPAddress, str], receiver: Receiver, *, reliable: bool
    ) -> None:
        self.network, self.address, self.routers, self.receiver = network, address, routers, receiver
        self.reliable = reliable
        self.closed = False
        self.last: dict[IPAddress, float] = {}
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        self.network.endpoints[self.address] = self

    def send(self, octets: bytes, peer: Peer) -> None:
        if not self.closed:
            self.network.send(octets, self, peer.address)

    def receive(self, octets: bytes, source: IPAddress) -> None:
        name = self.routers.get(source)
        peer = Peer(source, 5091, name=name or "", reliable=self.reliable, is_router=name is not None)
        self.receiver(octets, peer)

    def obstacle(self, peer: Peer) -> str | None:
        return None

    async def close(self) -> None:
        self.closed = True


def describe(octets: bytes) -> str:
    """A message in a few words."""
    try:
        message: Message = parse(octets)
    except RemoteError:
        return "no message"
    words = [message.short_name, str(message.mn_previous_address)]
    words += [
        f"{name}={getattr(message, name)}" for name in ("sequence_number", "success") if hasattr(message, name)
    ]
    words += [f"{s.feature_profile_type:x}:{s.status:02x}" for s in getattr(message, "statuses", ())]
    return " ".join(words)
