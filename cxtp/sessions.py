"""The sessions of one node: who owns them, written down before it is acted on (docs/safety.md).

A session is OWNED by one node.  To move it, the owner first writes down that it is FROZEN, under a new
generation; the new router writes it down as OWNED before it answers; only that answer makes the previous one
RELEASED.  In between no node may send with it, and whichever dies wakes up with what it had written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from contexts.fence import is_at_least

from . import admission
from .constants import StatusCode
from .errors import CxtpError, LocalError, RemoteError, StoreError
from .messages import EncodedContext, IPAddress
from .roles.events import ContextsReceived, TransferAborted
from .roles.router import of_all
from .session_book import SEQUENCE_RESERVE, Listener, Sink
from .session_replicas import ReplicaSteps
from .store.records import SessionRecord, SessionState

log = logging.getLogger(__name__)


class Sessions(ReplicaSteps):
    """All changes of who owns what.  Every method that changes anything returns once it is on disk.

    Changes of one session run one after the other, each from what the one before it left.
    """

    async def open(self) -> list[SessionRecord]:
        """Index what the store has, and use what it says is ours.  Gives the FROZEN records, whose transfers'
        outcome is to be asked for.

        What is on STANDBY becomes ours: what its mobile node would prove itself with is forgotten.
        """
        frozen, standby, owned = [], [], []
        for record in self.store.records(on_damaged=self._damaged):
            if record.state is SessionState.REPLICA:
                continue
            try:
                self._index(record.mn_address, self.decoded(record))
            except RemoteError as error:
                self._damaged(record.mn_address, error)
            if record.state is SessionState.FROZEN:
                frozen.append(record)
            elif record.state is SessionState.STANDBY:
                standby.append(record)
            elif record.state is SessionState.OWNED and self._sinks:
                owned.append(record)
        for record in standby:
            await self.activate(record.mn_address, record.transfer_id)
        for record in owned:
            await self._resume(record)
        return frozen

    async def resume(self, mn_address: IPAddress) -> None:
        """What uses the session lost it, and can again: go on with it."""
        async with self._alone(mn_address) as record:
            if record is not None and record.state is SessionState.OWNED:
                await self._resume(record)

    async def _resume(self, record: SessionRecord) -> None:
        """This program, or what uses the session, was started anew: go on with it where the kernel did not.

        What was sent since the record was written is not known, but lies below what it says.
        """
        try:
            if all([await sink.holds(record) for sink in self._sinks]):
                self._tell_activated(record)
            elif record.standby:
                self.waiting[record.mn_address] = None
            else:
                await self._use(await self._stop(record))
        except CxtpError as error:
            self.counters["resume_failed"] += 1
            log.error("%s is owned here and could not be taken into use again: %s", record.mn_address, error)

    async def raise_ceiling(self, mn_address: IPAddress, contexts: Iterable[EncodedContext]) -> None:
        """The session's sequence numbers come near to what is on disk: ``contexts`` say where they are.

        Raises LocalError where the session is not in use here, or has gone and come back since ``contexts`` were read
        (a ceiling never sinks), StoreError where it could not be written down.
        """
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED:
                raise LocalError(f"this node does not own a session of {mn_address}")
            ceiling = self._ceiling(replace(record, contexts=tuple(contexts), updated=self._wall_clock()))
            if not is_at_least(self.decoded(ceiling), self.decoded(record)):
                raise LocalError(f"what was told of {mn_address} is older than what is on disk")
            await self._keep(ceiling)
            if record.standby:
                self.unconfirmed.add(mn_address)
            else:
                await self._raise(ceiling)
                self.unconfirmed.discard(mn_address)
        if record.standby:
            await self.confirm(ceiling)
            async with self._alone(mn_address) as now:
                # It may have left meanwhile, or its ceiling have been raised further: that one is confirmed by then.
                if now is not None and (now.state, now.generation) == (SessionState.OWNED, record.generation):
                    await self._raise(ceiling)
                    self.unconfirmed.discard(mn_address)
                elif now is None or now.state is not SessionState.OWNED:
                    self.unconfirmed.discard(mn_address)

    async def _raise(self, ceiling: SessionRecord) -> None:
        for sink in self._sinks:
            await sink.raise_ceiling(ceiling)

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

    def serves(self, mn_address: IPAddress) -> bool:
        """Whether the session is here, in use or being moved.  Cheap: strangers make us ask."""
        try:
            record = self.store.header(mn_address)
        except StoreError as error:
            self._damaged(mn_address, error)
            return False
        return record is not None and record.state in (SessionState.OWNED, SessionState.FROZEN)

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
            ceiling = self._ceiling(record)
            await self._keep(ceiling, verdict.contexts)
            try:
                await self._install(record, ceiling)
            except CxtpError:
                await self._keep(self._tombstone(record))
                raise
            return record

    async def freeze(self, mn_address: IPAddress, peer: str) -> SessionRecord:
        """Before anything of it leaves: nobody here sends with it from now on.

        Raises LocalError where this node does not own it (any more) or a listener does not let it go, StoreError where
        that could not be written down; it is in use here then as before.
        """
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED:
                raise LocalError(f"this node does not own a session of {mn_address}")
            try:
                for listener in self.listeners:
                    await listener.releasing(record)
                stopped = await self._stop(record)
            except CxtpError:
                self._tell_activated(record)
                raise
            frozen = replace(
                stopped,
                state=SessionState.FROZEN,
                generation=max(record.generation, record.refused_generation) + 1,
                peer=peer,
                transfer_id=self._random.getrandbits(32),
                updated=self._wall_clock(),
            )
            try:
                await self._keep(frozen)
            except StoreError:
                await self._install(stopped, record)
                raise
            return frozen

    async def release(self, record: SessionRecord) -> None:
        """The new router has it.  Only its tombstone stays: no keys.

        That is written last: a program that dies before comes back to a FROZEN record, asks once more, and tidies up.
        """
        async with self._alone(record.mn_address) as held:
            if _same_transfer(held, record):
                await self._leave(record)
                await self._keep(self._tombstone(record))

    async def reclaim(self, record: SessionRecord) -> None:
        """The new router does not have it, and never will by this transfer: it is ours again."""
        async with self._alone(record.mn_address) as held:
            if _same_transfer(held, record):
                await self._use(replace(record, state=SessionState.OWNED, updated=self._wall_clock()))

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
                await self._stop(record)
            await self._leave(record)
            # The tombstone stays: it keeps data of the past from making this node an owner again.  It answers for
            # no transfer: the session was in use here, and who asks late must not take it into use as it was.
            await self._keep(replace(self._tombstone(record), transfer_id=None))

    async def adopt(
        self, mn_address: IPAddress, read: Callable[[SessionRecord | None], tuple[EncodedContext, ...] | None]
    ) -> SessionRecord | None:
        """What somebody else (an IKE daemon, an operator) made or changed in the sinks is this node's: write it down,
        and its ceiling, which holds from then on.

        ``read`` is given what is on record, while nobody else changes that, and gives the session's contexts as they
        are in use - none where it is in use no more, None where they can't be told now.  Gives the record where
        anything changed.
        """
        async with self._alone(mn_address) as held:
            if held is not None and held.state is SessionState.FROZEN:
                return None
            contexts = read(held)
            if contexts is None:
                return None
            owned = held is not None and held.state is SessionState.OWNED
            if not contexts:
                if held is not None and owned:
                    await self._keep(replace(self._tombstone(held), transfer_id=None))
                    return held
                return None
            # With a standby, each set of SAs has a generation: a late replica with SAs of the past is not kept there.
            generation = 0 if held is None else held.generation
            if held is None or not owned or held.standby:
                generation += 1
            record = SessionRecord(
                mn_address=mn_address,
                state=SessionState.OWNED,
                generation=generation,
                contexts=contexts,
                peer="" if held is None else held.peer,
                transfer_id=held.transfer_id if held is not None and owned else None,
                updated=self._wall_clock(),
                refused_generation=0 if held is None else held.refused_generation,
                standby=held.standby if held is not None and owned else "",
            )
            verdict = admission.examine(mn_address, contexts, self._owners, self._context_types)
            if not verdict.accepted:
                raise RemoteError("; ".join(verdict.reasons), status=verdict.statuses[0].status)
            ceiling = self._ceiling_of_new(record, held if owned else None)
            await self._keep(ceiling, verdict.contexts)
            await self._raise(ceiling)
            if not owned:
                self._tell_activated(record)
            return ceiling

    def _tombstone(self, record: SessionRecord) -> SessionRecord:
        return replace(record, state=SessionState.RELEASED, contexts=(), standby="", updated=self._wall_clock())

    # --- the new router's steps --------------------------------------------------------------------------------------

    async def receive(self, event: ContextsReceived) -> admission.Verdict:
        """Contexts are complete: examine, write down, install.  The verdict is what the CTDR says."""
        async with self._alone(event.mn_address) as held:
            standing = admission.stand(held, event.generation, event.transfer_id, predictive=event.predictive)
            if standing is admission.Standing.HAD:
                return admission.Verdict(True)  # the answer was lost, the session is here
            if standing is admission.Standing.STALE:
                return admission.Verdict(False, of_all(StatusCode.STALE), ("a later owner of the session is known",))
            if standing is admission.Standing.REFUSED:
                return admission.Verdict(False, of_all(StatusCode.INSTALL_FAILED), ("it was refused before",))
            record = self._received(held, event)
            verdict = admission.examine(event.mn_address, event.contexts, self._owners, self._context_types)
            if verdict.accepted:
                return await self._take(held, record, verdict)
            await self._bury(held, record)
            return verdict

    async def refuse(self, event: TransferAborted) -> admission.Verdict:
        """A transfer ended before its contexts were whole.  The verdict is what the CTDR says: no refusal where the
        records know better."""
        if event.generation is None:
            return admission.Verdict(False, of_all(event.status))
        record = SessionRecord(
            mn_address=event.mn_address,
            state=SessionState.RELEASED,
            generation=event.generation,
            peer=event.peer.name,
            transfer_id=event.transfer_id,
            updated=self._wall_clock(),
        )
        async with self._alone(event.mn_address) as held:
            standing = admission.stand(held, event.generation, event.transfer_id, predictive=False)
            if standing is admission.Standing.HAD:
                return admission.Verdict(True)
            if standing is admission.Standing.STALE:
                return admission.Verdict(False, of_all(StatusCode.STALE))
            await self._bury(held, record)
            return admission.Verdict(False, of_all(event.status))

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
                await self._use(owned)
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
        owned = record.state is SessionState.OWNED
        ceiling = self._ceiling(record) if owned else record
        try:
            await self._keep(ceiling, verdict.contexts)
        except StoreError as error:
            self.counters["store_failed"] += 1
            await self._bury(held, record)
            return admission.Verdict(False, of_all(StatusCode.STORE_FAILED), (str(error),))
        if owned:
            try:
                if held is not None and held.state is SessionState.OWNED:
                    await self._stop(held)
                await self._install(record, ceiling)
            except CxtpError as error:
                return await self._give_back(held, record, error)
        return verdict

    async def _give_back(
        self, held: SessionRecord | None, record: SessionRecord, error: CxtpError
    ) -> admission.Verdict:
        """It was written down as ours and can't be used.  S=0 is true only once the disk says so too."""
        statuses = of_all(getattr(error, "status", StatusCode.INSTALL_FAILED))
        left = self._tombstone(record)
        if held is not None and held.state is SessionState.OWNED:
            await self._leave(held)  # it had a later owner, as the transfer proves, and is out of use here by now
        elif held is not None and held.contexts:
            left = replace(held, generation=record.generation)
        try:
            await self._keep(left, self.decoded(left))
        except StoreError as full:
            self.counters["store_failed"] += 1
            return admission.Verdict(True, statuses, (str(error), str(full)))
        return admission.Verdict(False, statuses, (str(error),))

    async def _bury(self, held: SessionRecord | None, record: SessionRecord) -> None:
        """A refusal is for good, even if this node dies and the data comes again: its generation is used up.
        What was here stays as it was."""
        before = replace(self._tombstone(record), generation=0) if held is None else held
        refused = max(before.refused_generation, record.generation)
        try:
            await self._keep(replace(before, refused_generation=refused))
        except StoreError as error:
            self.counters["store_failed"] += 1
            log.error("the refusal of %s could not be written down: %s", record.mn_address, error)


def _same_transfer(held: SessionRecord | None, record: SessionRecord) -> bool:
    """Whether that is what is still known: another change may have come between."""
    return (
        held is not None
        and held.state is SessionState.FROZEN
        and (held.generation, held.transfer_id) == (record.generation, record.transfer_id)
    )


__all__ = ["SEQUENCE_RESERVE", "Listener", "Sessions", "Sink"]
