"""Every constant that a user may set: each with its unit, its default's source, and its check.

All classes are frozen: a running role or node never changes its mind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .constants import MAXIMUM_MESSAGE, PORT, FeatureProfileType
from .errors import ConfigurationError


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise ConfigurationError(f"{type(owner).__name__}.{name} must be above 0, not {value!r}")


@dataclass(frozen=True)
class Timers:
    """Times in seconds (RFC 4067, 3 and 4; docs/decisions.md, 4)."""

    max_transfer_time: float = 0.2
    """CT_MAX_TRANSFER_TIME: from a transfer's first CTD to its end."""

    request_retry: float = 2.0
    """CT_REQUEST_RETRY: first wait before a CTAR is sent again; doubles each time."""

    retry_max: float = 15.0
    """CT_RETRY_MAX: a CTAR is given up so long after it was first sent."""

    max_handover_time: float = 15.0
    """CT_MAX_HANDOVER_TIME: named by RFC 4067 and not defined; as CT_RETRY_MAX, since an MN may ask so long."""

    sequence_number_lifetime: float = 7.0
    """A CTAR's sequence number is not used again so long (RFC 4067, 3.2)."""

    data_retry: float = 0.04
    """First wait before a CTD, PCTD or CT-Req is sent again over a transport that loses; doubles each time.
    Ours: RFC 4067, 3.1 asks for exponential back-off; 40 ms leaves two repetitions within 200 ms."""

    def __post_init__(self) -> None:
        _positive(self, *(name for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Limits:
    """What a peer may make us hold; all counts unless a unit is given."""

    request_rate: float = 10.0
    """CT_REQUEST_RATE: CTARs per second, the excess is dropped at random (RFC 4067, 4 and 6.3)."""

    transfers: int = 4096
    """Transfers under way at once, per role."""

    contexts_per_transfer: int = 4096
    """Contexts of one mobile node."""

    octets_per_transfer: int = 8 * 1024 * 1024
    """Octets of all contexts of one mobile node."""

    identifiers_per_packet: int = 256
    """Context types in a CTAR, statuses in a CTAA: so that it fits one packet of any link (RFC 4067, 3.2)."""

    octets_under_way: int = 256 * 1024 * 1024
    """Octets of all contexts that a new router has received and not yet handed to its node for good."""

    message_octets: int = MAXIMUM_MESSAGE
    """Octets of one message that we build or take."""

    events: int = 65_536
    """Events and messages waiting to be taken from a role."""

    remembered_requests: int = 65_536
    """CTARs remembered for the duplicate check."""

    connections: int = 1024
    """Transport connections (TLS) at once, per node."""

    def __post_init__(self) -> None:
        _positive(self, *(name for name in self.__dataclass_fields__))
        if self.message_octets > MAXIMUM_MESSAGE:
            raise ConfigurationError(f"Limits.message_octets is at most {MAXIMUM_MESSAGE}")


@dataclass(frozen=True)
class ContextTypes:
    """Feature profile types of our contexts: unregistered, so a deployment can move them (decision 12)."""

    continuation: int = FeatureProfileType.CONTINUATION
    ike_sa: int = FeatureProfileType.IKE_SA
    ipsec_sa: int = FeatureProfileType.IPSEC_SA
    transfer_manifest: int = FeatureProfileType.TRANSFER_MANIFEST
    replica: int = FeatureProfileType.REPLICA

    def __post_init__(self) -> None:
        numbers = [self.continuation, self.ike_sa, self.ipsec_sa, self.transfer_manifest, self.replica]
        if len(set(numbers)) != len(numbers) or not all(1 < n <= 0xFFFF for n in numbers):
            raise ConfigurationError("context types must be five different numbers in 2..65535")


@dataclass(frozen=True)
class ProtocolConfig:
    """All that the roles need to know."""

    timers: Timers = field(default_factory=Timers)
    limits: Limits = field(default_factory=Limits)
    context_types: ContextTypes = field(default_factory=ContextTypes)
    port: int = PORT
