"""The kernel's IPsec database over NETLINK_XFRM: SAs, policies, and what becomes of them.

No well-kept library covers it.  pyroute2 (0.9.7 was looked at) has network interfaces of type xfrm and a constant, and
neither SAs nor policies; no other package on the index was found that has them.

:mod:`.values` is what there is, :mod:`.layouts`, :mod:`.attributes` and :mod:`.formats` its octets, :mod:`.requests`
what goes out, :mod:`.events` what comes in unasked, :mod:`.netlink` the socket and :mod:`.client` who asks.
"""

from .attributes import MalformedNetlink, UnfitValue
from .client import XfrmClient
from .constants import INFINITE, AsyncEventFlag, Group, SaFlag
from .events import EventsLost, XfrmEvent, XfrmEvents
from .netlink import Namespace, XfrmError
from .requests import Request
from .values import (
    ANY,
    Algorithm,
    AsyncEvent,
    Direction,
    Encapsulation,
    ExtendedReplayState,
    Flow,
    Lifetime,
    Mark,
    Migration,
    Mode,
    PolicyAction,
    PolicyTemplate,
    ReplayState,
    SecurityAssociation,
    SecurityAssociationId,
    SecurityPolicy,
    SecurityPolicyId,
    Selector,
    Usage,
)

__all__ = [
    "ANY",
    "INFINITE",
    "Algorithm",
    "AsyncEvent",
    "AsyncEventFlag",
    "Direction",
    "Encapsulation",
    "EventsLost",
    "ExtendedReplayState",
    "Flow",
    "Group",
    "Lifetime",
    "MalformedNetlink",
    "Mark",
    "Migration",
    "Mode",
    "Namespace",
    "PolicyAction",
    "PolicyTemplate",
    "ReplayState",
    "Request",
    "SaFlag",
    "SecurityAssociation",
    "SecurityAssociationId",
    "SecurityPolicy",
    "SecurityPolicyId",
    "Selector",
    "UnfitValue",
    "Usage",
    "XfrmClient",
    "XfrmError",
    "XfrmEvent",
    "XfrmEvents",
]
