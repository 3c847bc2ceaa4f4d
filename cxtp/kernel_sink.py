"""Sessions in the kernel: what a node owns is installed here, and taken out again with its exact numbers.

The order (docs/safety.md): leaving, the outbound SAs go first, and the kernel tells with each deletion where its
counter stood, under the same lock that keeps any further packet from it; coming, inbound SAs first, then outbound
ones, then policies, so that nothing is sent before answers can be taken.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, summarize_address_range

from contexts.base import Context, decode, encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from contexts.values import (
    AntiReplayWindow,
    IpsecMode,
    TrafficSelector,
)

from .adapters.xfrm.algorithms import suite_of
from .adapters.xfrm.client import DeletedAssociations, XfrmClient, XfrmError
from .adapters.xfrm.replay import ReplayState, replay_of
from .adapters.xfrm.requests import (
    DELETE_POLICY,
    DELETE_SA,
    NEW_POLICY,
    NEW_SA,
    UPDATE_POLICY,
    UPDATE_SA,
    Limits,
    NewAssociation,
    delete_association,
    delete_policy,
    new_association,
    new_policy,
)
from .adapters.xfrm.values import (
    AH,
    ESP,
    Direction,
    IPAddress,
    Mode,
    PolicyAction,
    PolicyTemplate,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
)
from .config import ContextTypes
from .constants import SecurityProtocol
from .errors import LocalError
from .messages import EncodedContext
from .store.records import SessionRecord

log = logging.getLogger(__name__)

PRIORITY = 1000
"""Of our policies; a lower number would win over them."""

_PROTOCOLS: Mapping[int, int] = {SecurityProtocol.ESP: ESP, SecurityProtocol.AH: AH}
_MODES = {IpsecMode.TRANSPORT: Mode.TRANSPORT, IpsecMode.TUNNEL: Mode.TUNNEL, IpsecMode.BEET: Mode.BEET}


@dataclass(frozen=True)
class Pair:
    """One IPsec_SA context as the kernel has it: an SA of each direction, and its policies."""

    context: IpsecSaContext
    inbound: NewAssociation
    outbound: NewAssociation
    policies: tuple[SecurityPolicy, ...]


class XfrmSink:
    """A :class:`cxtp.sessions.Sink` over the kernel of this namespace.  ``close`` gives its sockets back."""

    def __init__(self, context_types: ContextTypes = ContextTypes()) -> None:
        """Raises XfrmError."""
        self._context_types = context_types
        self._client = XfrmClient()
        self._deleted = DeletedAssociations()

    def close(self) -> None:
        """Give the sockets back; what is in the kernel stays there."""
        self._client.close()
        self._deleted.close()

    async def install(self, record: SessionRecord, ceiling: SessionRecord) -> None:
        """All SAs and policies of the session, or none."""
        added: list[NewAssociation | SecurityPolicy] = []
        try:
            for pair in self._pairs(record, ceiling):
                self._add(pair, added)
        except XfrmError:
            for item in reversed(added):  # what was there before us stays
                if isinstance(item, NewAssociation):
                    self._delete_association(item)
                else:
                    self._delete_policy(item)
            raise

    async def remove(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """Nothing is sent any more, then nothing is taken; the contexts as they are at that moment."""
        pairs = self._pairs(record, record)
        self._deleted.forget()
        for pair in pairs:
            self._delete_association(pair.outbound)
        for pair in pairs:
            self._delete_association(pair.inbound)
        # What the kernel did not tell of stays as it was written down: at the ceiling, above all that was sent.
        last: dict[tuple[IPAddress, int], SecurityAssociation] = {}
        try:
            last.update({(sa.destination, sa.spi): sa for sa in self._deleted.take()})
        except XfrmError as error:
            log.warning("the last numbers of %s are not known: %s", record.mn_address, error)
        for pair in pairs:
            for policy in pair.policies:
                self._delete_policy(policy)
        updated = {pair.context.inbound_spi: _updated(pair, last) for pair in pairs}
        return tuple(self._encoded(item, updated) for item in record.contexts)

    async def holds(self, record: SessionRecord) -> bool:
        """Whether every SA of the session is in the kernel."""
        present = {(sa.destination, sa.spi) for sa in self._client.security_associations()}
        pairs = self._pairs(record, record)
        return bool(pairs) and all(
            (sa.destination, sa.spi) in present for pair in pairs for sa in (pair.inbound, pair.outbound)
        )

    async def raise_ceiling(self, ceiling: SessionRecord) -> None:
        """Further packets for the outbound SAs; their counters stay the kernel's own."""
        current = {(sa.destination, sa.spi): sa for sa in self._client.security_associations()}
        for pair in self._pairs(ceiling, ceiling):
            sa = current.get((pair.outbound.destination, pair.outbound.spi))
            if sa is None:
                continue
            _, packets = sa.used
            room = pair.context.sequence_numbers.outbound - replay_of(sa).outbound
            limits = replace(pair.outbound.limits, hard_packets=packets + max(room, 0))
            # An update takes limits alone; replay state and counters stay as they are (net/xfrm/xfrm_state.c).
            body = new_association(replace(pair.outbound, limits=limits, replay=replay_of(sa)))
            self._client.ask(UPDATE_SA, body, f"raising the limit of SA {sa.spi:08x}")

    def current(self, record: SessionRecord) -> tuple[EncodedContext, ...]:
        """The contexts as they are while the SAs are in use: each number may be higher already."""
        present = {(sa.destination, sa.spi): sa for sa in self._client.security_associations()}
        updated = {pair.context.inbound_spi: _updated(pair, present) for pair in self._pairs(record, record)}
        return tuple(self._encoded(item, updated) for item in record.contexts)

    # --- contexts ---------------------------------------------------------------------------------------------------

    def _pairs(self, record: SessionRecord, ceiling: SessionRecord) -> list[Pair]:
        contexts = [decode(item, self._context_types) for item in record.contexts]
        limits = {
            context.inbound_spi: context.sequence_numbers.outbound
            for context in (decode(item, self._context_types) for item in ceiling.contexts)
            if isinstance(context, IpsecSaContext)
        }
        restored = RestoredSession.restore(c for c in contexts if isinstance(c, (IkeSaContext, IpsecSaContext)))
        return [
            _pair(context, restored, limits.get(context.inbound_spi, context.sequence_numbers.outbound))
            for context in contexts
            if isinstance(context, IpsecSaContext)
        ]

    def _encoded(self, item: EncodedContext, updated: dict[int, IpsecSaContext]) -> EncodedContext:
        context: Context = decode(item, self._context_types)
        if isinstance(context, IpsecSaContext):
            return encode(updated[context.inbound_spi], self._context_types)
        return item

    # --- the kernel -------------------------------------------------------------------------------------------------

    def _add(self, pair: Pair, added: list[NewAssociation | SecurityPolicy]) -> None:
        for association in (pair.inbound, pair.outbound):
            self._client.ask(
                NEW_SA, new_association(association), f"adding SA {association.spi:08x}", create=True
            )
            added.append(association)
        for policy in pair.policies:
            try:
                self._client.ask(NEW_POLICY, new_policy(policy), f"adding policy {policy.selector}", create=True)
            except XfrmError as error:
                if error.number != errno.EEXIST:
                    raise
                self._client.ask(UPDATE_POLICY, new_policy(policy), f"changing policy {policy.selector}")
            else:
                added.append(policy)

    def _delete_association(self, association: NewAssociation) -> None:
        try:
            self._client.ask(DELETE_SA, delete_association(association), f"deleting SA {association.spi:08x}")
        except XfrmError as error:
            if error.number != errno.ESRCH:
                raise

    def _delete_policy(self, policy: SecurityPolicy) -> None:
        try:
            self._client.ask(DELETE_POLICY, delete_policy(policy), f"deleting policy {policy.selector}")
        except XfrmError as error:
            if error.number != errno.ENOENT:
                raise


def _pair(context: IpsecSaContext, restored: RestoredSession, ceiling: int) -> Pair:
    """Raises LocalError for what the kernel can't hold."""
    if context.ipcomp is not None:
        raise LocalError(f"IPsec_SA {context.inbound_spi:08x} has IPComp, which is not installed in a kernel yet")
    keys = restored.ipsec_keys(context.inbound_spi)
    numbers, unit = context.sequence_numbers, context.processing_unit
    extended = context.proposal.extended_sequence_numbers
    local, remote = context.local_host, context.remote_host
    packets = context.lifetime.packets.used
    limits = Limits(
        context.lifetime.octets.soft,
        context.lifetime.octets.hard,
        context.lifetime.packets.soft,
        context.lifetime.packets.hard,
        context.lifetime.seconds.soft,
        context.lifetime.seconds.hard,
    )
    fence = packets + max(ceiling - numbers.outbound, 0)
    outbound = NewAssociation(
        source=local.address,
        destination=remote.address,
        spi=context.outbound_spi,
        protocol=_PROTOCOLS[context.proposal.protocol],
        mode=_MODES[context.mode],
        request_id=(unit.reqid or 0) if unit is not None else 0,
        suite=suite_of(context.proposal, keys.outbound_encryption, keys.outbound_integrity),
        replay=ReplayState(outbound=numbers.outbound, extended=extended),
        limits=replace(
            limits, hard_packets=fence if limits.hard_packets is None else min(limits.hard_packets, fence)
        ),
        used=(context.lifetime.octets.used, packets),
        ports=(local.port, remote.port) if local.port else None,
        mark=(unit.mark or 0, unit.mark_mask or 0) if unit is not None else (0, 0),
        interface_id=(unit.if_id or 0) if unit is not None else 0,
    )
    inbound = replace(
        outbound,
        source=remote.address,
        destination=local.address,
        spi=context.inbound_spi,
        suite=suite_of(context.proposal, keys.inbound_encryption, keys.inbound_integrity),
        replay=ReplayState(0, numbers.inbound, context.window.size, context.window.bitmap, extended),
        limits=replace(limits, soft_packets=None, hard_packets=None),
        used=(0, 0),
        ports=(remote.port, local.port) if local.port else None,
    )
    return Pair(context, inbound, outbound, tuple(_policies(context, outbound)))


def _policies(context: IpsecSaContext, outbound: NewAssociation) -> Iterable[SecurityPolicy]:
    zeros = type(outbound.source)(0)
    transport = outbound.mode == Mode.TRANSPORT
    ours, theirs = (zeros, zeros) if transport else (outbound.source, outbound.destination)
    directions = [(Direction.OUT, ours, theirs), (Direction.IN, theirs, ours)]
    if not transport:
        directions.append((Direction.FORWARD, theirs, ours))
    for local in context.local_selectors:
        for remote in context.remote_selectors:
            for direction, source, destination in directions:
                one, other = (local, remote) if direction is Direction.OUT else (remote, local)
                template = PolicyTemplate(
                    outbound.protocol, outbound.mode, source, destination, request_id=outbound.request_id
                )
                selector = _selector(one, other)
                yield SecurityPolicy(
                    direction,
                    PolicyAction.ALLOW,
                    PRIORITY,
                    0,
                    selector,
                    (template,),
                    outbound.mark,
                    outbound.interface_id,
                )


def _selector(source: TrafficSelector, destination: TrafficSelector) -> Selector:
    if source.protocol != destination.protocol:
        raise LocalError("traffic selectors of two protocols in one pair")
    found = []
    for selector in (source, destination):
        networks = _networks(selector.start_address, selector.end_address)
        if len(networks) != 1:
            raise LocalError(f"the kernel has no policy for the range {selector.start_address}-{selector.end_address}")
        ports = (selector.start_port, selector.end_port)
        if ports not in ((0, 65535), (ports[0], ports[0])):
            raise LocalError(f"the kernel has no policy for the ports {ports[0]} to {ports[1]}")
        every = ports == (0, 65535)
        found.append((networks[0], 0 if every else ports[0], 0 if every else 0xFFFF))
    (one, port, mask), (other, other_port, other_mask) = found
    return Selector(
        one.network_address, one.prefixlen, other.network_address, other.prefixlen, source.protocol,
        port, mask, other_port, other_mask,
    )  # fmt: skip


def _networks(first: IPAddress, last: IPAddress) -> list[IPv4Network | IPv6Network]:
    """The fewest networks that are the range.  Raises LocalError where it is none."""
    try:
        found: list[IPv4Network | IPv6Network] = []
        found.extend(summarize_address_range(first, last))
    except (TypeError, ValueError) as error:
        raise LocalError(f"{first}-{last} is no range of addresses") from error
    return found


def _updated(pair: Pair, last: Mapping[tuple[IPAddress, int], SecurityAssociation]) -> IpsecSaContext:
    """The context with what the kernel said when it deleted its SAs; as it was where it did not have them."""
    context = pair.context
    out = last.get((pair.outbound.destination, pair.outbound.spi))
    back = last.get((pair.inbound.destination, pair.inbound.spi))
    numbers, window, lifetime = context.sequence_numbers, context.window, context.lifetime
    if out is not None:
        numbers = replace(numbers, outbound=replay_of(out).outbound)
        octets, packets = out.used
        lifetime = replace(
            lifetime,
            octets=replace(lifetime.octets, used=octets),
            packets=replace(lifetime.packets, used=packets),
        )
    if back is not None:
        replay = replay_of(back)
        numbers = replace(numbers, inbound=replay.inbound)
        window = AntiReplayWindow(window.size, replay.bitmap)
    return replace(context, sequence_numbers=numbers, window=window, lifetime=lifetime)

