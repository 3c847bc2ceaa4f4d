"""The sessions of one node: who owns them, written down before it is acted on (docs/safety.md).

A session is OWNED by one node.  To move it, the owner first writes down that it is FROZEN, under a new
generation; the new router writes it down as OWNED before it answers; only that answer makes the previous one
RELEASED.  In between no node may send with it, and whichever dies wakes up with what it had written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol
from weakref import WeakValueDictionary

from contexts.base import Context, decode

from . import admission
from .config import ContextTypes
from .constants import StatusCode
from .errors import CxtpError, LocalError, RemoteError, StoreError
from .messages import EncodedContext, IPAddress
from .roles.events import ContextsReceived
from .roles.router import of_all
from .store.records import SessionRecord, SessionState
from .store.sqlite import SqliteStore
from .store.writer import StoreWriter

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where contexts go once they are stored and owned: a kernel, a daemon.  Raises CxtpError to refuse."""

    async def install(self, record: SessionRecord) -> None: ...

    async def remove(self, record: SessionRecord) -> None: ...


class Sessions:
    """All changes of who owns what.  Every method that changes anything returns once it is on disk.

    Changes of one session run one after the other, each from what the one before it left.
    """

    def __init__(
        self,
        store: SqliteStore,
        wall_clock: Callable[[], float],
        sinks: Iterable[Sink] = (),
        context_types: ContextTypes = ContextTypes(),
    ) -> None:
        self.store = store
        self.writer = StoreWriter(store)
        self.counters: Counter[str] = Counter()
        self._wall_clock = wall_clock
        self._sinks = tuple(sinks)
        self._context_types = context_types
        self._locks: WeakValueDictionary[IPAddress, asyncio.Lock] = WeakValueDictionary()
        # One index, both ways: an inbound SPI has one session, and leaving it costs only that session's SPIs.
        self._owners: dict[admission.SpiKey, IPAddress] = {}
        self._spis: dict[IPAddress, frozenset[admission.SpiKey]] = {}

    def open(self) -> tuple[list[SessionRecord], list[SessionRecord]]:
        """Index what the store has; gives the FROZEN records, whose transfers' outcome is to be asked for, and those
        on STANDBY, which no mobile node can activate any more."""
        frozen, standby = [], []
        for record in self.store.records(on_damaged=self._damaged):
            try:
                self._index(record.mn_address, self._decoded(record))
            except RemoteError as error:
                self._damaged(record.mn_address, error)
            if record.state is SessionState.FROZEN:
                frozen.append(record)
            elif record.state is SessionState.STANDBY:
                standby.append(record)
        return frozen, standby

    def _damaged(self, mn_address: IPAddress | None, error: CxtpError) -> None:
        """One session's record can't be read: the others are served nevertheless."""
        self.counters["damaged_records"] += 1
        log.error("a session can't be read: %s", error)

    async def close(self) -> None:
        """Finish what was being written."""
        await self.writer.close()

    def get(self, mn_address: IPAddress) -> SessionRecord | None:
        """What is known of a session here."""
        return self.store.get(mn_address)

    def readable(self, mn_address: IPAddress) -> SessionRecord | None:
        """As :meth:`get`, for those who can't be stopped by a record that is damaged: as if it were not here."""
        try:
            return self.store.get(mn_address)
        except StoreError as error:
            self._damaged(mn_address, error)
            return None

    def transferred(self, mn_address: IPAddress, transfer_id: int | None) -> SessionRecord | None:
        """The record of a transfer out, if it is this one; a stray answer finds none, and is counted."""
        record = self.readable(mn_address)
        if (
            transfer_id is None
            or record is None
            or record.state is not SessionState.FROZEN
            or record.transfer_id != transfer_id
        ):
            self.counters["answers_for_no_transfer"] += 1
            return None
        return record

    # --- the previous router's steps ---------------------------------------------------------------------------------

    async def load(self, mn_address: IPAddress, contexts: Iterable[EncodedContext]) -> SessionRecord:
        """Take a session from a local source (a context file, an export): this node owns it.

        Raises LocalError where the node has it already, RemoteError where its contexts can't be used.
        """
        async with self._alone(mn_address) as held:
            if held is not None and held.state is not SessionState.RELEASED:
                raise LocalError(f"this node has the session of {mn_address} already ({held.state.value})")
            record = SessionRecord(
                mn_address=mn_address,
                state=SessionState.OWNED,
                generation=1 if held is None else held.generation + 1,
                contexts=tuple(contexts),
                updated=self._wall_clock(),
            )
            verdict = admission.examine(mn_address, record.contexts, self._owners, self._context_types)
            if not verdict.accepted:
                raise RemoteError("; ".join(verdict.reasons), status=verdict.statuses[0].status)
            await self._keep(record, verdict.contexts)
            return record

    async def freeze(self, mn_address: IPAddress, peer: str) -> SessionRecord:
        """Before anything of it leaves: nobody here sends with it from now on.

        Raises LocalError where this node does not own it (any more), StoreError where that could not be written
        down; it is in use here then as before.
        """
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED:
                raise LocalError(f"this node does not own a session of {mn_address}")
            frozen = replace(
                record,
                state=SessionState.FROZEN,
                generation=record.generation + 1,
                peer=peer,
                transfer_id=secrets.randbits(32),
                updated=self._wall_clock(),
            )
            for sink in self._sinks:
                await sink.remove(record)
            try:
                await self._keep(frozen)
            except StoreError:
                await self._install(record)
                raise
            return frozen

    async def release(self, record: SessionRecord) -> None:
        """The new router has it.  Only its tombstone stays: no keys."""
        async with self._alone(record.mn_address) as held:
            if _same_transfer(held, record):
                await self._keep(self._tombstone(record))

    async def reclaim(self, record: SessionRecord) -> None:
        """The new router does not have it, and never will by this transfer: it is ours again."""
        async with self._alone(record.mn_address) as held:
            if _same_transfer(held, record):
                owned = replace(record, state=SessionState.OWNED, updated=self._wall_clock())
                await self._keep(owned)
                await self._install(owned)

    async def forget(self, mn_address: IPAddress, *, frozen: bool = False) -> None:
        """Delete what is known of a session here, on an operator's word.

        Raises LocalError while its move is in doubt, unless ``frozen`` says that another node is seen to have it.
        """
        async with self._alone(mn_address) as record:
            if record is None:
                raise LocalError(f"nothing is known of {mn_address} here")
            if record.state is SessionState.FROZEN and not frozen:
                raise LocalError(f"the session of {mn_address} may be at {record.peer}: move it there again first")
            if record.state is SessionState.OWNED:
                for sink in self._sinks:
                    await sink.remove(record)
            # The tombstone stays: it keeps data of the past from making this node an owner again.  It answers for
            # no transfer: the session was in use here, and who asks late must not take it into use as it was.
            await self._keep(replace(self._tombstone(record), transfer_id=None))

    def _tombstone(self, record: SessionRecord) -> SessionRecord:
        return replace(record, state=SessionState.RELEASED, contexts=(), updated=self._wall_clock())

    # --- the new router's steps --------------------------------------------------------------------------------------

    async def receive(self, event: ContextsReceived) -> admission.Verdict:
        """Contexts are complete: examine, write down, install.  The verdict is what the CTDR says."""
        async with self._alone(event.mn_address) as held:
            standing = admission.stand(held, event.generation, event.transfer_id, predictive=event.predictive)
            if standing is admission.Standing.HAD:
                return admission.Verdict(True)  # the answer was lost, the session is here
            if standing is admission.Standing.STALE:
                return admission.Verdict(False, of_all(StatusCode.STALE), ("a later owner of the session is known",))
            record = self._received(held, event)
            verdict = admission.examine(event.mn_address, event.contexts, self._owners, self._context_types)
            if verdict.accepted:
                return await self._take(held, record, verdict)
            await self._bury(held, record)
            return verdict

    def _received(self, held: SessionRecord | None, event: ContextsReceived) -> SessionRecord:
        owned = event.activate or not event.predictive
        generation = event.generation
        if generation is None:
            generation = 1 if held is None else held.generation + 1
        return SessionRecord(
            mn_address=event.mn_address,
            state=SessionState.OWNED if owned else SessionState.STANDBY,
            # Activating what was sent ahead is a change of owner that its sender did not count.
            generation=generation + 1 if owned and event.predictive else generation,
            contexts=event.contexts,
            peer=event.peer.name,
            transfer_id=event.transfer_id,
            updated=self._wall_clock(),
        )

    async def activate(self, mn_address: IPAddress, transfer_id: int | None) -> StatusCode:
        """Use what was sent ahead: its mobile node came, or did not come in time, and nobody else has it."""
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.STANDBY or record.transfer_id != transfer_id:
                return StatusCode.NO_SUCH_CONTEXT
            owned = replace(
                record, state=SessionState.OWNED, generation=record.generation + 1, updated=self._wall_clock()
            )
            try:
                await self._keep(owned)
                await self._install(owned)
            except StoreError as error:
                self.counters["store_failed"] += 1
                log.error("%s could not be taken into use: %s", mn_address, error)
                return StatusCode.STORE_FAILED
            except CxtpError as error:
                log.error("%s is owned here and could not be installed: %s", mn_address, error)
                return StatusCode.INSTALL_FAILED
            return StatusCode.SUCCESS

    async def _take(
        self, held: SessionRecord | None, record: SessionRecord, verdict: admission.Verdict
    ) -> admission.Verdict:
        """Durable first, then installed."""
        try:
            await self._keep(record, verdict.contexts)
        except StoreError as error:
            self.counters["store_failed"] += 1
            await self._bury(held, record)
            return admission.Verdict(False, of_all(StatusCode.STORE_FAILED), (str(error),))
        if record.state is SessionState.OWNED:
            try:
                await self._install(record)
            except CxtpError as error:
                return await self._give_back(held, record, error)
        return verdict

    async def _give_back(
        self, held: SessionRecord | None, record: SessionRecord, error: CxtpError
    ) -> admission.Verdict:
        """It was written down as ours and can't be used.  S=0 is true only once the disk says so too."""
        statuses = of_all(error.status if isinstance(error, RemoteError) else StatusCode.INSTALL_FAILED)
        kept = held is not None and held.state in (SessionState.OWNED, SessionState.FROZEN)
        left = self._tombstone(record)
        if held is not None and kept:
            left = replace(held, generation=record.generation)
        try:
            await self._keep(left, self._decoded(left))
        except StoreError as full:
            self.counters["store_failed"] += 1
            return admission.Verdict(True, statuses, (str(error), str(full)))
        return admission.Verdict(False, statuses, (str(error),))

    async def _bury(self, held: SessionRecord | None, record: SessionRecord) -> None:
        """A refusal is for good, even if this node dies and the data comes again: its generation is used up."""
        if held is not None and held.state in (SessionState.OWNED, SessionState.FROZEN):
            return
        try:
            await self._keep(self._tombstone(record))
        except StoreError as error:
            self.counters["store_failed"] += 1
            log.error("the refusal of %s could not be written down: %s", record.mn_address, error)

    # --- store and sinks ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self, mn_address: IPAddress) -> AsyncIterator[SessionRecord | None]:
        """What is known of a session, which nobody else changes meanwhile."""
        lock = self._locks.setdefault(mn_address, asyncio.Lock())
        async with lock:
            yield self.store.get(mn_address)

    def _decoded(self, record: SessionRecord) -> list[Context]:
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

    async def _install(self, record: SessionRecord) -> None:
        """In all sinks or in none."""
        for count, sink in enumerate(self._sinks):
            try:
                await sink.install(record)
            except CxtpError:
                for earlier in self._sinks[:count]:
                    await earlier.remove(record)
                raise


def _same_transfer(held: SessionRecord | None, record: SessionRecord) -> bool:
    """Whether that is what is still known: another change may have come between."""
    return (
        held is not None
        and held.state is SessionState.FROZEN
        and (held.generation, held.transfer_id) == (record.generation, record.transfer_id)
    )
