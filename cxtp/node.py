"""The node: roles, transports, store and sessions joined; the clock and the randomness come in here.

It turns every input into the roles' five verbs, their events into steps of :mod:`cxtp.sessions`, and decides
nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import SystemRandom

from . import admission
from .config import ProtocolConfig
from .constants import StatusCode
from .doubts import Doubts
from .errors import CxtpError, LocalError, MalformedContext, StoreError
from .messages import ContextStatus, IPAddress
from .moves import MoveOvertaken, MoveRefused, MoveReport, MoveUnconfirmed, gone, may_leave
from .replica import find_replica
from .replica_questions import OUTCOMES, ReplicaQuestions
from .roles.access_router import AccessRouter
from .roles.events import (
    ActivateContexts,
    ActivationRequested,
    CacheExpired,
    ContextsReceived,
    ContextsRequested,
    Dropped,
    Event,
    Peer,
    PredictionExpired,
    Random,
    TokenRefused,
    TransferAborted,
    TransferCancelled,
    TransferConfirmed,
    TransferRefused,
    TransferUnconfirmed,
)
from .roles.new_router import Outcome
from .roles.router import of_all
from .sessions import SEQUENCE_RESERVE, Sessions, Sink
from .store.records import SessionRecord, SessionState
from .store.sqlite import SqliteStore
from .transports.endpoint import Endpoint, Receiver, Router, peers_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeConfig:
    """``mobile_node_keys``: the keys that mobile nodes share with this node, for tokens (RFC 4067, 2.5.1)."""

    name: str
    routers: tuple[Router, ...]
    protocol: ProtocolConfig = ProtocolConfig()
    mobile_node_keys: Mapping[IPAddress, bytes] = field(default_factory=dict, repr=False)
    moves_at_once: int = 64
    resend_interval: float = 1.0
    """Seconds until an unconfirmed transfer is asked after; doubles each time."""
    resend_interval_max: float = 60.0
    """Seconds between such questions at the most: they go on until one is answered."""
    sequence_reserve: int = SEQUENCE_RESERVE
    """Sequence numbers that an SA may use beyond what is on disk (docs/safety.md, the fence)."""


class Node:
    """One node.  ``make_endpoint`` is called with the receiver of messages and gives the transport between routers;
    ``make_mobile_endpoint`` likewise that to mobile nodes, where it is another one (RFC 4067, 3.2: ICMP).

    ``clock`` is monotonic, ``wall_clock`` Unix time, both in seconds.
    """

    def __init__(
        self,
        config: NodeConfig,
        store: SqliteStore,
        make_endpoint: Callable[[Receiver], Endpoint],
        *,
        make_mobile_endpoint: Callable[[Receiver], Endpoint] | None = None,
        sinks: Iterable[Sink] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
        tap: Callable[[bytes, Peer, bool], None] | None = None,
    ) -> None:
        self.config = config
        random = random or SystemRandom()
        self.sessions = Sessions(
            store,
            wall_clock,
            sinks,
            config.protocol.context_types,
            random=random,
            sequence_reserve=config.sequence_reserve,
        )
        self.endpoint = make_endpoint(self._received)
        self.mobile_endpoint = self.endpoint if make_mobile_endpoint is None else make_mobile_endpoint(self._received)
        self.counters: Counter[str] = Counter()
        self.clock = clock
        self.wall_clock = wall_clock
        self._tap = tap
        limits = replace(
            config.protocol.limits,
            message_octets=min(config.protocol.limits.message_octets, self.endpoint.maximum_message),
        )
        self._peers = peers_of(config.routers, reliable=self.endpoint.reliable)
        self._names = {peer.address: name for name, peer in self._peers.items()}
        self.router = AccessRouter(
            {peer.address: peer for peer in self._peers.values()},
            random,
            self.sessions.serves,
            replace(config.protocol, limits=limits),
            outcome_of=self._outcome_of,
        )
        self._moves: dict[IPAddress, asyncio.Future[tuple[ContextStatus, ...]]] = {}
        types = config.protocol.context_types
        self.replicas = ReplicaQuestions(
            self.router.previous, self._peers, self.sessions, types, self.clock, random, self._pump
        )
        self.sessions.confirm = self.replicas.ask
        self._sent_octets: Counter[IPAddress] = Counter()
        self._move_started: dict[IPAddress, float] = {}
        self._doubts = Doubts(config.resend_interval, config.resend_interval_max, self._ask_again)
        self._slots = asyncio.Semaphore(config.moves_at_once)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Index what the store has, listen, and ask again about every transfer whose outcome was unknown."""
        frozen = await self.sessions.open()
        for endpoint in self._endpoints:
            await endpoint.start()
        for record in frozen:
            if record.peer in self._peers:
                self._send_again(record)
        self._pump()

    async def close(self) -> None:
        """Stop.  What is under way stays as it was written down."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._doubts.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.close()
        await self.sessions.close()

    @property
    def _endpoints(self) -> list[Endpoint]:
        return list(dict.fromkeys((self.endpoint, self.mobile_endpoint)))

    # --- what an operator asks for -----------------------------------------------------------------------------------

    async def move(self, mn_address: IPAddress, router: str, *, ahead: bool = False) -> MoveReport:
        """Give a session to another node and wait until that has confirmed it.

        ``ahead``: it is to wait there for its mobile node, who proves itself with the key that it shares with us
        (RFC 4067, 5.1); else it is in use there at once (docs/decisions.md, 16).

        Raises LocalError (no such session or router), MoveRefused (it stays here), MoveUnconfirmed (it stays
        frozen; calling again asks again), MoveOvertaken (it stays frozen), StoreError (what it says could not be
        written down: where nothing was sent, the session is in use here as before).
        """
        peer = self._peers.get(router)
        if peer is None:
            raise LocalError(f"no router {router!r} is known; known are: {', '.join(sorted(self._peers)) or 'none'}")
        obstacle = self.endpoint.obstacle(peer)
        if obstacle is not None:
            raise LocalError(f"nothing can be sent to {router}: {obstacle}")
        key = b""
        if ahead:
            key = self.config.mobile_node_keys.get(mn_address, b"")
            if not key:
                raise LocalError(f"no key is shared with {mn_address}: it could not prove itself at {router}")
        async with self._slots:
            return await self._move(mn_address, peer, key)

    async def _move(self, mn_address: IPAddress, peer: Peer, key: bytes) -> MoveReport:
        record = self.sessions.get(mn_address)
        if record is None or record.state in (SessionState.STANDBY, SessionState.RELEASED):
            where = f"it is at {record.peer}" if record is not None and record.peer else "it is not known"
            raise LocalError(f"this node does not own a session of {mn_address}: {where}")
        if mn_address in self._moves or (
            record.state is SessionState.OWNED and self.router.previous.is_busy_with(mn_address)
        ):
            raise LocalError(f"the session of {mn_address} is being moved")
        if record.state is SessionState.FROZEN and record.peer != peer.name:
            raise LocalError(
                f"the session of {mn_address} may be at {record.peer}, which has not answered: move it there again"
            )
        started = self._move_started[mn_address] = self.clock()
        outcome: asyncio.Future[tuple[ContextStatus, ...]] = asyncio.get_running_loop().create_future()
        self._moves[mn_address] = outcome
        self._sent_octets[mn_address] = 0
        try:
            if record.state is SessionState.OWNED:
                await self.replicas.withdraw(record, peer.name)
                record = await self.sessions.freeze(mn_address, peer.name)
                await self._send(record, key)
            else:
                self._send_again(record)
            self._pump()
            await outcome
            milliseconds = (self.clock() - started) * 1000
            octets = self._sent_octets[mn_address]
            return MoveReport(mn_address, peer.name, len(record.contexts), octets, milliseconds)
        finally:
            del self._moves[mn_address]
            del self._sent_octets[mn_address], self._move_started[mn_address]

    async def _send(self, record: SessionRecord, key: bytes) -> None:
        """Start the transfer that a FROZEN record tells of.  What can't even be sent is not frozen for it."""
        try:
            self._transfer(record, key)
        except LocalError:
            await self.sessions.reclaim(record)
            raise

    def _transfer(self, record: SessionRecord, key: bytes = b"") -> None:
        peer, now = self._peers[record.peer], self.clock()
        mn_address, contexts, generation = record.mn_address, record.contexts, record.generation
        previous, transfer_id = self.router.previous, record.transfer_id
        if key:
            previous.predict(mn_address, peer, contexts, generation, key, now, transfer_id)
        else:
            previous.transfer(mn_address, peer, contexts, generation, now, transfer_id)

    def _send_again(self, record: SessionRecord) -> None:
        """Ask what became of a FROZEN record's transfer, by sending it once more."""
        try:
            self._transfer(record)
        except LocalError:  # it is in the role's cache, unconfirmed or under way
            with suppress(LocalError):
                self.router.previous.resend(record.mn_address, self.clock())

    async def request(self, mn_address: IPAddress, router: str) -> None:
        """Ask another node for a session (RFC 4067, 5.2): a CT-Req with a null token.

        It comes as OWNED; where the other node has a key of the mobile node's, as STANDBY until that one proves
        itself with a CTAR.
        """
        if router not in self._peers:
            raise LocalError(f"no router {router!r} is known")
        obstacle = self.endpoint.obstacle(self._peers[router])
        if obstacle is not None:
            raise LocalError(f"nothing can be sent to {router}: {obstacle}")
        self.router.new.request(mn_address, self._peers[router], self.clock())
        self._pump()

    def _outcome_of(self, peer: Peer, mn_address: IPAddress, transfer_id: int) -> Outcome | None:
        """What the records say of a transfer that the role has forgotten: its answer must stay the same."""
        record = self.sessions.readable(mn_address)
        if record is None or record.transfer_id != transfer_id or record.peer != peer.name:
            return None
        if record.state is SessionState.RELEASED:
            return Outcome(False, of_all(StatusCode.INSTALL_FAILED))
        return Outcome(True) if record.state is not SessionState.FROZEN else None

    # --- messages and timers -----------------------------------------------------------------------------------------

    def _received(self, octets: bytes, peer: Peer) -> None:
        if self._tap is not None:
            self._tap(octets, peer, False)
        self.router.receive(octets, peer, self.clock())
        self._pump()

    def _pump(self) -> None:
        """After every input: take events, send what is to be sent, set the timer."""
        if self._closed:
            return
        now = self.clock()
        while (event := self.router.next_event()) is not None:
            self.counters[type(event).__name__] += 1
            self._handle(event)
        for datagram in self.router.to_send(now):
            if self._tap is not None:
                self._tap(datagram.octets, datagram.peer, True)
            mn_address = datagram.message.mn_previous_address
            if mn_address in self._sent_octets:
                self._sent_octets[mn_address] += len(datagram.octets)
            self.counters["octets_sent"] += len(datagram.octets)
            endpoint = self.endpoint if datagram.peer.is_router else self.mobile_endpoint
            endpoint.send(datagram.octets, datagram.peer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.router.deadline()
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - self.clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.router.handle_timer(self.clock())
        self._pump()

    # --- events ------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, OUTCOMES) and self.replicas.answered(event):
            return
        if isinstance(event, (Dropped, TokenRefused)):
            log.debug("%s", event)
        elif isinstance(event, TransferConfirmed):
            self._spawn(self._confirmed(event))
        elif isinstance(event, (TransferRefused, TransferCancelled)):
            self._spawn(self._refused(event))
        elif isinstance(event, (TransferUnconfirmed, CacheExpired)):
            self._unconfirmed(event)
        elif isinstance(event, (ContextsRequested, ActivationRequested)):
            self._spawn(self._asked(event))
        elif isinstance(event, ContextsReceived):
            self._spawn(self._admit(event))
        elif isinstance(event, ActivateContexts):
            self._spawn(self._activate(event))
        elif isinstance(event, TransferAborted):
            log.info("transfer of %s from %s ended with status %#x", event.mn_address, event.peer.name, event.status)
            if event.transfer_id is not None:
                self._spawn(self._aborted(event))
        elif isinstance(event, PredictionExpired):
            self._spawn(self._adopt(event))
        else:
            log.debug("%s", event)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counters["failures"] += 1
            log.error("an event was not handled: %s", task.exception())

    async def _confirmed(self, event: TransferConfirmed) -> None:
        record = self.sessions.transferred(event.mn_address, event.transfer_id)
        self._doubts.answered(event.mn_address)
        if record is not None:
            await self._write_down(record, self.sessions.release)
        self._settle(event.mn_address, event.statuses)

    async def _refused(self, event: TransferRefused | TransferCancelled) -> None:
        record = self.sessions.transferred(event.mn_address, event.transfer_id)
        if record is None:
            return self._settle(event.mn_address, gone(event.mn_address))
        self._doubts.answered(event.mn_address)
        if any(status.status == StatusCode.STALE for status in event.statuses):
            # It may have had the session from here, its answer lost, and passed it on.
            overtaken = MoveOvertaken(event.mn_address, record.peer)
            log.error("%s", overtaken)
            return self._settle(event.mn_address, overtaken)
        await self._write_down(record, self.sessions.reclaim)
        contexts = self.sessions.decoded(record)
        self._settle(event.mn_address, MoveRefused(event.mn_address, record.peer, event.statuses, contexts))

    async def _write_down(self, record: SessionRecord, change: Callable[[SessionRecord], Awaitable[None]]) -> None:
        """What the new router answered.  Where it can't be, the session stays frozen, and we ask once more."""
        try:
            await change(record)
        except CxtpError as error:
            self._settle(record.mn_address, error)
            if isinstance(error, StoreError) and record.transfer_id is not None:
                self._doubts.ask_later(record.mn_address, record.transfer_id)
            raise

    def _unconfirmed(self, event: TransferUnconfirmed | CacheExpired) -> None:
        """Nothing is known: it stays FROZEN, and we ask again, ever less often, until somebody answers."""
        mn_address = event.mn_address
        record = self.sessions.transferred(mn_address, event.transfer_id)
        if record is None:
            return self._settle(mn_address, gone(mn_address))
        if isinstance(event, CacheExpired):
            return
        waited = self.clock() - self._move_started.get(mn_address, 0.0)
        if waited >= self.config.protocol.timers.max_handover_time:
            self._settle(mn_address, MoveUnconfirmed(mn_address, record.peer))
        self._doubts.ask_later(mn_address, event.transfer_id)

    def _ask_again(self, mn_address: IPAddress, transfer_id: int) -> None:
        record = self.sessions.transferred(mn_address, transfer_id)
        if record is not None:
            self._send_again(record)
            self._pump()

    def _settle(self, mn_address: IPAddress, outcome: tuple[ContextStatus, ...] | CxtpError) -> None:
        future = self._moves.get(mn_address)
        if future is None or future.done():
            return
        if isinstance(outcome, CxtpError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _asked(self, event: ContextsRequested | ActivationRequested) -> None:
        """A CT-Req, or a CTAR of a mobile node that is about to leave.

        Whatever is sent, the new router may use it from then on: the session is frozen before.
        """
        role, mn_address = self.router.previous, event.mn_address
        key = self.config.mobile_node_keys.get(mn_address)
        try:
            record = self.sessions.get(mn_address)
            if record is None or not may_leave(record, event) or mn_address in self._moves:
                role.refuse(mn_address, StatusCode.NO_SUCH_CONTEXT, self.clock())
            elif role.authorize(mn_address, key, self.clock()):
                await self._provide(event, key)
        except CxtpError as error:
            log.warning("%s is not given away: %s", mn_address, error)
            status = StatusCode.STORE_FAILED if isinstance(error, StoreError) else StatusCode.NO_RESOURCES
            with suppress(LocalError):  # the new router cancelled meanwhile
                role.refuse(mn_address, status, self.clock())
        self._pump()

    async def _provide(self, event: ContextsRequested | ActivationRequested, key: bytes | None) -> None:
        """The whole session, which the request names whole, or not at all."""
        address = event.peer.address if isinstance(event, ContextsRequested) else event.new_router_address
        peer = self._names.get(address, "")
        held = self.sessions.get(event.mn_address)
        if held is not None and held.standby not in ("", peer):
            # The role has this transfer in hand: the standby could not be asked before it has ended.
            raise LocalError(f"{held.standby} has a replica of it")
        record = await self.sessions.freeze(event.mn_address, peer)
        try:
            self.router.previous.provide(
                event.mn_address,
                record.contexts,
                record.generation,
                key,
                self.clock(),
                transfer_id=record.transfer_id,
            )
        except LocalError:
            await self.sessions.reclaim(record)  # nothing was sent
            raise

    async def _admit(self, event: ContextsReceived) -> None:
        """Answer only once the sessions are sure of it."""
        verdict, is_replica = await self._examine(event)
        if not verdict.accepted:
            log.warning("refused %s from %s: %s", event.mn_address, event.peer.name, "; ".join(verdict.reasons))
        with suppress(LocalError):  # the role gave it up meanwhile; the records answer whoever asks again
            self.router.new.installed(
                event.mn_address,
                event.transfer_id,
                verdict.statuses,
                self.clock(),
                success=verdict.accepted,
                for_mobile_node=not is_replica,
            )
        self._pump()

    async def _examine(self, event: ContextsReceived) -> tuple[admission.Verdict, bool]:
        """What the sessions say, and whether it is a replica."""
        try:
            replica = find_replica(event.contexts, self.config.protocol.context_types)
        except MalformedContext as error:
            return admission.Verdict(False, of_all(error.status), (str(error),)), True
        if replica is None:
            return await self.sessions.receive(event), False
        return await self.sessions.keep_replica(event, *replica), True

    async def _aborted(self, event: TransferAborted) -> None:
        """Its sender is told once it is on record: told before, it would use what we might take after a restart."""
        verdict = await self.sessions.refuse(event)
        with suppress(LocalError):
            self.router.new.refused(
                event.mn_address, event.transfer_id, verdict.statuses, self.clock(), success=verdict.accepted
            )
        self._pump()

    async def _activate(self, event: ActivateContexts) -> None:
        """A mobile node came for what had been sent ahead; it is told once that is in use."""
        status = await self.sessions.activate(event.mn_address, event.transfer_id)
        if status is not StatusCode.SUCCESS:
            log.error("%s came for its contexts, which can't be used: %s", event.mn_address, status.name)
        with suppress(LocalError):
            self.router.new.activated(event.mn_address, event.transfer_id, of_all(status), self.clock())
        self._pump()

    async def _adopt(self, event: PredictionExpired) -> None:
        """Its mobile node did not come.  The previous router has given it up: whoever asks shall find it here."""
        await self.sessions.activate(event.mn_address, event.transfer_id)


__all__ = ["MoveOvertaken", "MoveRefused", "MoveReport", "MoveUnconfirmed", "Node", "NodeConfig"]
