"""The previous access router: it has a mobile node's contexts and hands them over.

What it promises, and what the node that drives it may build on:

* A key moves one session, once (RFC 4067, 6.3).
* Nothing leaves before the token of the request is checked, where a request carries one.
* Once data is out, only two things end the doubt about who owns the session: a CTDR of the new router for this
  very transfer (its receipt tells), or nothing.  A deadline that passes decides nothing (TransferUnconfirmed),
  and a CTC neither: it names a mobile node, not a transfer, so that a late one could thaw a session that a newer
  transfer has just moved.  It makes us ask with the first part once more, which draws the CTDR that decides.
* A refusal is an answer: a request that is refused, or whose token is wrong, is answered with a CTD without
  contexts and without A, since RFC 4067 has no message for "no" and silence would keep the slot of this mobile
  node at the new router taken for CT_MAX_HANDOVER_TIME - by whoever forged a CTAR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..config import ProtocolConfig
from ..constants import StatusCode
from ..errors import LocalError, TokenRejected
from ..messages import (
    ContextStatus,
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    ContextTransferDataReply,
    ContextTransferRequest,
    EncodedContext,
    IPAddress,
)
from ..token import is_null_token, verify_token
from .events import (
    ActivationRequested,
    CacheExpired,
    ContextsRequested,
    DropReason,
    Peer,
    Random,
    TokenRefused,
    TransferCancelled,
    TransferConfirmed,
    TransferRefused,
    TransferUnconfirmed,
)
from .memory import Memory, UsedKeys
from .outgoing_transfer import Data, OutgoingTransfer, State, Trigger, judge_reply
from .router import Router, of_all
from .schedule import RoundTripTime

_CtReqKey = tuple[tuple[IPAddress, str], IPAddress, int]


class PreviousRouter(Router):
    """The role; see the module's head for its promises and :mod:`.machine` for the five verbs.

    ``require_receipt``: take no CTDR without one, as another implementation sends it (see
    :func:`.outgoing_transfer.judge_reply` for when one is taken otherwise).
    """

    def __init__(
        self,
        routers: Mapping[IPAddress, Peer],
        random: Random,
        config: ProtocolConfig = ProtocolConfig(),
        *,
        require_receipt: bool = False,
    ) -> None:
        super().__init__(routers, random, config)
        self.require_receipt = require_receipt
        capacity, lifetime = config.limits.remembered_requests, config.timers.max_handover_time
        self._transfers: dict[IPAddress, OutgoingTransfer] = {}
        # What a CT-Req was answered with, to answer its duplicates alike: a refusal, or None for data.
        self._requests: Memory[_CtReqKey, ContextTransferData | None] = Memory(capacity, lifetime)
        self._used_keys = UsedKeys(capacity)
        # Of routers that we know, and no others.
        self._round_trip_times: dict[tuple[IPAddress, str], RoundTripTime] = {}
        # Mobile nodes and routers with a transfer so recent that a CTDR without receipt may be its.
        self._recent: Memory[tuple[IPAddress, tuple[IPAddress, str]], None] = Memory(capacity, lifetime)
        self._handlers = {
            ContextTransferActivateRequest: self._on_activate_request,
            ContextTransferRequest: self._on_transfer_request,
            ContextTransferDataReply: self._on_reply,
            ContextTransferCancel: self._on_cancel,
        }

    # --- local actions

    def transfer(
        self,
        mn_address: IPAddress,
        new_router: Peer,
        contexts: Sequence[EncodedContext],
        generation: int,
        now: float,
        transfer_id: int | None = None,
    ) -> int:
        """Move a session on the network's own decision, without any request: CTDs with A=1.

        Ours, for mobile nodes that do not know CXTP (a VPN peer).  Returns the transfer identifier, before
        anything is sent, for the caller to keep; ``transfer_id`` repeats an earlier transfer whose outcome is
        unknown.  Raises LocalError where a transfer of this mobile node is under way or the data fits nowhere.
        """
        return self._start(mn_address, new_router, contexts, generation, b"", now, transfer_id)

    def predict(
        self,
        mn_address: IPAddress,
        new_router: Peer,
        contexts: Sequence[EncodedContext],
        generation: int,
        key: bytes,
        now: float,
        transfer_id: int | None = None,
        *,
        replica: bool = False,
    ) -> int:
        """Send the contexts ahead of the mobile node, with the key to know it by (RFC 4067, 5.1): PCTDs.

        As :meth:`transfer`; an empty key raises LocalError.  ``replica``: nobody is to prove itself with the key, so
        that it is not remembered as one that has moved a session.
        """
        if not key:
            raise LocalError("a predictive transfer needs the key that the mobile node shares with us")
        if key in self._used_keys:
            raise LocalError(f"the key shared with {mn_address} has moved a session before: it needs a new one")
        started = self._start(mn_address, new_router, contexts, generation, key, now, transfer_id)
        if replica:
            self._transfers[mn_address].key = b""
        return started

    def authorize(self, mn_address: IPAddress, key: bytes | None, now: float) -> bool:
        """Check the waiting request's token, before anything is frozen for it.

        False: it is wrong, the request is refused and gone (TokenRefused).  A null token of a CT-Req passes: its
        mobile node proves itself to the new router.  :meth:`provide` checks likewise, for callers that skip
        this.  Raises LocalError where no request waits.
        """
        transfer = self._waiting(mn_address)
        request = transfer.request
        if request is None:
            raise LocalError(f"nobody asks for the contexts of {mn_address}")
        if not (isinstance(request, ContextTransferRequest) and is_null_token(request)):
            try:
                if not key:
                    raise TokenRejected(f"no key to check the {request.short_name}'s token with")
                if key in self._used_keys:
                    raise TokenRejected("the key has moved a session before")
                verify_token(key, request)
                transfer.key = key
            except TokenRejected:
                self.counters[DropReason.TOKEN_REFUSED] += 1
                if transfer.requester is not None:
                    self._emit(TokenRefused(mn_address, transfer.requester))
                self._refuse(transfer, StatusCode.NOT_AUTHORIZED, now)
                return False
        transfer.authorized = True
        return True

    def provide(
        self,
        mn_address: IPAddress,
        contexts: Sequence[EncodedContext],
        generation: int,
        key: bytes | None,
        now: float,
        transfer_id: int | None = None,
    ) -> int | None:
        """Answer ContextsRequested or ActivationRequested with the contexts, their token being right.

        ``key`` is the one shared with the mobile node, None for one that has none.  A CTAR or a null token is
        answered by PCTDs with the key (by CTDs where there is none), a true token by CTDs.  Returns the transfer
        identifier; None where the token is wrong.  Raises LocalError as :meth:`transfer`, and where no request
        waits (any more: the new router may have cancelled).
        """
        transfer = self._waiting(mn_address)
        if not transfer.authorized and not self.authorize(mn_address, key, now):
            return None
        request = transfer.request
        verified_here = isinstance(request, ContextTransferRequest) and not is_null_token(request)
        sent_key = b"" if verified_here or key is None else key
        data = self._plan(contexts, generation, sent_key, transfer_id)
        self._launch(transfer, data, now)
        return data.transfer_id

    def refuse(self, mn_address: IPAddress, status: int, now: float) -> None:
        """Answer ContextsRequested or ActivationRequested with no.  Raises LocalError where no request waits."""
        self._refuse(self._waiting(mn_address), status, now)

    def is_busy_with(self, mn_address: IPAddress) -> bool:
        """Whether a transfer of this mobile node is asked for, under way or unconfirmed."""
        return mn_address in self._transfers

    def resend(self, mn_address: IPAddress, now: float) -> None:
        """Try an unconfirmed transfer again, the same one.  Raises LocalError where there is none."""
        transfer = self._transfers.get(mn_address)
        if transfer is None or transfer.state is not State.UNCONFIRMED:
            raise LocalError(f"no unconfirmed transfer of {mn_address} is cached")
        self._attempt(transfer, now)

    # --- messages

    def _on_activate_request(self, request: ContextTransferActivateRequest, peer: Peer, now: float) -> None:
        mn_address = request.mn_previous_address
        if not self._is_new(request, peer, now):
            return
        if mn_address in self._transfers:
            return self._drop(DropReason.BUSY, f"CTAR for {mn_address}", peer)
        if len(self._transfers) >= self.config.limits.transfers:
            return self._drop(DropReason.TOO_MANY_TRANSFERS, f"CTAR for {mn_address}", peer)
        self._note(request, now)
        new_router = self._routers.get(request.access_router_address)
        if new_router is None:
            self._drop(DropReason.UNKNOWN_ROUTER, f"CTAR names {request.access_router_address}", peer)
            return self._acknowledge(request, peer, of_all(StatusCode.NOT_AUTHORIZED), now)
        self._ask(request, new_router, peer, now)
        self._emit(ActivationRequested(mn_address, request.access_router_address, request, peer))

    def _on_transfer_request(self, request: ContextTransferRequest, peer: Peer, now: float) -> None:
        mn_address = request.mn_previous_address
        seen = (peer.identity, mn_address, request.sequence_number)
        transfer = self._transfers.get(mn_address)
        if transfer is not None:
            return self._on_request_again(transfer, request, peer, now)
        if self._requests.knows(seen, now):
            answer = self._requests.recall(seen, now)
            self._drop(DropReason.DUPLICATE_REQUEST, f"CT-Req for {mn_address}", peer)
            return None if answer is None else self._send(answer, peer)
        if len(self._transfers) >= self.config.limits.transfers:
            return self._drop(DropReason.TOO_MANY_TRANSFERS, f"CT-Req for {mn_address}", peer)
        self._remember(self._requests, seen, None, now)
        self._ask(request, peer, peer, now)
        self._emit(
            ContextsRequested(mn_address, request.requested, peer, request.sequence_number, is_null_token(request))
        )

    def _on_request_again(
        self, transfer: OutgoingTransfer, request: ContextTransferRequest, peer: Peer, now: float
    ) -> None:
        """A CT-Req while a transfer is under way asks its own new router's data out of the cache (2.5.3)."""
        if transfer.new_router.identity != peer.identity:
            return self._drop(DropReason.BUSY, f"CT-Req for {transfer.mn_address}", peer)
        if transfer.state is State.ASKED:
            same = transfer.request is not None and transfer.request.sequence_number == request.sequence_number
            reason = DropReason.DUPLICATE_REQUEST if same else DropReason.BUSY
            return self._drop(reason, f"CT-Req for {transfer.mn_address}", peer)
        if transfer.state is State.UNCONFIRMED:
            self._attempt(transfer, now)
        else:
            transfer.advance(Trigger.SEND)
            self._send_data(transfer, now)
        transfer.join(request.sequence_number)

    def _on_reply(self, reply: ContextTransferDataReply, peer: Peer, now: float) -> None:
        transfer = self._of_peer("CTDR", reply.mn_previous_address, peer)
        if transfer is None:
            return
        verdict = judge_reply(transfer, reply, self.config, self.require_receipt)
        if verdict.trigger is None:
            return self._drop(verdict.reason, f"CTDR for {transfer.mn_address}", peer)
        transfer.advance(verdict.trigger)
        self._measure(transfer, now)
        self._finish(transfer, now)
        mn_address, statuses, transfer_id = transfer.mn_address, verdict.statuses, transfer.transfer_id
        if transfer_id is None:
            return
        if verdict.trigger is Trigger.CONFIRM:
            if transfer.key and self._used_keys.add(transfer.key, now):
                self.counters[DropReason.MEMORY_EVICTED] += 1
            for sequence_number in transfer.sequence_numbers:
                self._remember(self._requests, (peer.identity, mn_address, sequence_number), None, now)
                self._had_by_another(mn_address, sequence_number, now)
            self._emit(TransferConfirmed(mn_address, transfer_id, statuses))
        elif any(s.status == StatusCode.CANCELLED for s in statuses):
            self._emit(TransferCancelled(mn_address, transfer_id, statuses))
        else:
            self._emit(TransferRefused(mn_address, transfer_id, statuses))
        self._answer_mobile_node(transfer, statuses, now)

    def _on_cancel(self, cancel: ContextTransferCancel, peer: Peer, now: float) -> None:
        transfer = self._of_peer("CTC", cancel.mn_previous_address, peer)
        if transfer is None:
            return
        before = transfer.state
        transfer.advance(Trigger.CANCEL)
        if transfer.state is State.IDLE:  # nothing was sent: what the cancel means is certain
            self._finish(transfer, now)
            self._emit(TransferCancelled(transfer.mn_address, None))
            self._answer_mobile_node(transfer, of_all(StatusCode.CANCELLED), now)
        elif before is not State.CANCELLING:
            if before is State.UNCONFIRMED:
                transfer.start_attempt(now, self.config, self._round_trip_time(transfer))
            self._send_data(transfer, now)
            self._arm(transfer)

    # --- time

    def _on_timer(self, mn_address: IPAddress, now: float) -> None:
        transfer = self._transfers[mn_address]
        if transfer.state is State.UNCONFIRMED:
            transfer.advance(Trigger.EXPIRE)
            self._finish(transfer, now)
            if transfer.transfer_id is not None:
                self._emit(CacheExpired(mn_address, transfer.transfer_id))
            return
        if now >= transfer.deadline:
            transfer.advance(Trigger.DEADLINE)
            if transfer.transfer_id is not None:
                self._emit(TransferUnconfirmed(mn_address, transfer.transfer_id))
        elif transfer.backoff is not None:
            self._send_data(transfer, now)
            transfer.backoff.step(now)
        self._arm(transfer)

    def _arm(self, transfer: OutgoingTransfer) -> None:
        due = transfer.due()
        if due is not None:
            self._schedule.set(transfer.mn_address, due)

    # --- steps that several of the above share

    def _start(
        self,
        mn_address: IPAddress,
        new_router: Peer,
        contexts: Sequence[EncodedContext],
        generation: int,
        key: bytes,
        now: float,
        transfer_id: int | None,
    ) -> int:
        if not self._knows(new_router):
            raise LocalError(f"{new_router.address} is no router that we know")
        if mn_address in self._transfers:
            raise LocalError(f"a transfer of {mn_address} is under way")
        if len(self._transfers) >= self.config.limits.transfers:
            raise LocalError("as many transfers are under way as Limits.transfers allows")
        data = self._plan(contexts, generation, key, transfer_id)
        transfer = OutgoingTransfer(mn_address, new_router, self._is_single(mn_address, new_router, now))
        self._transfers[mn_address] = transfer
        self._launch(transfer, data, now)
        return data.transfer_id

    def _plan(self, contexts: Sequence[EncodedContext], generation: int, key: bytes, transfer_id: int | None) -> Data:
        if transfer_id is None:
            transfer_id = self._random.getrandbits(32)
        return Data.plan(contexts, generation, transfer_id, key, self.config)

    def _launch(self, transfer: OutgoingTransfer, data: Data, now: float) -> None:
        transfer.data = data
        transfer.key = data.key or transfer.key
        transfer.first_sent = now
        self._attempt(transfer, now)

    def _attempt(self, transfer: OutgoingTransfer, now: float) -> None:
        transfer.advance(Trigger.SEND)
        transfer.start_attempt(now, self.config, self._round_trip_time(transfer))
        self._send_data(transfer, now)
        self._arm(transfer)

    def _round_trip_time(self, transfer: OutgoingTransfer) -> RoundTripTime:
        return self._round_trip_times.setdefault(transfer.new_router.identity, RoundTripTime())

    def _measure(self, transfer: OutgoingTransfer, now: float) -> None:
        if transfer.sendings == 1:
            self._round_trip_time(transfer).measured(now - transfer.sent)
        elif transfer.backoff is not None:
            self._round_trip_time(transfer).ambiguous(transfer.backoff.wait)

    def _send_data(self, transfer: OutgoingTransfer, now: float) -> None:
        transfer.sendings += 1
        transfer.sent = now
        for message in transfer.messages(now):
            self._send(message, transfer.new_router)

    def _ask(
        self,
        request: ContextTransferActivateRequest | ContextTransferRequest,
        new_router: Peer,
        requester: Peer,
        now: float,
    ) -> None:
        mn_address = request.mn_previous_address
        single = self._is_single(mn_address, new_router, now)
        transfer = OutgoingTransfer(mn_address, new_router, single, request=request, requester=requester)
        transfer.advance(Trigger.ASK)
        self._transfers[mn_address] = transfer

    def _refuse(self, transfer: OutgoingTransfer, status: int, now: float) -> None:
        transfer.advance(Trigger.REFUSE)
        self._finish(transfer, now)
        request, requester = transfer.request, transfer.requester
        if isinstance(request, ContextTransferRequest) and requester is not None:
            answer = ContextTransferData(mn_previous_address=transfer.mn_address, elapsed_time=0)
            seen = (requester.identity, transfer.mn_address, request.sequence_number)
            self._remember(self._requests, seen, answer, now)
            self._send(answer, requester)
        self._answer_mobile_node(transfer, of_all(status), now)

    def _answer_mobile_node(
        self, transfer: OutgoingTransfer, statuses: tuple[ContextStatus, ...], now: float
    ) -> None:
        if isinstance(transfer.request, ContextTransferActivateRequest) and transfer.requester is not None:
            self._acknowledge(transfer.request, transfer.requester, statuses, now)

    def _finish(self, transfer: OutgoingTransfer, now: float) -> None:
        """The record's end: its data leaves the cache."""
        del self._transfers[transfer.mn_address]
        self._schedule.clear(transfer.mn_address)
        if transfer.data is not None:
            self._remember(self._recent, (transfer.mn_address, transfer.new_router.identity), None, now)

    def _is_single(self, mn_address: IPAddress, new_router: Peer, now: float) -> bool:
        return not self._recent.knows((mn_address, new_router.identity), now)

    def _of_peer(self, name: str, mn_address: IPAddress, peer: Peer) -> OutgoingTransfer | None:
        """The mobile node's transfer if it goes to this peer; else a drop."""
        transfer = self._transfers.get(mn_address)
        if transfer is None:
            self._drop(DropReason.NO_TRANSFER, f"{name} for {mn_address}", peer)
        elif transfer.new_router.identity != peer.identity:
            self._drop(DropReason.WRONG_ROUTER, f"{name} for {mn_address}", peer)
            return None
        return transfer

    def _waiting(self, mn_address: IPAddress) -> OutgoingTransfer:
        transfer = self._transfers.get(mn_address)
        if transfer is None or transfer.state is not State.ASKED:
            raise LocalError(f"nobody asks for the contexts of {mn_address}")
        return transfer
