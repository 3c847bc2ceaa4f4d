"""The kernel's IPsec database over NETLINK_XFRM: SAs, policies, and what becomes of them.

No well-kept library covers it: pyroute2 has network interfaces of type xfrm and no SAs or policies.
"""

from .client import XfrmClient, XfrmError, XfrmEvents
from .values import Direction, Flow, Mode, PolicyAction, PolicyTemplate, SecurityAssociation, SecurityPolicy, Selector

__all__ = [
    "Direction",
    "Flow",
    "Mode",
    "PolicyAction",
    "PolicyTemplate",
    "SecurityAssociation",
    "SecurityPolicy",
    "Selector",
    "XfrmClient",
    "XfrmError",
    "XfrmEvents",
]
