"""Keeps a standby up to date with the sessions of this node that stay in use, and asks it for every ceiling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from contexts.base import Context, decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import IkeSpis, MessageIds

from .config import ContextTypes
from .errors import CxtpError
from .kernel_keeper import Counting
from .messages import EncodedContext, IPAddress
from .node import Node
from .session_replicas import NotOwnerAnyMore
from .store.records import SessionRecord, SessionState

log = logging.getLogger(__name__)


REFRESH = 300.0
"""Seconds after which the standby is asked about a session in which nothing moves: it may have taken it over."""


@dataclass(frozen=True)
class _Numbers:
    """What a replica is sent anew for: sequence numbers out and in by inbound SPI, Message IDs by IKE_SA."""

    packets: Mapping[int, tuple[int, int]]
    message_ids: Mapping[IkeSpis, MessageIds]

    @classmethod
    def of(cls, contexts: Iterable[Context]) -> _Numbers:
        contexts = tuple(contexts)
        return cls(
            {
                c.inbound_spi: (c.sequence_numbers.outbound, c.sequence_numbers.inbound)
                for c in contexts
                if isinstance(c, IpsecSaContext)
            },
            {c.spis: c.message_ids for c in contexts if isinstance(c, IkeSaContext)},
        )

    def went_on_from(self, before: _Numbers, packets: int) -> bool:
        """Other SAs, other Message IDs, or so many packets."""
        if self.message_ids != before.message_ids or self.packets.keys() != before.packets.keys():
            return True
        pairs = (zip(self.packets[spi], numbers, strict=True) for spi, numbers in before.packets.items())
        return any(now - then >= packets for pair in pairs for now, then in pair)


class Replicator:
    """A task beside a node.  ``standby``: the router that gets the replicas; ``interval`` in seconds, ``packets``: how
    many an SA may receive or send before its numbers are sent anew, whichever comes first; ``refresh`` in seconds."""

    def __init__(
        self,
        node: Node,
        sink: Counting,
        standby: str,
        *,
        interval: float = 1.0,
        packets: int = 1000,
        refresh: float = REFRESH,
        context_types: ContextTypes = ContextTypes(),
    ) -> None:
        self._node = node
        self._sink = sink
        self._standby = standby
        self._interval = interval
        self._packets = packets
        self._refresh = refresh
        self._context_types = context_types
        self._sent: dict[IPAddress, _Numbers] = {}
        self._asked: dict[IPAddress, float] = {}
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def hurry(self) -> None:
        """The kernel told that an SA has sent or received its number of packets."""
        self._hurry.set()

    async def close(self) -> None:
        """Send no more; the standby keeps what it has."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self, *, all_changed: bool = True) -> int:
        """One look at all sessions; gives how many replicas were confirmed.  ``all_changed``: also those that have
        moved on by fewer packets."""
        sessions = self._node.sessions
        confirmed = 0
        for record in list(sessions.store.records(on_damaged=lambda address, error: None)):
            if record.state is not SessionState.OWNED:
                self._sent.pop(record.mn_address, None)
                self._asked.pop(record.mn_address, None)
                continue
            try:
                if record.mn_address in sessions.waiting:
                    await sessions.go_on(record.mn_address)
                else:
                    confirmed += await self._replicate(record, 1 if all_changed else self._packets)
            except NotOwnerAnyMore as error:
                log.error("%s", error)
            except CxtpError as error:
                sessions.counters["replicas_unconfirmed"] += 1
                log.warning("the replica of %s: %s", record.mn_address, error)
        return confirmed

    async def _replicate(self, record: SessionRecord, packets: int) -> bool:
        mn_address = record.mn_address
        current = [decode(item, self._context_types) for item in self._sink.current(record)]
        numbers, sent, now = _Numbers.of(current), self._sent.get(mn_address), self._node.clock()
        is_due = now - self._asked.get(mn_address, -self._refresh) >= self._refresh
        if sent is not None and not is_due and not numbers.went_on_from(sent, packets):
            return False
        assigned = await self._node.sessions.assign_standby(mn_address, self._standby)
        if assigned is None:
            return False
        await self._node.replicas.ask(replace(assigned, contexts=self._with_ceilings(assigned, current)))
        self._sent[mn_address], self._asked[mn_address] = numbers, now
        return True

    def _with_ceilings(self, record: SessionRecord, current: Sequence[Context]) -> tuple[EncodedContext, ...]:
        """As the session is now, but with the outbound numbers that it may come to without asking."""
        ceilings = {
            context.inbound_spi: context.sequence_numbers.outbound
            for context in (decode(item, self._context_types) for item in record.contexts)
            if isinstance(context, IpsecSaContext)
        }
        contexts = []
        for context, item in zip(current, record.contexts, strict=False):
            if isinstance(context, IpsecSaContext) and context.inbound_spi in ceilings:
                numbers = replace(context.sequence_numbers, outbound=ceilings[context.inbound_spi])
                contexts.append(encode(replace(context, sequence_numbers=numbers), self._context_types))
            elif isinstance(context, IkeSaContext):
                contexts.append(encode(context, self._context_types))
            else:
                contexts.append(item)
        return tuple(contexts)

    async def _run(self) -> None:
        while True:
            hurried = False
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._interval)
                hurried = True
            self._hurry.clear()
            try:
                await self.look(all_changed=not hurried)
            except Exception as error:  # whatever it is, the other sessions need the next look
                self._node.sessions.counters["replication_failed"] += 1
                log.error("the replicas could not be looked at: %s", error)
