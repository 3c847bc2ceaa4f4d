"""Replicas of sessions that stay in use, and how one is taken over (docs/safety.md, replicas).

The owner never lets its sinks send above the outbound sequence numbers that its standby has confirmed; whoever takes a
replica over goes on above them.  So the two never use a pair of key and sequence number both, whatever became of the
owner; and the owner learns with its next question that it is none any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from contexts.base import Context, encode
from contexts.fence import highest_sequence_number, is_at_least
from contexts.ipsec import IpsecSaContext
from contexts.values import CounterKnowledge

from . import admission
from .constants import StatusCode
from .errors import CxtpError, LocalError, RemoteError
from .messages import EncodedContext, IPAddress
from .replica import ReplicaKind
from .roles.events import ContextsReceived
from .roles.router import of_all
from .session_book import SessionBook
from .store.records import SessionRecord, SessionState

log = logging.getLogger(__name__)


TAKE_OVER_STEP = 1 << 20
"""Generations by which a take-over goes ahead: an owner may have come further than its standby knows, by one for each
move that was refused and for each rekeying, and must find itself deposed all the same."""


class ReplicaUnconfirmed(LocalError):
    """The standby did not answer, or did not take the replica: nothing may be sent above what it knows."""


class ReplicaRefused(ReplicaUnconfirmed):
    """The standby will not keep this generation any more: a move to it was refused, or it was told to forget it."""


class NotOwnerAnyMore(LocalError):
    """The standby has taken the session over, or knows who has: it is out of use here."""


async def _no_standby(ceiling: SessionRecord) -> None:
    raise ReplicaUnconfirmed(f"nobody here can ask {ceiling.standby}")


@dataclass(frozen=True)
class TakeOver:
    """What became of one replica: in use here, less ``dropped`` (why each SA could not be gone on with)."""

    mn_address: IPAddress
    taken: bool
    dropped: tuple[str, ...] = ()


class ReplicaSteps(SessionBook):
    """The steps of both sides.  ``confirm`` has a ceiling confirmed by the record's standby, ``withdraw`` has it forget
    its replica; both raise ReplicaUnconfirmed or NotOwnerAnyMore."""

    confirm: Callable[[SessionRecord], Awaitable[None]] = staticmethod(_no_standby)
    withdraw: Callable[[SessionRecord], Awaitable[None]] = staticmethod(_no_standby)

    # --- the standby's -----------------------------------------------------------------------------------------------

    async def keep_replica(
        self, event: ContextsReceived, kind: ReplicaKind, contexts: tuple[EncodedContext, ...]
    ) -> admission.Verdict:
        """Keep it, or forget what was kept, unless this node knows better.  A replica's numbers never sink, and what
        was forgotten stays so, however late the messages are that brought it."""
        async with self._alone(event.mn_address) as held:
            generation = event.generation
            objection = StatusCode.NOT_AUTHORIZED if generation is None else _objection(held, generation)
            if objection is not None or generation is None:
                reason = f"a replica is not taken: {objection.name if objection else 'no manifest'}"
                return admission.Verdict(False, of_all(objection or StatusCode.NOT_AUTHORIZED), (reason,))
            forget = kind is ReplicaKind.FORGET
            verdict = (
                admission.Verdict(True)
                if forget
                else admission.examine(event.mn_address, contexts, {}, self._context_types)
            )
            if not verdict.accepted:
                return verdict
            refused = 0 if held is None else held.refused_generation
            record = SessionRecord(
                mn_address=event.mn_address,
                state=SessionState.RELEASED if forget else SessionState.REPLICA,
                generation=generation,
                contexts=() if forget else contexts,
                peer=event.peer.name,
                transfer_id=event.transfer_id,
                updated=self._wall_clock(),
                refused_generation=max(refused, generation) if forget else refused,
            )
            if forget or not self._is_newer_here(held, generation, verdict.contexts):
                await self._keep(record)
            return verdict

    def _is_newer_here(
        self, held: SessionRecord | None, generation: int, contexts: tuple[Context, ...]
    ) -> bool:
        return (
            held is not None
            and (held.state, held.generation) == (SessionState.REPLICA, generation)
            and _is_older(contexts, self.decoded(held))
        )

    async def take_over(self, mn_address: IPAddress) -> TakeOver:
        """Go on with a replica above all that its owner may have sent.  An operator's word: the owner is gone.

        SAs that can't be gone on with safely - no sequence number is left, its life is over - are left out, each
        with the reason; where none is left, the session is given up.  Raises LocalError where there is no replica,
        RemoteError where its contexts can't be used here, what the sinks raise where they refuse it.
        """
        async with self._alone(mn_address) as replica:
            if replica is None or replica.state is not SessionState.REPLICA:
                raise LocalError(f"this node has no replica of a session of {mn_address}")
            now = self._wall_clock()
            contexts, left_out = _aged(self.decoded(replica), max(0.0, now - replica.updated))
            for kind, reason in left_out:
                self.counters["associations_not_taken_over"] += 1
                self.counters[f"associations_not_taken_over.{kind}"] += 1
                log.warning("%s: %s", mn_address, reason)
            dropped = tuple(reason for _, reason in left_out)
            taken = any(isinstance(context, IpsecSaContext) for context in contexts)
            record = replace(
                replica,
                state=SessionState.OWNED if taken else SessionState.RELEASED,
                generation=replica.generation + TAKE_OVER_STEP,
                contexts=tuple(encode(context, self._context_types) for context in contexts) if taken else (),
                transfer_id=None,
                updated=now,
            )
            if not taken:
                self.counters["sessions_not_taken_over"] += 1
                await self._keep(record)
                return TakeOver(mn_address, False, dropped)
            verdict = admission.examine(mn_address, record.contexts, self._owners, self._context_types)
            if not verdict.accepted:
                raise RemoteError("; ".join(verdict.reasons), status=verdict.statuses[0].status)
            ceiling = self._ceiling(record)
            await self._keep(ceiling, verdict.contexts)
            await self._install(record, ceiling)
            self.counters["sessions_taken_over"] += 1
            return TakeOver(mn_address, True, dropped)

    # --- the owner's -------------------------------------------------------------------------------------------------

    async def assign_standby(self, mn_address: IPAddress, standby: str) -> SessionRecord | None:
        """From now on ``standby`` may have a replica ("": none has one any more).  Gives the record, None where the
        session is not owned here."""
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED:
                return None
            if record.standby == standby:
                return record
            if record.standby and standby:
                raise LocalError(f"{record.standby} has a replica of {mn_address}: it has to forget that first")
            # What was sent to the one before is of the past now, also if it comes late.
            assigned = replace(record, standby=standby, generation=record.generation + (not standby))
            await self._keep(assigned)
            return assigned

    async def step_up(self, mn_address: IPAddress, generation: int) -> None:
        """The standby refuses this generation for good: the next question is about the next one, of the same owner."""
        async with self._alone(mn_address) as record:
            if record is None or (record.state, record.generation) != (SessionState.OWNED, generation):
                return
            await self._keep(replace(record, generation=generation + 1))
            planned = self.waiting.get(mn_address)
            if planned is not None:
                start, ceiling = (replace(item, generation=generation + 1) for item in planned)
                self.waiting[mn_address] = start, ceiling

    async def go_on(self, mn_address: IPAddress) -> bool:
        """A session that waits for its standby, since this machine was started anew or a move was refused: ask, then
        use it.  Gives whether it is in use now."""
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED:
                self.waiting.pop(mn_address, None)
                return False
            planned = self.waiting.get(mn_address)
            if planned is None or planned[1].generation != record.generation:
                planned = record, self._ceiling(record)
                await self._keep(planned[1])
                self.waiting[mn_address] = planned  # each further try is for the same one
            start, ceiling = planned
        if record.standby:
            await self.confirm(ceiling)
        async with self._alone(mn_address) as now:
            if now is None or (now.state, now.generation) != (SessionState.OWNED, record.generation):
                return False
            if mn_address not in self.waiting:
                return True  # it came by a transfer meanwhile, and is in use by that
            await self._install(start, ceiling)
            return True

    async def is_withdrawn(self, held: SessionRecord) -> bool:
        """The session is gone from here without a move: its standby must not go on with it.  A peer that only changed
        its address has the same keys under another name, and until the standby knows, that session is not ours to send
        with any further."""
        if not held.standby:
            return True
        try:
            await self.withdraw(held)
        except CxtpError as error:
            self.counters["replicas_not_withdrawn"] += 1
            log.warning("%s is gone, and %s does not know yet: %s", held.mn_address, held.standby, error)
            return False
        return True

    async def depose(self, mn_address: IPAddress, generation: int) -> None:
        """Another node has it, by its standby's word: out of use here, and no more than a tombstone."""
        async with self._alone(mn_address) as record:
            if record is None or record.state is not SessionState.OWNED or record.generation != generation:
                return
            log.error("%s has taken over the session of %s: it is out of use here", record.standby, mn_address)
            self.counters["deposed"] += 1
            await self._stop(record)
            await self._leave(record)  # a program that dies before the next step asks once more, and comes here again
            await self._keep(
                replace(record, state=SessionState.RELEASED, contexts=(), peer=record.standby, standby="",
                        transfer_id=None, updated=self._wall_clock())
            )  # fmt: skip
            self.waiting.pop(mn_address, None)
            self.unconfirmed.discard(mn_address)


def _objection(held: SessionRecord | None, generation: int) -> StatusCode | None:
    """Why a replica of this generation is not taken: STALE takes its sender's session away, so that it is said only
    where a later owner is known."""
    if held is None:
        return None
    if held.generation > generation:
        return StatusCode.STALE
    if held.state in (SessionState.OWNED, SessionState.FROZEN) or held.refused_generation >= generation:
        return StatusCode.INSTALL_FAILED
    return None


def _is_older(contexts: Iterable[Context], held: Iterable[Context]) -> bool:
    contexts = tuple(contexts)
    spis = {context.inbound_spi for context in contexts if isinstance(context, IpsecSaContext)}
    shared = [context for context in held if isinstance(context, IpsecSaContext) and context.inbound_spi in spis]
    return not is_at_least(contexts, shared)


def _aged(contexts: Iterable[Context], seconds: float) -> tuple[tuple[Context, ...], tuple[tuple[str, str], ...]]:
    """The contexts after so long a time, and why some are left out: a counter's name, and what is said of it."""
    kept: list[Context] = []
    dropped = []
    for context in contexts:
        if not isinstance(context, IpsecSaContext):
            kept.append(context)
            continue
        life = context.lifetime.seconds
        used = life.used + int(seconds)
        if context.sequence_numbers.outbound >= highest_sequence_number(context.proposal):
            said = f"SA {context.outbound_spi:08x} has no sequence number left above the fence"
            dropped.append(("no_sequence_number", said))
        elif context.sequence_numbers.knowledge is CounterKnowledge.UNKNOWN:
            dropped.append(("numbers_unknown", f"SA {context.outbound_spi:08x} has sequence numbers that nobody knows"))
        elif life.hard is not None and used >= life.hard:
            dropped.append(("lifetime_over", f"SA {context.outbound_spi:08x} has lived its {life.hard} seconds"))
        else:
            lifetime = replace(context.lifetime, seconds=replace(life, used=used))
            kept.append(replace(context, lifetime=lifetime))
    return tuple(kept), tuple(dropped)
