"""The previous router by itself: timers, retransmission, replies with and without receipt, cancel, drops."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import (
    CONTEXTS,
    CTC,
    EMPTY_CTD,
    KEY,
    MN,
    MOBILE,
    NEW,
    NEW_ADDRESS,
    OTHER,
    PREVIOUS,
    ROUTERS,
    STRANGER,
    TRANSFER_ID,
    Fixed,
    blocks_of,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    drops,
    manifest_block,
    pctd,
    take_events,
)

from cxtp.config import Limits, ProtocolConfig, Timers
from cxtp.constants import StatusCode
from cxtp.errors import LocalError
from cxtp.messages import ContextStatus, ContextTransferData, EncodedContext
from cxtp.roles import DropReason, Event, Outgoing, Peer, PreviousRouter
from cxtp.roles.events import (
    ActivationRequested,
    CacheExpired,
    ContextsRequested,
    Dropped,
    TokenRefused,
    TransferCancelled,
    TransferConfirmed,
    TransferRefused,
    TransferUnconfirmed,
)

T = 100.0
INSTALL_FAILED = ContextStatus(0xFF02, StatusCode.INSTALL_FAILED)
CANCELLED = ContextStatus(0, StatusCode.CANCELLED)


def idle(*numbers: int, config: ProtocolConfig = ProtocolConfig(), require_receipt: bool = False) -> PreviousRouter:
    return PreviousRouter(ROUTERS, Fixed(*(numbers or (TRANSFER_ID,))), config, require_receipt=require_receipt)


def sending(new_router: Peer = NEW, *, require_receipt: bool = False) -> PreviousRouter:
    """A role that has just sent an unsolicited CTD."""
    role = idle(require_receipt=require_receipt)
    role.transfer(MN, new_router, CONTEXTS, 7, T)
    assert role.to_send(T) == [Outgoing(ctd(), new_router)]
    return role


def unconfirmed() -> PreviousRouter:
    """A role whose transfer had no answer in time."""
    role = sending()
    role.handle_timer(T + 0.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]
    role.to_send(T)
    return role


# --- time


def test_data_is_repeated_with_doubled_waits_until_the_deadline() -> None:
    role = sending()
    # 40 ms after the first, 80 ms after that; a third, 160 ms later, would miss the deadline of 200 ms
    for elapsed in (40, 120):
        when = T + elapsed / 1000
        assert role.deadline() == pytest.approx(when)
        role.handle_timer(when - 0.001)
        assert role.to_send(when) == []
        role.handle_timer(when + 1e-6)
        assert role.to_send(when) == [Outgoing(ctd(elapsed_time=elapsed), NEW)]
    assert role.deadline() == T + 0.2
    role.handle_timer(T + 0.1999)
    assert take_events(role) == []
    role.handle_timer(T + 0.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]
    assert role.to_send(T + 0.2) == []


def test_the_first_wait_follows_how_late_a_router_answers() -> None:
    """RFC 6298, 2.2 and 2.3: SRTT + 4 * RTTVAR; Karn's algorithm: no sample of what was repeated."""
    role = idle(*[TRANSFER_ID] * 7, config=ProtocolConfig(timers=Timers(max_transfer_time=10.0)))

    def transfer(start: float, answered_after: float, to: Peer = NEW) -> float:
        role.transfer(MN, to, CONTEXTS, 7, start)
        due = role.deadline()
        assert due is not None
        while (again := role.deadline()) is not None and again <= start + answered_after:
            role.handle_timer(again)
        role.receive(ctdr(True), to, start + answered_after)
        assert isinstance(take_events(role)[-1], TransferConfirmed)
        role.to_send(start)
        return due - start

    assert transfer(100, 0.03) == pytest.approx(0.04)  # SRTT 0.03, RTTVAR 0.015
    assert transfer(200, 0.03) == pytest.approx(0.09)  # RTTVAR 0.01125
    assert transfer(300, 1.0) == pytest.approx(0.075)  # repeated at 0.075, 0.225, 0.525; the next wait is 0.6
    assert transfer(400, 0.5) == pytest.approx(0.6)  # RTTVAR 0.1259375, SRTT 0.08875
    assert transfer(500, 5.0) == pytest.approx(0.5925)  # repeated after 0.5925, 1.185, 2.37; the next wait is 4.74
    assert transfer(600, 0.1) == pytest.approx(2.0)  # a fifth of the transfer's time
    assert transfer(700, 0.1, OTHER) == pytest.approx(0.04)  # another router


def test_a_late_call_of_the_timer_repeats_once() -> None:
    role = idle(config=ProtocolConfig(timers=Timers(max_transfer_time=10.0)))
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    role.to_send(T)
    role.handle_timer(T + 5)
    assert len(role.to_send(T + 5)) == 1
    assert role.deadline() == T + 5 + 0.08


def test_a_reliable_transport_needs_no_repetition() -> None:
    role = sending(replace(NEW, reliable=True))
    assert role.deadline() == T + 0.2
    role.handle_timer(T + 0.19)
    assert role.to_send(T + 0.19) == []


def test_an_unconfirmed_transfer_stays_in_the_cache_until_the_handover_time() -> None:
    role = unconfirmed()
    assert role.deadline() == T + 15
    role.handle_timer(T + 14.999)
    assert take_events(role) == []
    role.handle_timer(T + 15)
    assert take_events(role) == [CacheExpired(MN, TRANSFER_ID)]
    assert role.deadline() is None
    with pytest.raises(LocalError):
        role.resend(MN, T + 15)


def test_an_unconfirmed_transfer_can_be_tried_again() -> None:
    role = unconfirmed()
    role.resend(MN, T + 3)
    assert role.to_send(T + 3) == [Outgoing(ctd(elapsed_time=3000), NEW)]
    role.handle_timer(T + 3.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]
    assert role.deadline() == T + 18


def test_a_transfer_that_left_the_cache_is_taken_up_by_its_identifier() -> None:
    role = idle()
    assert role.transfer(MN, NEW, CONTEXTS, 7, T, transfer_id=0x1234) == 0x1234
    assert role.to_send(T) == [Outgoing(ctd(transfer_id=0x1234), NEW)]


# --- what decides


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("reply", "event"),
    [
        (ctdr(True), TransferConfirmed(MN, TRANSFER_ID, ())),
        (ctdr(True, INSTALL_FAILED), TransferConfirmed(MN, TRANSFER_ID, (INSTALL_FAILED,))),
        (ctdr(False, INSTALL_FAILED), TransferRefused(MN, TRANSFER_ID, (INSTALL_FAILED,))),
        (ctdr(False, CANCELLED), TransferCancelled(MN, TRANSFER_ID, (CANCELLED,))),
    ],
)
def test_a_reply_decides_in_time_or_late(reply: ContextTransferData, event: Event, late: bool) -> None:
    role = unconfirmed() if late else sending()
    role.receive(reply, NEW, T + 1)
    assert take_events(role) == [event]
    assert role.deadline() is None
    assert role.to_send(T + 1) == []
    role.receive(reply, NEW, T + 1)
    assert drops(role) == [DropReason.NO_TRANSFER]


def test_a_late_reply_to_an_older_transfer_confirms_no_newer_one() -> None:
    older, newer = TRANSFER_ID, 0x0000_0002
    role = idle(older, newer)
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    role.receive(ctdr(True), NEW, T + 0.1)  # moved there; then the session comes back, and goes again
    role.transfer(MN, NEW, CONTEXTS, 9, T + 1)
    take_events(role)
    role.receive(ctdr(True), NEW, T + 1.1)  # the first reply, doubled on its way
    role.receive(ctdr(False, INSTALL_FAILED), NEW, T + 1.1)
    assert drops(role) == [DropReason.RECEIPT_MISMATCH] * 2
    two = tuple(ContextStatus(0xFF03, octet) for octet in (0, 0, 0, 2))
    role.receive(ctdr(True, receipt=two), NEW, T + 1.1)
    assert take_events(role) == [TransferConfirmed(MN, newer, ())]


def test_a_reply_of_another_router_decides_nothing() -> None:
    role = sending()
    role.receive(ctdr(True), OTHER, T)
    assert drops(role) == [DropReason.WRONG_ROUTER]
    role.receive(ctdr(True), STRANGER, T)
    role.receive(ctdr(True), replace(NEW, name="not it"), T)
    role.receive(ctdr(True), replace(NEW, is_router=False), T)
    assert drops(role) == [DropReason.UNKNOWN_ROUTER] * 3
    role.receive(ctdr(True), replace(NEW, port=40_000), T)
    assert take_events(role) == [TransferConfirmed(MN, TRANSFER_ID, ())]


# --- several messages


def test_contexts_that_one_message_does_not_hold_go_in_several_parts() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(message_octets=220)))
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    blocks = blocks_of(CONTEXTS)  # of 56, 48 and 16 octets, where 108 are left
    expected = [
        ContextTransferData(
            mn_previous_address=MN,
            elapsed_time=0,
            acknowledge=True,
            blocks=(manifest_block(CONTEXTS, part, 2), *blocks[first:last]),
        )
        for part, first, last in ((0, 0, 2), (1, 2, 3))
    ]
    assert [outgoing.message for outgoing in role.to_send(T)] == expected


# --- cancel


def test_a_cancel_decides_nothing_and_draws_the_reply_that_does() -> None:
    role = sending()
    role.receive(CTC, NEW, T + 0.01)
    assert take_events(role) == []
    assert role.to_send(T + 0.01) == [Outgoing(ctd(elapsed_time=10), NEW)]
    role.receive(CTC, NEW, T + 0.011)  # doubled on its way
    assert role.to_send(T + 0.011) == []
    role.receive(ctdr(False, CANCELLED), NEW, T + 0.02)
    assert take_events(role) == [TransferCancelled(MN, TRANSFER_ID, (CANCELLED,))]
    assert role.deadline() is None


def test_after_a_cancel_the_first_part_alone_is_repeated() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(message_octets=220)))
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    assert len(role.to_send(T)) == 2
    role.receive(CTC, NEW, T + 0.01)
    assert len(role.to_send(T + 0.01)) == 1
    role.handle_timer(T + 0.041)
    assert len(role.to_send(T + 0.041)) == 1
    role.handle_timer(T + 0.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]


def test_a_cancel_that_a_newer_transfer_overtook_does_not_end_it() -> None:
    role = sending()
    role.receive(CTC, NEW, T)
    role.receive(ctdr(True), NEW, T)
    assert take_events(role) == [TransferConfirmed(MN, TRANSFER_ID, ())]


def test_a_cancel_of_an_unconfirmed_transfer_asks_again() -> None:
    role = unconfirmed()
    role.receive(CTC, NEW, T + 1)
    assert role.to_send(T + 1) == [Outgoing(ctd(elapsed_time=1000), NEW)]
    role.handle_timer(T + 1.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]


def test_a_cancel_before_anything_was_sent_is_certain() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    role.receive(CTC, NEW, T)
    assert take_events(role)[1:] == [TransferCancelled(MN, None)]
    with pytest.raises(LocalError):
        role.provide(MN, CONTEXTS, 7, KEY, T)


def test_a_cancel_without_a_transfer_is_dropped() -> None:
    role = idle()
    role.receive(CTC, NEW, T)
    assert drops(role) == [DropReason.NO_TRANSFER]


# --- CT-Req


def test_a_request_with_a_wrong_token_gets_no_contexts() -> None:
    role = idle()
    role.receive(ct_req(9, b"a guess"), NEW, T)
    take_events(role)
    assert role.provide(MN, CONTEXTS, 7, KEY, T) is None
    assert take_events(role) == [TokenRefused(MN, NEW)]
    assert role.counters[DropReason.TOKEN_REFUSED] == 1
    assert role.to_send(T) == [Outgoing(EMPTY_CTD, NEW)]
    assert role.deadline() is None


def confirmed(role: PreviousRouter, key: bytes) -> None:
    """A CT-Req with a true token, answered, and its data confirmed."""
    role.receive(ct_req(9, key), NEW, T)
    assert role.authorize(MN, key, T)
    role.provide(MN, CONTEXTS, 7, key, T, TRANSFER_ID)
    role.receive(ctdr(True), NEW, T)
    take_events(role)
    role.to_send(T)


def test_a_key_that_has_moved_a_session_moves_no_other() -> None:
    """RFC 4067, 6.3: for whichever mobile node."""
    role = idle()
    confirmed(role, KEY)
    role.receive(replace(ct_req(10), mn_previous_address=MN), NEW, T + 20)
    take_events(role)
    assert not role.authorize(MN, KEY, T + 20)
    assert any(isinstance(event, TokenRefused) for event in take_events(role))
    for mn_address in (MN, MN + 1):
        with pytest.raises(LocalError, match="has moved a session before"):
            role.predict(mn_address, NEW, CONTEXTS, 8, KEY, T + 20)
    role.predict(MN, NEW, CONTEXTS, 8, b"another", T + 20)


def test_a_key_whose_transfer_was_refused_may_try_again() -> None:
    role = idle()
    role.predict(MN, NEW, CONTEXTS, 7, KEY, T)
    role.receive(ctdr(False, INSTALL_FAILED), NEW, T)
    role.predict(MN, NEW, CONTEXTS, 8, KEY, T)


def test_a_true_token_without_a_key_to_check_it_with_is_refused() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    take_events(role)
    assert not role.authorize(MN, None, T)
    assert take_events(role) == [TokenRefused(MN, NEW)]


def test_a_null_token_without_a_key_is_answered_by_plain_data() -> None:
    role = idle()
    role.receive(ct_req(9, None), NEW, T)
    assert take_events(role) == [ContextsRequested(MN, (), NEW, 9, null_token=True)]
    role.provide(MN, CONTEXTS, 7, None, T)
    assert role.to_send(T) == [Outgoing(ctd(), NEW)]


def test_a_refusal_is_given_again_to_repetitions_of_its_request() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    role.receive(ct_req(9), NEW, T + 0.04)  # while the node thinks
    assert take_events(role)[1:] == [Dropped(DropReason.DUPLICATE_REQUEST, f"CT-Req for {MN}", NEW)]
    role.refuse(MN, StatusCode.NO_SUCH_CONTEXT, T)
    assert role.to_send(T) == [Outgoing(EMPTY_CTD, NEW)]
    role.receive(ct_req(9), NEW, T + 0.12)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]
    assert role.to_send(T) == [Outgoing(EMPTY_CTD, NEW)]


def test_a_request_that_was_served_is_not_served_again_once_it_is_confirmed() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    role.provide(MN, CONTEXTS, 7, KEY, T)
    role.receive(ct_req(10), NEW, T)
    role.receive(ctdr(True), NEW, T)
    take_events(role)
    role.to_send(T)
    for sequence_number in (9, 10):
        role.receive(ct_req(sequence_number), NEW, T)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST] * 2
    assert role.to_send(T) == []
    role.receive(ct_req(9), NEW, T + 15)  # so old that it is a new one
    assert take_events(role) == [ContextsRequested(MN, (), NEW, 9, null_token=False)]


def test_a_request_asks_data_out_of_the_cache_again() -> None:
    role = unconfirmed()
    role.receive(ct_req(9), NEW, T + 2)
    assert role.to_send(T + 2) == [Outgoing(ctd(elapsed_time=2000), NEW)]
    assert role.deadline() == pytest.approx(T + 2.04)


def test_one_transfer_at_a_time() -> None:
    role = sending()
    role.receive(ct_req(9), OTHER, T)
    role.receive(ctar(9, NEW), MOBILE, T)
    assert drops(role) == [DropReason.BUSY] * 2
    with pytest.raises(LocalError):
        role.transfer(MN, OTHER, CONTEXTS, 7, T)
    with pytest.raises(LocalError):
        role.predict(MN, NEW, CONTEXTS, 7, KEY, T)
    with pytest.raises(LocalError):
        role.resend(MN, T)


def test_a_second_request_while_the_node_thinks_of_the_first() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    take_events(role)
    role.receive(ct_req(10), NEW, T)
    assert drops(role) == [DropReason.BUSY]


def test_a_request_after_a_cancel_is_out_of_turn() -> None:
    role = sending()
    role.receive(CTC, NEW, T)
    role.receive(ct_req(9), NEW, T)
    assert drops(role) == [DropReason.OUT_OF_TURN]


def test_a_reply_to_nothing_sent_is_out_of_turn() -> None:
    role = idle()
    role.receive(ct_req(9), NEW, T)
    take_events(role)
    role.receive(ctdr(True), NEW, T)
    role.receive(ctdr(True, receipt=()), NEW, T)
    assert drops(role) == [DropReason.RECEIPT_MISMATCH, DropReason.AMBIGUOUS_REPLY]


# --- CTAR


def test_a_ctar_is_acknowledged_when_its_outcome_is_known_and_again_to_its_repetitions() -> None:
    role = idle()
    role.receive(ctar(9, NEW), MOBILE, T)
    assert take_events(role) == [ActivationRequested(MN, NEW_ADDRESS, ctar(9, NEW), MOBILE)]
    role.provide(MN, CONTEXTS, 7, KEY, T)
    assert role.to_send(T) == [Outgoing(pctd(), NEW)]
    role.receive(ctar(9, NEW), MOBILE, T + 0.1)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]
    assert role.to_send(T) == []  # not known yet
    role.receive(ctdr(False, INSTALL_FAILED), NEW, T + 0.1)
    assert role.to_send(T) == [Outgoing(ctaa(INSTALL_FAILED), MOBILE)]
    take_events(role)
    role.receive(ctar(9, NEW), MOBILE, T + 2)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]
    assert role.to_send(T) == [Outgoing(ctaa(INSTALL_FAILED), MOBILE)]


def test_a_ctar_without_a_is_not_acknowledged() -> None:
    role = idle()
    role.receive(ctar(9, NEW, acknowledge=False), MOBILE, T)
    role.refuse(MN, StatusCode.NO_SUCH_CONTEXT, T)
    assert role.to_send(T) == []
    take_events(role)
    role.receive(ctar(9, NEW, acknowledge=False), MOBILE, T)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]


def test_a_forged_ctar_is_refused() -> None:
    role = idle()
    role.receive(ctar(9, NEW, b"a guess"), MOBILE, T)
    take_events(role)
    assert not role.authorize(MN, KEY, T)
    assert take_events(role) == [TokenRefused(MN, MOBILE)]
    assert role.to_send(T) == [Outgoing(ctaa(ContextStatus(0, StatusCode.NOT_AUTHORIZED)), MOBILE)]


def test_a_ctar_with_a_null_token_is_a_forged_one() -> None:
    role = idle()
    role.receive(replace(ctar(9, NEW), authorization_token=bytes(4)), MOBILE, T)
    take_events(role)
    assert not role.authorize(MN, KEY, T)


def test_a_ctar_that_names_an_unknown_router() -> None:
    role = idle()
    role.receive(ctar(9, STRANGER), MOBILE, T)
    assert drops(role) == [DropReason.UNKNOWN_ROUTER]
    assert role.to_send(T) == [Outgoing(ctaa(ContextStatus(0, StatusCode.NOT_AUTHORIZED)), MOBILE)]


# --- limits and local faults


def test_messages_between_routers_are_taken_from_known_routers_alone() -> None:
    role = idle()
    for message in (ct_req(9), ctdr(True), CTC):
        role.receive(message, STRANGER, T)
        role.receive(message, MOBILE, T)
    assert drops(role) == [DropReason.UNKNOWN_ROUTER] * 6
    assert role.to_send(T) == []


def test_a_message_that_is_not_for_this_role() -> None:
    role = idle()
    role.receive(ctd(), NEW, T)
    role.receive(ctaa(), NEW, T)
    assert drops(role) == [DropReason.UNEXPECTED_MESSAGE] * 2


def test_transfers_under_way_are_limited() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(transfers=1)))
    role.receive(ct_req(9), NEW, T)
    take_events(role)
    other = MN + 1
    role.receive(replace(ct_req(9), mn_previous_address=other), NEW, T)
    role.receive(replace(ctar(9, NEW), mn_previous_address=other), MOBILE, T)
    assert drops(role) == [DropReason.TOO_MANY_TRANSFERS] * 2
    with pytest.raises(LocalError):
        role.transfer(other, NEW, CONTEXTS, 7, T)


def test_remembered_requests_are_limited_and_what_goes_is_counted() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(remembered_requests=2, request_rate=1000)))
    for number in range(3):
        role.receive(ctar(number, STRANGER), MOBILE, T)
    # each CTAR is put twice, with its answer the second time
    assert role.counters[DropReason.MEMORY_EVICTED] == 1
    assert [role.remembers(MN, number, T) for number in range(3)] == [False, True, True]


def test_events_that_nobody_takes_close_the_door() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(events=3)))
    for _ in range(10):
        role.receive(CTC, NEW, T)
    assert role.counters[DropReason.QUEUE_FULL] == 7
    assert drops(role) == [DropReason.NO_TRANSFER] * 3
    role.receive(CTC, NEW, T)
    assert drops(role) == [DropReason.NO_TRANSFER]


def test_messages_that_nobody_takes_are_lost_and_counted() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(events=2), timers=Timers(max_transfer_time=100.0)))
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    for step in range(1, 6):
        role.handle_timer(T + step * 10)
    assert len(role.to_send(T)) == 2
    assert role.counters[DropReason.QUEUE_FULL] == 4


@pytest.mark.parametrize(
    "contexts", [(), (EncodedContext(0xFF02, b""),) * 5, (EncodedContext(0xFF02, bytes(70_000)),)]
)
def test_what_can_not_be_transferred_leaves_no_trace(contexts: tuple[EncodedContext, ...]) -> None:
    role = idle(config=ProtocolConfig(limits=Limits(contexts_per_transfer=4)))
    with pytest.raises(LocalError):
        role.transfer(MN, NEW, contexts, 7, T)
    assert role.to_send(T) == []
    assert role.deadline() is None
    role.transfer(MN, NEW, CONTEXTS, 7, T)


def test_local_faults() -> None:
    role = idle()
    with pytest.raises(LocalError):
        role.transfer(MN, STRANGER, CONTEXTS, 7, T)
    with pytest.raises(LocalError):
        role.transfer(MN, MOBILE, CONTEXTS, 7, T)
    with pytest.raises(LocalError):
        role.predict(MN, NEW, CONTEXTS, 7, b"", T)
    with pytest.raises(LocalError):
        role.provide(MN, CONTEXTS, 7, KEY, T)
    with pytest.raises(LocalError):
        role.authorize(MN, KEY, T)
    with pytest.raises(LocalError):
        role.refuse(MN, StatusCode.NO_SUCH_CONTEXT, T)
    with pytest.raises(LocalError):
        role.resend(MN, T)


def test_keys_and_contexts_are_in_no_repr() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.receive(ctar(10, NEW), MOBILE, T)
    role.transfer(MN + 1, NEW, CONTEXTS, 7, T)
    role.predict(MN + 2, NEW, CONTEXTS, 7, KEY, T)
    text = repr(role._transfers) + repr(take_events(role)) + repr(role.to_send(T))
    assert repr(KEY)[2:-1] not in text
    assert "octets that no role reads" not in text
