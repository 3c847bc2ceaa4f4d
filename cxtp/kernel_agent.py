"""An agent beside a kernel whose SAs somebody else makes: an IKE daemon, or an operator with iproute2.

It learns every session that the kernel has, follows what becomes of it - rekeyed, deleted, expired, moved to another
address - and keeps its record and its ceiling.  What is being moved is let alone: that is this node's own doing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from contexts.base import Context, decode, encode
from contexts.fence import is_spent, receiving_only
from contexts.ipsec import IpsecSaContext

from .adapters.xfrm import Group, Namespace, XfrmClient, XfrmError, XfrmEvents
from .adapters.xfrm.constants import MessageType
from .adapters.xfrm.values import SecurityAssociationId
from .config import ContextTypes
from .errors import CxtpError
from .kernel_contexts import inbound_id, outbound_id
from .kernel_keeper import REST
from .kernel_learning import KnownPairs, NotLearned, learn
from .kernel_sink import XfrmSink
from .messages import EncodedContext, IPAddress
from .sessions import Sessions
from .store.records import SessionRecord, SessionState

log = logging.getLogger(__name__)

SETTLING_TIME = 0.05
"""Seconds after a change until the kernel is looked at: an IKE daemon makes several at once."""

INTERVAL = 30.0
"""Seconds between looks when nothing is told."""


class KernelAgent:
    """A task beside a node.  ``not_learned``: the SAs that no context could be made of, and why."""

    def __init__(
        self,
        sessions: Sessions,
        sink: XfrmSink,
        hurried: Sequence[Callable[[], None]] = (),
        namespace: Namespace = None,
        context_types: ContextTypes = ContextTypes(),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``hurried`` is called when an SA has sent or received many packets.  Raises XfrmError."""
        self._sessions = sessions
        self._sink = sink
        self._hurried = hurried
        self._context_types = context_types
        self._wall_clock = wall_clock
        self._client = XfrmClient(namespace)
        self._events = XfrmEvents(
            (Group.EXPIRE, Group.SA, Group.POLICY, Group.ASYNC_EVENTS, Group.MIGRATE, Group.MAPPING), namespace
        )
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.not_learned: list[NotLearned] = []

    async def start(self) -> None:
        """Learn what is there, and go on following it."""
        await self.look()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._events, self._told)
        self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Follow no more; the kernel goes on up to the ceilings that are set."""
        if self._task is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._events.close()
        self._client.close()

    async def look(self) -> int:
        """Compare the kernel with the records; gives how many sessions were new, changed or gone."""
        owned = await self._owned()
        learned, not_learned, there = await asyncio.to_thread(self._read, owned)
        for item in not_learned:
            if item not in self.not_learned:
                log.warning("%s is left alone: %s", item.identifier, item.reason)
        self.not_learned = not_learned
        changed = 0
        # What is gone first: a peer at another address has the SPIs that it had.
        for mn_address in sorted({*learned, *owned}, key=lambda address: address in learned):
            await asyncio.sleep(0)  # what is being moved waits for nothing
            held = self._sessions.readable(mn_address)
            contexts = learned.get(mn_address, ())
            if held is not None and contexts:
                contexts += self._superseded(held, contexts, there)
            if held is not None and _spis(self._decoded(held)) == _spis(contexts):
                continue
            if held is None or contexts or await self._sessions.is_withdrawn(held):
                changed += await self._adopt(mn_address, contexts)
        return changed

    async def _adopt(self, mn_address: IPAddress, contexts: tuple[IpsecSaContext, ...]) -> bool:
        def read(held: SessionRecord | None) -> tuple[EncodedContext, ...] | None:
            return self._still(held, contexts)

        try:
            record = await self._sessions.adopt(mn_address, read)
        except CxtpError as error:
            self._sessions.counters["not_adopted"] += 1
            log.error("the kernel's session with %s could not be taken over: %s", mn_address, error)
            return False
        if record is None:
            return False
        kind = "learned" if contexts else "gone"
        self._sessions.counters[f"sessions_{kind}"] += 1
        log.info("the session of %s: %s", mn_address, kind)
        return True

    def _read(
        self, known: KnownPairs
    ) -> tuple[dict[IPAddress, tuple[IpsecSaContext, ...]], list[NotLearned], frozenset[SecurityAssociationId]]:
        """Sessions, what is none, and every SA that is there."""
        associations = self._client.security_associations()
        sessions, not_learned = learn(associations, self._client.policies(), self._wall_clock(), known)
        learned = {session.mn_address: session.contexts for session in sessions}
        return learned, not_learned, frozenset(sa.identifier for sa in associations if not sa.is_larval)

    def _superseded(
        self, held: SessionRecord, contexts: Sequence[IpsecSaContext], there: frozenset[SecurityAssociationId]
    ) -> tuple[IpsecSaContext, ...]:
        """SAs that were known and have been rekeyed: their outbound half is gone, and the inbound one stays a while,
        for what the peer had sent (RFC 7296, 2.8)."""
        current = {context.inbound_spi for context in contexts}
        return tuple(
            receiving_only(context)
            for context in self._decoded(held)
            if isinstance(context, IpsecSaContext)
            and context.inbound_spi not in current
            and inbound_id(context) in there
            and outbound_id(context) not in there
        )

    def _still(
        self, held: SessionRecord | None, contexts: tuple[IpsecSaContext, ...]
    ) -> tuple[EncodedContext, ...] | None:
        """What was read a moment ago, if it is still so; what the record knows of it beyond the kernel is kept."""
        before = () if held is None else self._decoded(held)
        known = {c.inbound_spi: c for c in before if isinstance(c, IpsecSaContext)}
        gone = [known[spi] for spi in known.keys() - {context.inbound_spi for context in contexts}]
        if any(self._is_there(context) for context in gone) or not all(map(self._is_there, contexts)):
            self._changed.set()
            return None
        if not contexts:
            return ()
        kept = [context for context in before if not isinstance(context, IpsecSaContext)]
        merged: list[Context] = [*kept, *(_merge(known.get(context.inbound_spi), context) for context in contexts)]
        return tuple(encode(context, self._context_types) for context in merged)

    def _is_there(self, context: IpsecSaContext) -> bool:
        try:
            # The outbound half decides, while there is one: the inbound one of an SA that was rekeyed stays a while.
            self._client.async_event(inbound_id(context) if is_spent(context) else outbound_id(context))
        except XfrmError:
            return False
        return True

    async def _owned(self) -> dict[IPAddress, dict[int, int]]:
        """The sessions that this node has, and which of their SPIs belong together."""
        found: dict[IPAddress, dict[int, int]] = {}
        for record in self._sessions.store.records(on_damaged=lambda address, error: None):
            if record.state is SessionState.OWNED:
                contexts = [context for context in self._decoded(record) if isinstance(context, IpsecSaContext)]
                found[record.mn_address] = {context.outbound_spi: context.inbound_spi for context in contexts}
            await asyncio.sleep(0)
        return found

    def _decoded(self, record: SessionRecord) -> tuple[Context, ...]:
        return tuple(decode(item, self._context_types) for item in record.contexts)

    # --- following --------------------------------------------------------------------------------------------------

    def _told(self) -> None:
        try:
            kinds = set(self._events.read_kinds())
        except XfrmError as error:
            log.error("%s", error)
            return
        if MessageType.NEW_ASYNC_EVENT in kinds:
            for hurried in self._hurried:
                hurried()
        if kinds - {MessageType.NEW_ASYNC_EVENT}:
            self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), INTERVAL)
                await asyncio.sleep(SETTLING_TIME)
            except asyncio.TimeoutError:
                pass
            self._changed.clear()
            started = time.monotonic()
            try:
                await self.look()
            except Exception as error:  # whatever it is, the next change is to be followed
                self._sessions.counters["look_failed"] += 1
                log.error("the kernel could not be looked at: %s", error)
            await asyncio.sleep(REST * (time.monotonic() - started))  # with many sessions a look takes long


def _spis(contexts: Iterable[Context]) -> frozenset[tuple[int, int, bool]]:
    """What a record is written anew for: SAs that came, went, or have only their inbound half left."""
    return frozenset((c.inbound_spi, c.outbound_spi, is_spent(c)) for c in contexts if isinstance(c, IpsecSaContext))


def _merge(known: IpsecSaContext | None, learned: IpsecSaContext) -> IpsecSaContext:
    """The kernel's limits are this node's ceiling by now, where the SA was known; its numbers are the newer ones."""
    if known is None:
        return learned
    return replace(known, sequence_numbers=learned.sequence_numbers, window=learned.window)
