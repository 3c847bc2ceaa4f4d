"""The sessions of one node: who owns them, written down before it is acted on (docs/safety.md).

A session is OWNED by one node.  To move it, the owner first writes down that it is FROZEN, under a new
generation; the new router writes it down as OWNED before it answers; only that answer makes the previous one
RELEASED.  In between no node may send with it, and whichever dies wakes up with what it had written.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

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
    """All changes of who owns what.  Every method that changes anything returns once it is on disk."""

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
        # One index, both ways: an inbound SPI has one session, and leaving it costs only that session's SPIs.
        self._owners: dict[admission.SpiKey, IPAddress] = {}
        self._spis: dict[IPAddress, frozenset[admission.SpiKey]] = {}

    def open(self) -> tuple[SessionRecord, ...]:
        """Index what the store has; gives the FROZEN records, whose transfers' outcome is to be asked for."""
        frozen = []
        for record in self.store.records():
            self._index(record.mn_address, [decode(item, self._context_types) for item in record.contexts])
            if record.state is SessionState.FROZEN:
                frozen.append(record)
        return tuple(frozen)

    async def close(self) -> None:
        """Finish what was being written."""
        await self.writer.close()

    def get(self, mn_address: IPAddress) -> SessionRecord | None:
        """What is known of a session here."""
        return self.store.get(mn_address)

    def transferred(self, mn_address: IPAddress, transfer_id: int | None) -> SessionRecord | None:
        """The record of a transfer out, if it is this one; a stray answer finds none, and is counted."""
        record = self.store.get(mn_address)
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
        held = self.store.get(mn_address)
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

    async def freeze(self, record: SessionRecord, peer: str) -> SessionRecord:
        """Before anything of it leaves: nobody here sends with it from now on."""
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
        await self._keep(frozen)
        return frozen

    async def release(self, record: SessionRecord) -> None:
        """The new router has it.  Only its tombstone stays: no keys."""
        await self._keep(replace(record, state=SessionState.RELEASED, contexts=(), updated=self._wall_clock()))

    async def reclaim(self, record: SessionRecord) -> None:
        """The new router does not have it, and never will by this transfer: it is ours again."""
        owned = replace(record, state=SessionState.OWNED, updated=self._wall_clock())
        await self._keep(owned)
        await self._install(owned)

    async def forget(self, mn_address: IPAddress) -> None:
        """Delete what is known of a session here, on an operator's word.  Raises LocalError while it is moving."""
        record = self.store.get(mn_address)
        if record is None:
            raise LocalError(f"nothing is known of {mn_address} here")
        if record.state is SessionState.FROZEN:
            raise LocalError(f"the session of {mn_address} may be at {record.peer}: move it there again first")
        if record.state is SessionState.OWNED:
            for sink in self._sinks:
                await sink.remove(record)
        # The tombstone stays: it keeps data of the past from making this node an owner again.
        await self.release(record)

    # --- the new router's steps --------------------------------------------------------------------------------------

    async def receive(self, event: ContextsReceived) -> admission.Verdict:
        """Contexts are complete: examine, write down, install.  The verdict is what the CTDR says."""
        held = self.store.get(event.mn_address)
        stale = admission.check_generation(held, event.generation, event.transfer_id, predictive=event.predictive)
        if stale is not StatusCode.SUCCESS:
            return admission.Verdict(False, of_all(stale), ("this node knows a later owner of the session",))
        generation = event.generation
        if generation is None:
            generation = 1 if held is None else held.generation + 1
        owned = event.activate or not event.predictive
        record = SessionRecord(
            mn_address=event.mn_address,
            state=SessionState.OWNED if owned else SessionState.STANDBY,
            # Activating what was sent ahead is a change of owner that its sender did not count.
            generation=generation + 1 if owned and event.predictive else generation,
            contexts=event.contexts,
            peer=event.peer.name,
            transfer_id=event.transfer_id,
            updated=self._wall_clock(),
        )
        if held is not None and held.state is SessionState.OWNED and held.transfer_id == record.transfer_id:
            return admission.Verdict(True)  # the answer was lost, the session is here
        verdict = admission.examine(event.mn_address, event.contexts, self._owners, self._context_types)
        if verdict.accepted:
            verdict = await self._take(record, verdict)
        if not verdict.accepted:
            await self._bury(held, record)
        return verdict

    async def activate(self, mn_address: IPAddress, transfer_id: int | None) -> StatusCode:
        """A mobile node came for what had been sent ahead."""
        record = self.store.get(mn_address)
        if record is None or record.state is not SessionState.STANDBY or record.transfer_id != transfer_id:
            return StatusCode.NO_SUCH_CONTEXT
        owned = replace(
            record, state=SessionState.OWNED, generation=record.generation + 1, updated=self._wall_clock()
        )
        verdict = await self._take(owned, admission.Verdict(True))
        return StatusCode.SUCCESS if verdict.accepted else StatusCode(verdict.statuses[0].status)

    async def _take(self, record: SessionRecord, verdict: admission.Verdict) -> admission.Verdict:
        """Durable first, then installed."""
        try:
            await self._keep(record, verdict.contexts or None)
            if record.state is SessionState.OWNED:
                await self._install(record)
        except StoreError as error:
            self.counters["store_failed"] += 1
            return admission.Verdict(False, of_all(StatusCode.STORE_FAILED), (str(error),))
        except RemoteError as error:
            return admission.Verdict(False, of_all(error.status), (str(error),))
        except CxtpError as error:
            return admission.Verdict(False, of_all(StatusCode.INSTALL_FAILED), (str(error),))
        return verdict

    async def _bury(self, held: SessionRecord | None, record: SessionRecord) -> None:
        """A refusal is for good, even if this node dies and the data comes again: its generation is used up."""
        if held is not None and held.state in (SessionState.OWNED, SessionState.FROZEN):
            return
        try:
            await self._keep(replace(record, state=SessionState.RELEASED, contexts=()))
        except StoreError as error:
            self.counters["store_failed"] += 1
            log.error("the refusal of %s could not be written down: %s", record.mn_address, error)

    # --- store and sinks ---------------------------------------------------------------------------------------------

    async def _keep(self, record: SessionRecord, contexts: Iterable[Context] | None = None) -> None:
        """Write down; ``contexts`` are the record's, decoded, where they are new here (decoding costs the most)."""
        await self.writer.put(record)
        if contexts is not None or not record.contexts:
            self._index(record.mn_address, contexts or ())

    def _index(self, mn_address: IPAddress, contexts: Iterable[Context]) -> None:
        for spi in self._spis.pop(mn_address, ()):
            del self._owners[spi]
        spis = admission.inbound_spis(contexts)
        if spis:
            self._spis[mn_address] = spis
            self._owners.update(dict.fromkeys(spis, mn_address))

    async def _install(self, record: SessionRecord) -> None:
        for sink in self._sinks:
            await sink.install(record)
