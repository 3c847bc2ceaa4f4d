"""Sequence numbers and the anti-replay window as the kernel keeps them (linux/xfrm.h; net/xfrm/xfrm_replay.c).

Here, as in contexts, bit n of a bitmap is the number n below the highest received.  The kernel's small window (up to
32, ``xfrm_replay_state``) has it so too; its large one (``xfrm_replay_state_esn``) is a ring in which number s stands
at s - 1 modulo the window.
"""

from __future__ import annotations

from dataclasses import dataclass

from construct import Struct

from .formats import REPLAY_ESN, U32, Attribute, MalformedNetlink
from .values import SecurityAssociation

SMALL_WINDOW = 32
_LOW = 0xFFFF_FFFF

REPLAY_SMALL = Struct("outbound" / U32, "inbound" / U32, "bitmap" / U32)


@dataclass(frozen=True)
class ReplayState:
    """Last number sent, highest received (64 bits with ESN), window in packets, bitmap; ``extended``: ESN."""

    outbound: int = 0
    inbound: int = 0
    window: int = 0
    bitmap: int = 0
    extended: bool = False

    @property
    def is_small(self) -> bool:
        """Whether the kernel's old structure holds it."""
        return not self.extended and self.window <= SMALL_WINDOW

    def build(self) -> bytes:
        """The attribute's octets: XFRMA_REPLAY_VAL for a small one, else XFRMA_REPLAY_ESN_VAL."""
        if self.is_small:
            bitmap = self.bitmap & ((1 << self.window) - 1)
            return bytes(REPLAY_SMALL.build({"outbound": self.outbound, "inbound": self.inbound, "bitmap": bitmap}))
        window = max(self.window, 1)  # with ESN the kernel wants one, also of an SA that only sends
        words = (window + 31) // 32
        ring = 0
        for below in range(min(window, self.inbound)):
            if self.bitmap >> below & 1:
                ring |= 1 << (((self.inbound & _LOW) - 1 - below) & _LOW) % window
        head = REPLAY_ESN.build(
            {
                "bitmap_words": words,
                "outbound": self.outbound & _LOW,
                "inbound": self.inbound & _LOW,
                "outbound_high": self.outbound >> 32,
                "inbound_high": self.inbound >> 32,
                "replay_window": window,
            }
        )
        return bytes(head) + b"".join(U32.build(ring >> 32 * word & _LOW) for word in range(words))


def parse_small(octets: bytes, window: int) -> ReplayState:
    """XFRMA_REPLAY_VAL."""
    if len(octets) < REPLAY_SMALL.sizeof():
        raise MalformedNetlink(f"a replay state of {len(octets)} octets")
    box = REPLAY_SMALL.parse(octets)
    return ReplayState(box.outbound, box.inbound, window, box.bitmap)


def parse_large(octets: bytes, *, extended: bool) -> ReplayState:
    """XFRMA_REPLAY_ESN_VAL."""
    size = REPLAY_ESN.sizeof()
    if len(octets) < size:
        raise MalformedNetlink(f"a replay state of {len(octets)} octets")
    box = REPLAY_ESN.parse(octets)
    if len(octets) < size + 4 * box.bitmap_words or box.replay_window > 32 * box.bitmap_words:
        raise MalformedNetlink(f"a replay bitmap of {box.bitmap_words} words in {len(octets) - size} octets")
    ring = sum(int(U32.parse(octets[size + 4 * n : size + 4 * n + 4])) << 32 * n for n in range(box.bitmap_words))
    bitmap = 0
    for below in range(min(box.replay_window, box.inbound_high << 32 | box.inbound)):
        if ring >> ((box.inbound - 1 - below) & _LOW) % box.replay_window & 1:
            bitmap |= 1 << below
    return ReplayState(
        box.outbound_high << 32 | box.outbound,
        box.inbound_high << 32 | box.inbound,
        box.replay_window,
        bitmap,
        extended,
    )


def replay_of(sa: SecurityAssociation) -> ReplayState:
    """An SA's sequence numbers and window."""
    named = dict(sa.attributes)
    if Attribute.REPLAY_ESN in named:
        return parse_large(named[Attribute.REPLAY_ESN], extended=sa.extended)
    return parse_small(named[Attribute.REPLAY], sa.replay_window) if Attribute.REPLAY in named else ReplayState()
