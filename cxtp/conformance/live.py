"""A live peer is provoked, and what it did is judged by the same rules as a capture.

The prober speaks with the codec alone, in the other roles' place.  It is bounded (each wait has an end, each probe few
messages) and polite: what it gives to a new router it takes back, and what a previous router sends it refuses, so that
the session stays where it was.  What it says and when is in :mod:`.probes`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..config import Timers
from ..constants import StatusCode
from ..dissect import Transport
from ..errors import ConfigurationError
from ..manifest import plan_parts, receipt
from ..messages import (
    ContextBlock,
    ContextRequest,
    ContextStatus,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    Message,
)
from ..token import compute_token
from ..transports.endpoint import Endpoint, Peer, Receiver
from ..wire import build
from .judge import Judge
from .records import Carriage, Record, record
from .rules import ALL_RULES
from .rules.formats import manifest_of
from .story import Case
from .verdicts import Group, Level, Report, selected

ROLES = ("previous-router", "new-router", "mobile-node")
MAXIMUM_RECORDS = 10_000
"""Messages of one run (ours)."""

ANSWER_SECONDS = 3.0
"""How long an answer is waited for (ours)."""

QUIET_SECONDS = 0.3
"""How long nothing is waited for, where nothing is to come (ours)."""

PROBE_TYPE = 0x7001
"""An unassigned Feature Profile Type."""

Link = tuple[Transport, Callable[[Receiver], Endpoint]]
"""A transport, and what makes an endpoint of it."""


@dataclass
class LiveConfig:
    """``mn``: the mobile node's address that is asked about; a previous router must have a session of its.
    ``key``: what that mobile node shares with the previous router, if anything is to be proved.

    ``transport`` is that between routers; where it is ICMP, the prober plays mobile nodes alone.  ``mobile``: another
    one for CTARs (RFC 4067, 3.2); None: the same, but over SCTP, which carries none, there are then no CTARs.
    ``stranger``: an address of ours that the peer knows no router at, with its endpoint; None: not probed.
    """

    role: str
    peer: Peer
    own: tuple[IPAddress, int]
    transport: Transport
    mn: IPAddress
    key: bytes = field(default=b"", repr=False)
    timers: Timers = field(default_factory=Timers)
    patience: float = 60.0
    """How long a mobile node's CTAR is waited for."""

    mobile: Link | None = None
    stranger: tuple[IPAddress, Callable[[Receiver], Endpoint]] | None = None

    @property
    def has_routers(self) -> bool:
        """Whether the peer can be spoken to as one router to another."""
        return self.transport is not Transport.ICMP

    @property
    def has_mobile_nodes(self) -> bool:
        """Whether it can be sent CTARs."""
        return self.transport is not Transport.SCTP or self.mobile is not None


Probe = Callable[["Prober"], Awaitable[None]]


@dataclass
class _Way:
    """One of our endpoints, and the two ends as the records name them."""

    endpoint: Endpoint
    transport: Transport
    own: tuple[IPAddress, int]
    peer: Peer


class Prober:
    """One run.  ``make_endpoint`` gives the transport for a receiver of messages.

    >>> await prober.run(PROBES[config.role])       # or, step by step:
    >>> await prober.start(); await prober.provoke(probes); await prober.close(); prober.report()
    """

    def __init__(
        self, config: LiveConfig, make_endpoint: Callable[[Receiver], Endpoint], seed: int | None = None
    ) -> None:
        if config.role not in ROLES:
            raise ConfigurationError(f"{config.role!r} is no role: {', '.join(ROLES)}")
        self.config = config
        self.records: list[Record] = []
        self.random = random.Random(seed) if seed is not None else random.SystemRandom()
        self._started = time.monotonic()
        self._heard = asyncio.Event()
        self._last_generation = 0
        self._ways = {"router": self._way(config.transport, config.own, make_endpoint, "router")}
        if config.mobile is not None:
            self._ways["mobile"] = self._way(config.mobile[0], (config.own[0], 0), config.mobile[1], "mobile")
        if config.stranger is not None:
            own = (config.stranger[0], config.own[1])
            self._ways["stranger"] = self._way(config.transport, own, config.stranger[1], "stranger")

    def _way(
        self, transport: Transport, own: tuple[IPAddress, int], make: Callable[[Receiver], Endpoint], name: str
    ) -> _Way:
        peer = self.config.peer
        if name == "mobile":
            peer = replace(peer, port=0 if transport is Transport.ICMP else peer.port, reliable=False, is_router=False)
        return _Way(make(partial(self._receive, name)), transport, own, peer)

    # --- speaking and hearing -----------------------------------------------------------------------------------

    def _note(self, way: _Way, octets: bytes, *, ours: bool) -> None:
        if len(self.records) >= MAXIMUM_RECORDS:
            return
        own, peer = way.own, (way.peer.address, way.peer.port)
        ends = (own, peer) if ours else (peer, own)
        now = time.monotonic() - self._started
        self.records.append(record(len(self.records) + 1, now, way.transport, ends, octets, Carriage(), ours=ours))

    def _receive(self, name: str, octets: bytes, peer: Peer) -> None:
        way = self._ways[name]
        if peer.address == way.peer.address:
            if self.config.role == "mobile-node":  # it has a port of its own
                way.peer = peer
            self._note(way, octets, ours=False)
            self._heard.set()

    def say(self, what: Message | bytes, *, way: str | None = None) -> None:
        """Send a message, or octets that are none.  CTARs go the mobile nodes' way, all else the routers'."""
        octets = what if isinstance(what, bytes) else build(what)
        if way is None:
            way = "mobile" if isinstance(what, ContextTransferActivateRequest) and "mobile" in self._ways else "router"
        self._note(self._ways[way], octets, ours=True)
        self._ways[way].endpoint.send(octets, self._ways[way].peer)

    @property
    def largest_message(self) -> int:
        """Octets that a message between routers may have."""
        return self._ways["router"].endpoint.maximum_message

    async def hear(self, *kinds: type[Message], within: float | None = None, after: int | None = None) -> Record | None:
        """The first message of these kinds behind record ``after`` (None: from now on); None where none comes."""
        position = len(self.records) if after is None else after
        end = time.monotonic() + (ANSWER_SECONDS if within is None else within)
        while True:
            for item in self.records[position:]:
                if not item.ours and isinstance(item.message, kinds):
                    return item
            left = end - time.monotonic()
            if left <= 0:
                return None
            self._heard.clear()
            try:
                await asyncio.wait_for(self._heard.wait(), left)
            except asyncio.TimeoutError:
                return None

    # --- messages -----------------------------------------------------------------------------------------------

    def number(self) -> int:
        """A sequence number, a transfer's identifier."""
        return self.random.getrandbits(32)

    def blocks(self, *contexts: EncodedContext, again: bool = False) -> tuple[ContextBlock, ...]:
        """Contexts as a transfer of their own, of a generation above all that went before, or of the last one again."""
        self._last_generation += not again
        (blocks,) = plan_parts(contexts, transfer_id=self.number(), generation=self._last_generation)
        return blocks

    def data(
        self, *contexts: EncodedContext, acknowledge: bool = True, again: bool = False
    ) -> ContextTransferData:
        """A CTD of these contexts (none given: one of a type that nobody knows); ``again``: of the last generation."""
        blocks = self.blocks(*(contexts or (EncodedContext(PROBE_TYPE, b"a probe of cxtp conform....."),)), again=again)
        return ContextTransferData(
            mn_previous_address=self.config.mn, elapsed_time=0, blocks=blocks, acknowledge=acknowledge
        )

    def request(
        self, *, forged: bool = False, number: int | None = None, requested: tuple[ContextRequest, ...] = ()
    ) -> ContextTransferRequest:
        """A CT-Req with the token of the mobile node's key, a wrong one, or a null one where there is no key."""
        number = self.number() if number is None else number
        mn, key = self.config.mn, self.config.key
        token = compute_token(key, mn, number, requested) if key else bytes(4)
        if forged:
            token = bytes(octet ^ 0x5A for octet in token)
        return ContextTransferRequest(
            mn_previous_address=mn, sequence_number=number, authorization_token=token, requested=requested
        )

    def activation(
        self,
        *,
        key: bytes | None = None,
        mn: IPAddress | None = None,
        forged: bool = False,
        number: int | None = None,
        acknowledge: bool = True,
    ) -> ContextTransferActivateRequest:
        """A CTAR that names us as the other router; ``key`` None: the mobile node's."""
        number = self.number() if number is None else number
        mn = self.config.mn if mn is None else mn
        token = compute_token((self.config.key if key is None else key) or b"no key", mn, number)
        if forged:
            token = bytes(octet ^ 0x5A for octet in token)
        return ContextTransferActivateRequest(
            mn_previous_address=mn,
            access_router_address=self.config.own[0],
            sequence_number=number,
            authorization_token=token,
            acknowledge=acknowledge,
        )

    def reply(self, data: Record, success: bool, *, with_receipt: bool = True) -> ContextTransferDataReply:
        """A CTDR to that data; without a receipt, as of a router that knows none, it names each type that failed."""
        manifest = manifest_of(data, Case())
        failed: list[int] = []
        if not success:
            types = [block.feature_profile_type for block in getattr(data.message, "blocks", ())]
            failed = [0] if with_receipt else list(dict.fromkeys(types))
        statuses = tuple(ContextStatus(number, StatusCode.NO_RESOURCES) for number in failed)
        if manifest is not None and with_receipt:
            statuses += receipt(manifest.transfer_id)
        return ContextTransferDataReply(mn_previous_address=self.config.mn, success=success, statuses=statuses)

    async def take_back(self) -> None:
        """The session that the peer was given: asked for, received, confirmed; then it holds nothing of ours."""
        said = len(self.records)
        self.say(replace(self.request(), authorization_token=bytes(4)))
        data = await self.hear(ContextTransferData, after=said)
        if data is not None and isinstance(data.message, ContextTransferData) and data.message.blocks:
            manifest = manifest_of(data, Case())
            if manifest is not None:
                self._last_generation = max(self._last_generation, manifest.generation)
            self.say(self.reply(data, True))
            await asyncio.sleep(QUIET_SECONDS)

    # --- the run ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open what we speak through.  Raises TransportError where we can't listen."""
        for way in self._ways.values():
            await way.endpoint.start()

    async def provoke(self, probes: Sequence[Probe]) -> None:
        """One probe after the other."""
        for probe in probes:
            await probe(self)

    async def close(self) -> None:
        """Let go of all endpoints."""
        for way in self._ways.values():
            await way.endpoint.close()

    async def run(self, probes: Sequence[Probe]) -> Report:
        """These probes, then the verdicts.  Raises TransportError where we can't listen."""
        try:
            await self.start()
            await self.provoke(probes)
        finally:
            await self.close()
        return self.report()

    def report(self, groups: Sequence[Group] = (), level: Level = Level.MAY) -> Report:
        """What the rules say of all that was seen."""
        config = self.config
        routers = frozenset((config.own[0], config.peer.address)) if config.stranger is not None else frozenset()
        case = Case(timers=config.timers, keys=[config.key] if config.key else [], live=True, routers=routers)
        judge = Judge(case, selected(ALL_RULES, groups, level))
        for item in self.records:
            judge.take(item)
        case.end = time.monotonic() - self._started
        over = config.transport.value + (f" and {config.mobile[0].value}" if config.mobile is not None else "")
        return judge.finish(f"{config.role} at {config.peer.address}, over {over}")
