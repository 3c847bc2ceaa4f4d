"""An owner's questions to its standby: keep this replica, or forget it; each waits for its answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Union
from weakref import WeakValueDictionary

from .config import ContextTypes
from .constants import StatusCode
from .errors import LocalError
from .messages import IPAddress
from .replica import ReplicaKind, build_replica
from .roles.events import (
    CacheExpired,
    Peer,
    Random,
    TransferCancelled,
    TransferConfirmed,
    TransferRefused,
    TransferUnconfirmed,
)
from .roles.previous_router import PreviousRouter
from .session_replicas import NotOwnerAnyMore, ReplicaRefused, ReplicaUnconfirmed
from .sessions import Sessions
from .store.records import SessionRecord

Outcome = Union[TransferConfirmed, TransferRefused, TransferCancelled, TransferUnconfirmed, CacheExpired]
OUTCOMES = (TransferConfirmed, TransferRefused, TransferCancelled, TransferUnconfirmed, CacheExpired)


class ReplicaQuestions:
    """One question of a session at a time.  ``pump`` has the role's messages sent; ``counters`` of their outcomes."""

    def __init__(
        self,
        role: PreviousRouter,
        peers: Mapping[str, Peer],
        sessions: Sessions,
        context_types: ContextTypes,
        clock: Callable[[], float],
        random: Random,
        pump: Callable[[], None],
    ) -> None:
        self._role = role
        self._peers = peers
        self._sessions = sessions
        self._context_types = context_types
        self._clock = clock
        self._random = random
        self._pump = pump
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._locks: WeakValueDictionary[IPAddress, asyncio.Lock] = WeakValueDictionary()
        self.counters: Counter[str] = Counter()
        sessions.withdraw = self.withdraw

    async def ask(self, record: SessionRecord, kind: ReplicaKind = ReplicaKind.KEEP) -> None:
        """Have ``record.standby`` keep (or forget) a replica with just these contexts, and wait for its word.

        Raises ReplicaUnconfirmed; NotOwnerAnyMore where it knows a later owner: the session is out of use here then.
        """
        mn_address, peer = record.mn_address, self._peers.get(record.standby)
        if peer is None:
            raise ReplicaUnconfirmed(f"no router {record.standby!r} is known, which has a replica of {mn_address}")
        marker = build_replica(kind, self._context_types)
        key = self._random.getrandbits(128).to_bytes(16, "big")  # nobody is to prove itself with it
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lock = self._locks.setdefault(mn_address, asyncio.Lock())
        async with lock:
            try:
                transfer_id = self._role.predict(
                    mn_address, peer, (marker, *record.contexts), record.generation, key, self._clock(), replica=True
                )
            except LocalError as error:
                raise ReplicaUnconfirmed(f"{peer.name} can't be asked now: {error}") from error
            self._asked[transfer_id] = outcome
            try:
                self._pump()
                await outcome
            except NotOwnerAnyMore:
                self.counters["later_owner"] += 1
                await self._sessions.depose(mn_address, record.generation)
                raise
            except ReplicaUnconfirmed as error:
                self.counters["unconfirmed"] += 1
                if isinstance(error, ReplicaRefused):
                    await self._sessions.step_up(mn_address, record.generation)
                raise
        self.counters["confirmed"] += 1

    async def withdraw(self, record: SessionRecord, new_router: str = "") -> None:
        """Before a move, or where the session is over: a replica that stays behind could be taken over after that."""
        if record.standby and record.standby != new_router:
            await self.ask(record, ReplicaKind.FORGET)
            await self._sessions.assign_standby(record.mn_address, "")

    def answered(self, event: Outcome) -> bool:
        """Whether the event is the outcome of such a question, and not of a move."""
        future = None if event.transfer_id is None else self._asked.get(event.transfer_id)
        if future is None or event.transfer_id is None:
            return False
        if not isinstance(event, TransferUnconfirmed):
            del self._asked[event.transfer_id]  # until then, a late answer is not to be taken for a move's
        if future.done() or isinstance(event, CacheExpired):
            return True
        if isinstance(event, TransferConfirmed):
            future.set_result(None)
        elif isinstance(event, TransferRefused) and any(s.status == StatusCode.STALE for s in event.statuses):
            future.set_exception(NotOwnerAnyMore(f"the standby of {event.mn_address} knows a later owner"))
        elif isinstance(event, TransferRefused) and any(
            status.status == StatusCode.INSTALL_FAILED for status in event.statuses
        ):
            future.set_exception(ReplicaRefused(f"the standby of {event.mn_address} does not keep it"))
        else:
            future.set_exception(ReplicaUnconfirmed(f"the standby of {event.mn_address} did not confirm"))
        return True
