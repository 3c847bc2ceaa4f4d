"""Sessions in the kernel: what a node owns is installed here, and taken out again with its exact numbers.

The order (docs/safety.md), so that a packet of the session is sent under exact numbers or not at all, and never in
the clear.  Leaving: policies out are made to block, outbound SAs go - the kernel tells with each deletion where its
counter stood, under the same lock that keeps any further packet from it -, then inbound ones; the blocking policies
go once the traffic does.  Coming: policies out that block, inbound SAs, outbound SAs; then the policies open.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contexts.base import Context, decode, encode
from contexts.fence import is_spent
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext

from .adapters.xfrm import requests
from .adapters.xfrm.client import XfrmClient
from .adapters.xfrm.constants import AttributeType, Group
from .adapters.xfrm.events import EventsLost, SecurityAssociationDeleted, XfrmEvents
from .adapters.xfrm.layouts import U32
from .adapters.xfrm.netlink import Namespace, XfrmError
from .adapters.xfrm.replay import numbers_of
from .adapters.xfrm.requests import Request
from .adapters.xfrm.values import (
    AsyncEvent,
    Direction,
    PolicyAction,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
)
from .config import ContextTypes
from .kernel_contexts import Pair, inbound_id, outbound_id, pairs_of, updated
from .messages import EncodedContext
from .store.records import SessionRecord

log = logging.getLogger(__name__)

_EVENT_OCTETS = 1 << 20
"""Room for notices of deletions: some thousands."""


class XfrmSink:
    """A :class:`cxtp.sessions.Sink` over the kernel of one network namespace.  ``close`` gives its sockets back.

    ``report_after``: packets of an SA after which the kernel tells its numbers (group AEVENTS); 0: its own default.
    """

    def __init__(
        self,
        context_types: ContextTypes = ContextTypes(),
        namespace: Namespace = None,
        *,
        wall_clock: Callable[[], float] = time.time,
        report_after: int = 0,
    ) -> None:
        """Raises XfrmError."""
        self._context_types = context_types
        self._wall_clock = wall_clock
        self._report_after = report_after
        self.client = XfrmClient(namespace)
        self._events = XfrmEvents((Group.SA,), namespace, receive_buffer=_EVENT_OCTETS)

    def close(self) -> None:
        """Give the sockets back; what is in the kernel stays there."""
        self.client.close()
        self._events.close()

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        """All SAs and policies of the session, or none.  Raises XfrmError."""
        pairs = self._pairs(record, ceiling)
        undo: list[Request] = []
        try:
            policies = self._close_policies(pairs, undo)
            for associations in (
                [sa for pair in pairs for sa in (*pair.compression[:1], pair.inbound)],
                [
                    sa
                    for pair in pairs
                    if not is_spent(pair.context)
                    for sa in (*pair.compression[1:], self._reporting(pair.outbound))
                ],
            ):
                self._add(associations, undo)
            self._do_all([requests.update_policy(policy) for policy in policies])
        except XfrmError:
            for request in reversed(undo):  # what was there before us stays
                self._try(request)
            raise

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """Nothing is sent any more, then nothing is taken; the contexts as they are at that moment."""
        pairs = self._pairs(record, record)
        self._close_policies(pairs, [])
        self._drain()
        for associations in ([pair.outbound for pair in pairs], [pair.inbound for pair in pairs]):
            self._delete(associations)
        # What the kernel did not tell of stays as it was written down: at the ceiling, above all that was sent.
        last = {
            event.identifier: event.sa
            for event in self._drain()
            if isinstance(event, SecurityAssociationDeleted) and event.sa is not None
        }
        self._delete([sa for pair in pairs for sa in pair.compression])
        for pair in pairs:
            if pair.outbound.identifier not in last and not is_spent(pair.context):
                log.warning("the last number of %s is not known: it goes on at its ceiling", pair.outbound.identifier)
        return self._encoded(record, last, exact=True)

    async def discard(self, record: SessionRecord) -> None:
        """The session is elsewhere, and its traffic too: the policies that block it go."""
        todo = [
            requests.delete_policy(policy.identifier)
            for policy, there in self._policies(self._pairs(record, record))
            if there is not None and (_is_closed(there) or there.templates == policy.templates)
        ]
        for error in self.client.execute(todo):
            if error is not None and error.number != errno.ENOENT:
                log.error("%s", error)

    async def holds(self, record: SessionRecord) -> bool:
        """Whether every SA of the session is in the kernel, and no policy blocks it: this program may have died while
        it closed or opened them."""
        pairs = self._pairs(record, record)
        wanted = [pair.inbound.identifier for pair in pairs]
        wanted += [pair.outbound.identifier for pair in pairs if not is_spent(pair.context)]
        if not wanted or len(self._present(wanted)) != len(wanted):
            return False
        return all(there is not None and not _is_closed(there) for _, there in self._policies(pairs))

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        """Further packets for the outbound SAs; their counters stay the kernel's own."""
        contexts = self._associations(ceiling)
        present = self._present([outbound_id(context) for context in contexts])
        todo, reports = [], []
        for context in contexts:
            sa = present.get(outbound_id(context))
            if sa is None:
                continue
            room = context.sequence_numbers.outbound - numbers_of(sa).outbound
            hard = sa.usage.packets + max(room, 0)
            limit = context.lifetime.packets.hard
            lifetime = replace(sa.lifetime, hard_packets=hard if limit is None else min(hard, limit))
            # An update takes limits alone; replay state and counters stay as they are (net/xfrm/xfrm_state.c).
            todo.append(requests.update_security_association(replace(sa, lifetime=lifetime)))
            reports += self._reports(context, sa)
        self._do_all(todo)
        self.client.execute(reports)  # where one fails, the kernel tells more often than it need

    def _reports(self, context: IpsecSaContext, outbound: SecurityAssociation) -> list[Request]:
        """Also SAs that somebody else made are to be told of: by themselves the kernel tells of every second packet."""
        if not self._report_after:
            return []
        halves = ((outbound_id(context), outbound.source), (inbound_id(context), outbound.destination))
        return [
            requests.set_async_event(AsyncEvent(identifier, source, replay_threshold=self._report_after))
            for identifier, source in halves
        ]

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """The contexts as they are while the SAs are in use: each number may be higher already."""
        wanted = [find(context) for context in self._associations(record) for find in (inbound_id, outbound_id)]
        return self._encoded(record, self._present(wanted), exact=False)

    # --- contexts ---------------------------------------------------------------------------------------------------

    def _decoded(self, record: SessionRecord) -> list[Context]:
        return [decode(item, self._context_types) for item in record.contexts]

    def _pairs(self, record: SessionRecord, ceiling: SessionRecord) -> list[Pair]:
        contexts = self._decoded(record)
        limits = contexts if ceiling is record else self._decoded(ceiling)
        return pairs_of(
            (context for context in contexts if isinstance(context, (IkeSaContext, IpsecSaContext))),
            {c.inbound_spi: c.sequence_numbers.outbound for c in limits if isinstance(c, IpsecSaContext)},
            self._wall_clock(),
        )

    def _encoded(
        self,
        record: SessionRecord,
        last: Mapping[SecurityAssociationId, SecurityAssociation],
        *,
        exact: bool,
    ) -> tuple[EncodedContext, ...]:
        now = self._wall_clock()

        def encoded(item: EncodedContext) -> EncodedContext:
            context: Context = decode(item, self._context_types)
            if isinstance(context, IpsecSaContext):
                return encode(updated(context, last, now, exact=exact), self._context_types)
            return item

        return tuple(map(encoded, record.contexts))

    def _associations(self, record: SessionRecord) -> list[IpsecSaContext]:
        contexts = (decode(item, self._context_types) for item in record.contexts)
        return [context for context in contexts if isinstance(context, IpsecSaContext)]

    def _reporting(self, sa: SecurityAssociation) -> SecurityAssociation:
        """The same, with the number of packets after which the kernel tells its numbers."""
        if not self._report_after:
            return sa
        return replace(sa, other=((int(AttributeType.REPLAY_THRESHOLD), bytes(U32.build(self._report_after))),))

    # --- the kernel -------------------------------------------------------------------------------------------------

    def _add(self, associations: Sequence[SecurityAssociation], undo: list[Request]) -> None:
        results = self.client.execute([requests.add_security_association(sa) for sa in associations])
        for sa, error in zip(associations, results, strict=True):
            if error is None:
                undo.append(requests.delete_security_association(sa.identifier))
        for error in results:
            if error is not None:
                raise error

    def _delete(self, associations: Sequence[SecurityAssociation]) -> None:
        self._delete_all([sa.identifier for sa in associations])

    def _delete_all(self, identifiers: Sequence[SecurityAssociationId]) -> None:
        for error in self.client.execute([requests.delete_security_association(item) for item in identifiers]):
            if error is not None and error.number != errno.ESRCH:
                raise error

    def _do_all(self, todo: Sequence[Request]) -> None:
        """All at once.  Raises the first error."""
        for error in self.client.execute(todo):
            if error is not None:
                raise error

    def _policies(self, pairs: Sequence[Pair]) -> list[tuple[SecurityPolicy, SecurityPolicy | None]]:
        """Each policy of the pairs once (SAs of one rekeying have the same), and what the kernel has in its place."""
        wanted = list(dict.fromkeys(policy for pair in pairs for policy in pair.policies))
        there = self.client.policies_of([policy.identifier for policy in wanted])
        return list(zip(wanted, there, strict=True))

    def _close_policies(self, pairs: Sequence[Pair], undo: list[Request]) -> list[SecurityPolicy]:
        """Nothing passes out by them from now on.  Gives them as they are to be opened later: with the priorities of
        those that were there."""
        opened, closing = [], []
        for policy, there in self._policies(pairs):
            if there is not None:
                policy = replace(policy, priority=there.priority)
                undo.append(requests.update_policy(there))
            else:
                undo.append(requests.delete_policy(policy.identifier))
            if policy.direction == Direction.OUT:
                closed = replace(policy, action=PolicyAction.BLOCK, templates=())
                closing.append(requests.update_policy(closed))
            opened.append(policy)
        self._do_all(closing)
        return opened

    def _present(
        self, wanted: Sequence[SecurityAssociationId]
    ) -> dict[SecurityAssociationId, SecurityAssociation]:
        there = self.client.security_associations_of(wanted)
        return {identifier: sa for identifier, sa in zip(wanted, there, strict=True) if sa is not None}

    def _try(self, request: Request) -> None:
        try:
            self.client.do(request)
        except XfrmError as error:
            if error.number not in (errno.ENOENT, errno.ESRCH):
                log.error("%s", error)

    def _drain(self) -> list[object]:
        """All that the kernel told since the last time."""
        events: list[object] = []
        while told := self._events.read():
            events += told
        if any(isinstance(event, EventsLost) for event in events):
            log.warning("the kernel had more to tell than could be taken")
        return events


def _is_closed(policy: SecurityPolicy) -> bool:
    return policy.action == PolicyAction.BLOCK and not policy.templates
