"""IPsec_SA contexts as the kernel has them: SAs and policies; :mod:`.kernel_learning` is the other direction.

One context is one CHILD_SA: an SA each way, with IPComp (RFC 3173) two, and the policies that lead to them.  Where
IPComp is on, it carries the mode, and ESP inside is in transport mode, as IKE daemons on Linux have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, summarize_address_range

from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.session import RestoredSession
from contexts.values import (
    AntiReplayWindow,
    CounterKnowledge,
    HostAddress,
    IpComp,
    IpsecLifetime,
    IpsecMode,
    ProcessingUnit,
    TrafficSelector,
)

from .adapters.xfrm.algorithms import COMPRESSION, suite_of
from .adapters.xfrm.constants import AH, ESP, INFINITE, IPCOMP, SaFlag
from .adapters.xfrm.replay import Numbers, numbers_of
from .adapters.xfrm.values import (
    Algorithm,
    Direction,
    Encapsulation,
    IPAddress,
    Lifetime,
    Mark,
    Mode,
    PolicyAction,
    PolicyTemplate,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    Selector,
    Usage,
)
from .constants import IpCompTransform, SecurityProtocol
from .errors import LocalError, UnsupportedAlgorithm

PRIORITY = 1000
"""Of our policies; a lower number would win over them."""

UDP_ENCAPSULATION = 2  # UDP_ENCAP_ESPINUDP (RFC 3948)

PROTOCOLS: Mapping[int, int] = {SecurityProtocol.ESP: ESP, SecurityProtocol.AH: AH}
MODES = {IpsecMode.TRANSPORT: Mode.TRANSPORT, IpsecMode.TUNNEL: Mode.TUNNEL, IpsecMode.BEET: Mode.BEET}


@dataclass(frozen=True)
class Pair:
    """One IPsec_SA context in the kernel.  ``inbound`` and ``outbound`` are ESP or AH; ``compression`` are IPComp's
    SAs, inbound and outbound, or none."""

    context: IpsecSaContext
    inbound: SecurityAssociation
    outbound: SecurityAssociation
    compression: tuple[SecurityAssociation, ...]
    policies: tuple[SecurityPolicy, ...]


def pairs_of(
    contexts: Iterable[IkeSaContext | IpsecSaContext], ceilings: Mapping[int, int], now: float
) -> list[Pair]:
    """``ceilings``: by inbound SPI, the sequence number that an outbound SA may not pass; ``now`` in Unix seconds.

    Raises LocalError or RemoteError for what the kernel can't hold.
    """
    contexts = tuple(contexts)
    restored = RestoredSession.restore(contexts)
    return [
        _pair(context, restored, ceilings.get(context.inbound_spi, context.sequence_numbers.outbound), now)
        for context in contexts
        if isinstance(context, IpsecSaContext)
    ]


def _pair(context: IpsecSaContext, restored: RestoredSession, ceiling: int, now: float) -> Pair:
    keys = restored.ipsec_keys(context.inbound_spi)
    numbers, unit = context.sequence_numbers, context.processing_unit or ProcessingUnit()
    extended = context.proposal.extended_sequence_numbers
    local, remote = context.local_host, context.remote_host
    mode = MODES[context.mode]
    lifetime, used = _lifetime(context.lifetime), context.lifetime.packets.used
    fence = min(used + max(ceiling - numbers.outbound, 0), lifetime.hard_packets)
    sending = Numbers(outbound=numbers.outbound, extended=extended)
    receiving = Numbers(0, numbers.inbound, context.window.size, context.window.bitmap, extended)
    outer_mode = Mode.TRANSPORT if context.ipcomp is not None else mode
    flags = SaFlag.ESN if extended else SaFlag(0)
    made = max(int(now) - context.lifetime.seconds.used, 1)
    suite = suite_of(context.proposal, keys.outbound_encryption, keys.outbound_integrity)
    outbound = SecurityAssociation(
        source=local.address,
        destination=remote.address,
        spi=context.outbound_spi,
        protocol=PROTOCOLS[context.proposal.protocol],
        mode=outer_mode,
        request_id=unit.reqid or 0,
        flags=flags | (SaFlag.ANY_FAMILY if outer_mode is not Mode.TRANSPORT else 0),
        window_field=sending.window_field,
        encryption=suite.encryption,
        authentication=suite.authentication,
        aead=suite.aead,
        encapsulation=_encapsulation(local, remote),
        replay=sending.to_replay_state(),
        lifetime=replace(lifetime, hard_packets=fence),
        usage=Usage(context.lifetime.octets.used, used, made),
        mark=_mark(context),
        interface_id=unit.if_id or None,
    )
    suite = suite_of(context.proposal, keys.inbound_encryption, keys.inbound_integrity)
    inbound = replace(
        outbound,
        source=remote.address,
        destination=local.address,
        spi=context.inbound_spi,
        window_field=receiving.window_field,
        encryption=suite.encryption,
        authentication=suite.authentication,
        aead=suite.aead,
        encapsulation=_encapsulation(remote, local),
        replay=receiving.to_replay_state(),
        lifetime=replace(lifetime, soft_octets=INFINITE, hard_octets=INFINITE, soft_packets=INFINITE,
                         hard_packets=INFINITE),
        usage=Usage(add_time=made),
    )  # fmt: skip
    compression = _compression(context.ipcomp, inbound, outbound, mode)
    return Pair(context, inbound, outbound, compression, tuple(_policies(context, outbound, mode)))


def _encapsulation(source: HostAddress, destination: HostAddress) -> Encapsulation | None:
    if not source.port:
        return None
    return Encapsulation(UDP_ENCAPSULATION, source.port, destination.port)


def _compression(
    ipcomp: IpComp | None, inbound: SecurityAssociation, outbound: SecurityAssociation, mode: Mode
) -> tuple[SecurityAssociation, ...]:
    """IPComp's SAs have no key and count nothing: only where they are and how they compress."""
    if ipcomp is None:
        return ()
    if ipcomp.algorithm not in COMPRESSION:
        raise UnsupportedAlgorithm("IPComp transform", ipcomp.algorithm, "Linux has no name for it")
    algorithm = Algorithm(COMPRESSION[IpCompTransform(ipcomp.algorithm)])
    return tuple(
        SecurityAssociation(
            source=sa.source,
            destination=sa.destination,
            spi=cpi,
            protocol=IPCOMP,
            mode=mode,
            request_id=sa.request_id,
            flags=SaFlag.ANY_FAMILY if mode is not Mode.TRANSPORT else SaFlag(0),
            compression=algorithm,
            mark=sa.mark,
            interface_id=sa.interface_id,
        )
        for sa, cpi in ((inbound, ipcomp.inbound_cpi), (outbound, ipcomp.outbound_cpi))
    )


def _lifetime(lifetime: IpsecLifetime) -> Lifetime:
    def limit(number: int | None) -> int:
        return INFINITE if number is None else number

    return Lifetime(
        limit(lifetime.octets.soft),
        limit(lifetime.octets.hard),
        limit(lifetime.packets.soft),
        limit(lifetime.packets.hard),
        lifetime.seconds.soft or 0,
        lifetime.seconds.hard or 0,
    )


# --- policies ---------------------------------------------------------------------------------------------------------


def _policies(context: IpsecSaContext, outbound: SecurityAssociation, mode: Mode) -> Iterable[SecurityPolicy]:
    directions = [Direction.OUT, Direction.IN]
    if mode is not Mode.TRANSPORT:
        directions.append(Direction.FORWARD)
    for local in context.local_selectors:
        for remote in context.remote_selectors:
            for direction in directions:
                one, other = (local, remote) if direction is Direction.OUT else (remote, local)
                yield SecurityPolicy(
                    direction,
                    PolicyAction.ALLOW,
                    PRIORITY,
                    0,
                    _selector(one, other),
                    _templates(context, outbound, mode, direction),
                    outbound.mark,
                    outbound.interface_id,
                )


def selectors_of(context: IpsecSaContext) -> Iterable[tuple[Direction, Selector]]:
    """All that a context's traffic selectors cover, each way.  Raises LocalError for what no policy can say."""
    for local in context.local_selectors:
        for remote in context.remote_selectors:
            yield Direction.OUT, _selector(local, remote)
            yield Direction.IN, _selector(remote, local)
            yield Direction.FORWARD, _selector(remote, local)


def _templates(
    context: IpsecSaContext, outbound: SecurityAssociation, mode: Mode, direction: Direction
) -> tuple[PolicyTemplate, ...]:
    ends = (outbound.source, outbound.destination)
    source, destination = ends if direction is Direction.OUT else ends[::-1]
    zeros = type(source)(0)
    packets_own = PolicyTemplate(
        outbound.protocol, Mode.TRANSPORT, zeros, zeros, request_id=outbound.request_id
    )
    outer = replace(packets_own, mode=mode)
    if mode is not Mode.TRANSPORT:
        outer = replace(outer, source=source, destination=destination)
    if context.ipcomp is None:
        return (outer,)
    # What comes uncompressed, since it would not have got smaller, is as good (RFC 3173, 2.2).
    return replace(outer, protocol=IPCOMP, optional=direction is not Direction.OUT), packets_own


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


def inbound_id(context: IpsecSaContext) -> SecurityAssociationId:
    """What the kernel finds its inbound SA by."""
    return _identifier(context, context.local_host.address, context.inbound_spi)


def outbound_id(context: IpsecSaContext) -> SecurityAssociationId:
    """What the kernel finds its outbound SA by."""
    return _identifier(context, context.remote_host.address, context.outbound_spi)


def _identifier(context: IpsecSaContext, destination: IPAddress, spi: int) -> SecurityAssociationId:
    return SecurityAssociationId(destination, spi, PROTOCOLS[context.proposal.protocol], _mark(context))


def _mark(context: IpsecSaContext) -> Mark | None:
    unit = context.processing_unit or ProcessingUnit()
    return Mark(unit.mark or 0, unit.mark_mask or 0) if unit.mark or unit.mark_mask else None


def updated(
    context: IpsecSaContext,
    last: Mapping[SecurityAssociationId, SecurityAssociation],
    now: float,
    *,
    exact: bool,
) -> IpsecSaContext:
    """The context with the counters of its SAs in ``last``; as it was where they are not there."""
    out, back = last.get(outbound_id(context)), last.get(inbound_id(context))
    numbers, window, lifetime = context.sequence_numbers, context.window, context.lifetime
    if out is not None:
        knowledge = CounterKnowledge.EXACT if exact else CounterKnowledge.AT_LEAST
        numbers = replace(numbers, outbound=numbers_of(out).outbound, knowledge=knowledge)
        lifetime = IpsecLifetime(
            replace(lifetime.seconds, used=max(int(now) - out.usage.add_time, 0)),
            replace(lifetime.octets, used=out.usage.octets),
            replace(lifetime.packets, used=out.usage.packets),
        )
    if back is not None:
        receiving = numbers_of(back)
        numbers = replace(numbers, inbound=receiving.inbound)
        window = AntiReplayWindow(window.size, receiving.bitmap)
    return replace(context, sequence_numbers=numbers, window=window, lifetime=lifetime)
