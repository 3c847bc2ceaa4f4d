"""The IPv6 multicast listener context (RFC 4067, Appendix B; feature profile type 1)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from cxtp.constants import FeatureProfileType


@dataclass(frozen=True, kw_only=True)
class MulticastListenerContext:
    """One subscribed group: the prefix on the new router's wireless interface, 8 octets, and the address."""

    feature_profile_type = FeatureProfileType.IPV6_MULTICAST_LISTENER
    name = "IPv6 multicast listener"

    subnet_prefix: bytes
    group: IPv6Address
