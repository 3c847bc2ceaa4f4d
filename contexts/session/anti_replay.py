"""The receive window of ESP and AH: RFC 4303, 3.4.3 and Appendix A (RFC 4302, 3.4.3 is the same).

:class:`ReplayWindow` holds the highest number received (T, 64 bits) and a bitmap below it.  With extended sequence
numbers only the low 32 bits are sent; :meth:`ReplayWindow.infer` finds the high ones as Appendix A2 says.  A number
counts as received only by :meth:`ReplayWindow.update`, after its ICV was verified.

After a move the counter may be older than the truth, or not known at all.  Then the high bits are looked for as in
Appendix A3: where the ICV fails with the inferred ones, a few higher values are tried, until the first packet that
verifies tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from contexts.values import AntiReplayWindow, CounterKnowledge
from cxtp.errors import IntegrityError, MalformedContext, ProtectionError, ReplayError

MAXIMUM_WINDOW = 4096
"""Packets; what Linux takes too (XFRMA_REPLAY_ESN_MAX)."""

RESYNCHRONISATION_STEPS = 16
"""High-order values above the inferred one that are tried while the counter is not exactly known (ours; RFC 4303,
A3 asks for a bound)."""

_LOW = 1 << 32
_Opened = TypeVar("_Opened")


class ReplayWindow:
    """One direction's window: small, mutable, compared by nobody.

    ``size`` 0 checks nothing (the highest number is followed all the same, for the high half of an ESN).  ``highest``
    None: not known; the first packet that verifies is taken wherever it is.
    """

    def __init__(
        self,
        size: int,
        highest: int | None = 0,
        bitmap: int = 0,
        *,
        extended: bool = False,
        resynchronise: bool = False,
    ) -> None:
        if not 0 <= size <= MAXIMUM_WINDOW:
            raise MalformedContext("IPsec_SA", "anti-replay window", 0, f"size {size}, at most {MAXIMUM_WINDOW}")
        if highest is not None and not 0 <= highest < (_LOW * _LOW if extended else _LOW):
            raise MalformedContext("IPsec_SA", "sequence numbers", 0, "highest received out of range")
        self.size = size
        self.extended = extended
        self._highest = highest
        self._bitmap = bitmap & ((1 << size) - 1)
        if highest:
            self._bitmap |= 1 & ((1 << size) - 1)  # the highest was received, whatever the bitmap says
        self._resynchronise = resynchronise or highest is None

    @classmethod
    def restore(
        cls,
        window: AntiReplayWindow,
        highest: int,
        *,
        extended: bool = False,
        knowledge: CounterKnowledge = CounterKnowledge.EXACT,
    ) -> ReplayWindow:
        """The window of a context; with UNKNOWN counters it starts wherever the first packet is."""
        if knowledge == CounterKnowledge.UNKNOWN:
            return cls(window.size, None, extended=extended)
        inexact = knowledge != CounterKnowledge.EXACT
        return cls(window.size, highest, window.bitmap, extended=extended, resynchronise=inexact)

    @property
    def highest(self) -> int | None:
        """The highest number received (64 bits with ESN); None: not known yet."""
        return self._highest

    @property
    def value(self) -> AntiReplayWindow:
        """Size and bitmap as a context carries them."""
        return AntiReplayWindow(self.size, self._bitmap)

    def infer(self, low: int) -> int:
        """The whole sequence number for the 32 bits of a packet (RFC 4303, A2.1).

        Raises ReplayError where it would lie before the SA's first.
        """
        if not self.extended:
            return low
        top = self._highest or 0
        top_high, top_low = divmod(top, _LOW)
        width = max(self.size, 1)
        bottom = (top_low - width + 1) % _LOW
        if top_low >= width - 1:  # case A: the window lies in one subspace
            high = top_high if low >= bottom else top_high + 1
        else:  # case B: it spans two
            high = top_high - 1 if low >= bottom else top_high
        if high < 0 or high >= _LOW:
            raise ReplayError(f"sequence number {low:#010x} lies outside the sequence space")
        return high * _LOW + low

    def check(self, number: int) -> None:
        """Raises ReplayError for a number that is 0, was received, or lies left of the window."""
        if self.size == 0:
            return
        if number == 0:
            raise ReplayError("sequence number 0 is never sent")
        if self._highest is None or number > self._highest:
            return
        distance = self._highest - number
        if distance >= self.size:
            raise ReplayError(f"sequence number {number} lies left of the window (highest {self._highest})")
        if self._bitmap >> distance & 1:
            raise ReplayError(f"sequence number {number} was received before")

    def update(self, number: int) -> None:
        """Count a number as received; only after its ICV was verified."""
        self._resynchronise = False
        mask = (1 << self.size) - 1
        if self._highest is None:
            self._highest, self._bitmap = number, 1 & mask
        elif number > self._highest:
            shift = min(number - self._highest, self.size)
            self._bitmap = (self._bitmap << shift | 1) & mask
            self._highest = number
        else:
            self._bitmap = (self._bitmap | 1 << min(self._highest - number, self.size)) & mask

    def receive(self, low: int, verify: Callable[[int], _Opened], *, replays: bool = True) -> tuple[int, _Opened]:
        """Check, verify, count: the order of RFC 4303, 3.4.3.

        ``verify(number)`` opens the packet under that whole sequence number or raises IntegrityError.  With
        ``replays`` False no replay is refused and nothing counted (recordings).  Returns the number and what
        ``verify`` gave; raises ReplayError, and what ``verify`` raises.
        """
        failure: ProtectionError | None = None
        for number in self._candidates(low, lower=not replays):
            try:
                if replays:
                    self.check(number)
                opened = verify(number)
            except (IntegrityError, ReplayError) as error:
                failure = failure or error
                continue
            if replays:
                self.update(number)
            return number, opened
        raise failure or ReplayError(f"sequence number {low:#010x} lies outside the sequence space")

    def _candidates(self, low: int, *, lower: bool) -> Iterator[int]:
        """The inferred number; while resynchronising the next higher ones, for recordings lower ones too."""
        try:
            first = self.infer(low)
        except ReplayError:
            if not self._resynchronise:
                raise
            first = low
        yield first
        if not self.extended:
            return
        reach = RESYNCHRONISATION_STEPS * _LOW
        if self._resynchronise:
            yield from range(first + _LOW, min(first + reach, _LOW * _LOW - 1) + 1, _LOW)
        if lower:
            yield from range(first - _LOW, max(first - reach, 0) - 1, -_LOW)
