"""SAs and policies as the kernel has them (linux/xfrm.h; RFC 4301, 4.4)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Union

IPAddress = Union[IPv4Address, IPv6Address]

ESP, AH = 50, 51


class Direction(IntEnum):
    """dir of a policy."""

    IN = 0
    OUT = 1
    FORWARD = 2


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
    """Which packets: ``prefix`` lengths in bits, ports with their masks (0: any), ``protocol`` 0 for any."""

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

    def covers(self, flow: Flow) -> bool:
        """Whether a packet of this flow, on no certain interface, is one of them."""
        return (
            self.interface == 0
            and _within(flow.source, self.source, self.source_prefix)
            and _within(flow.destination, self.destination, self.destination_prefix)
            and self.protocol in (0, flow.protocol)
            and not (self.source_port ^ flow.source_port) & self.source_port_mask
            and not (self.destination_port ^ flow.destination_port) & self.destination_port_mask
        )

    def __str__(self) -> str:
        protocol = f" protocol {self.protocol}" if self.protocol else ""
        return f"{self.source}/{self.source_prefix} to {self.destination}/{self.destination_prefix}{protocol}"


def _within(address: IPAddress, network: IPAddress, prefix: int) -> bool:
    if address.version != network.version:
        return False
    return address in ip_network((network, prefix), strict=False)


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


@dataclass(frozen=True)
class SecurityPolicy:
    """One policy; of those that cover a packet the one with the lowest ``priority`` decides."""

    direction: int
    action: int
    priority: int
    index: int
    selector: Selector
    templates: tuple[PolicyTemplate, ...] = ()
    mark: tuple[int, int] = (0, 0)
    interface_id: int = 0

    def covers(self, flow: Flow) -> bool:
        """Whether it decides about a packet without mark and interface, were it alone."""
        value, _ = self.mark
        return self.interface_id == 0 and value == 0 and self.selector.covers(flow)

    def may_cover(self, flow: Flow) -> bool:
        """As :meth:`covers`, for a packet on any interface and with any mark."""
        return replace(self.selector, interface=0).covers(flow)


@dataclass(frozen=True)
class SecurityAssociation:
    """One SA of one direction; algorithms by the kernel's names, "" for none.

    ``replay_window`` is in packets, 0 for no anti-replay; ``attributes`` are all that came, for whoever needs more.
    """

    source: IPAddress
    destination: IPAddress
    spi: int
    protocol: int
    mode: int
    request_id: int
    replay_window: int
    encryption: str = ""
    authentication: str = ""
    aead: str = ""
    mark: tuple[int, int] = (0, 0)
    interface_id: int = 0
    extended: bool = False
    """Extended Sequence Numbers."""
    used: tuple[int, int] = (0, 0)
    """Octets and packets so far."""
    attributes: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)  # keys are in them
