"""The new router's side of one transfer: its states, and how the parts of its data come together."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Union

from ..config import ContextTypes, Limits
from ..constants import StatusCode, TokenAlgorithm
from ..continuation import from_blocks
from ..errors import MalformedContext, MalformedMessage, RemoteError
from ..manifest import TransferManifest, digest_of
from ..messages import (
    ContextBlock,
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
    PredictiveContextTransferData,
)
from .events import DropReason, Peer
from .machine import advance
from .schedule import Backoff


class State(Enum):
    """Where a mobile node's transfer stands at its new router."""

    IDLE = "idle"
    """Nothing is under way; no record exists."""
    REQUESTED = "requested"
    """A CT-Req is out, and repeated, until data comes or CT_MAX_HANDOVER_TIME."""
    COLLECTING = "collecting"
    """Some of the data is here; the rest has CT_MAX_TRANSFER_TIME from the first of it."""
    INSTALLING = "installing"
    """All is here; the node has to say ``installed``."""
    REFUSING = "refusing"
    """Nothing of it will be installed; the node has to write that down and say ``refused``."""
    STANDBY = "standby"
    """Contexts sent ahead are stored; their mobile node has CT_MAX_HANDOVER_TIME to come."""
    ACTIVATING = "activating"
    """The mobile node came; the node has to say ``activated``."""


class Trigger(Enum):
    """What moves it on."""

    REQUEST = "a request"
    DATA = "data"
    NOTHING = "data without contexts"
    COMPLETE = "the last of the data"
    REJECT = "data that can't be taken"
    INSTALLED = "the node's yes"
    STORED = "the node's yes to data sent ahead"
    FAILED = "the node's no"
    REFUSED = "the node's word that the refusal is kept"
    ACTIVATE = "the mobile node"
    ACTIVATED = "the node's word that they are in use"
    DEADLINE = "the deadline"
    CANCEL = "a cancel"


TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.IDLE: {
        Trigger.REQUEST: State.REQUESTED,
        Trigger.DATA: State.COLLECTING,
    },
    State.REQUESTED: {
        Trigger.DATA: State.COLLECTING,
        Trigger.NOTHING: State.IDLE,
        Trigger.DEADLINE: State.IDLE,
        Trigger.CANCEL: State.IDLE,
    },
    State.COLLECTING: {
        Trigger.DATA: State.COLLECTING,
        Trigger.COMPLETE: State.INSTALLING,
        Trigger.REJECT: State.REFUSING,
        Trigger.DEADLINE: State.REFUSING,
        Trigger.CANCEL: State.REFUSING,
    },
    State.INSTALLING: {
        Trigger.INSTALLED: State.IDLE,
        Trigger.STORED: State.STANDBY,
        Trigger.FAILED: State.IDLE,
    },
    State.REFUSING: {
        Trigger.REFUSED: State.IDLE,
    },
    State.STANDBY: {
        Trigger.ACTIVATE: State.ACTIVATING,
        Trigger.DEADLINE: State.IDLE,
    },
    State.ACTIVATING: {
        Trigger.ACTIVATED: State.IDLE,
    },
}

_WAITS_FOR_THE_NODE = frozenset({State.INSTALLING, State.REFUSING, State.ACTIVATING})

Identity = Union[int, bytes]
"""What tells a transfer from others of the same mobile node and router: its manifest's transfer identifier;
without a manifest, the digest of its blocks."""


@dataclass(frozen=True)
class Part:
    """One CTD or PCTD, read: ``contexts`` without the manifest, or the ``fault`` for which there are none."""

    identity: Identity
    manifest: TransferManifest | None
    contexts: tuple[EncodedContext, ...] = field(default=(), repr=False)
    fault: RemoteError | None = None


def read_part(message: ContextTransferData, context_types: ContextTypes) -> Part:
    """Read a message's blocks.  Whatever is wrong with them, the transfer keeps its identity, to be answered by."""
    blocks = message.blocks
    manifest: TransferManifest | None = None
    identity: Identity = digest_of(map(_alone, blocks), context_types)
    try:
        for block in blocks:
            if block.feature_profile_type == context_types.transfer_manifest:
                manifest = TransferManifest.decode(_alone(block))
                identity = manifest.transfer_id
                break
        contexts = from_blocks(blocks, context_types)
    except (MalformedMessage, MalformedContext) as fault:
        return Part(identity, manifest, fault=fault)
    others = tuple(c for c in contexts if c.feature_profile_type != context_types.transfer_manifest)
    return Part(identity, manifest, others)


def _alone(block: ContextBlock) -> EncodedContext:
    return EncodedContext(block.feature_profile_type, block.data, block.presence_vector)


class Rejected(RemoteError):
    """Data that can't be taken; ``status`` says why."""


@dataclass
class Collection:
    """The parts of one transfer, each checked against the first and the limits as it comes.

    ``key`` and ``algorithm`` are a PCTD's, to check the mobile node's token with; ``predictive`` tells whether
    it is one.
    """

    identity: Identity
    manifest: TransferManifest | None
    predictive: bool
    acknowledge: bool
    algorithm: int = TokenAlgorithm.HMAC_SHA1
    key: bytes = field(default=b"", repr=False)
    parts: dict[int, tuple[EncodedContext, ...]] = field(default_factory=dict, repr=False)
    count: int = 0
    octets: int = 0
    counted: int = 0
    """Of ``octets``, those of parts that were taken."""

    @classmethod
    def begin(cls, message: ContextTransferData, part: Part) -> Collection:
        """An empty collection for the transfer that this is a part of; it still has to be added."""
        collection = cls(part.identity, part.manifest, False, message.acknowledge)
        if isinstance(message, PredictiveContextTransferData):
            collection.predictive = True
            collection.algorithm, collection.key = message.algorithm, message.key
        return collection

    @property
    def transfer_id(self) -> int | None:
        return None if self.manifest is None else self.manifest.transfer_id

    @property
    def generation(self) -> int | None:
        return None if self.manifest is None else self.manifest.generation

    @property
    def expected(self) -> int:
        """How many parts there are."""
        return 1 if self.manifest is None else self.manifest.parts

    def add(self, message: ContextTransferData, part: Part, limits: Limits) -> bool:
        """Add a part; False for one that is here already.  Raises Rejected."""
        if part.fault is not None:
            raise Rejected(str(part.fault), status=part.fault.status)
        self._check_key(message)
        self._check_manifest(part.manifest, limits)
        index = 0 if part.manifest is None else part.manifest.part
        if index in self.parts:
            return False
        self.count += len(part.contexts)
        self.octets += sum(len(context.data) for context in part.contexts)
        if self.count > limits.contexts_per_transfer or self.octets > limits.octets_per_transfer:
            raise Rejected("more contexts or octets than a transfer may have", status=StatusCode.NO_RESOURCES)
        self.parts[index] = part.contexts
        self.counted = self.octets
        return True

    @property
    def is_complete(self) -> bool:
        return len(self.parts) == self.expected

    def contexts(self, context_types: ContextTypes) -> tuple[EncodedContext, ...]:
        """All contexts in their order.  Raises Rejected where they are not what the manifest says."""
        contexts = tuple(context for index in sorted(self.parts) for context in self.parts[index])
        if self.manifest is not None:
            if len(contexts) != self.manifest.contexts:
                raise Rejected("the manifest counts other contexts", status=StatusCode.MALFORMED)
            if digest_of(contexts, context_types) != self.manifest.digest:
                raise Rejected("the manifest's digest is another", status=StatusCode.BAD_CHECKSUM)
        return contexts

    def _check_key(self, message: ContextTransferData) -> None:
        is_predictive = isinstance(message, PredictiveContextTransferData)
        if is_predictive != self.predictive or message.acknowledge != self.acknowledge:
            raise Rejected("parts of different kinds", status=StatusCode.MALFORMED)
        if not isinstance(message, PredictiveContextTransferData):
            return
        if message.algorithm != TokenAlgorithm.HMAC_SHA1:
            raise Rejected("a token algorithm that we do not know", status=StatusCode.UNSUPPORTED_ALGORITHM)
        if not message.key:
            raise Rejected("a key without octets", status=StatusCode.NOT_AUTHORIZED)
        if not hmac.compare_digest(message.key, self.key):
            raise Rejected("parts with different keys", status=StatusCode.MALFORMED)

    def _check_manifest(self, manifest: TransferManifest | None, limits: Limits) -> None:
        ours = self.manifest
        if manifest is None or ours is None:
            return
        whole = (manifest.generation, manifest.parts, manifest.contexts, manifest.digest)
        if whole != (ours.generation, ours.parts, ours.contexts, ours.digest):
            raise Rejected("parts of one transfer with different manifests", status=StatusCode.MALFORMED)
        if manifest.contexts > limits.contexts_per_transfer:
            raise Rejected("more contexts than a transfer may have", status=StatusCode.NO_RESOURCES)
        if manifest.parts > manifest.contexts:
            raise Rejected("parts that can hold no context", status=StatusCode.MALFORMED)


@dataclass
class IncomingTransfer:
    """One mobile node's transfer.

    ``asked`` is the CT-Req that we sent for it, if we did; ``activation`` the CTAR that waits for its outcome,
    and ``requester`` who sent that.
    """

    mn_address: IPAddress
    previous_router: Peer
    asked: ContextTransferRequest | None = None
    activation: ContextTransferActivateRequest | None = None
    requester: Peer | None = None
    state: State = State.IDLE
    collection: Collection | None = None
    contexts: Sequence[EncodedContext] = field(default=(), repr=False)
    activated: bool = False
    deadline: float | None = None
    backoff: Backoff | None = None

    def advance(self, trigger: Trigger) -> None:
        """Raises IllegalTransition."""
        self.state = advance(TRANSITIONS, self.state, trigger)

    @property
    def transfer_id(self) -> int | None:
        return None if self.collection is None else self.collection.transfer_id

    @property
    def generation(self) -> int | None:
        return None if self.collection is None else self.collection.generation

    def is_with(self, peer: Peer) -> bool:
        """Whether the peer is this transfer's previous router."""
        return self.previous_router.identity == peer.identity

    def waits_for_node(self, peer: Peer, identity: Identity) -> bool:
        """Whether the node has this very transfer in hand, and has not said what became of it."""
        same = self.collection is not None and self.collection.identity == identity
        return same and self.is_with(peer) and self.state in (State.INSTALLING, State.REFUSING)

    def obstacle(self, peer: Peer, identity: Identity) -> DropReason | None:
        """Why data of the transfer with this identity is not taken now: one transfer per mobile node at a time."""
        other = self.collection is not None and self.collection.identity != identity
        if other or not self.is_with(peer):
            return DropReason.BUSY
        return DropReason.DUPLICATE_DATA if self.state in _WAITS_FOR_THE_NODE else None

    def due(self) -> float | None:
        """When the record's timer has to fire."""
        if self.backoff is None or self.deadline is None:
            return self.deadline
        return min(self.deadline, self.backoff.at)
