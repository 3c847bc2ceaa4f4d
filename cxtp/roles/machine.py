"""The engine under every role: transition tables, and what all roles share of the five verbs.

A role's table is its machine, ``{state: {trigger: next state}}``, and :func:`advance` the only way from one
state to the next.  A step that the table does not have is somebody's mistake: a peer's becomes a named drop (in
:meth:`Role.receive`), a local caller's the LocalError that IllegalTransition is.  So handlers step first and act
after, and a message out of turn has no effect.

A role is driven from outside, by these five and nothing else::

    receive(message, peer, now)     a message came
    handle_timer(now)               deadline() has come
    next_event() -> Event | None    after each of the two, and after each local action, until None
    to_send(now) -> [Outgoing]      then, so that what an event tells is stored before what it causes is sent
    deadline() -> float | None      when to call handle_timer

``now`` is in seconds of one monotonic clock; randomness comes with the constructor.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from typing import Any, TypeVar

from ..config import ProtocolConfig
from ..errors import LocalError
from ..messages import (
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    Message,
    PredictiveContextTransferData,
)
from .events import Dropped, DropReason, Event, Outgoing, Peer, Random
from .memory import Memory
from .schedule import Schedule

State = TypeVar("State", bound=Enum)
Trigger = TypeVar("Trigger", bound=Enum)
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

Handler = Callable[[Any, Peer, float], None]

BETWEEN_ROUTERS: frozenset[type[Message]] = frozenset(
    {
        ContextTransferData,
        PredictiveContextTransferData,
        ContextTransferDataReply,
        ContextTransferCancel,
        ContextTransferRequest,
    }
)
"""Messages that are taken from known routers alone (RFC 4067, 6.1)."""


class IllegalTransition(LocalError):
    """The transition table has no such step."""


def advance(table: Mapping[State, Mapping[Trigger, State]], state: State, trigger: Trigger) -> State:
    """The next state.  Raises IllegalTransition where the table has none."""
    try:
        return table[state][trigger]
    except KeyError:
        raise IllegalTransition(f"{trigger.value} is no step from the state {state.value}") from None


class Role:
    """Queues, counters, known routers and timers; subclasses give ``_handlers`` and ``_on_timer``.

    ``routers`` are the known ones, by address.  ``counters`` counts drops by their reason.
    """

    def __init__(self, routers: Mapping[IPAddress, Peer], random: Random, config: ProtocolConfig) -> None:
        self.config = config
        self.counters: Counter[DropReason] = Counter()
        self._routers = routers
        self._random = random
        self._handlers: Mapping[type[Message], Handler] = {}
        self._events: deque[Event] = deque()
        self._outgoing: deque[Outgoing] = deque()
        self._schedule: Schedule[IPAddress] = Schedule()

    # --- the five verbs

    def receive(self, message: Message, peer: Peer, now: float) -> None:
        """Take a message.  Never raises for what a peer can do: that becomes a Dropped event and a count."""
        if len(self._events) >= self.config.limits.events:
            self.counters[DropReason.QUEUE_FULL] += 1
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            self._drop(DropReason.UNEXPECTED_MESSAGE, message.short_name, peer)
        elif type(message) in BETWEEN_ROUTERS and not self._knows(peer):
            self._drop(DropReason.UNKNOWN_ROUTER, f"{message.short_name} from {peer.address}", peer)
        else:
            try:
                handler(message, peer, now)
            except IllegalTransition as error:
                self._drop(DropReason.OUT_OF_TURN, f"{message.short_name}: {error}", peer)

    def to_send(self, now: float) -> list[Outgoing]:
        """The messages to send now, in order; they are not given again."""
        messages = list(self._outgoing)
        self._outgoing.clear()
        return messages

    def deadline(self) -> float | None:
        """When :meth:`handle_timer` is to be called; None for no timer."""
        return self._schedule.next()

    def handle_timer(self, now: float) -> None:
        """Act on every timer that is due.  Early or needless calls do nothing."""
        for mn_address in self._schedule.take_due(now):
            self._on_timer(mn_address, now)

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    # --- for subclasses

    def _on_timer(self, mn_address: IPAddress, now: float) -> None:
        raise NotImplementedError

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _send(self, message: Message, peer: Peer) -> None:
        """Queue a message.  One that finds no room is lost, as it might be on its way: every flow bears that."""
        if len(self._outgoing) >= self.config.limits.events:
            self.counters[DropReason.QUEUE_FULL] += 1
        else:
            self._outgoing.append(Outgoing(message, peer))

    def _drop(self, reason: DropReason, detail: str, peer: Peer) -> None:
        self.counters[reason] += 1
        self._emit(Dropped(reason, detail, peer))

    def _knows(self, peer: Peer) -> bool:
        known = self._routers.get(peer.address)
        return peer.is_router and known is not None and known.identity == peer.identity

    def _remember(self, memory: Memory[Key, Value], key: Key, value: Value, now: float) -> None:
        if memory.put(key, value, now):
            self.counters[DropReason.MEMORY_EVICTED] += 1
