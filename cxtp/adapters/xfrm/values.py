"""SAs and policies as the kernel has them (linux/xfrm.h; RFC 4301, 4.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Union

from .constants import AF_INET, AF_INET6, ESP, INFINITE, SaFlag

IPAddress = Union[IPv4Address, IPv6Address]

OtherAttributes = tuple[tuple[int, bytes], ...]
"""Attributes that have no name here: (number, octets), in the order in which they came."""


class Direction(IntEnum):
    """dir of a policy; the last two are policies that a process set on its socket."""

    IN = 0
    OUT = 1
    FORWARD = 2
    SOCKET_IN = 3
    SOCKET_OUT = 4


class PolicyAction(IntEnum):
    """action of a policy."""

    ALLOW = 0
    BLOCK = 1


class Mode(IntEnum):
    """mode of an SA or template."""

    TRANSPORT = 0
    TUNNEL = 1
    ROUTE_OPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4


@dataclass(frozen=True)
class Flow:
    """A packet's selectors; for ICMP the ports are its type and code."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True)
class Selector:
    """Which packets: ``prefix`` lengths in bits, ports with their masks (0: any), ``protocol`` 0 for any.

    ``interface`` is an interface's index, 0 for any.  ``any_family``, which SAs may have, has zeros as addresses.
    """

    source: IPAddress
    source_prefix: int
    destination: IPAddress
    destination_prefix: int
    protocol: int = 0
    source_port: int = 0
    source_port_mask: int = 0
    destination_port: int = 0
    destination_port_mask: int = 0
    interface: int = 0
    user: int = 0
    any_family: bool = False

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6, 0 for both."""
        return 0 if self.any_family else family_of(self.source)

    def covers(self, flow: Flow) -> bool:
        """Whether a packet of this flow, on no certain interface, is one of them."""
        return self.interface == 0 and self.may_cover(flow)

    def may_cover(self, flow: Flow) -> bool:
        """Whether it is one of them on some interface."""
        return (
            (
                self.any_family
                or (
                    _within(flow.source, self.source, self.source_prefix)
                    and _within(flow.destination, self.destination, self.destination_prefix)
                )
            )
            and self.protocol in (0, flow.protocol)
            and not (self.source_port ^ flow.source_port) & self.source_port_mask
            and not (self.destination_port ^ flow.destination_port) & self.destination_port_mask
        )

    def __str__(self) -> str:
        protocol = f" protocol {self.protocol}" if self.protocol else ""
        interface = f" interface {self.interface}" if self.interface else ""
        ends = f"{self.source}/{self.source_prefix} to {self.destination}/{self.destination_prefix}"
        return f"{ends}{protocol}{interface}"


ANY = Selector(IPv6Address(0), 0, IPv6Address(0), 0, any_family=True)
"""Packets of any family; an SA added with it gets its own family, but for the flag ANY_FAMILY."""


def family_of(address: IPAddress) -> int:
    """The kernel's number of the address's family."""
    return AF_INET if address.version == 4 else AF_INET6


def _within(address: IPAddress, network: IPAddress, prefix: int) -> bool:
    if address.version != network.version or prefix > network.max_prefixlen:
        return False
    return address in ip_network((network, prefix), strict=False)


@dataclass(frozen=True)
class Lifetime:
    """Limits; octets and packets: INFINITE for none; seconds since added or first used: 0 for none."""

    soft_octets: int = INFINITE
    hard_octets: int = INFINITE
    soft_packets: int = INFINITE
    hard_packets: int = INFINITE
    soft_add_seconds: int = 0
    hard_add_seconds: int = 0
    soft_use_seconds: int = 0
    hard_use_seconds: int = 0


@dataclass(frozen=True)
class Usage:
    """What was used of a lifetime; times in seconds since 1970, 0 for never."""

    octets: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0


@dataclass(frozen=True)
class Errors:
    """Packets that an SA threw away: left of the window, seen before, integrity check failed."""

    replay_window: int = 0
    replay: int = 0
    integrity: int = 0


@dataclass(frozen=True)
class Mark:
    """A packet matches where its mark under ``mask`` is ``value``."""

    value: int = 0
    mask: int = 0


@dataclass(frozen=True)
class Algorithm:
    """``name`` is the kernel's; ``icv_bits`` is the integrity check value's length, None: none or the default."""

    name: str
    key: bytes = field(default=b"", repr=False)
    icv_bits: int | None = None


@dataclass(frozen=True)
class Encapsulation:
    """ESP in UDP (``type`` 2; RFC 3948): ports, and the original address that checksums need."""

    type: int
    source_port: int
    destination_port: int
    original_address: bytes = bytes(16)


@dataclass(frozen=True)
class ReplayState:
    """XFRMA_REPLAY_VAL: the last sequence number sent, the highest received (bit 0 of the bitmap), and which of
    the 31 below it were."""

    outbound: int = 0
    inbound: int = 0
    bitmap: int = 0


@dataclass(frozen=True)
class ExtendedReplayState:
    """XFRMA_REPLAY_ESN_VAL: the same with high halves, a window of up to 4096 packets and its words of 32 bits.

    Also what an SA without the flag ESN has, where its window is above 32; its high halves are 0 then.  A sequence
    number stands in the bitmap at bit ``(number - 1) % window``, of word 0 first: a ring, unlike ReplayState's.
    """

    outbound_low: int = 0
    inbound_low: int = 0
    outbound_high: int = 0
    inbound_high: int = 0
    window: int = 0
    bitmap: tuple[int, ...] = ()

    @property
    def outbound(self) -> int:
        """The last sequence number sent, 64 bits."""
        return self.outbound_high << 32 | self.outbound_low

    @property
    def inbound(self) -> int:
        """The highest sequence number received, 64 bits."""
        return self.inbound_high << 32 | self.inbound_low


AnyReplayState = Union[ReplayState, ExtendedReplayState]


@dataclass(frozen=True)
class SecurityAssociationId:
    """What finds one SA: destination, SPI and protocol, and the mark where it has one."""

    destination: IPAddress
    spi: int
    protocol: int = ESP
    mark: Mark | None = None

    def __str__(self) -> str:
        return f"SA {self.spi:08x} to {self.destination}"


@dataclass(frozen=True)
class SecurityAssociation:
    """One SA of one direction.

    ``encryption`` and ``authentication`` go together, or ``aead``, or ``compression`` (IPComp).  ``order`` is that of
    the attributes as they came, so that they can be built again octet for octet; it says nothing else.
    """

    source: IPAddress
    destination: IPAddress
    spi: int
    protocol: int = ESP
    mode: int = Mode.TRANSPORT
    request_id: int = 0
    selector: Selector = ANY
    flags: int = 0
    extra_flags: int | None = None
    window_field: int = 0
    encryption: Algorithm | None = None
    authentication: Algorithm | None = None
    aead: Algorithm | None = None
    compression: Algorithm | None = None
    encapsulation: Encapsulation | None = None
    replay: AnyReplayState | None = None
    lifetime: Lifetime = Lifetime()
    usage: Usage = Usage()
    errors: Errors = Errors()
    sequence: int = 0
    mark: Mark | None = None
    output_mark: int | None = None
    output_mark_mask: int | None = None
    interface_id: int | None = None
    padding_to: int | None = None
    care_of_address: bytes | None = None
    last_used: int | None = None
    mapping_threshold: int | None = None
    other: OtherAttributes = field(default=(), repr=False)
    order: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @property
    def identifier(self) -> SecurityAssociationId:
        """What the kernel finds it by."""
        return SecurityAssociationId(self.destination, self.spi, self.protocol, self.mark)

    @property
    def replay_window(self) -> int:
        """In packets, 0 for no anti-replay."""
        return self.replay.window if isinstance(self.replay, ExtendedReplayState) else self.window_field

    @property
    def is_extended(self) -> bool:
        """Extended Sequence Numbers."""
        return bool(self.flags & SaFlag.ESN)

    @property
    def is_larval(self) -> bool:
        """An SPI kept for an SA that is still being negotiated: it carries nothing."""
        return not (self.encryption or self.authentication or self.aead or self.compression)


@dataclass(frozen=True)
class AsyncEvent:
    """XFRM_MSG_NEWAE: an SA's sequence numbers and usage.  ``flags``: AsyncEventFlag.

    ``replay_threshold`` in packets and ``timer_threshold`` in tenths of a second say how often it comes.
    """

    identifier: SecurityAssociationId
    source: IPAddress
    flags: int = 0
    request_id: int = 0
    replay: AnyReplayState | None = None
    usage: Usage | None = None
    replay_threshold: int | None = None
    timer_threshold: int | None = None
    interface_id: int | None = None
    other: OtherAttributes = field(default=(), repr=False)
    order: tuple[int, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class PolicyTemplate:
    """What protection a policy asks for; an address of zeros is the packet's own."""

    protocol: int
    mode: int
    source: IPAddress
    destination: IPAddress
    spi: int = 0
    request_id: int = 0
    optional: bool = False
    share: int = 0
    authentication_algorithms: int = 0xFFFFFFFF
    encryption_algorithms: int = 0xFFFFFFFF
    compression_algorithms: int = 0xFFFFFFFF


@dataclass(frozen=True)
class SecurityPolicyId:
    """What finds one policy: its direction and, where ``index`` is 0, its selector; mark, interface and kind too."""

    direction: int
    selector: Selector
    index: int = 0
    mark: Mark | None = None
    interface_id: int | None = None
    kind: int | None = None

    def __str__(self) -> str:
        return f"policy {self.direction} for {self.selector}"


@dataclass(frozen=True)
class SecurityPolicy:
    """One policy; of those that cover a packet the one with the lowest ``priority`` decides.

    ``kind`` is XFRMA_POLICY_TYPE: 0 main, 1 sub (asked before main, and beside it); None: main.
    """

    direction: int
    action: int
    priority: int
    index: int
    selector: Selector
    templates: tuple[PolicyTemplate, ...] = ()
    mark: Mark | None = None
    interface_id: int | None = None
    kind: int | None = None
    flags: int = 0
    share: int = 0
    lifetime: Lifetime = Lifetime()
    usage: Usage = Usage()
    other: OtherAttributes = field(default=(), repr=False)
    order: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @property
    def identifier(self) -> SecurityPolicyId:
        """What the kernel finds it by."""
        return SecurityPolicyId(self.direction, self.selector, 0, self.mark, self.interface_id, self.kind)

    def covers(self, flow: Flow) -> bool:
        """Whether it decides about a packet without mark and interface, were it alone."""
        return not self.interface_id and (self.mark is None or self.mark.value == 0) and self.selector.covers(flow)

    def may_cover(self, flow: Flow) -> bool:
        """As :meth:`covers`, for a packet on any interface and with any mark."""
        return self.selector.may_cover(flow)


@dataclass(frozen=True)
class Migration:
    """One pair of ends that changes its addresses, of the SAs of a policy."""

    old_source: IPAddress
    old_destination: IPAddress
    new_source: IPAddress
    new_destination: IPAddress
    protocol: int = ESP
    mode: int = Mode.TUNNEL
    request_id: int = 0
