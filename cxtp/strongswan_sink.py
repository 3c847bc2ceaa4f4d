"""Sessions in a strongSwan daemon, their CHILD_SAs in its kernel with exact sequence numbers.

The order (docs/safety.md).  Leaving: wait until no exchange is under way, block the session's traffic, have the daemon
drop it; the kernel tells with each deletion where its counter stood, under the lock that keeps any further packet from
it.  Coming: block the traffic - the daemon's SAs can send from the moment they are there, and their numbers start at
1 -, tell the daemon, set the numbers (never lower than they are), have the daemon use the IKE_SA, let traffic pass.

A daemon whose ESP is its own (kernel-libipsec) has numbers that nobody can read or set.  There the traffic stays
blocked until each CHILD_SA has been rekeyed: what is lost is the time that this takes, and never a key's secret.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace

from contexts.base import Context, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext

from .adapters.strongswan_ha import messages_of
from .adapters.xfrm import requests
from .adapters.xfrm.events import SecurityAssociationDeleted
from .adapters.xfrm.netlink import Namespace, XfrmError
from .adapters.xfrm.replay import numbers_of
from .adapters.xfrm.requests import Request
from .adapters.xfrm.values import AsyncEvent, SecurityAssociation, SecurityAssociationId
from .config import ContextTypes
from .errors import CxtpError, LocalError
from .kernel_contexts import Pair
from .kernel_guard import block, is_blocked, unblock
from .kernel_learning import keys_of
from .kernel_sink import XfrmSink
from .messages import EncodedContext, IPAddress
from .store.records import SessionRecord
from .strongswan_contexts import children_of, identifiers, ike_sas_of, joined, never_lower
from .strongswan_daemon import ESTABLISHED, StrongswanDaemon, expressible

log = logging.getLogger(__name__)

Kernel = Mapping[SecurityAssociationId, SecurityAssociation]

DELETED = 4096
"""SAs that are gone and whose last numbers are kept for a move that may ask for them."""


class ChangedMeanwhile(LocalError):
    """The daemon went on with a session while nobody followed it: what is on record is not what it has."""


class StrongswanSink(XfrmSink):
    """A :class:`cxtp.sessions.Sink` over one daemon and its kernel.  ``close`` gives the kernel's sockets back.

    ``report_after``: packets of an SA after which the kernel tells its numbers (group AEVENTS); 0: its own default.
    """

    def __init__(
        self,
        daemon: StrongswanDaemon,
        context_types: ContextTypes = ContextTypes(),
        namespace: Namespace = None,
        *,
        wall_clock: Callable[[], float] = time.time,
        report_after: int = 0,
    ) -> None:
        """Raises XfrmError."""
        super().__init__(context_types, namespace, wall_clock=wall_clock, report_after=report_after)
        self.daemon = daemon
        self._coming: set[IPAddress] = set()
        self._deleted: dict[SecurityAssociationId, SecurityAssociation] = {}
        """The last that the kernel told of SAs that are gone, until it is asked for; each move looks for its own."""
        self.to_be_rekeyed: dict[IPAddress, tuple[IpsecSaContext, ...]] = {}
        """Sessions that are blocked until these SAs, whose numbers nobody knows, are gone."""

    # --- coming -----------------------------------------------------------------------------------------------------

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        """All of the session, or nothing.  Raises UnknownConnection, NotExpressible, DaemonError, XfrmError."""
        contexts = self._decoded(record)
        ike_sas, children = ike_sas_of(contexts), children_of(contexts)
        if not ike_sas:
            raise LocalError("it has no IKE_SA, without which strongSwan can't use it")
        await self.daemon.check(contexts)
        pairs = self._pairs(record, ceiling)
        self._look_for_strangers(pairs)
        block(self.client, children)
        self._delete_halves(children)
        self._coming.add(record.mn_address)
        try:
            await self.daemon.feed(contexts, lambda: self._is_there(pairs))
            if self.daemon.in_kernel:
                self._set(pairs)
            await self.daemon.activate(sa.spis for sa in ike_sas)
        except CxtpError:
            await self._drop(ike_sas, children)
            raise
        finally:
            self._coming.discard(record.mn_address)
        if self.daemon.in_kernel:
            unblock(self.client, children)
        else:
            self.to_be_rekeyed[record.mn_address] = tuple(children)

    def _look_for_strangers(self, pairs: Iterable[Pair]) -> None:
        """An SPI that is taken is another session's: strongSwan would put the new SA in its place.

        With the same keys it is this one's, left behind by a daemon that is gone; what is on record lies above all
        that it can have sent.
        """
        wanted = [sa for pair in pairs for sa in (pair.inbound, pair.outbound)]
        there = self._present([sa.identifier for sa in wanted])
        for sa in wanted:
            if sa.identifier in there and keys_of(there[sa.identifier]) != keys_of(sa):
                raise XfrmError(f"adding {sa.identifier}", errno.EEXIST)

    async def _is_there(self, pairs: Sequence[Pair]) -> bool:
        if self.daemon.in_kernel:
            wanted = [sa.identifier for pair in pairs for sa in (pair.inbound, pair.outbound)]
            return len(self._present(wanted)) == len(wanted)
        there = {child.inbound_spi for sa in (await self.daemon.ike_sas()).values() for child in sa.children}
        return there.issuperset(pair.context.inbound_spi for pair in pairs)

    async def _drop(self, ike_sas: Sequence[IkeSaContext], children: Sequence[IpsecSaContext]) -> None:
        """Nothing of it stays, and nothing of it was sent."""
        try:
            await self.daemon.forget(ike_sas)
        except CxtpError as error:
            log.error("%s", error)
        self.daemon.unknow(ike_sas)
        self._delete_halves(children)
        unblock(self.client, children)

    def _set(self, pairs: Sequence[Pair]) -> None:
        """Numbers, windows, usage and limits of what the daemon made."""
        halves = [
            half
            for pair in pairs
            for half in ((pair.inbound, pair.context.window.size), (self._reporting(pair.outbound), 0))
        ]
        there = self._made(halves)
        self._do_all([
            request for wanted, window in halves for request in _changes(wanted, there[wanted.identifier], window)
        ])
        there = self._made(halves)
        for wanted, window in halves:
            if numbers_of(there[wanted.identifier]) != never_lower(wanted, there[wanted.identifier], window):
                raise LocalError(f"the kernel has not taken the sequence numbers of {wanted.identifier}")

    def _made(self, halves: Iterable[tuple[SecurityAssociation, int]]) -> Kernel:
        """As the kernel has them.  Raises XfrmError where one is not there."""
        wanted = [sa.identifier for sa, _ in halves]
        there = self._present(wanted)
        for identifier in wanted:
            if identifier not in there:
                raise XfrmError(f"asking for {identifier}", errno.ESRCH)
        return there

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """Out of use in daemon and kernel; the contexts as they are at that moment.

        Raises NotExpressible for what could not come back, DaemonError where an exchange does not end.
        """
        before = self._as_told(record, self._kernel_of(record))
        messages_of(expressible(before), self.daemon.link.version, bytes)
        there = await self.daemon.find((sa.spis for sa in ike_sas_of(before)), surely=True)
        present = [sa for sa in ike_sas_of(before) if sa.spis in there]
        children = children_of(before)
        # Where this program died before it had set the numbers, the kernel's are not the session's: it stays at its
        # ceiling, above all that was sent.
        unfinished = is_blocked(self.client, children) or not all(
            sa.spis in there and there[sa.spis].state == ESTABLISHED for sa in ike_sas_of(before)
        )
        told, gone = self._told_of(record), set[int]()
        if present:
            at_rest = await self.daemon.quiet(sa.spis for sa in present)
            if not unfinished and len(at_rest) == len(present):
                # Its list has the last word: one that was replaced is told of until its CHILD_DELETE has come.
                gone = told - {child.inbound_spi for sa in at_rest for child in sa.children}
        block(self.client, children)
        try:
            self._last_of(children)
            await self._forget(record, present)
            self._delete_halves(children)  # those of a daemon that is gone itself
            return self._exact(record, before, gone, unfinished=unfinished)
        except CxtpError:
            unblock(self.client, children)
            raise

    async def _forget(self, record: SessionRecord, present: Sequence[IkeSaContext]) -> None:
        """Also what an IKE_SA was rekeyed to at the last moment."""
        done = {sa.spis for sa in present}
        while present:
            await self.daemon.forget(present)
            now = self.daemon.link.tracker.session_of(record.mn_address)
            present = [] if now is None else [sa for sa in ike_sas_of(now.contexts) if sa.spis not in done]
            done |= {sa.spis for sa in present}

    def _told_of(self, record: SessionRecord) -> set[int]:
        """The inbound SPIs of the CHILD_SAs that the daemon has told of."""
        told = self.daemon.link.tracker.session_of(record.mn_address)
        return set() if told is None else {child.inbound_spi for child in children_of(told.contexts)}

    def _exact(
        self, record: SessionRecord, before: Sequence[Context], gone: Container[int], *, unfinished: bool
    ) -> tuple[EncodedContext, ...]:
        """What the daemon and the kernel told until the end, its last Message IDs and numbers among it; without the
        CHILD_SAs with the inbound SPIs ``gone``."""
        told = self.daemon.link.tracker.session_of(record.mn_address)
        last = self._last_of(children_of(before if told is None else told.contexts))
        if unfinished:
            ours = {identifier for child in children_of(self._decoded(record)) for identifier in identifiers(child)}
            last = {identifier: sa for identifier, sa in last.items() if identifier not in ours}
        after = [
            context
            for context in self._as_told(record, last, exact=True)
            if not isinstance(context, IpsecSaContext) or context.inbound_spi not in gone
        ]
        for child in children_of(after):
            if identifiers(child)[0] not in last and self.daemon.in_kernel:
                log.warning("the last number of %s is not known: it goes on at its ceiling", identifiers(child)[0])
        self.daemon.unknow(ike_sas_of(before))
        return tuple(encode(context, self._context_types) for context in after)

    def _last_of(self, children: Iterable[IpsecSaContext]) -> Kernel:
        """What the kernel told when the SAs of these went."""
        self._deleted.update(
            (event.identifier, event.sa)
            for event in self._drain()
            if isinstance(event, SecurityAssociationDeleted) and event.sa is not None
        )
        wanted = {identifier for child in children for identifier in identifiers(child)}
        found = {identifier: self._deleted.pop(identifier) for identifier in wanted & self._deleted.keys()}
        for identifier in list(self._deleted)[:-DELETED]:  # what the daemon deleted by itself, and nobody asks for
            del self._deleted[identifier]
        return found

    # --- the rest of a sink -----------------------------------------------------------------------------------------

    async def discard(self, record: SessionRecord) -> None:
        """The session is elsewhere, and its traffic too."""
        self.to_be_rekeyed.pop(record.mn_address, None)
        unblock(self.client, children_of(self._decoded(record)))

    async def holds(self, record: SessionRecord) -> bool:
        """Whether the daemon uses the session as it is on record.

        Raises ChangedMeanwhile where it has another one with the same peer, or this one with other CHILD_SAs.
        """
        contexts = self._decoded(record)
        ike_sas, children = ike_sas_of(contexts), children_of(contexts)
        there = await self.daemon.ike_sas()
        found = [there[sa.spis] for sa in ike_sas if sa.spis in there]
        in_use = [sa for sa in found if sa.state == ESTABLISHED]
        if len(in_use) == len(ike_sas) and await self._is_there(self._pairs(record, record)):
            if is_blocked(self.client, children):  # this program died in the middle of it
                return False
            self.daemon.know(contexts)
            return True
        known = {sa.spis for sa in ike_sas}
        others = [sa for sa in there.values() if sa.remote_host.address == record.mn_address and sa.spis not in known]
        if others or in_use:
            raise ChangedMeanwhile(f"strongSwan has gone on with the session of {record.mn_address}")
        return False

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """The record's contexts as they are while they are in use: each number may be higher already."""
        if record.mn_address in self._coming:  # the kernel's numbers are not the session's yet
            return record.contexts
        told = {_key(context): context for context in self._as_told(record, self._kernel_of(record))}
        return tuple(
            item if _key(context) is None else encode(told.get(_key(context), context), self._context_types)
            for context, item in zip(self._decoded(record), record.contexts, strict=True)
        )

    # --- contexts ---------------------------------------------------------------------------------------------------

    def as_told(self, mn_address: IPAddress, held: Sequence[Context]) -> tuple[Context, ...]:
        """A session as the daemon and the kernel have it now, none where the daemon has none; ``held`` is on record."""
        exported = self.daemon.link.tracker.session_of(mn_address)
        if exported is None:
            return ()
        return self._joined(exported.contexts, self._halves(children_of(exported.contexts)), held, exact=False)

    def _as_told(self, record: SessionRecord, kernel: Kernel, *, exact: bool = False) -> tuple[Context, ...]:
        """As :meth:`as_told`; the record's own where the daemon has told nothing."""
        held = self._decoded(record)
        exported = self.daemon.link.tracker.session_of(record.mn_address)
        return self._joined(held if exported is None else exported.contexts, kernel, held, exact=exact)

    def _joined(
        self, told: Sequence[Context], kernel: Kernel, held: Sequence[Context], *, exact: bool
    ) -> tuple[Context, ...]:
        others = [context for context in held if _key(context) is None]
        if not self.daemon.in_kernel:
            return (*expressible(told), *others)
        return (*joined(told, kernel, held, self._wall_clock(), exact=exact), *others)

    def _kernel_of(self, record: SessionRecord) -> Kernel:
        exported = self.daemon.link.tracker.session_of(record.mn_address)
        return self._halves(children_of(self._decoded(record) if exported is None else exported.contexts))

    def _halves(self, children: Iterable[IpsecSaContext]) -> Kernel:
        if not self.daemon.in_kernel:
            return {}
        return self._present([identifier for child in children for identifier in identifiers(child)])

    def _delete_halves(self, children: Sequence[IpsecSaContext]) -> None:
        # Outbound first: nothing is sent once nothing is taken any more.
        outbound, inbound = zip(*map(identifiers, children), strict=True) if children else ((), ())
        self._delete_all([*outbound, *inbound])


def _changes(wanted: SecurityAssociation, there: SecurityAssociation, known_window: int) -> list[Request]:
    """What makes the daemon's SA the session's."""
    made = replace(
        there,
        replay=never_lower(wanted, there, known_window).to_replay_state(),
        usage=wanted.usage,
        lifetime=wanted.lifetime,
        other=wanted.other,
        order=(),
    )
    if keys_of(there) == keys_of(wanted):
        event = AsyncEvent(wanted.identifier, there.source, replay=made.replay, usage=wanted.usage)
        return [requests.set_async_event(event), requests.update_security_association(made)]
    # Keys that the daemon could not derive: its own are those of a random nonce, under which nothing was sent.
    made = replace(made, aead=wanted.aead, encryption=wanted.encryption, authentication=wanted.authentication)
    return [
        requests.delete_security_association(wanted.identifier), requests.add_security_association(made)
    ]


def _key(context: Context) -> object:
    """What tells an SA from others; None for contexts that a daemon does not know."""
    if isinstance(context, IkeSaContext):
        return context.spis
    return (context.inbound_spi, context.outbound_spi) if isinstance(context, IpsecSaContext) else None
