"""The previous router's side of one transfer: its states, its data, its clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..config import ProtocolConfig
from ..constants import StatusCode
from ..errors import LocalError
from ..manifest import plan_parts, split_receipt
from ..messages import (
    ContextBlock,
    ContextStatus,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    PredictiveContextTransferData,
)
from .events import DropReason, Peer
from .machine import advance
from .schedule import Backoff, RoundTripTime


class State(Enum):
    """Where a mobile node's transfer stands at its previous router."""

    IDLE = "idle"
    """Nothing is under way; no record exists."""
    ASKED = "asked"
    """A CT-Req or CTAR came; the node has to provide the contexts or refuse.  Nothing was sent."""
    SENDING = "sending"
    """Data is out, and repeated, until the answer or CT_MAX_TRANSFER_TIME."""
    CANCELLING = "cancelling"
    """As SENDING, but a CTC came: the first part alone is repeated, to draw the reply that decides."""
    UNCONFIRMED = "unconfirmed"
    """No answer in time.  The data stays in the cache until CT_MAX_HANDOVER_TIME; a late answer decides."""


class Trigger(Enum):
    """What moves it on."""

    ASK = "a request"
    SEND = "sending data"
    CONFIRM = "a reply of success"
    REFUSE = "a refusal"
    CANCEL = "a cancel"
    DEADLINE = "the transfer deadline"
    EXPIRE = "the cache's end"


TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.IDLE: {
        Trigger.ASK: State.ASKED,
        Trigger.SEND: State.SENDING,
    },
    State.ASKED: {
        Trigger.SEND: State.SENDING,
        Trigger.REFUSE: State.IDLE,
        Trigger.CANCEL: State.IDLE,
    },
    State.SENDING: {
        Trigger.SEND: State.SENDING,
        Trigger.CONFIRM: State.IDLE,
        Trigger.REFUSE: State.IDLE,
        Trigger.CANCEL: State.CANCELLING,
        Trigger.DEADLINE: State.UNCONFIRMED,
    },
    State.CANCELLING: {
        Trigger.CONFIRM: State.IDLE,
        Trigger.REFUSE: State.IDLE,
        Trigger.CANCEL: State.CANCELLING,
        Trigger.DEADLINE: State.UNCONFIRMED,
    },
    State.UNCONFIRMED: {
        Trigger.SEND: State.SENDING,
        Trigger.CONFIRM: State.IDLE,
        Trigger.REFUSE: State.IDLE,
        Trigger.CANCEL: State.CANCELLING,
        Trigger.EXPIRE: State.IDLE,
    },
}

Request = ContextTransferActivateRequest | ContextTransferRequest
_LONGEST_ELAPSED_TIME = 0xFFFF_FFFF
_DATA_OVERHEAD = 64
_MOST_SEQUENCE_NUMBERS = 16


@dataclass(frozen=True)
class Data:
    """What is transferred: the blocks of each CTD or PCTD (with ``key``), cached to be sent again."""

    transfer_id: int
    parts: tuple[tuple[ContextBlock, ...], ...] = field(repr=False)
    context_types: frozenset[int]
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def plan(
        cls, contexts: Sequence[EncodedContext], generation: int, transfer_id: int, key: bytes, config: ProtocolConfig
    ) -> Data:
        """Raises LocalError for no contexts, too many, or one that no message holds."""
        if not contexts:
            raise LocalError("there is nothing to transfer: a router without contexts refuses")
        if len(contexts) > config.limits.contexts_per_transfer:
            raise LocalError(f"{len(contexts)} contexts are more than Limits.contexts_per_transfer")
        parts = plan_parts(
            contexts,
            transfer_id=transfer_id,
            generation=generation,
            octets=config.limits.message_octets,
            overhead=_DATA_OVERHEAD + len(key),
            context_types=config.context_types,
        )
        return cls(transfer_id, parts, frozenset(c.feature_profile_type for c in contexts), key)


@dataclass
class OutgoingTransfer:
    """One mobile node's transfer.

    ``request`` is what asked for it, if anything did, and ``requester`` who sent that; ``sequence_numbers`` are
    those of all the requests that its end answers, ``key`` the one that proved or will prove the mobile node.
    ``single``: no other transfer of this mobile node to
    this router is recent enough for a reply to it to be still on its way.
    """

    mn_address: IPAddress
    new_router: Peer
    single: bool
    request: Request | None = None
    requester: Peer | None = None
    authorized: bool = False
    key: bytes = field(default=b"", repr=False)
    state: State = State.IDLE
    data: Data | None = None
    sequence_numbers: set[int] = field(default_factory=set)
    first_sent: float = 0.0
    deadline: float = 0.0
    expiry: float = 0.0
    backoff: Backoff | None = None
    sendings: int = 0
    sent: float = 0.0
    """When the data was last sent, and how often it was."""

    def advance(self, trigger: Trigger) -> None:
        """Raises IllegalTransition."""
        self.state = advance(TRANSITIONS, self.state, trigger)

    def __post_init__(self) -> None:
        if self.request is not None:
            self.join(self.request.sequence_number)

    def join(self, sequence_number: int) -> None:
        """One more request is answered by this transfer."""
        if len(self.sequence_numbers) < _MOST_SEQUENCE_NUMBERS:
            self.sequence_numbers.add(sequence_number)

    @property
    def transfer_id(self) -> int | None:
        return None if self.data is None else self.data.transfer_id

    def start_attempt(self, now: float, config: ProtocolConfig, round_trip_time: RoundTripTime) -> None:
        """Count the deadlines of one attempt, from ``now``.

        The first wait is a fifth of it at most, so that two repetitions fit.
        """
        timers = config.timers
        self.deadline = now + timers.max_transfer_time
        self.expiry = now + timers.max_handover_time
        wait = round_trip_time.retransmission_timeout(timers.data_retry, timers.max_transfer_time / 5)
        self.backoff = None if self.new_router.reliable else Backoff.start(wait, now)

    def due(self) -> float | None:
        """When the record's timer has to fire."""
        if self.state is State.UNCONFIRMED:
            return self.expiry
        if self.state in (State.SENDING, State.CANCELLING):
            return self.deadline if self.backoff is None else min(self.deadline, self.backoff.at)
        return None

    def messages(self, now: float) -> list[ContextTransferData]:
        """The CTDs or PCTDs to send: all of them, or the first to draw a reply out of a router that cancelled."""
        if self.data is None:
            return []
        elapsed = min(max(0, round((now - self.first_sent) * 1000)), _LONGEST_ELAPSED_TIME)
        parts = self.data.parts[:1] if self.state is State.CANCELLING else self.data.parts
        return [_message(self.mn_address, elapsed, blocks, self.data.key) for blocks in parts]


def _message(mn_address: IPAddress, elapsed: int, blocks: tuple[ContextBlock, ...], key: bytes) -> ContextTransferData:
    if not key:
        return ContextTransferData(
            mn_previous_address=mn_address, elapsed_time=elapsed, blocks=blocks, acknowledge=True
        )
    return PredictiveContextTransferData(
        mn_previous_address=mn_address, elapsed_time=elapsed, blocks=blocks, acknowledge=True, key=key
    )


@dataclass(frozen=True)
class Verdict:
    """What a CTDR says of a transfer: a trigger with the statuses that are no success, or why it says nothing."""

    trigger: Trigger | None
    statuses: tuple[ContextStatus, ...] = ()
    reason: DropReason = DropReason.AMBIGUOUS_REPLY


def judge_reply(
    transfer: OutgoingTransfer, reply: ContextTransferDataReply, config: ProtocolConfig, require_receipt: bool
) -> Verdict:
    """Whether a CTDR of the transfer's new router decides the transfer.

    With a receipt, S alone decides.  A reply without one, from another implementation, is taken only where it
    can mean nothing but this transfer: a single one, of one message.  Then S=1 confirms; S=0 with the manifest
    as the one failure confirms too, since all that the router lacks is a type that it does not know; S=0 with
    every context type failed refuses.  Anything between leaves the transfer in doubt: the new router may own a
    part of the session.
    """
    transfer_id, statuses = split_receipt(reply.statuses, config.context_types)
    failures = tuple(s for s in statuses if s.status != StatusCode.SUCCESS)
    if transfer_id is not None:
        if transfer_id != transfer.transfer_id:
            return Verdict(None, reason=DropReason.RECEIPT_MISMATCH)
        return Verdict(Trigger.CONFIRM if reply.success else Trigger.REFUSE, failures)
    data = transfer.data
    if require_receipt or data is None or len(data.parts) > 1 or not transfer.single:
        return Verdict(None)
    failed = {s.feature_profile_type for s in failures}
    if reply.success or failed == {config.context_types.transfer_manifest}:
        return Verdict(Trigger.CONFIRM, failures)
    return Verdict(Trigger.REFUSE, failures) if data.context_types <= failed else Verdict(None)
