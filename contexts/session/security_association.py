"""What ESP and AH share: directions, opened packets, and the sequence numbers of one restored IPsec_SA."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from contexts.ipsec import IpsecSaContext
from contexts.values import CounterKnowledge

from .anti_replay import ReplayWindow
from .outbound_counter import OutboundCounter

PROTOCOL_IPV4 = 4
PROTOCOL_UDP = 17
PROTOCOL_IPV6 = 41
PROTOCOL_ESP = 50
PROTOCOL_AH = 51
PROTOCOL_NO_NEXT_HEADER = 59
PROTOCOL_IPCOMP = 108


class Direction(Enum):
    """As seen from the context's local gateway."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True)
class OpenedPacket:
    """What an ESP or AH packet protected.

    ``payload`` begins with the header that ``next_header`` names (tunnel mode: the inner IP packet, 4 or 41; 59: a
    dummy packet to be thrown away).  ``tfc_octets``: traffic flow confidentiality padding that was cut from it, which
    only an inner IP packet's own length can show (RFC 4303, 2.7).  ``compressed``: IPComp was undone.
    """

    spi: int
    sequence_number: int
    next_header: int
    payload: bytes = field(repr=False)
    tfc_octets: int = 0
    compressed: bool = False


class SequenceState:
    """Windows of both directions and the sender's counter of one IPsec_SA.

    The outbound window only watches (somebody else's packets under our outbound SPI); where the counter is known, all
    numbers up to it count as seen.
    """

    def __init__(self, context: IpsecSaContext, *, counter_mode: bool) -> None:
        numbers, extended = context.sequence_numbers, context.proposal.extended_sequence_numbers
        self.windows = {
            Direction.INBOUND: ReplayWindow.restore(
                context.window, numbers.inbound, extended=extended, knowledge=numbers.knowledge
            ),
            Direction.OUTBOUND: ReplayWindow(
                context.window.size,
                None if numbers.knowledge == CounterKnowledge.UNKNOWN else numbers.outbound,
                -1,
                extended=extended,
                resynchronise=numbers.knowledge != CounterKnowledge.EXACT,
            ),
        }
        self.counter = OutboundCounter(numbers, extended=extended, may_cycle=not counter_mode)
        self.extended = extended

    def received(self, direction: Direction, number: int) -> None:
        """A packet with that number was opened."""
        if direction is Direction.OUTBOUND:
            self.counter.seen(number)
