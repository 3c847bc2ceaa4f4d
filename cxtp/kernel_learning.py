"""The kernel's SAs and policies as contexts: which of them belong to one peer's session.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from types import MappingProxyType

from contexts.ipsec import IpsecSaContext
from contexts.values import (
    AntiReplayWindow,
    CounterKnowledge,
    HostAddress,
    IpComp,
    IpsecKeys,
    IpsecLifetime,
    LifetimeLimits,
    ProcessingUnit,
    SequenceNumbers,
    TrafficSelector,
)

from .adapters.xfrm.algorithms import compression_of, proposal_of
from .adapters.xfrm.constants import AH, ESP, INFINITE, IPCOMP
from .adapters.xfrm.replay import numbers_of
from .adapters.xfrm.values import (
    Direction,
    IPAddress,
    Mode,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    Selector,
)
from .errors import LocalError
from .kernel_contexts import MODES, UDP_ENCAPSULATION

_CONTEXT_MODES = {kernel: context for context, kernel in MODES.items()}


@dataclass(frozen=True)
class LearnedSession:
    """What one peer has in the kernel; it is known by its outer address."""

    mn_address: IPAddress
    contexts: tuple[IpsecSaContext, ...]


@dataclass(frozen=True)
class NotLearned:
    """An outbound SA that no context can be made of, and why."""

    identifier: SecurityAssociationId
    reason: str


KnownPairs = Mapping[IPAddress, Mapping[int, int]]
"""Of SAs that were learned before, by their peer: the inbound SPI that belongs to an outbound one."""


def learn(
    associations: Sequence[SecurityAssociation],
    policies: Iterable[SecurityPolicy],
    now: float,
    known: KnownPairs = MappingProxyType({}),
) -> tuple[list[LearnedSession], list[NotLearned]]:
    """The sessions that the kernel's SAs and policies are; ``now`` in Unix seconds.

    An SA is outbound where a policy out leads to it; its other half has the addresses reversed and the same request
    ID, mode and interface.  Of several halves, while they are being rekeyed, those belong together that are ``known``
    to, or were made at the same time: the kernel tells it in seconds, and lists what was made last first
    (net/xfrm/xfrm_state.c, __xfrm_state_insert).
    """
    whole = [sa for sa in reversed(associations) if not sa.is_larval]
    between: dict[tuple[IPAddress, IPAddress], list[SecurityAssociation]] = {}
    for sa in whole:
        between.setdefault((sa.source, sa.destination), []).append(sa)
    outward: dict[int, list[SecurityPolicy]] = {}
    for policy in policies:
        if policy.direction == Direction.OUT and policy.templates:
            for request_id in {template.request_id for template in policy.templates}:
                outward.setdefault(request_id, []).append(policy)
    contexts: dict[IPAddress, list[IpsecSaContext]] = {}
    failed = []
    for sa in sorted(whole, key=lambda sa: (sa.usage.add_time, sa.spi)):
        led = dict.fromkeys((sa.request_id, 0))  # a template with 0 leads to any
        leading = [policy for number in led for policy in outward.get(number, ()) if _leads_to(policy, sa)]
        if sa.protocol not in (ESP, AH) or not leading:
            continue
        try:
            ends = sa.source, sa.destination
            context = _context(sa, leading, [*between[ends], *between.get(ends[::-1], ())], now, known)
        except LocalError as error:
            failed.append(NotLearned(sa.identifier, str(error)))
        else:
            contexts.setdefault(sa.destination, []).append(context)
    return [LearnedSession(address, tuple(found)) for address, found in contexts.items()], failed


def _leads_to(policy: SecurityPolicy, sa: SecurityAssociation) -> bool:
    mode = _policy_mode(policy)
    wanted = next((template for template in policy.templates if template.protocol == sa.protocol), None)
    if wanted is None or wanted.mode != sa.mode or (policy.interface_id or 0) != (sa.interface_id or 0):
        return False
    if wanted.request_id not in (0, sa.request_id) or wanted.spi not in (0, sa.spi):
        return False
    outer = policy.templates[0]
    if mode == Mode.TRANSPORT:
        return _is_within(sa.source, policy.selector.source, policy.selector.source_prefix) and _is_within(
            sa.destination, policy.selector.destination, policy.selector.destination_prefix
        )
    return (outer.source, outer.destination) == (sa.source, sa.destination)


def _is_within(address: IPAddress, network: IPAddress, prefix: int) -> bool:
    return address.version == network.version and address in ip_network((network, prefix), strict=False)


def _policy_mode(policy: SecurityPolicy) -> int:
    """The first template's: with IPComp it has the mode of the whole."""
    return policy.templates[0].mode


def _context(
    outbound: SecurityAssociation,
    policies: Sequence[SecurityPolicy],
    associations: Sequence[SecurityAssociation],
    now: float,
    known: KnownPairs,
) -> IpsecSaContext:
    inbound = _other_half(outbound, associations, known.get(outbound.destination, {}))
    mode = _policy_mode(policies[0])
    if mode not in _CONTEXT_MODES:
        raise LocalError(f"its mode {mode} is none of IKEv2's")
    sending, receiving = numbers_of(outbound), numbers_of(inbound)
    proposal = proposal_of(outbound)
    if proposal_of(inbound) != proposal:
        raise LocalError("its two directions have different algorithms")
    local_selectors, remote_selectors = _selectors(policies)
    mark = outbound.mark
    return IpsecSaContext(
        ike_spis=None,
        local_host=HostAddress(outbound.source, _ports(outbound)[0]),
        remote_host=HostAddress(outbound.destination, _ports(outbound)[1]),
        inbound_spi=inbound.spi,
        outbound_spi=outbound.spi,
        ipcomp=_ipcomp(outbound, inbound, policies[0], associations),
        sequence_numbers=SequenceNumbers(
            sending.outbound, receiving.inbound, knowledge=CounterKnowledge.AT_LEAST
        ),
        window=AntiReplayWindow(receiving.window, receiving.bitmap),
        mode=_CONTEXT_MODES[Mode(mode)],
        lifetime=context_lifetime(outbound, now),
        upper_layer_protocol=policies[0].selector.protocol,
        local_selectors=local_selectors,
        remote_selectors=remote_selectors,
        proposal=proposal,
        keying=IpsecKeys(*keys_of(inbound), *keys_of(outbound)),
        processing_unit=ProcessingUnit(
            reqid=outbound.request_id,
            mark=None if mark is None else mark.value,
            mark_mask=None if mark is None else mark.mask,
            if_id=outbound.interface_id,
        ),
    )


def _other_half(
    outbound: SecurityAssociation, associations: Sequence[SecurityAssociation], known: Mapping[int, int]
) -> SecurityAssociation:
    def alike(sa: SecurityAssociation) -> tuple[object, ...]:
        return sa.protocol, sa.mode, sa.request_id, sa.interface_id or 0

    def halves(source: IPAddress, destination: IPAddress) -> list[SecurityAssociation]:
        found = (sa for sa in associations if (sa.source, sa.destination) == (source, destination))
        return sorted((sa for sa in found if alike(sa) == alike(outbound)), key=lambda sa: sa.usage.add_time)

    there = halves(outbound.source, outbound.destination)
    back = halves(outbound.destination, outbound.source)
    by_spi = {sa.spi: sa for sa in back}
    pairs = {sent: by_spi[taken] for sent, taken in known.items() if taken in by_spi}
    if outbound.spi in pairs:
        return pairs[outbound.spi]
    there = [sa for sa in there if sa.spi not in pairs]
    back = [sa for sa in back if sa not in pairs.values()]
    # The newest are the ones in use; an older inbound one stays a while longer than its outbound half.
    index = len(there) - there.index(outbound)
    if index > len(back):
        raise LocalError("it has no inbound SA of the same request ID, mode and interface")
    return back[-index]


def _selectors(policies: Sequence[SecurityPolicy]) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    locals_ = {_traffic_selector(policy.selector, source=True): None for policy in policies}
    remotes = {_traffic_selector(policy.selector, source=False): None for policy in policies}
    ends = {
        (_traffic_selector(p.selector, source=True), _traffic_selector(p.selector, source=False)) for p in policies
    }
    if len(ends) != len(locals_) * len(remotes):
        raise LocalError("its policies are not each local selector with each remote one (RFC 7296, 2.9)")
    return tuple(locals_), tuple(remotes)


def _traffic_selector(selector: Selector, *, source: bool) -> TrafficSelector:
    address, prefix, port, mask = (
        (selector.source, selector.source_prefix, selector.source_port, selector.source_port_mask)
        if source
        else (
            selector.destination, selector.destination_prefix, selector.destination_port,
            selector.destination_port_mask,
        )
    )  # fmt: skip
    network = ip_network((address, prefix), strict=False)
    if mask not in (0, 0xFFFF):
        raise LocalError(f"its policy has the port mask {mask:#06x}, which is no range")
    ports = (port, port) if mask else (0, 65535)
    return TrafficSelector(network[0], network[-1], *ports, protocol=selector.protocol)


def _ports(sa: SecurityAssociation) -> tuple[int, int]:
    if sa.encapsulation is None:
        return 0, 0
    if sa.encapsulation.type != UDP_ENCAPSULATION:
        raise LocalError(f"its encapsulation is of type {sa.encapsulation.type}, which is not RFC 3948's")
    return sa.encapsulation.source_port, sa.encapsulation.destination_port


def _ipcomp(
    outbound: SecurityAssociation,
    inbound: SecurityAssociation,
    policy: SecurityPolicy,
    associations: Sequence[SecurityAssociation],
) -> IpComp | None:
    if policy.templates[0].protocol != IPCOMP:
        return None

    def beside(sa: SecurityAssociation) -> SecurityAssociation:
        found = [
            other
            for other in associations
            if other.protocol == IPCOMP
            and (other.source, other.destination, other.request_id) == (sa.source, sa.destination, sa.request_id)
        ]
        if not found:
            raise LocalError("its policy asks for IPComp, of which there is no SA")
        return max(found, key=lambda other: other.usage.add_time)

    out, back = beside(outbound), beside(inbound)
    return IpComp(back.spi, out.spi, compression_of(out.compression.name if out.compression else ""))


def context_lifetime(sa: SecurityAssociation, now: float) -> IpsecLifetime:
    """Limits and what was used of them; ``now`` in Unix seconds."""

    def limit(number: int) -> int | None:
        return None if number == INFINITE else number

    limits, usage = sa.lifetime, sa.usage
    return IpsecLifetime(
        LifetimeLimits(
            limits.soft_add_seconds or None, limits.hard_add_seconds or None, max(int(now) - usage.add_time, 0)
        ),
        LifetimeLimits(limit(limits.soft_octets), limit(limits.hard_octets), usage.octets),
        LifetimeLimits(limit(limits.soft_packets), limit(limits.hard_packets), usage.packets),
    )


def keys_of(sa: SecurityAssociation) -> tuple[bytes, bytes]:
    """For encryption and integrity; an AEAD's is the first."""
    if sa.aead is not None:
        return sa.aead.key, b""
    return sa.encryption.key if sa.encryption else b"", sa.authentication.key if sa.authentication else b""
