"""What the rules look back on: each mobile node's story, and the case with all that the judge was given.

All of it has a limit, so that a capture of any length is judged in the same memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from contexts.base import Context

from ..adapters.capture import IpPacket
from ..config import ContextTypes, Timers
from ..dissect import Transport
from ..messages import ContextTransferActivateRequest, ContextTransferData, IPAddress, Message
from .bounded import Bounded
from .protection import esp_octets, is_ike_sa_init, shows_cxtp
from .records import End, Record

MAXIMUM_RECORDS = 256
"""Messages of one mobile node that are looked back on (ours)."""

MAXIMUM_OCTETS = 32 * 1024 * 1024
"""Octets of all messages that are looked back on (ours)."""

RECORD_OCTETS = 2048
"""What one record is counted as beside its own octets (ours; about what its objects take)."""

QUIET_SECONDS = 60.0
"""A mobile node's story ends after so long a silence, by the capture's clock (ours: four hand-over times)."""

FLOOD = 3
"""How many times CT_REQUEST_RATE within a second is a flood (ours)."""

FLOOD_SECONDS = 5.0
"""So long after a flood a router is looked at for whether it still answers (ours)."""

_ESP, _UDP = 50, 17

StoryKey = Union[IPAddress, tuple[IPAddress, IPAddress]]
_M = TypeVar("_M")
_T = TypeVar("_T")


@dataclass
class Story:
    """One mobile node's messages in their order; ``key`` is its address, or the two ends of what has none."""

    key: StoryKey
    records: deque[Record] = field(default_factory=deque)
    octets: int = 0
    forgotten: int = 0

    def of(self, *kinds: type[_M]) -> Iterator[tuple[Record, _M]]:
        """Records of these message types, oldest first."""
        for item in self.records:
            if isinstance(item.message, kinds):
                yield item, item.message

    def back(self, *kinds: type[_M]) -> Iterator[tuple[Record, _M]]:
        """The same, newest first."""
        for item in reversed(self.records):
            if isinstance(item.message, kinds):
                yield item, item.message

    @property
    def last_time(self) -> float:
        """Of its newest message."""
        return self.records[-1].time if self.records else 0.0


class Floods:
    """When routers had far more CTARs than CT_REQUEST_RATE: who floods is not judged, but what the router does then."""

    def __init__(self, rate: float = 10.0) -> None:
        self._count = int(FLOOD * rate)
        self._arrivals: Bounded = Bounded()
        self._times: Bounded = Bounded()

    def take(self, item: Record) -> None:
        """A message of any sender."""
        if isinstance(item.message, ContextTransferActivateRequest):
            arrivals: deque[float] = self._arrivals.setdefault(item.destination[0], deque(maxlen=self._count))
            arrivals.append(item.time)
            if len(arrivals) == self._count and item.time - arrivals[0] < 1:
                self._times.setdefault(item.destination[0], deque(maxlen=64)).append((item.time, item))
                arrivals.clear()

    def before(self, router: IPAddress, time: float) -> Record | None:
        """The CTAR that made a flood of it, at most FLOOD_SECONDS before ``time``."""
        for flooded, item in reversed(self._times.get(router, ())):
            if 0 <= time - flooded <= FLOOD_SECONDS:
                found: Record = item
                return found
        return None


@dataclass
class Case:
    """What the judge was given, and what rules remember.

    ``keys``: secrets that mobile nodes share with their previous routers.  ``contexts``: from context files.
    ``on_the_wire``: the capture was taken between the routers' hosts, so that IPsec would show as ESP.
    ``routers``: all that there are, where the judge was told; others are strangers.
    ``live``: one side is the prober, which is not judged.  ``begin``, ``end``: the time of the first and last packet.
    ``carried``: messages by their transport.  ``esp_paths``, ``null_paths``, ``ike_paths``, ``context_paths``: where
    ESP, ESP without encryption around CXTP, IKE, and contexts in the clear go, by both ends' addresses.
    """

    timers: Timers = field(default_factory=Timers)
    context_types: ContextTypes = field(default_factory=ContextTypes)
    request_rate: float = 10.0
    keys: Sequence[bytes] = field(default=(), repr=False)
    contexts: Sequence[Context] = field(default=(), repr=False)
    on_the_wire: bool = False
    routers: frozenset[IPAddress] = frozenset()
    live: bool = False
    begin: float | None = None
    end: float = 0.0
    carried: Counter[Transport] = field(default_factory=Counter)
    esp_paths: Bounded = field(default_factory=Bounded)
    null_paths: Bounded = field(default_factory=Bounded)
    ike_paths: Bounded = field(default_factory=Bounded)
    context_paths: Bounded = field(default_factory=Bounded)
    floods: Floods = field(default_factory=Floods)
    _memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def clock(self, time: float) -> None:
        """A packet's or message's time."""
        self.begin = time if self.begin is None else min(self.begin, time)
        self.end = max(self.end, time)

    def see(self, packet: IpPacket) -> None:
        """A packet of the capture: where ESP and IKE go between hosts, by both addresses."""
        self.clock(packet.time)
        path = frozenset((packet.source, packet.destination))
        esp = esp_octets(packet) if packet.protocol in (_ESP, _UDP) else None
        if packet.protocol == _ESP or esp is not None:
            self.esp_paths[path] = packet.index
            if esp is not None and shows_cxtp(esp):
                self.null_paths.setdefault(path, packet.index)
        elif packet.protocol == _UDP and is_ike_sa_init(packet):
            self.ike_paths[path] = (packet.index, packet.time)

    def remember(self, rule_id: str, make: Callable[[], _T]) -> _T:
        """What a rule keeps between stories."""
        if rule_id not in self._memory:
            self._memory[rule_id] = make()
        found: _T = self._memory[rule_id]
        return found


class Stories:
    """All mobile nodes' stories; ``closed`` is told each story that ends."""

    def __init__(self, closed: Callable[[Story], None]) -> None:
        self._closed = closed
        self._stories: OrderedDict[StoryKey, Story] = OrderedDict()
        self._octets = 0

    def of(self, item: Record) -> Story:
        """The story that a record belongs to, without it."""
        self._close_quiet(item.time)
        mn = item.mn
        one, other = sorted((router(item.source), router(item.destination)), key=str)
        key: StoryKey = mn if mn is not None else (one, other)
        story = self._stories.setdefault(key, Story(key))
        self._stories.move_to_end(key)
        return story

    def add(self, story: Story, item: Record) -> None:
        """The record, once it was judged."""
        size = len(item.octets) + RECORD_OCTETS
        story.records.append(item)
        story.octets += size
        self._octets += size
        while len(story.records) > MAXIMUM_RECORDS:
            self._forget(story)
        while self._octets > MAXIMUM_OCTETS and len(self._stories) > 1:
            self._close(next(iter(self._stories)))
        while self._octets > MAXIMUM_OCTETS and story.records:
            self._forget(story)

    def finish(self) -> None:
        """End all stories."""
        while self._stories:
            self._close(next(iter(self._stories)))

    def _forget(self, story: Story) -> None:
        size = len(story.records.popleft().octets) + RECORD_OCTETS
        story.octets -= size
        story.forgotten += 1
        self._octets -= size

    def _close_quiet(self, now: float) -> None:
        while self._stories:
            key, oldest = next(iter(self._stories.items()))
            if not oldest.records or now - oldest.last_time <= QUIET_SECONDS:
                return
            self._close(key)

    def _close(self, key: StoryKey) -> None:
        story = self._stories.pop(key)
        self._octets -= story.octets
        self._closed(story)


def router(end: End) -> IPAddress:
    """Routers and mobile nodes are known by their addresses, whatever their ports."""
    return end[0]


def between(one: Record, other: Record, *, back: bool = False) -> bool:
    """Whether two records have the same source and destination; ``back``: one answers the other."""
    source, destination = router(other.source), router(other.destination)
    if back:
        source, destination = destination, source
    return router(one.source) == source and router(one.destination) == destination


def carries_contexts(item: Record) -> bool:
    """Whether it is a CTD or PCTD that is no refusal (docs/decisions.md, 21)."""
    return isinstance(item.message, ContextTransferData) and bool(item.message.blocks)


def short(message: Message | None) -> str:
    """A message's short name."""
    return message.short_name if message is not None else "no message"
