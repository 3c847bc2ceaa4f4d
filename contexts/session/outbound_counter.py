"""The sender's sequence number (RFC 4303, 2.2 and 3.3.3; RFC 4302, 2.5).

One rule stands above all here: a (key, sequence number) pair is never used twice, on any node.  So a counter sends
only while it is exactly known, and never goes down.
"""

from __future__ import annotations

from contexts.values import CounterKnowledge, SequenceNumbers
from cxtp.errors import LocalError, MalformedContext


class OutboundCounter:
    """The last number sent, and whether a further one may follow."""

    def __init__(self, numbers: SequenceNumbers, *, extended: bool, may_cycle: bool) -> None:
        self._maximum = (1 << 64 if extended else 1 << 32) - 1
        if not 0 <= numbers.outbound <= self._maximum:
            raise MalformedContext("IPsec_SA", "sequence numbers", 0, "outbound counter out of range")
        self._last = numbers.outbound
        self._knowledge = numbers.knowledge
        self._may_cycle = may_cycle and numbers.overflow_allowed and not extended

    @property
    def last(self) -> int:
        """The last number sent, as far as is known."""
        return self._last

    @property
    def knowledge(self) -> CounterKnowledge:
        """How far :attr:`last` can be trusted."""
        return self._knowledge

    def seen(self, number: int) -> None:
        """Somebody sent this number under our key (the old owner): never lower than that again."""
        self._last = max(self._last, number)

    def advance(self, number: int) -> None:
        """Go on above ``number``, which nothing sent so far can exceed; the counter is exact from here on.

        Raises LocalError for going down or beyond the space.
        """
        if not self._last <= number <= self._maximum:
            raise LocalError(f"the outbound counter stands at {self._last} and can't be set to {number}")
        self._last, self._knowledge = number, CounterKnowledge.EXACT

    def next(self) -> int:
        """The number that the next packet bears; nothing is counted yet.

        Raises LocalError while the counter is not exact, and at the space's end: with ``overflow_allowed`` it goes on
        at 0 there, but not for a cipher in counter mode, whose nonces would come again.
        """
        if self._knowledge != CounterKnowledge.EXACT:
            raise LocalError(
                f"nothing may be sent: the outbound counter is {self._knowledge.name}; advance() it above all that "
                "the old owner can have sent, or rekey"
            )
        if self._last < self._maximum:
            return self._last + 1
        if self._may_cycle:
            return 0
        raise LocalError("the outbound sequence numbers are used up: rekey (RFC 4303, 3.3.3)")

    def sent(self, number: int) -> None:
        """``number``, as :meth:`next` gave it, is used now."""
        self._last = number
