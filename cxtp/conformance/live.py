"""A live peer is provoked, and what it did is judged by the same rules as a capture.

The prober speaks with the codec alone, in the other roles' place.  It is bounded (each wait has an end, each probe few
messages) and polite: what it gives to a new router it takes back, and what a previous router sends it refuses, so that
the session stays where it was.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from ..config import Timers
from ..constants import StatusCode
from ..dissect import Transport
from ..errors import ConfigurationError
from ..manifest import plan_parts, receipt
from ..messages import (
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


@dataclass
class LiveConfig:
    """``mn``: the mobile node's address that is asked about; a previous router must have a session of its.
    ``key``: what that mobile node shares with the previous router, if anything is to be proved."""

    role: str
    peer: Peer
    own: tuple[IPAddress, int]
    transport: Transport
    mn: IPAddress
    key: bytes = field(default=b"", repr=False)
    timers: Timers = field(default_factory=Timers)
    patience: float = 60.0
    """How long a mobile node's CTAR is waited for."""


Probe = Callable[["Prober"], Awaitable[None]]


class Prober:
    """One run.  ``make_endpoint`` gives the transport for a receiver of messages."""

    def __init__(
        self, config: LiveConfig, make_endpoint: Callable[[Receiver], Endpoint], seed: int | None = None
    ) -> None:
        if config.role not in ROLES:
            raise ConfigurationError(f"{config.role!r} is no role: {', '.join(ROLES)}")
        self.config = config
        self.records: list[Record] = []
        self._random = random.Random(seed) if seed is not None else random.SystemRandom()
        self._started = time.monotonic()
        self._heard = asyncio.Event()
        self._endpoint = make_endpoint(self._receive)
        self._last_generation = 0

    # --- speaking and hearing -----------------------------------------------------------------------------------

    def _note(self, octets: bytes, *, ours: bool) -> None:
        if len(self.records) >= MAXIMUM_RECORDS:
            return
        own, peer = self.config.own, (self.config.peer.address, self.config.peer.port)
        ends = (own, peer) if ours else (peer, own)
        now = time.monotonic() - self._started
        self.records.append(
            record(len(self.records) + 1, now, self.config.transport, ends, octets, Carriage(), ours=ours)
        )

    def _receive(self, octets: bytes, peer: Peer) -> None:
        if peer.address == self.config.peer.address:
            if self.config.role == "mobile-node":  # it has a port of its own
                self.config.peer = peer
            self._note(octets, ours=False)
            self._heard.set()

    def say(self, what: Message | bytes) -> None:
        """Send a message, or octets that are none."""
        octets = what if isinstance(what, bytes) else build(what)
        self._note(octets, ours=True)
        self._endpoint.send(octets, self.config.peer)

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

    def _number(self) -> int:
        return self._random.getrandbits(32)

    def _blocks(self, *contexts: EncodedContext) -> tuple[ContextBlock, ...]:
        self._last_generation += 1
        (blocks,) = plan_parts(contexts, transfer_id=self._number(), generation=self._last_generation)
        return blocks

    def _data(self, *contexts: EncodedContext, acknowledge: bool = True) -> ContextTransferData:
        blocks = self._blocks(*(contexts or (EncodedContext(PROBE_TYPE, b"a probe of cxtp conform....."),)))
        return ContextTransferData(
            mn_previous_address=self.config.mn, elapsed_time=0, blocks=blocks, acknowledge=acknowledge
        )

    def _request(self, *, forged: bool = False) -> ContextTransferRequest:
        number = self._number()
        mn, key = self.config.mn, self.config.key
        token = compute_token(key, mn, number) if key else bytes(4)
        if forged:
            token = bytes(octet ^ 0x5A for octet in token)
        return ContextTransferRequest(mn_previous_address=mn, sequence_number=number, authorization_token=token)

    def _reply(self, data: Record, success: bool) -> ContextTransferDataReply:
        manifest = manifest_of(data, Case())
        statuses: tuple[ContextStatus, ...] = ()
        if not success:
            statuses = (ContextStatus(0, StatusCode.NO_RESOURCES),)
        if manifest is not None:
            statuses += receipt(manifest.transfer_id)
        return ContextTransferDataReply(mn_previous_address=self.config.mn, success=success, statuses=statuses)

    # --- probes -------------------------------------------------------------------------------------------------

    async def run(self, probes: Sequence[Probe] | None = None) -> Report:
        """These probes (None: all of the role), then the verdicts.  Raises TransportError where we can't listen."""
        await self._endpoint.start()
        try:
            for probe in PROBES[self.config.role] if probes is None else probes:
                await probe(self)
        finally:
            await self._endpoint.close()
        return self.report()

    def report(self, groups: Sequence[Group] = (), level: Level = Level.MAY) -> Report:
        """What the rules say of all that was seen."""
        config = self.config
        case = Case(timers=config.timers, keys=[config.key] if config.key else [], live=True)
        judge = Judge(case, selected(ALL_RULES, groups, level))
        for item in self.records:
            judge.take(item)
        case.end = time.monotonic() - self._started
        return judge.finish(f"{config.role} at {config.peer.address}, over {config.transport.value}")

    async def _take_back(self) -> None:
        """The session that the peer was given: asked for, received, confirmed; then it holds nothing of ours."""
        self.say(replace(self._request(), authorization_token=bytes(4)))
        data = await self.hear(ContextTransferData)
        if data is not None and isinstance(data.message, ContextTransferData) and data.message.blocks:
            manifest = manifest_of(data, Case())
            if manifest is not None:
                self._last_generation = max(self._last_generation, manifest.generation)
            self.say(self._reply(data, True))
            await asyncio.sleep(QUIET_SECONDS)


async def _whole_transfer(prober: Prober) -> None:
    prober.say(prober._data())
    await prober.hear(ContextTransferDataReply)
    await prober._take_back()


async def _duplicate_data(prober: Prober) -> None:
    """The same CTD three times: each copy may draw the reply, none another effect."""
    data = prober._data()
    for _ in range(3):
        prober.say(data)
        await asyncio.sleep(0.05)
    await prober.hear(ContextTransferDataReply, after=0)
    await prober._take_back()


async def _unasked_reply(prober: Prober) -> None:
    prober.say(prober._data(acknowledge=False))
    await prober.hear(ContextTransferDataReply, within=QUIET_SECONDS)
    await prober._take_back()


async def _oversized(prober: Prober) -> None:
    """As much as a message holds, of types that nobody knows."""
    room = min(prober._endpoint.maximum_message, 65_000) - 1000
    contexts = [EncodedContext(PROBE_TYPE + n, b"oversized..." * 150) for n in range(room // 1900)]
    prober.say(prober._data(*contexts))
    await prober.hear(ContextTransferDataReply)
    await prober._take_back()


async def _late_data(prober: Prober) -> None:
    """Data, and once more long after its reply."""
    data = prober._data()
    prober.say(data)
    await prober.hear(ContextTransferDataReply)
    await asyncio.sleep(2 * QUIET_SECONDS)
    prober.say(data)
    await prober.hear(ContextTransferDataReply, within=QUIET_SECONDS)
    await prober._take_back()


def _spoiled(octets: bytes) -> list[bytes]:
    """What is no message: another version, an unknown type, wrong lengths, cut short, and noise."""
    length = len(octets)
    return [
        bytes((octets[0] & 31 | 2 << 5,)) + octets[1:],
        bytes((octets[0] & 0xE0 | 31,)) + octets[1:],
        octets[:2] + (length + 1).to_bytes(2, "big") + octets[4:],
        octets[:2] + (length - 1).to_bytes(2, "big") + octets[4:],
        octets[:2] + (length - 8).to_bytes(2, "big") + octets[4 : length - 8],
        octets[:3],
    ]


async def _malformed(prober: Prober) -> None:
    what = prober._data() if prober.config.role == "new-router" else prober._request()
    spoiled = _spoiled(build(what))
    if prober.config.transport in (Transport.TCP,):  # a stream whose lengths are wrong is a stream no more
        spoiled = spoiled[:2]
    for octets in spoiled:
        prober.say(octets)
        await asyncio.sleep(0.05)
    await asyncio.sleep(QUIET_SECONDS)
    await _whole_transfer(prober) if prober.config.role == "new-router" else await _asked(prober)


async def _forged_activation(prober: Prober) -> None:
    """Contexts ahead, then a CTAR with a wrong token: nothing is activated.  Then the right one, and all back."""
    config = prober.config
    if config.transport is Transport.SCTP:
        return  # CTARs are not SCTP's (3.1)
    key = prober._random.getrandbits(128).to_bytes(16, "big")
    plain = prober._data()
    prober.say(PredictiveContextTransferData(key=key, **vars(plain)))
    await prober.hear(ContextTransferDataReply, within=QUIET_SECONDS)
    for forged in (True, False):
        number = prober._number()
        token = compute_token(key, config.mn, number)
        if forged:
            token = bytes(octet ^ 0x5A for octet in token)
        prober.say(
            ContextTransferActivateRequest(
                mn_previous_address=config.mn,
                access_router_address=config.own[0],
                sequence_number=number,
                authorization_token=token,
                acknowledge=True,
            )
        )
        await prober.hear(ContextTransferActivateAcknowledge, within=QUIET_SECONDS)
    await prober._take_back()


# --- a previous router: it has a session, is asked for it, and keeps it -------------------------------------------


async def _asked(prober: Prober) -> None:
    prober.say(prober._request())
    await _refuse(prober)


async def _refuse(prober: Prober) -> None:
    data = await prober.hear(ContextTransferData, after=max(len(prober.records) - 1, 0))
    if data is not None and isinstance(data.message, ContextTransferData) and data.message.acknowledge:
        prober.say(prober._reply(data, False))
    await asyncio.sleep(QUIET_SECONDS)


async def _silence(prober: Prober) -> None:
    """No reply while CT_MAX_TRANSFER_TIME lasts: repetitions wait longer, and end.  Then: no, thank you."""
    prober.say(prober._request())
    data = await prober.hear(ContextTransferData)
    await asyncio.sleep(prober.config.timers.max_transfer_time * 1.5)
    if data is not None:
        prober.say(prober._reply(data, False))
    await asyncio.sleep(QUIET_SECONDS)


async def _forged_request(prober: Prober) -> None:
    if prober.config.key:
        prober.say(prober._request(forged=True))
        await prober.hear(ContextTransferData, within=2 * QUIET_SECONDS)


async def _cancelled(prober: Prober) -> None:
    prober.say(prober._request())
    data = await prober.hear(ContextTransferData)
    prober.say(ContextTransferCancel(mn_previous_address=prober.config.mn))
    await asyncio.sleep(QUIET_SECONDS)
    if data is not None:
        prober.say(prober._reply(data, False))
    await asyncio.sleep(QUIET_SECONDS)


async def _null_request(prober: Prober) -> None:
    """Asked for with a null token: the key has to come as well."""
    prober.say(replace(prober._request(), authorization_token=bytes(4)))
    await _refuse(prober)


async def _repeated_request(prober: Prober) -> None:
    request = prober._request()
    prober.say(request)
    prober.say(request)
    await _refuse(prober)


async def _flood(prober: Prober) -> None:
    """Forty CTARs at once, for addresses that have no session: the rate limit shows."""
    if prober.config.transport is Transport.SCTP:
        return  # CTARs are not SCTP's (3.1)
    base = int(prober.config.mn)
    for n in range(40):
        mn = type(prober.config.mn)(base ^ (n + 1))
        prober.say(
            ContextTransferActivateRequest(
                mn_previous_address=mn,
                access_router_address=prober.config.own[0],
                sequence_number=prober._number(),
                authorization_token=b"\1\2\3\4",
                acknowledge=True,
            )
        )
    await asyncio.sleep(1.0)


# --- a mobile node: it asks, and is answered late -----------------------------------------------------------------


async def _mobile_node(prober: Prober) -> None:
    config = prober.config
    first = await prober.hear(ContextTransferActivateRequest, within=config.patience, after=0)
    if first is None:
        return
    waited = config.timers.request_retry * 7 + 1  # three repetitions: after 1, 3 and 7 waits
    await asyncio.sleep(min(waited, config.timers.retry_max * 0.9))
    if isinstance(first.message, ContextTransferActivateRequest) and first.message.acknowledge:
        prober.say(ContextTransferActivateAcknowledge(mn_previous_address=first.message.mn_previous_address))
    await asyncio.sleep(config.timers.request_retry * 3)


PROBES: dict[str, tuple[Probe, ...]] = {
    "new-router": (
        _whole_transfer,
        _duplicate_data,
        _unasked_reply,
        _malformed,
        _late_data,
        _oversized,
        _forged_activation,
        _flood,
        _whole_transfer,
    ),
    "previous-router": (
        _asked,
        _null_request,
        _repeated_request,
        _malformed,
        _silence,
        _forged_request,
        _cancelled,
        _flood,
        _asked,
    ),
    "mobile-node": (_mobile_node,),
}
