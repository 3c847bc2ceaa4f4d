"""The new access router: it gets a mobile node's contexts and answers for them.

What it promises, and what the node that drives it may build on:

* An answer is a promise.  S=1 is sent only once the node said that it has stored the contexts; S=0 says that
  this transfer will never be installed here, so that the previous router may go on with the session.  Hence an
  answer is remembered for CT_MAX_HANDOVER_TIME from when it was last given, every repetition of its data gets
  it again and installs nothing, and where no answer could be remembered none is given, nor anything installed.
  A previous router in doubt may ask after that, or after we restarted: ``outcome_of`` is where the node's own,
  lasting records come in.  A node that writes the outcome of every ContextsReceived and TransferAborted to its
  store before it says ``installed`` or ``refused`` can't be made to answer differently twice, whatever is lost or
  restarted.
* The receipt in a CTDR names the transfer that it answers, so that a late one decides no newer transfer.
* A key that came in a PCTD is discarded once it has proved a mobile node, and never proves another: its hash is
  kept (RFC 4067, 6.3).  A wrong token leaves it in place, or anybody could take it away with a forged CTAR.
* A CTAR with a null token is refused: passed on as a CT-Req, it would ask for the key in place of showing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from ..config import ProtocolConfig
from ..constants import StatusCode
from ..errors import LocalError, TokenRejected
from ..manifest import receipt
from ..messages import (
    ContextRequest,
    ContextStatus,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    IPAddress,
    PredictiveContextTransferData,
)
from ..token import is_null_token, verify_token
from .events import (
    ActivateContexts,
    ContextsReceived,
    DropReason,
    Peer,
    PredictionExpired,
    Random,
    TokenRefused,
    TransferAborted,
)
from .incoming_transfer import Collection, Identity, IncomingTransfer, Part, Rejected, State, Trigger, read_part
from .memory import Memory, UsedKeys
from .router import Router, of_all
from .schedule import Backoff


@dataclass(frozen=True)
class Outcome:
    """How a transfer ended here: ``success``, all of it is (or was) the node's; or none of it ever will be."""

    success: bool
    statuses: tuple[ContextStatus, ...] = ()


OutcomeOf = Callable[[Peer, IPAddress, int], Union[Outcome, None]]
"""What the node's records say of a transfer, by its previous router, mobile node and identifier; None: nothing."""

_Answered = tuple[tuple[IPAddress, str], IPAddress, Identity]


def no_records(previous_router: Peer, mn_address: IPAddress, transfer_id: int) -> None:
    """A node that keeps none."""
    return None


class NewRouter(Router):
    """The role; see the module's head for its promises and :mod:`.machine` for the five verbs."""

    def __init__(
        self,
        routers: Mapping[IPAddress, Peer],
        random: Random,
        config: ProtocolConfig = ProtocolConfig(),
        *,
        outcome_of: OutcomeOf = no_records,
    ) -> None:
        super().__init__(routers, random, config)
        self._outcome_of = outcome_of
        capacity, lifetime = config.limits.remembered_requests, config.timers.max_handover_time
        self._transfers: dict[IPAddress, IncomingTransfer] = {}
        self._answers: Memory[_Answered, ContextTransferDataReply] = Memory(capacity, lifetime)
        # Requests that ended without data: what still comes for one is refused.
        self._withdrawn: Memory[tuple[tuple[IPAddress, str], IPAddress], int] = Memory(capacity, lifetime)
        self._used_keys = UsedKeys(capacity)
        self._octets = 0
        self._handlers = {
            ContextTransferActivateRequest: self._on_activate_request,
            ContextTransferData: self._on_data,
            PredictiveContextTransferData: self._on_data,
        }

    # --- local actions

    def request(
        self,
        mn_address: IPAddress,
        previous_router: Peer,
        now: float,
        requested: Sequence[ContextRequest] = (),
    ) -> None:
        """Ask for a mobile node's contexts on the network's own decision (RFC 4067, 5.2): a CT-Req, null token.

        ``requested`` empty means all.  Raises LocalError where a transfer of this mobile node is under way.
        """
        if not self._knows(previous_router):
            raise LocalError(f"{previous_router.address} is no router that we know")
        if mn_address in self._transfers:
            raise LocalError(f"a transfer of {mn_address} is under way")
        if not self._has_room(now):
            raise LocalError("as many transfers are under way as Limits.transfers allows")
        sequence_number = self._random.getrandbits(32)
        self._ask(
            IncomingTransfer(mn_address, previous_router),
            ContextTransferRequest(
                mn_previous_address=mn_address, sequence_number=sequence_number, requested=tuple(requested)
            ),
            now,
        )

    def installed(
        self,
        mn_address: IPAddress,
        transfer_id: int | None,
        statuses: Sequence[ContextStatus],
        now: float,
        *,
        success: bool | None = None,
        for_mobile_node: bool = True,
    ) -> None:
        """Say what became of a ContextsReceived, once it is stored for good.

        ``success``: all is the node's now (S=1), whatever the statuses report beside (a context of an unknown
        type that was kept as it came).  Otherwise none of it is, and never will be by this transfer (S=0).  None
        reads it off the statuses: S=1 where there is none but SUCCESS.  ``for_mobile_node`` False: a replica
        (docs/context-formats.md, 6.5), which waits for nobody, so that the mobile node's CTAR is free to ask for the
        session itself and another owner to send its own.  Raises LocalError where nothing waits for this.
        """
        transfer = self._transfers.get(mn_address)
        if transfer is None or transfer.state is not State.INSTALLING or transfer.transfer_id != transfer_id:
            raise LocalError(f"no contexts of {mn_address} wait to be installed by transfer {transfer_id}")
        failures = _failures(statuses)
        if success is None:
            success = not failures
        collection = transfer.collection
        ahead = success and collection is not None and collection.predictive and not transfer.activated
        if ahead and not for_mobile_node:
            ahead, failures = False, of_all(StatusCode.NOT_AUTHORIZED)  # of a CTAR that came in between
        transfer.advance(Trigger.STORED if ahead else Trigger.INSTALLED if success else Trigger.FAILED)
        self._answer(transfer, Outcome(success, _failures(statuses)), now)
        if ahead:
            self._set_deadline(transfer, now + self.config.timers.max_handover_time)
            self._activate(transfer, now)
        else:
            self._end(transfer, failures, now)

    def refused(
        self,
        mn_address: IPAddress,
        transfer_id: int | None,
        statuses: Sequence[ContextStatus],
        now: float,
        *,
        success: bool = False,
    ) -> None:
        """Say that a TransferAborted is written down: its sender may be told, with S=0 unless the node's records
        say that it had all of this transfer before.

        Raises LocalError where nothing waits for this.
        """
        transfer = self._transfers.get(mn_address)
        if transfer is None or transfer.state is not State.REFUSING or transfer.transfer_id != transfer_id:
            raise LocalError(f"no refusal of transfer {transfer_id} of {mn_address} waits to be told")
        self._tell_refusal(transfer, Outcome(success, tuple(statuses)), now)

    def activated(
        self, mn_address: IPAddress, transfer_id: int | None, statuses: Sequence[ContextStatus], now: float
    ) -> None:
        """Say that the contexts of an ActivateContexts are in use, or why not: the mobile node is told.

        Raises LocalError where nothing waits for this.
        """
        transfer = self._transfers.get(mn_address)
        if transfer is None or transfer.state is not State.ACTIVATING or transfer.transfer_id != transfer_id:
            raise LocalError(f"no contexts of {mn_address} wait to be activated by transfer {transfer_id}")
        transfer.advance(Trigger.ACTIVATED)
        self._end(transfer, _failures(statuses), now)

    def cancel(self, mn_address: IPAddress, now: float) -> None:
        """Give a request or transfer up that can't be finished in time (RFC 4067, 2.5.5).

        Raises LocalError where none is under way, or all its data is here: ``installed`` can say no then.
        """
        transfer = self._transfers.get(mn_address)
        if transfer is None:
            raise LocalError(f"no transfer of {mn_address} is under way")
        self._abort(transfer, Trigger.CANCEL, StatusCode.CANCELLED, now)

    def awaits(self, mn_address: IPAddress) -> bool:
        """Whether contexts of this mobile node are asked for, on their way, or waiting for it to come."""
        return mn_address in self._transfers

    # --- messages

    def _on_activate_request(self, request: ContextTransferActivateRequest, peer: Peer, now: float) -> None:
        mn_address = request.mn_previous_address
        if not self._is_new(request, peer, now):
            return
        transfer = self._transfers.get(mn_address)
        if transfer is None and not self._has_room(now):
            return self._drop(DropReason.TOO_MANY_TRANSFERS, f"CTAR for {mn_address}", peer)
        if transfer is not None and transfer.activation is not None:
            return self._drop(DropReason.BUSY, f"CTAR for {mn_address}", peer)
        self._note(request, now)
        if is_null_token(request):
            return self._refuse_token(request, peer, now)
        if transfer is None:
            previous_router = self._routers.get(request.access_router_address)
            if previous_router is None:
                self._drop(DropReason.UNKNOWN_ROUTER, f"CTAR names {request.access_router_address}", peer)
                return self._acknowledge(request, peer, of_all(StatusCode.NOT_AUTHORIZED), now)
            transfer = IncomingTransfer(mn_address, previous_router, activation=request, requester=peer)
            return self._ask(transfer, _transfer_request(request), now)
        transfer.activation, transfer.requester = request, peer
        if transfer.state is State.STANDBY:
            self._activate(transfer, now)

    def _on_data(self, message: ContextTransferData, peer: Peer, now: float) -> None:
        mn_address = message.mn_previous_address
        transfer = self._transfers.get(mn_address)
        if not message.blocks:
            return self._on_nothing(message, transfer, peer, now)
        part = read_part(message, self.config.context_types)
        answered = (peer.identity, mn_address, part.identity)
        if transfer is not None and transfer.waits_for_node(peer, part.identity):
            # The records may say already what the node has not yet made true: it is asked to say so itself.
            return self._drop(DropReason.DUPLICATE_DATA, f"{message.short_name} for {mn_address}", peer)
        answer = self._answers.recall(answered, now) or self._recorded(answered, peer)
        if answer is not None:
            return self._answer_again(message, answered, answer, peer, now)
        if transfer is not None and transfer.state is State.STANDBY and transfer.is_with(peer):
            self._expire(transfer, now)  # newer contexts of the same mobile node
            transfer = None
        if transfer is None:
            if not self._has_room(now):
                return self._drop(DropReason.MEMORY_FULL, f"{message.short_name} for {mn_address}", peer)
            transfer = IncomingTransfer(mn_address, peer)
        obstacle = transfer.obstacle(peer, part.identity)
        if obstacle is not None:
            return self._drop(obstacle, f"{message.short_name} for {mn_address}", peer)
        self._collect(transfer, message, part, now)

    def _on_nothing(
        self, message: ContextTransferData, transfer: IncomingTransfer | None, peer: Peer, now: float
    ) -> None:
        """Data without contexts is how a previous router refuses a request."""
        if transfer is None or transfer.state is not State.REQUESTED or not transfer.is_with(peer):
            detail = f"{message.short_name} for {message.mn_previous_address}"
            return self._drop(DropReason.EMPTY_DATA, detail, peer)
        self._abort(transfer, Trigger.NOTHING, StatusCode.NO_SUCH_CONTEXT, now)

    def _answer_again(
        self,
        message: ContextTransferData,
        answered: _Answered,
        answer: ContextTransferDataReply,
        peer: Peer,
        now: float,
    ) -> None:
        self._drop(DropReason.DUPLICATE_DATA, f"{message.short_name} for {message.mn_previous_address}", peer)
        self._remember(self._answers, answered, answer, now)
        if message.acknowledge:
            self._send(answer, peer)

    def _collect(self, transfer: IncomingTransfer, message: ContextTransferData, part: Part, now: float) -> None:
        transfer.advance(Trigger.DATA)
        self._transfers[transfer.mn_address] = transfer
        collection = transfer.collection
        if collection is None:
            collection = transfer.collection = Collection.begin(message, part)
            transfer.backoff = None
            self._set_deadline(transfer, now + self.config.timers.max_transfer_time)
        withdrawn = (transfer.previous_router.identity, transfer.mn_address)
        status = self._withdrawn.recall(withdrawn, now)
        if status is not None:
            self._withdrawn.forget(withdrawn)
            return self._abort(transfer, Trigger.REJECT, status, now)
        try:
            if collection.key in self._used_keys:
                raise Rejected("the key has proved a mobile node before", status=StatusCode.NOT_AUTHORIZED)
            before = collection.counted
            if not collection.add(message, part, self.config.limits):
                detail = f"{message.short_name} for {transfer.mn_address}"
                return self._drop(DropReason.DUPLICATE_DATA, detail, transfer.previous_router)
            self._octets += collection.counted - before
            if self._octets > self.config.limits.octets_under_way:
                raise Rejected("all transfers together have too many octets", status=StatusCode.NO_RESOURCES)
            if collection.is_complete:
                transfer.contexts = collection.contexts(self.config.context_types)
                self._complete(transfer, collection, now)
        except Rejected as error:
            self._abort(transfer, Trigger.REJECT, error.status, now)

    def _complete(self, transfer: IncomingTransfer, collection: Collection, now: float) -> None:
        transfer.advance(Trigger.COMPLETE)
        self._set_deadline(transfer, None)
        transfer.activated = collection.predictive and self._proves(transfer, now)
        self._emit(
            ContextsReceived(
                transfer.mn_address,
                tuple(transfer.contexts),
                collection.generation,
                collection.transfer_id,
                predictive=collection.predictive,
                activate=transfer.activated or not collection.predictive,
                peer=transfer.previous_router,
            )
        )

    # --- tokens

    def _activate(self, transfer: IncomingTransfer, now: float) -> None:
        """Hand contexts on standby over to the mobile node that waits for them, if one does and is the right one."""
        if not self._proves(transfer, now):
            return
        transfer.advance(Trigger.ACTIVATE)
        self._set_deadline(transfer, None)
        self._emit(
            ActivateContexts(transfer.mn_address, tuple(transfer.contexts), transfer.generation, transfer.transfer_id)
        )

    def _proves(self, transfer: IncomingTransfer, now: float) -> bool:
        """Check the waiting CTAR, if there is one, with the PCTD's key (RFC 4067, 2.5.1).

        Right: the key is used up.  Wrong: the CTAR is refused and no longer waits.
        """
        request, requester, collection = transfer.activation, transfer.requester, transfer.collection
        if request is None or requester is None or collection is None:
            return False
        try:
            if collection.key in self._used_keys:
                raise TokenRejected("the key has proved a mobile node before")
            verify_token(collection.key, request, collection.algorithm)
        except TokenRejected:
            transfer.activation = transfer.requester = None
            self._refuse_token(request, requester, now)
            return False
        if self._used_keys.add(collection.key, now):
            self.counters[DropReason.MEMORY_EVICTED] += 1
        collection.key = b""
        return True

    def _refuse_token(self, request: ContextTransferActivateRequest, peer: Peer, now: float) -> None:
        self.counters[DropReason.TOKEN_REFUSED] += 1
        self._emit(TokenRefused(request.mn_previous_address, peer))
        self._acknowledge(request, peer, of_all(StatusCode.NOT_AUTHORIZED), now)

    # --- time

    def _on_timer(self, mn_address: IPAddress, now: float) -> None:
        transfer = self._transfers[mn_address]
        if transfer.deadline is not None and now >= transfer.deadline:
            if transfer.state is State.STANDBY:
                self._expire(transfer, now)
            else:
                self._abort(transfer, Trigger.DEADLINE, StatusCode.TIMED_OUT, now)
        elif transfer.backoff is not None and transfer.asked is not None:
            self._send(transfer.asked, transfer.previous_router)
            transfer.backoff.step(now)
            self._set_deadline(transfer, transfer.deadline)

    def _set_deadline(self, transfer: IncomingTransfer, deadline: float | None) -> None:
        transfer.deadline = deadline
        due = transfer.due()
        if due is None:
            self._schedule.clear(transfer.mn_address)
        else:
            self._schedule.set(transfer.mn_address, due)

    # --- steps that several of the above share

    def _ask(self, transfer: IncomingTransfer, request: ContextTransferRequest, now: float) -> None:
        transfer.advance(Trigger.REQUEST)
        previous_router = transfer.previous_router
        self._withdrawn.forget((previous_router.identity, transfer.mn_address))
        self._transfers[transfer.mn_address] = transfer
        transfer.asked = request
        self._send(request, previous_router)
        if not previous_router.reliable:
            transfer.backoff = Backoff.start(self.config.timers.data_retry, now)
        self._set_deadline(transfer, now + self.config.timers.max_handover_time)

    def _abort(self, transfer: IncomingTransfer, trigger: Trigger, status: int, now: float) -> None:
        """Nothing of a transfer was or will be installed.  Its sender is told once the node has that on record."""
        transfer.advance(trigger)
        collection = transfer.collection
        if trigger is Trigger.CANCEL or (trigger is Trigger.DEADLINE and not (collection and collection.acknowledge)):
            self._send(ContextTransferCancel(mn_previous_address=transfer.mn_address), transfer.previous_router)
        peer, generation = transfer.previous_router, transfer.generation
        self._emit(TransferAborted(transfer.mn_address, transfer.transfer_id, status, peer, generation))
        if collection is None:
            if trigger is not Trigger.NOTHING:
                self._remember(self._withdrawn, (peer.identity, transfer.mn_address), status, now)
            self._end(transfer, of_all(status), now)
        elif transfer.transfer_id is None:  # no record could name it
            self._tell_refusal(transfer, Outcome(False, of_all(status)), now)
        else:
            collection.parts.clear()
            self._set_deadline(transfer, None)

    def _tell_refusal(self, transfer: IncomingTransfer, outcome: Outcome, now: float) -> None:
        transfer.advance(Trigger.REFUSED)
        self._answer(transfer, outcome, now)
        self._end(transfer, _failures(outcome.statuses), now)

    def _answer(self, transfer: IncomingTransfer, outcome: Outcome, now: float) -> None:
        """Make the CTDR, remember it, and send it if the data's A asks for one."""
        collection = transfer.collection
        if collection is None:
            return
        answer = self._reply(transfer.mn_address, collection.identity, outcome)
        answered = (transfer.previous_router.identity, transfer.mn_address, collection.identity)
        self._remember(self._answers, answered, answer, now)
        if collection.acknowledge:
            self._send(answer, transfer.previous_router)

    def _recorded(self, answered: _Answered, peer: Peer) -> ContextTransferDataReply | None:
        """The answer to a transfer that the role has forgotten and the node has not."""
        _, mn_address, identity = answered
        outcome = self._outcome_of(peer, mn_address, identity) if isinstance(identity, int) else None
        return None if outcome is None else self._reply(mn_address, identity, outcome)

    def _reply(self, mn_address: IPAddress, identity: Identity, outcome: Outcome) -> ContextTransferDataReply:
        proof = receipt(identity, self.config.context_types) if isinstance(identity, int) else ()
        return ContextTransferDataReply(
            mn_previous_address=mn_address,
            success=outcome.success,
            statuses=(*_failures(outcome.statuses), *proof),
        )

    def _expire(self, transfer: IncomingTransfer, now: float) -> None:
        transfer.advance(Trigger.DEADLINE)
        self._emit(PredictionExpired(transfer.mn_address, transfer.generation, transfer.transfer_id))
        self._end(transfer, (), now)

    def _end(self, transfer: IncomingTransfer, failures: tuple[ContextStatus, ...], now: float) -> None:
        """The record's end: tell the waiting mobile node, forget the key and the contexts."""
        del self._transfers[transfer.mn_address]
        self._schedule.clear(transfer.mn_address)
        if transfer.collection is not None:
            self._octets -= transfer.collection.counted
        if transfer.activation is not None and transfer.requester is not None:
            self._acknowledge(transfer.activation, transfer.requester, failures, now)

    def _has_room(self, now: float) -> bool:
        """Whether one more transfer fits, with the answer that it will have to be remembered."""
        limits, under_way = self.config.limits, len(self._transfers)
        return under_way < limits.transfers and self._answers.size(now) + under_way < limits.remembered_requests


def _transfer_request(request: ContextTransferActivateRequest) -> ContextTransferRequest:
    """The CT-Req made from a CTAR: sequence number, token and requested types verbatim (RFC 4067, 2.5.6)."""
    return ContextTransferRequest(
        mn_previous_address=request.mn_previous_address,
        sequence_number=request.sequence_number,
        authorization_token=request.authorization_token,
        requested=request.requested,
    )


def _failures(statuses: Sequence[ContextStatus]) -> tuple[ContextStatus, ...]:
    return tuple(dict.fromkeys(s for s in statuses if s.status != StatusCode.SUCCESS))
