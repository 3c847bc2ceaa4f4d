"""What goes into a role and what comes out of it: peers, messages to send, events, reasons for a drop.

All are frozen values.  An event tells the node what to do or what became of a transfer; a role never calls back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, Union

from ..messages import (
    ContextRequest,
    ContextStatus,
    ContextTransferActivateRequest,
    EncodedContext,
    IPAddress,
    Message,
)


class Random(Protocol):
    """The randomness that a role is given, such as ``random.Random`` or ``random.SystemRandom``."""

    def getrandbits(self, k: int, /) -> int: ...

    def random(self) -> float: ...


@dataclass(frozen=True)
class Peer:
    """Whom a message comes from or goes to.

    ``name`` is the authenticated name of a router ("" for a mobile node, which proves itself by its token);
    ``reliable`` says that the transport between us repeats what is lost, so that the role need not.
    """

    address: IPAddress
    port: int
    name: str = ""
    reliable: bool = False
    is_router: bool = False

    @property
    def identity(self) -> tuple[IPAddress, str]:
        """What stays the same when the peer comes back from another port or over another transport."""
        return self.address, self.name


@dataclass(frozen=True)
class Outgoing:
    """A message that the transport is to send."""

    message: Message
    peer: Peer


class DropReason(Enum):
    """Why something that arrived was not acted on; also the name of its counter."""

    MALFORMED = "not a CXTP message"
    QUEUE_FULL = "the events or messages that wait to be taken are too many"
    UNEXPECTED_MESSAGE = "this role takes no message of this type"
    UNKNOWN_ROUTER = "the sender, or the router that it names, is none that we know"
    WRONG_ROUTER = "the transfer is with another router"
    OUT_OF_TURN = "the message has no place in the transfer's state"
    NO_TRANSFER = "no transfer of this mobile node is under way"
    BUSY = "another transfer of this mobile node is under way"
    TOO_MANY_TRANSFERS = "as many transfers are under way as there may be"
    MEMORY_FULL = "an answer could not be remembered, so none is given"
    RATE_LIMITED = "more CTARs than CT_REQUEST_RATE"
    DUPLICATE_REQUEST = "the request was had before"
    DUPLICATE_DATA = "the data was had before"
    EMPTY_DATA = "data without contexts that answers no request of ours"
    RECEIPT_MISMATCH = "the reply is for another transfer"
    AMBIGUOUS_REPLY = "the reply has no receipt, and what it answers can't be told"
    TOKEN_REFUSED = "the authorization token is not the mobile node's"
    MEMORY_EVICTED = "the oldest memory of its kind made room"


@dataclass(frozen=True)
class Dropped:
    """Something was not acted on."""

    reason: DropReason
    detail: str
    peer: Peer


@dataclass(frozen=True)
class TokenRefused:
    """A request's token is wrong: nothing was transferred or activated for it (RFC 4067, 6.3)."""

    mn_address: IPAddress
    peer: Peer


# --- previous router ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContextsRequested:
    """A CT-Req: answer with ``provide`` or ``refuse``.  ``requested`` empty means all contexts; with a null
    token, the new router wants the key as well."""

    mn_address: IPAddress
    requested: tuple[ContextRequest, ...]
    peer: Peer
    sequence_number: int
    null_token: bool


@dataclass(frozen=True)
class ActivationRequested:
    """A CTAR to the previous router: the mobile node is about to move.  Answer with ``provide`` or ``refuse``."""

    mn_address: IPAddress
    new_router_address: IPAddress
    request: ContextTransferActivateRequest
    peer: Peer


@dataclass(frozen=True)
class TransferConfirmed:
    """The new router has the contexts: they are no longer ours.  ``statuses`` lists what it failed with
    nevertheless."""

    mn_address: IPAddress
    transfer_id: int
    statuses: tuple[ContextStatus, ...]


@dataclass(frozen=True)
class TransferRefused:
    """The new router states that it does not own the contexts and never will by this transfer: they stay ours."""

    mn_address: IPAddress
    transfer_id: int
    statuses: tuple[ContextStatus, ...]


@dataclass(frozen=True)
class TransferCancelled:
    """As TransferRefused, since the new router cancelled.  ``transfer_id`` is None where nothing was sent yet."""

    mn_address: IPAddress
    transfer_id: int | None
    statuses: tuple[ContextStatus, ...] = ()


@dataclass(frozen=True)
class TransferUnconfirmed:
    """No answer in time.  The new router may own the contexts or not: they stay frozen.  ``resend`` asks again;
    a late CTDR still decides."""

    mn_address: IPAddress
    transfer_id: int


@dataclass(frozen=True)
class CacheExpired:
    """An unconfirmed transfer was given up: its data is gone from the cache, its outcome is still unknown.
    ``transfer`` with the same ``transfer_id`` is the way to ask once more."""

    mn_address: IPAddress
    transfer_id: int


# --- new router -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContextsReceived:
    """All contexts of a transfer are here.  Store them, install them if ``activate``, then call ``installed``.

    ``generation`` and ``transfer_id`` are None from a router that sends no manifest; ``predictive`` data that is
    not to be activated waits for the mobile node (ActivateContexts).
    """

    mn_address: IPAddress
    contexts: tuple[EncodedContext, ...] = field(repr=False)
    generation: int | None
    transfer_id: int | None
    predictive: bool
    activate: bool
    peer: Peer


@dataclass(frozen=True)
class ActivateContexts:
    """The mobile node came and proved itself: use what a ContextsReceived brought ahead, then call
    ``activated``."""

    mn_address: IPAddress
    contexts: tuple[EncodedContext, ...] = field(repr=False)
    generation: int | None
    transfer_id: int | None


@dataclass(frozen=True)
class PredictionExpired:
    """The mobile node did not come in time, or newer contexts take the place of these: the key to check its
    token with is gone.  The contexts stay what ``installed`` made them: the node's own."""

    mn_address: IPAddress
    generation: int | None
    transfer_id: int | None


@dataclass(frozen=True)
class TransferAborted:
    """A request or transfer ended and nothing of it may be installed; ``status`` is a StatusCode.

    With a ``transfer_id``, its sender waits for an answer: write down that this ``generation`` is refused, then
    call ``refused``.  It is None where no data came, or data without a manifest: then all is done.
    """

    mn_address: IPAddress
    transfer_id: int | None
    status: int
    peer: Peer
    generation: int | None = None


# --- mobile node ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationAcknowledged:
    """A CTAA: ``statuses`` lists what was not transferred, empty for all well."""

    mn_address: IPAddress
    statuses: tuple[ContextStatus, ...]
    router: Peer


@dataclass(frozen=True)
class ActivationFailed:
    """The new router gave no answer within CT_RETRY_MAX."""

    mn_address: IPAddress
    router: Peer


Event = Union[
    Dropped,
    TokenRefused,
    ContextsRequested,
    ActivationRequested,
    TransferConfirmed,
    TransferRefused,
    TransferCancelled,
    TransferUnconfirmed,
    CacheExpired,
    ContextsReceived,
    ActivateContexts,
    PredictionExpired,
    TransferAborted,
    ActivationAcknowledged,
    ActivationFailed,
]
