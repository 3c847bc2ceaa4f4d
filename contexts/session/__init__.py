"""Sessions restored from contexts: they open what the SAs protect, and seal as the SAs' owner would.

Sans-IO and pure but for the state of windows and counters; initialisation vectors are arguments.
"""

from .restored import Direction, ProtectedPacket, RestoredSession

__all__ = ["Direction", "ProtectedPacket", "RestoredSession"]
