"""An agent beside a strongSwan daemon: what it has, and what becomes of it, is on record.

The daemon's ``ha`` messages say most of it as it happens.  They can be lost, so that its own list (vici) is compared
with what they told, and what is missing is asked for anew: an IKE_SA by RESYNC, a CHILD_SA by rekeying it.  The list
also tells what the messages never do: where a peer went by MOBIKE (RFC 4555), and that the daemon was started anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from contexts.base import Context, decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.values import IkeSpis, IPAddress

from .adapters.strongswan_ha import HaMessage, HaTracker, peer_moved
from .adapters.strongswan_ha.attributes import Attribute, IkeSaId
from .adapters.strongswan_vici import IkeSa
from .adapters.xfrm import AsyncEvent, Group, Namespace, XfrmError, XfrmEvents
from .config import ContextTypes
from .errors import CxtpError
from .kernel_guard import unblock
from .kernel_keeper import REST
from .message_id_agreement import MessageIdAgreement, NotAgreed
from .messages import EncodedContext
from .sessions import Sessions
from .store.records import SessionRecord, SessionState
from .strongswan_contexts import children_of, ike_sas_of
from .strongswan_daemon import ESTABLISHED, RESTING_CHILDREN
from .strongswan_sink import StrongswanSink

log = logging.getLogger(__name__)

SETTLING_TIME = 0.05
"""Seconds after a message until its session is looked at: several come at once."""

INTERVAL = 2.0
"""Seconds between looks at the daemon's own list."""

AGAIN = 30.0
"""Seconds until what did not come is asked for, or complained of, once more."""

Key = TypeVar("Key")


class StrongswanAgent:
    """A task beside a node.  ``hurried`` is called when an SA has sent or received many packets."""

    def __init__(
        self,
        sessions: Sessions,
        sink: StrongswanSink,
        hurried: Sequence[Callable[[], None]] = (),
        namespace: Namespace = None,
        context_types: ContextTypes = ContextTypes(),
    ) -> None:
        """Raises XfrmError."""
        self._sessions = sessions
        self._sink = sink
        self._daemon = sink.daemon
        self._hurried = hurried
        self._context_types = context_types
        self._agreement = MessageIdAgreement(self._expect, namespace)
        self._events = XfrmEvents((Group.ASYNC_EVENTS,), namespace)
        self._wake = asyncio.Event()
        self._changed: set[IPAddress] = set()
        self._again: set[IPAddress] = set()
        self._addresses: dict[IkeSpis, IPAddress] = {}
        """Where the peers of IKE_SAs were, also of those that are gone."""
        self._asked: dict[object, float] = {}
        self._next_check = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn what the daemon has, and go on following it."""
        self._daemon.link.heard = self._heard
        await self._check()
        self._changed |= self._daemon.link.tracker.addresses()
        await self.look()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._events, self._counted)
        self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Follow no more; the daemon goes on, up to the ceilings that are set."""
        if self._task is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._events.close()
        self._agreement.close()

    # --- what the daemon tells --------------------------------------------------------------------------------------

    def _heard(self, message: HaMessage) -> None:
        identity = message.first(Attribute.IKE_ID)
        if not isinstance(identity, IkeSaId):
            return
        address = self._daemon.link.tracker.address_of(identity.spis)
        if address is not None:
            self._addresses[identity.spis] = address
        else:  # gone with this message
            address = self._addresses.pop(identity.spis, None)
        if address is not None:
            self._changed.add(address)
            self._wake.set()

    def _counted(self) -> None:
        try:
            events = self._events.read()
        except XfrmError as error:
            log.error("%s", error)
            return
        if any(isinstance(event, AsyncEvent) for event in events):
            for hurried in self._hurried:
                hurried()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._next_check - time.monotonic()))
                await asyncio.sleep(SETTLING_TIME)
            except asyncio.TimeoutError:
                pass
            self._wake.clear()
            started = time.monotonic()
            try:
                if started >= self._next_check:
                    await self._check()
                    # With many sessions its list is long.
                    self._next_check += REST * (time.monotonic() - started)
                await self.look()
            except Exception as error:  # whatever it is, the next change is to be followed
                self._sessions.counters["look_failed"] += 1
                self._next_check = time.monotonic() + INTERVAL
                if self._is_due(("look", str(error)), AGAIN):
                    log.error("the daemon could not be looked at: %s", error)
            if self._again:
                self._next_check = min(self._next_check, time.monotonic() + INTERVAL / 4)

    # --- records ----------------------------------------------------------------------------------------------------

    async def look(self) -> int:
        """Write down what has changed; gives how many sessions were new, changed or gone."""
        changed, self._changed = self._changed, set()
        tracker = self._daemon.link.tracker
        # What is gone first: a peer at another address has the SPIs that it had.
        here = tracker.addresses()
        adopted = 0
        for mn_address in sorted(changed, key=lambda address: address in here):
            adopted += await self._adopt(mn_address)
        return adopted

    async def _adopt(self, mn_address: IPAddress) -> bool:
        def read(held: SessionRecord | None) -> tuple[EncodedContext, ...] | None:
            before = () if held is None else self._decoded(held)
            now = self._sink.as_told(mn_address, before)
            if len(children_of(now)) < self._children_told(mn_address):
                self._again.add(mn_address)  # the daemon tells of a CHILD_SA before its kernel has it
            if held is not None and held.state is SessionState.OWNED and _names(now) == _names(before):
                return None
            return tuple(encode(context, self._context_types) for context in now)

        if not await self._may_go(mn_address):
            self._again.add(mn_address)
            return False
        try:
            record = await self._sessions.adopt(mn_address, read)
        except CxtpError as error:
            self._sessions.counters["not_adopted"] += 1
            self._again.add(mn_address)
            if self._is_due(("not adopted", mn_address), AGAIN):
                log.error("the daemon's session with %s could not be taken over: %s", mn_address, error)
            return False
        if record is None:
            return False
        kind = "learned" if self._daemon.link.tracker.session_of(mn_address) is not None else "gone"
        self._sessions.counters[f"sessions_{kind}"] += 1
        log.info("the session of %s: %s", mn_address, kind)
        return True

    async def _may_go(self, mn_address: IPAddress) -> bool:
        """Whether no standby would go on with a session that is gone."""
        held = self._sessions.readable(mn_address)
        is_gone = self._daemon.link.tracker.session_of(mn_address) is None
        owned = held is not None and held.state is SessionState.OWNED
        return held is None or not owned or not is_gone or await self._sessions.is_withdrawn(held)

    def _children_told(self, mn_address: IPAddress) -> int:
        exported = self._daemon.link.tracker.session_of(mn_address)
        return 0 if exported is None else len(children_of(exported.contexts))

    def _decoded(self, record: SessionRecord) -> tuple[Context, ...]:
        return tuple(decode(item, self._context_types) for item in record.contexts)

    def _owned(self) -> list[SessionRecord]:
        records = self._sessions.store.records(on_damaged=lambda address, error: None)
        return [record for record in records if record.state is SessionState.OWNED]

    # --- after a take-over ------------------------------------------------------------------------------------------

    async def synchronise(self, mn_address: IPAddress) -> list[str]:
        """Find out which Message IDs the peer of a session has seen; in words, what came of it for each IKE_SA."""
        record = self._sessions.get(mn_address)
        outcomes = []
        for context in ike_sas_of(() if record is None else self._decoded(record)):
            # A response that the daemon takes for one to a request of its own, and did not ask for, ends its IKE_SA.
            self._daemon.hold_requests(context)
            agreed = context.message_ids
            try:
                agreed = await self._agreement.agree(context)
            except NotAgreed as error:
                self._sessions.counters["message_ids_on_record"] += 1
                outcomes.append(f"{context.spis}: Message IDs as on record: {error}")
            else:
                self._sessions.counters["message_ids_agreed"] += 1
                numbers = f"{agreed.next_request_to_send}, {agreed.next_request_expected}"
                outcomes.append(f"{context.spis}: agreed on Message IDs {numbers}")
            finally:
                self._daemon.set_message_ids(replace(context, message_ids=agreed))
        for outcome in outcomes:
            log.info("%s: %s", mn_address, outcome)
        self._changed.add(mn_address)
        self._wake.set()
        return outcomes

    def _expect(self, context: IkeSaContext, number: int) -> None:
        log.info("the peer of %s is at Message ID %d: strongSwan is told", context.spis, number)
        self._sessions.counters["message_ids_corrected"] += 1
        self._daemon.expect(context, number)

    # --- the daemon's own list --------------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Compare what the messages told with what the daemon has."""
        self._next_check = time.monotonic() + (INTERVAL if not self._sink.to_be_rekeyed else SETTLING_TIME)
        if await self._daemon.is_another():
            await self._begin_anew()
        there = await self._daemon.ike_sas()
        tracker = self._daemon.link.tracker
        untold = [
            sa
            for sa in there.values()
            if sa.state == ESTABLISHED
            and self._compare(sa)
            and self._is_due(("untold", sa.spis), SETTLING_TIME, at_once=False)
        ]
        if untold and self._is_due(("resync",), AGAIN):
            log.warning("strongSwan did not tell of IKE_SAs with %s: RESYNC", ", ".join(map(_peer, untold)))
            self._sessions.counters["messages_lost"] += len(untold)
            self._daemon.ask_for_all()
        for spis in self._gone(tracker.ike_spis(), there.keys()):
            address = tracker.address_of(spis)
            tracker.drop(spis)
            if address is not None:
                self._changed.add(address)
        for sa in there.values():
            if sa.state == ESTABLISHED and tracker.knows(sa.spis):
                await self._compare_children(sa)
        self._open_what_was_rekeyed(there)
        here = tracker.addresses()
        self._changed |= self._again | {record.mn_address for record in self._owned() if record.mn_address not in here}
        self._again.clear()
        self._addresses = {spis: address for spis, address in self._addresses.items() if spis in there}
        oldest = time.monotonic() - 2 * AGAIN
        self._asked = {what: when for what, when in self._asked.items() if when > oldest}

    def _compare(self, sa: IkeSa) -> bool:
        """Whether the messages told too little of an IKE_SA.  Where its peer is comes from here."""
        tracker = self._daemon.link.tracker
        address = tracker.address_of(sa.spis)
        if address is None or not tracker.is_told(sa.spis):
            return True
        if address != sa.remote_host.address:
            self._sessions.counters["peers_moved"] += 1
            log.info("%s is at %s now", address, sa.remote_host.address)
            tracker.apply(peer_moved(sa.spis, sa.local_host, sa.remote_host), time.time())
            self._changed |= {address, sa.remote_host.address}
        return False

    async def _compare_children(self, sa: IkeSa) -> None:
        """CHILD_SAs that the messages did not tell of come again by being rekeyed; and so do those that may not be
        used as they are."""
        tracker = self._daemon.link.tracker
        blocked = {child.inbound_spi for children in self._sink.to_be_rekeyed.values() for child in children}
        told = tracker.inbound_spis(sa.spis)
        for child in sa.children:
            if child.state not in RESTING_CHILDREN or (child.inbound_spi in told and child.inbound_spi not in blocked):
                continue
            lost = child.inbound_spi not in told
            if lost and not self._is_due(("untold", child.inbound_spi), SETTLING_TIME, at_once=False):
                continue  # its message may be on the way
            if self._is_due(("rekey", child.inbound_spi), AGAIN if lost else INTERVAL):
                if lost:
                    log.warning("strongSwan did not tell of a CHILD_SA %s of %s: rekeying", child.name, _peer(sa))
                    self._sessions.counters["messages_lost"] += 1
                await self._daemon.vici.rekey(child_id=str(child.unique_id))
        for inbound_spi in self._gone(told, {child.inbound_spi for child in sa.children}):
            tracker.drop_child(inbound_spi)
            self._changed.add(sa.remote_host.address)

    def _gone(self, told: Iterable[Key], there: Container[Key]) -> Iterator[Key]:
        """What was told of and is not there in two looks: its delete was lost, and did not come after the look."""
        for key in told:
            if key not in there and self._is_due(("gone", key), SETTLING_TIME, at_once=False):
                self._sessions.counters["messages_lost"] += 1
                yield key

    def _open_what_was_rekeyed(self, there: Mapping[IkeSpis, IkeSa]) -> None:
        resting = {c.inbound_spi for sa in there.values() for c in sa.children if c.state in RESTING_CHILDREN}
        peers = {sa.remote_host.address for sa in there.values() if sa.children}
        for mn_address, blocked in list(self._sink.to_be_rekeyed.items()):
            if mn_address in peers and resting.isdisjoint(child.inbound_spi for child in blocked):
                del self._sink.to_be_rekeyed[mn_address]
                unblock(self._sink.client, blocked)
                log.info("the CHILD_SAs of %s are rekeyed: its traffic goes on", mn_address)

    def _is_due(self, what: object, seconds: float, *, at_once: bool = True) -> bool:
        """Whether so many seconds are over since it was the last time; ``at_once``: the first time counts."""
        now = time.monotonic()
        before = self._asked.get(what)
        if before is not None and now - before < seconds:
            return False
        self._asked[what] = now
        return at_once or before is not None

    async def _begin_anew(self) -> None:
        """The daemon knows nothing any more: what is on record is brought back to it."""
        log.warning("strongSwan was started anew: its sessions are brought back")
        self._daemon.link.tracker = HaTracker(window=self._daemon.link.tracker.window)
        for record in self._owned():
            self._sessions.counters["sessions_brought_back"] += 1
            await self._sessions.resume(record.mn_address)


def _peer(sa: IkeSa) -> str:
    return str(sa.remote_host.address)


def _names(contexts: Sequence[Context]) -> tuple[object, ...]:
    """What a record is written anew for: SAs that came and went, and Message IDs."""
    return (
        {(sa.spis, sa.message_ids, sa.remote_host) for sa in ike_sas_of(contexts)},
        {(child.inbound_spi, child.outbound_spi) for child in children_of(contexts)},
    )
