"""The roles of RFC 4067, sans-IO: mobile node, previous router, new router, and the two routers in one.

Nothing here reads a clock, draws a random number or opens a socket: see :mod:`cxtp.roles.machine`.
"""

from .access_router import AccessRouter, Datagram
from .events import DropReason, Event, Outgoing, Peer, Random
from .mobile_node import MobileNode
from .new_router import NewRouter, Outcome
from .previous_router import PreviousRouter

__all__ = [
    "AccessRouter",
    "Datagram",
    "DropReason",
    "Event",
    "MobileNode",
    "NewRouter",
    "Outcome",
    "Outgoing",
    "Peer",
    "PreviousRouter",
    "Random",
]
