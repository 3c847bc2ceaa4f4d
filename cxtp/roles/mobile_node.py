"""The mobile node: it asks, with a token that only it can make, that its contexts follow it (RFC 4067, 2.1 and 3.2).

A CTAR goes to the new router always, and ahead of it to the previous one where the move is known in time, both
with one sequence number.  It is repeated, the wait doubling, until the new router's CTAA or CT_RETRY_MAX.  A
CTAR without A has no answer to wait for: it is sent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..config import ProtocolConfig
from ..constants import NULL_TOKEN
from ..errors import LocalError
from ..messages import (
    ContextRequest,
    ContextTransferActivateAcknowledge,
    ContextTransferActivateRequest,
    IPAddress,
)
from ..token import compute_token
from .events import ActivationAcknowledged, ActivationFailed, DropReason, Outgoing, Peer, Random
from .machine import Role, advance
from .memory import Memory
from .schedule import Backoff

_MOST_DRAWS = 64


class State(Enum):
    """Where an activation stands."""

    IDLE = "idle"
    WAITING_FOR_BOTH = "waiting for both routers"
    WAITING_FOR_NEW = "waiting for the new router"


class Trigger(Enum):
    """What moves it on."""

    ACTIVATE = "an activation"
    ACTIVATE_AHEAD = "an activation ahead of the move"
    PREVIOUS_ANSWERS = "the previous router's answer"
    NEW_ANSWERS = "the new router's answer"
    DEADLINE = "the deadline"


TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.IDLE: {
        Trigger.ACTIVATE: State.WAITING_FOR_NEW,
        Trigger.ACTIVATE_AHEAD: State.WAITING_FOR_BOTH,
    },
    State.WAITING_FOR_BOTH: {
        Trigger.PREVIOUS_ANSWERS: State.WAITING_FOR_NEW,
        Trigger.NEW_ANSWERS: State.IDLE,
        Trigger.DEADLINE: State.IDLE,
    },
    State.WAITING_FOR_NEW: {
        Trigger.NEW_ANSWERS: State.IDLE,
        Trigger.DEADLINE: State.IDLE,
    },
}


@dataclass
class _Activation:
    """One activation: the CTARs, to the previous router (left out of the repetitions once it answered) and new."""

    to_previous: Outgoing
    to_new: Outgoing
    backoff: Backoff
    deadline: float
    state: State = State.IDLE

    def advance(self, trigger: Trigger) -> None:
        self.state = advance(TRANSITIONS, self.state, trigger)

    @property
    def outgoing(self) -> list[Outgoing]:
        return [self.to_previous, self.to_new] if self.state is State.WAITING_FOR_BOTH else [self.to_new]


class MobileNode(Role):
    """The role; see the module's head, and :mod:`.machine` for the five verbs."""

    def __init__(self, random: Random, config: ProtocolConfig = ProtocolConfig()) -> None:
        super().__init__({}, random, config)
        self._activations: dict[IPAddress, _Activation] = {}
        self._sequence_numbers: Memory[int, None] = Memory(
            config.limits.remembered_requests, config.timers.sequence_number_lifetime
        )
        self._handlers = {ContextTransferActivateAcknowledge: self._on_acknowledge}

    def activate(
        self,
        mn_previous_address: IPAddress,
        previous_router: Peer,
        new_router: Peer,
        now: float,
        key: bytes,
        requested: Sequence[ContextRequest] = (),
        *,
        predictive: bool = False,
        acknowledge: bool = True,
    ) -> int:
        """Ask for the contexts known under ``mn_previous_address``; ``requested`` empty means all.

        ``key`` is shared with the previous router, ``predictive`` sends it a CTAR as well, ``acknowledge`` asks
        for CTAAs.  Returns the sequence number.  Raises LocalError for an empty key, and while an activation of
        the same address waits for its answer.
        """
        if mn_previous_address in self._activations:
            raise LocalError(f"an activation for {mn_previous_address} is under way")
        if len(self._activations) >= self.config.limits.transfers:
            raise LocalError("as many activations are under way as Limits.transfers allows")
        asked = tuple(requested)
        if len(asked) > self.config.limits.identifiers_per_packet:
            raise LocalError(f"{len(asked)} context types do not fit one packet: name fewer, or none for all")
        sequence_number, token = self._draw(mn_previous_address, key, asked, now)

        def request(receiver: Peer, other: Peer) -> Outgoing:
            message = ContextTransferActivateRequest(
                mn_previous_address=mn_previous_address,
                access_router_address=other.address,
                sequence_number=sequence_number,
                authorization_token=token,
                requested=asked,
                acknowledge=acknowledge,
            )
            return Outgoing(message, receiver)

        timers = self.config.timers
        activation = _Activation(
            request(previous_router, new_router),
            request(new_router, previous_router),
            Backoff.start(timers.request_retry, now),
            now + timers.retry_max,
        )
        activation.advance(Trigger.ACTIVATE_AHEAD if predictive else Trigger.ACTIVATE)
        self._send_all(activation)
        if acknowledge:
            self._activations[mn_previous_address] = activation
            self._arm(mn_previous_address, activation)
        return sequence_number

    def _draw(
        self, mn_address: IPAddress, key: bytes, requested: tuple[ContextRequest, ...], now: float
    ) -> tuple[int, bytes]:
        """A sequence number not used lately, and its token; a null one would be taken for none (2.5.6)."""
        for _ in range(_MOST_DRAWS):
            sequence_number = self._random.getrandbits(32)
            if self._sequence_numbers.knows(sequence_number, now):
                continue
            token = compute_token(key, mn_address, sequence_number, requested)
            if token != NULL_TOKEN:
                self._remember(self._sequence_numbers, sequence_number, None, now)
                return sequence_number, token
        raise LocalError("the randomness given yields no sequence number that was not used lately")

    def _on_acknowledge(self, message: ContextTransferActivateAcknowledge, peer: Peer, now: float) -> None:
        mn_address = message.mn_previous_address
        activation = self._activations.get(mn_address)
        if activation is None:
            return self._drop(DropReason.NO_TRANSFER, f"CTAA for {mn_address}", peer)
        if peer.address == activation.to_new.peer.address:
            activation.advance(Trigger.NEW_ANSWERS)
            self._end(mn_address)
        elif peer.address == activation.to_previous.peer.address:
            activation.advance(Trigger.PREVIOUS_ANSWERS)
        else:
            return self._drop(DropReason.WRONG_ROUTER, f"CTAA for {mn_address} from {peer.address}", peer)
        self._emit(ActivationAcknowledged(mn_address, message.statuses, peer))

    def _on_timer(self, mn_address: IPAddress, now: float) -> None:
        activation = self._activations[mn_address]
        if now >= activation.deadline:
            activation.advance(Trigger.DEADLINE)
            self._end(mn_address)
            self._emit(ActivationFailed(mn_address, activation.to_new.peer))
        else:
            self._send_all(activation)
            activation.backoff.step(now)
            self._arm(mn_address, activation)

    def _send_all(self, activation: _Activation) -> None:
        for outgoing in activation.outgoing:
            self._send(outgoing.message, outgoing.peer)

    def _arm(self, mn_address: IPAddress, activation: _Activation) -> None:
        self._schedule.set(mn_address, min(activation.deadline, activation.backoff.at))

    def _end(self, mn_address: IPAddress) -> None:
        del self._activations[mn_address]
        self._schedule.clear(mn_address)
