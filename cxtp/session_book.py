"""What :mod:`.sessions` stands on: the store, the sinks, who has which SPI, and one change of a session at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import SystemRandom
from typing import Protocol
from weakref import WeakValueDictionary

from contexts.base import Context, decode, encode
from contexts.fence import fenced, is_spent
from contexts.ipsec import IpsecSaContext

from . import admission
from .config import ContextTypes
from .errors import CxtpError
from .messages import EncodedContext, IPAddress
from .roles.events import Random
from .store.records import SessionRecord
from .store.sqlite import SqliteStore
from .store.writer import StoreWriter

log = logging.getLogger(__name__)

SEQUENCE_RESERVE = 1 << 16
"""Sequence numbers that an SA may use beyond what is on disk, before that is written anew."""


class Sink(Protocol):
    """Where an owned session is used: a kernel, a daemon.  Raises CxtpError where it can't do what it is asked."""

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        """Use the session from what its contexts say, or go on with it where it is in use already.  No SA may send
        above its outbound sequence number in ``ceiling``, which is what is on disk, until :meth:`raise_ceiling`."""

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """Stop using it.  Gives the contexts as they are then, exact; those of the record where nothing of them was
        in use."""

    async def discard(self, record: SessionRecord) -> None:
        """What :meth:`remove` left behind, so that the session's traffic is not sent without it: that may go now."""

    async def holds(self, record: SessionRecord) -> bool:
        """Whether it is in use as it was before this program started, under the ceiling that was set then."""

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        """More is on disk now: the SAs may send up to that."""


class Listener(Protocol):
    """Told when a session comes into use here, and when it goes; what it raises is logged and counted."""

    async def releasing(self, record: SessionRecord) -> None:
        """It is about to leave, and waits for this; what this raises keeps it here.  It is in use still.

        ``activated`` follows where it stays, ``released`` where it has left."""

    async def activated(self, record: SessionRecord) -> None:
        """It is in use here.  Nobody waits for this."""

    async def released(self, record: SessionRecord) -> None:
        """Another node has it.  Its traffic is blocked here until this returns."""


class SessionBook:
    """Records and where they are in use."""

    def __init__(
        self,
        store: SqliteStore,
        wall_clock: Callable[[], float],
        sinks: Iterable[Sink] = (),
        context_types: ContextTypes = ContextTypes(),
        *,
        random: Random | None = None,
        sequence_reserve: int = SEQUENCE_RESERVE,
    ) -> None:
        self.store = store
        self.writer = StoreWriter(store)
        self.counters: Counter[str] = Counter()
        self._wall_clock = wall_clock
        self._random: Random = random or SystemRandom()
        self._sinks = tuple(sinks)
        self._reserve = sequence_reserve
        self._context_types = context_types
        self._locks: WeakValueDictionary[IPAddress, asyncio.Lock] = WeakValueDictionary()
        # One index, both ways: an inbound SPI has one session, and leaving it costs only that session's SPIs.
        self._owners: dict[admission.SpiKey, IPAddress] = {}
        self._spis: dict[IPAddress, frozenset[admission.SpiKey]] = {}
        self.listeners: list[Listener] = []
        self.waiting: dict[IPAddress, tuple[SessionRecord, SessionRecord] | None] = {}
        """Owned here, and not to be used before their standby has confirmed a ceiling: what to go on from, and that;
        None where only the store knows."""
        self.unconfirmed: set[IPAddress] = set()
        """In use, with a ceiling on disk that their standby has not confirmed yet."""
        self._telling: set[asyncio.Task[None]] = set()

    def _damaged(self, mn_address: IPAddress | None, error: CxtpError) -> None:
        """One session's record can't be read: the others are served nevertheless."""
        self.counters["damaged_records"] += 1
        log.error("a session can't be read: %s", error)

    @asynccontextmanager
    async def _alone(self, mn_address: IPAddress) -> AsyncIterator[SessionRecord | None]:
        """What is known of a session, which nobody else changes meanwhile."""
        lock = self._locks.setdefault(mn_address, asyncio.Lock())
        async with lock:
            yield self.store.get(mn_address)

    def decoded(self, record: SessionRecord) -> list[Context]:
        """Its contexts.  Raises RemoteError."""
        return [decode(item, self._context_types) for item in record.contexts]

    async def _keep(self, record: SessionRecord, contexts: Iterable[Context] | None = None) -> None:
        """Write down; ``contexts`` are the record's, decoded, where they are new here (decoding costs the most)."""
        before = self._spis.get(record.mn_address, frozenset())
        if contexts is not None:
            # While it is being written, nobody else may be given its SPIs.
            self._index(record.mn_address, contexts)
        try:
            await self.writer.put(record)
        except BaseException:
            self._set_spis(record.mn_address, before)
            raise
        if not record.contexts:
            self._index(record.mn_address, ())

    def _index(self, mn_address: IPAddress, contexts: Iterable[Context]) -> None:
        self._set_spis(mn_address, admission.inbound_spis(contexts))

    def _set_spis(self, mn_address: IPAddress, spis: frozenset[admission.SpiKey]) -> None:
        for spi in self._spis.pop(mn_address, frozenset()):
            del self._owners[spi]
        free = frozenset(spi for spi in spis if spi not in self._owners)
        if free:
            self._spis[mn_address] = free
            self._owners.update(dict.fromkeys(free, mn_address))

    def _ceiling(self, record: SessionRecord) -> SessionRecord:
        """What is written down while the session is in use: nothing above its sequence numbers was ever sent."""
        if not self._sinks:
            return record
        contexts = fenced(self.decoded(record), self._reserve)
        return replace(record, contexts=tuple(encode(context, self._context_types) for context in contexts))

    def _ceiling_of_new(self, record: SessionRecord, held: SessionRecord | None) -> SessionRecord:
        """As :meth:`_ceiling`, but for the SAs that ``held`` has: theirs stays, for a standby knows it."""
        ceiling = self._ceiling(record)
        if held is None or not self._sinks:
            return ceiling
        known = {c.inbound_spi: c for c in self.decoded(held) if isinstance(c, IpsecSaContext)}
        for spent in self.decoded(record):
            if isinstance(spent, IpsecSaContext) and is_spent(spent):
                known.pop(spent.inbound_spi, None)

        def kept(context: Context) -> Context:
            before = known.get(context.inbound_spi) if isinstance(context, IpsecSaContext) else None
            if before is None or not isinstance(context, IpsecSaContext):
                return context
            numbers = replace(context.sequence_numbers, outbound=before.sequence_numbers.outbound)
            return replace(context, sequence_numbers=numbers)

        contexts = tuple(encode(kept(context), self._context_types) for context in self.decoded(ceiling))
        return replace(ceiling, contexts=contexts)

    async def _use(self, record: SessionRecord) -> None:
        """On disk as ours, then in use; where a standby has a replica, that has to be asked before."""
        ceiling = self._ceiling(record)
        await self._keep(ceiling)
        if record.standby and self._sinks:
            self.waiting[record.mn_address] = record, ceiling
            return
        await self._install(record, ceiling)

    async def _stop(self, record: SessionRecord) -> SessionRecord:
        """Out of use in all sinks, or still in use; gives the record with its contexts as they are then."""
        stopped = record
        for count, sink in enumerate(self._sinks):
            try:
                stopped = replace(stopped, contexts=await sink.remove(stopped))
            except CxtpError:
                for earlier in self._sinks[:count]:
                    await earlier.install(stopped, record)
                raise
        return stopped

    async def _leave(self, record: SessionRecord) -> None:
        """It is elsewhere, and nothing of it stays in any sink."""
        for listener in self.listeners:
            await self._told(listener.released(record), record)
        for sink in self._sinks:
            try:
                await sink.discard(record)
            except CxtpError as error:
                self.counters["discard_failed"] += 1
                log.error("something of %s stays behind: %s", record.mn_address, error)

    async def _install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        """In all sinks or in none."""
        for count, sink in enumerate(self._sinks):
            try:
                await sink.install(record, ceiling)
            except CxtpError:
                for earlier in self._sinks[:count]:
                    await earlier.remove(record)
                raise
        self.waiting.pop(record.mn_address, None)
        self._tell_activated(record)

    # --- listeners --------------------------------------------------------------------------------------------------

    def _tell_activated(self, record: SessionRecord) -> None:
        for listener in self.listeners:
            task = asyncio.get_running_loop().create_task(self._told(listener.activated(record), record))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _told(self, telling: Coroutine[None, None, None], record: SessionRecord) -> None:
        try:
            await telling
        except CxtpError as error:
            self.counters["listener_failed"] += 1
            log.error("%s: %s", record.mn_address, error)
