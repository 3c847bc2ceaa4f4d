"""Sequence numbers and the anti-replay window: the kernel's two forms, and the one that contexts have.

In contexts, bit n of a bitmap is the number n below the highest received.  The kernel's small window (up to 32,
:class:`.values.ReplayState`) has it so too; its large one (:class:`.values.ExtendedReplayState`) is a ring in which
number s stands at s - 1 modulo the window (net/xfrm/xfrm_replay.c).
"""

from __future__ import annotations

from dataclasses import dataclass

from .values import AnyReplayState, ExtendedReplayState, ReplayState, SecurityAssociation

SMALL_WINDOW = 32
_LOW = 0xFFFF_FFFF


@dataclass(frozen=True)
class Numbers:
    """Last number sent, highest received (64 bits with ESN), window in packets, bitmap; ``extended``: ESN."""

    outbound: int = 0
    inbound: int = 0
    window: int = 0
    bitmap: int = 0
    extended: bool = False

    @property
    def window_field(self) -> int:
        """The SA's own octet for the window; 0 where the extended form says it."""
        return self.window if self._is_small else 0

    @property
    def _is_small(self) -> bool:
        return not self.extended and self.window <= SMALL_WINDOW

    def to_replay_state(self) -> AnyReplayState:
        """As the kernel takes it."""
        if self._is_small:
            return ReplayState(self.outbound, self.inbound, self.bitmap & ((1 << self.window) - 1))
        window = max(self.window, 1)  # with ESN the kernel wants one, also of an SA that only sends
        ring = 0
        for below in range(min(window, self.inbound)):
            if self.bitmap >> below & 1:
                ring |= 1 << (((self.inbound & _LOW) - 1 - below) & _LOW) % window
        return ExtendedReplayState(
            self.outbound & _LOW,
            self.inbound & _LOW,
            self.outbound >> 32,
            self.inbound >> 32,
            window,
            tuple(ring >> 32 * word & _LOW for word in range((window + 31) // 32)),
        )


def numbers_of(sa: SecurityAssociation) -> Numbers:
    """An SA's numbers and window."""
    return from_replay_state(sa.replay, sa.replay_window, extended=sa.is_extended)


def from_replay_state(state: AnyReplayState | None, window: int, *, extended: bool) -> Numbers:
    """The opposite of :meth:`Numbers.to_replay_state`; ``window`` is said beside the small form."""
    if state is None:
        return Numbers(window=window, extended=extended)
    if isinstance(state, ReplayState):
        return Numbers(state.outbound, state.inbound, window, state.bitmap)
    ring = sum(word << 32 * index for index, word in enumerate(state.bitmap))
    bitmap = 0
    for below in range(min(state.window, state.inbound)):
        if ring >> ((state.inbound_low - 1 - below) & _LOW) % state.window & 1:
            bitmap |= 1 << below
    return Numbers(state.outbound, state.inbound, state.window, bitmap, extended)
