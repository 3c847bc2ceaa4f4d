"""Sessions restored from contexts: they open what the SAs protect, and seal as the SAs' owner would.

Sans-IO and pure but for the state of windows and counters; initialisation vectors are arguments.
"""

from .ike import IkeSaSession, OpenedIkeMessage
from .restored import ProtectedPacket, RestoredSession
from .security_association import Direction, OpenedPacket

__all__ = ["Direction", "IkeSaSession", "OpenedIkeMessage", "OpenedPacket", "ProtectedPacket", "RestoredSession"]
