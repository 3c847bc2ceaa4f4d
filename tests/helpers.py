"""What the role tests stand on: a clock, a link that loses, doubles and reorders, and roles joined over it."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from typing import Protocol
from unittest import mock

from cxtp.compiled import Compiled
from cxtp.config import ProtocolConfig
from cxtp.messages import (
    ContextBlock,
    ContextStatus,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    Message,
    PredictiveContextTransferData,
)
from cxtp.roles import AccessRouter, DropReason, Event, MobileNode, NewRouter, Outcome, Outgoing, Peer
from cxtp.roles.events import ActivateContexts, Dropped, TransferAborted
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


TRANSFER_ID = 0x0BADCAFE
RECEIPT = tuple(ContextStatus(0xFF03, octet) for octet in (0x0B, 0xAD, 0xCA, 0xFE))
"""What a CTDR that answers the transfer TRANSFER_ID ends with."""


def blocks_of(contexts: Sequence[EncodedContext]) -> tuple[ContextBlock, ...]:
    """Contexts of one block each."""
    return tuple(ContextBlock(c.feature_profile_type, c.data, c.presence_vector) for c in contexts)


def manifest_block(
    contexts: Sequence[EncodedContext],
    part: int = 0,
    parts: int = 1,
    generation: int = 7,
    transfer_id: int = TRANSFER_ID,
) -> ContextBlock:
    """A manifest by hand, from its box in docs/context-formats.md, for contexts of one block each."""
    signed = b""
    for c in contexts:
        vector = b"" if c.presence_vector is None else struct.pack(">I", c.presence_vector)
        words = (4 + len(vector) + len(c.data) + 7) // 8
        signed += struct.pack(">HBB", c.feature_profile_type, words, 0x80 if vector else 0)
        signed += (vector + c.data).ljust(words * 8 - 4, b"\0")
    digest = hashlib.sha256(signed).digest()[:16]
    return ContextBlock(
        0xFF03,
        struct.pack(">BBHHHIIQ16s", 1, 0, part, parts, 0, transfer_id, len(contexts), generation, digest),
    )


def ctd(
    contexts: Sequence[EncodedContext] = CONTEXTS, elapsed_time: int = 0, transfer_id: int = TRANSFER_ID
) -> ContextTransferData:
    """The CTD of a transfer in one message."""
    return ContextTransferData(
        mn_previous_address=MN,
        elapsed_time=elapsed_time,
        blocks=(manifest_block(contexts, transfer_id=transfer_id), *blocks_of(contexts)),
        acknowledge=True,
    )


def pctd(
    contexts: Sequence[EncodedContext] = CONTEXTS,
    elapsed_time: int = 0,
    transfer_id: int = TRANSFER_ID,
    key: bytes = KEY,
) -> PredictiveContextTransferData:
    """The same as a PCTD."""
    return PredictiveContextTransferData(
        mn_previous_address=MN,
        elapsed_time=elapsed_time,
        blocks=(manifest_block(contexts, transfer_id=transfer_id), *blocks_of(contexts)),
        acknowledge=True,
        algorithm=1,
        key=key,
    )


def ctdr(
    success: bool, *statuses: ContextStatus, receipt: tuple[ContextStatus, ...] = RECEIPT
) -> ContextTransferDataReply:
    """A CTDR, with a receipt unless told otherwise."""
    return ContextTransferDataReply(mn_previous_address=MN, success=success, statuses=(*statuses, *receipt))


def token(key: bytes, sequence_number: int, requested: bytes = b"") -> bytes:
    """RFC 4067, 2.5.1: the first 32 bits of HMAC_SHA1(Key, previous IP address | Sequence Number | CDBs)."""
    return hmac.new(key, MN.packed + sequence_number.to_bytes(4, "big") + requested, hashlib.sha1).digest()[:4]


def ctar(
    sequence_number: int, router: Peer, key: bytes = KEY, *, acknowledge: bool = True
) -> ContextTransferActivateRequest:
    """A mobile node's CTAR for all contexts, that names ``router``."""
    return ContextTransferActivateRequest(
        mn_previous_address=MN,
        access_router_address=router.address,
        sequence_number=sequence_number,
        authorization_token=token(key, sequence_number),
        acknowledge=acknowledge,
    )


def ct_req(sequence_number: int, key: bytes | None = KEY) -> ContextTransferRequest:
    """A CT-Req for all contexts; no key for a null token."""
    return ContextTransferRequest(
        mn_previous_address=MN,
        sequence_number=sequence_number,
        authorization_token=bytes(4) if key is None else token(key, sequence_number),
    )


def ctaa(*statuses: ContextStatus) -> ContextTransferActivateAcknowledge:
    return ContextTransferActivateAcknowledge(mn_previous_address=MN, statuses=statuses)


CTC = ContextTransferCancel(mn_previous_address=MN)
EMPTY_CTD = ContextTransferData(mn_previous_address=MN, elapsed_time=0)
"""How a previous router says no to a CT-Req."""


def take_events(role: Endpoint) -> list[Event]:
    """All events that wait."""
    events = []
    while (event := role.next_event()) is not None:
        events.append(event)
    return events


def obey(role: NewRouter | AccessRouter, now: float = 100.0) -> list[Event]:
    """As :func:`take_events`, and what they ask for is done: refusals kept on record, contexts taken into use."""
    events = take_events(role)
    new = role.new if isinstance(role, AccessRouter) else role
    for event in events:
        if isinstance(event, TransferAborted) and event.transfer_id is not None:
            new.refused(event.mn_address, event.transfer_id, (ContextStatus(0, event.status),), now)
        elif isinstance(event, ActivateContexts):
            new.activated(event.mn_address, event.transfer_id, (), now)
    return events


def drops(role: Endpoint) -> list[DropReason]:
    """The reasons of all events that wait; they must be drops."""
    events = take_events(role)
    assert all(isinstance(event, Dropped) for event in events), events
    return [event.reason for event in events if isinstance(event, Dropped)]


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
        outcome_of: Callable[[IPAddress, int], Outcome | None] = lambda router, transfer_id: None,
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


@contextmanager
def interpreted_formats() -> Iterator[None]:
    """Construct's interpreter in place of what is compiled of its declarations: the oracle."""
    nothing = mock.Mock(return_value=None)
    with mock.patch.object(Compiled, "parse_quickly", nothing), mock.patch.object(Compiled, "build_quickly", nothing):
        yield
