"""An access router as the network meets it: previous and new router in one, octets in and octets out.

It parses, hands each message to the role that it is for, and builds what the roles want sent.  What is
malformed is dropped and counted here; no octets of a peer's raise anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..config import ProtocolConfig
from ..errors import RemoteError
from ..messages import (
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    Message,
    PredictiveContextTransferData,
)
from ..wire import build, parse
from .events import Dropped, DropReason, Event, Outgoing, Peer, Random
from .new_router import NewRouter, OutcomeOf, no_records
from .previous_router import PreviousRouter

_FOR_PREVIOUS: frozenset[type[Message]] = frozenset(
    {ContextTransferRequest, ContextTransferDataReply, ContextTransferCancel}
)
_FOR_NEW: frozenset[type[Message]] = frozenset({ContextTransferData, PredictiveContextTransferData})


@dataclass(frozen=True)
class Datagram:
    """Octets that the transport is to send, and the message that they are."""

    octets: bytes = field(repr=False)  # may hold keys
    peer: Peer
    message: Message = field(repr=False)


class AccessRouter:
    """Both roles behind one set of the five verbs; local actions are called on ``previous`` and ``new``.

    ``serves`` tells whether the node has a mobile node's contexts in use: a CTAR reads the same to both roles,
    and goes to the previous router's only where it does.  ``require_receipt`` and ``outcome_of`` are
    :class:`PreviousRouter`'s and :class:`NewRouter`'s.
    """

    def __init__(
        self,
        routers: Mapping[IPAddress, Peer],
        random: Random,
        serves: Callable[[IPAddress], bool],
        config: ProtocolConfig = ProtocolConfig(),
        *,
        require_receipt: bool = False,
        outcome_of: OutcomeOf = no_records,
    ) -> None:
        self.config = config
        self.previous = PreviousRouter(routers, random, config, require_receipt=require_receipt)
        self.new = NewRouter(routers, random, config, outcome_of=outcome_of)
        self._serves = serves
        self._malformed = 0
        self._events: deque[Event] = deque()

    @property
    def counters(self) -> Counter[DropReason]:
        """Drops by their reason, of both roles and the parser; a copy."""
        own = Counter({DropReason.MALFORMED: self._malformed} if self._malformed else {})
        return self.previous.counters + self.new.counters + own

    def receive(self, octets: bytes, peer: Peer, now: float) -> None:
        """Take one message's octets.  Never raises for what a peer can do."""
        try:
            message = parse(octets)
        except RemoteError as error:
            self._malformed += 1
            if len(self._events) < self.config.limits.events:
                self._events.append(Dropped(DropReason.MALFORMED, str(error), peer))
        else:
            self.receive_message(message, peer, now)

    def receive_message(self, message: Message, peer: Peer, now: float) -> None:
        """Take one message."""
        if type(message) in _FOR_PREVIOUS:
            self.previous.receive(message, peer, now)
        elif type(message) in _FOR_NEW or not isinstance(message, ContextTransferActivateRequest):
            self.new.receive(message, peer, now)
        else:
            role = self.previous if self._is_for_previous(message, now) else self.new
            role.receive(message, peer, now)

    def to_send(self, now: float) -> list[Datagram]:
        """The octets to send now, in order."""
        return [Datagram(build(o.message), o.peer, o.message) for o in self.messages_to_send(now)]

    def messages_to_send(self, now: float) -> list[Outgoing]:
        """As :meth:`to_send`, not yet built."""
        return self.previous.to_send(now) + self.new.to_send(now)

    def deadline(self) -> float | None:
        """When :meth:`handle_timer` is to be called; None for no timer."""
        deadlines = [d for d in (self.previous.deadline(), self.new.deadline()) if d is not None]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        """Act on every timer that is due."""
        self.previous.handle_timer(now)
        self.new.handle_timer(now)

    def next_event(self) -> Event | None:
        """The oldest event of the first of the roles that has one."""
        if self._events:
            return self._events.popleft()
        return self.previous.next_event() or self.new.next_event()

    def _is_for_previous(self, request: ContextTransferActivateRequest, now: float) -> bool:
        """Whoever had the CTAR gets its repetitions; a new router that awaits the contexts gets it, whatever the
        node holds already; else it is for the previous router where the mobile node is served here."""
        mn_address, sequence_number = request.mn_previous_address, request.sequence_number
        if self.previous.remembers(mn_address, sequence_number, now):
            return True
        if self.new.remembers(mn_address, sequence_number, now) or self.new.awaits(mn_address):
            return False
        return self._serves(mn_address)
