"""The new router by itself: collecting, answering, tokens and keys, deadlines, cancel, drops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from helpers import (
    CONTEXTS,
    CTC,
    EMPTY_CTD,
    KEY,
    MN,
    MOBILE,
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
    obey,
    pctd,
    take_events,
)

from cxtp.config import Limits, ProtocolConfig
from cxtp.constants import StatusCode
from cxtp.errors import LocalError
from cxtp.messages import ContextBlock, ContextStatus, ContextTransferData, EncodedContext
from cxtp.roles import DropReason, NewRouter, Outcome, Outgoing, Peer
from cxtp.roles.events import (
    ContextsReceived,
    PredictionExpired,
    TransferAborted,
)

T = 100.0
INSTALL_FAILED = ContextStatus(0xFF02, StatusCode.INSTALL_FAILED)
SMALL = ProtocolConfig(limits=Limits(contexts_per_transfer=3, octets_per_transfer=200))


def idle(config: ProtocolConfig = ProtocolConfig()) -> NewRouter:
    return NewRouter(ROUTERS, Fixed(9), config)


def whole(status: int) -> ContextStatus:
    """A status of the transfer as a whole."""
    return ContextStatus(0x0000, status)


def received(*, predictive: bool = False, activate: bool = True, transfer_id: int = TRANSFER_ID) -> ContextsReceived:
    return ContextsReceived(MN, CONTEXTS, 7, transfer_id, predictive, activate, PREVIOUS)


def part(index: int, parts: int = 3, **manifest: int) -> ContextTransferData:
    """One of three CTDs, with one context each."""
    blocks = (manifest_block(CONTEXTS, index, parts, **manifest), *blocks_of(CONTEXTS[index : index + 1]))
    return ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks, acknowledge=True)


def standby(key: bytes = KEY, mn_transfer: int = TRANSFER_ID) -> NewRouter:
    """A role that holds contexts sent ahead."""
    role = idle()
    role.receive(pctd(key=key, transfer_id=mn_transfer), PREVIOUS, T)
    role.installed(MN, mn_transfer, (), T)
    assert take_events(role) == [received(predictive=True, activate=False, transfer_id=mn_transfer)]
    role.to_send(T)
    return role


# --- collecting


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 2, 2, 0)])
def test_parts_come_together_in_any_order(order: tuple[int, ...]) -> None:
    role = idle()
    for index in order[:-1]:
        role.receive(part(index), PREVIOUS, T)
        assert not any(isinstance(event, ContextsReceived) for event in take_events(role))
    role.receive(part(order[-1]), PREVIOUS, T + 0.19)
    assert take_events(role) == [received()]
    assert role.deadline() is None


def test_data_without_a_manifest_is_complete_and_its_reply_has_no_receipt() -> None:
    role = idle()
    message = ContextTransferData(
        mn_previous_address=MN, elapsed_time=0, blocks=blocks_of(CONTEXTS), acknowledge=True
    )
    role.receive(message, PREVIOUS, T)
    assert take_events(role) == [ContextsReceived(MN, CONTEXTS, None, None, False, True, PREVIOUS)]
    role.installed(MN, None, (), T)
    assert role.to_send(T) == [Outgoing(ctdr(True, receipt=()), PREVIOUS)]
    role.receive(replace(message, elapsed_time=40), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == [Outgoing(ctdr(True, receipt=()), PREVIOUS)]


def test_a_context_of_many_blocks_is_one_context() -> None:
    role = idle()
    blocks = (ContextBlock(0xFF01, bytes(2036)), ContextBlock(0xFF00, b"the end."))
    role.receive(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks), PREVIOUS, T)
    (event,) = take_events(role)
    assert isinstance(event, ContextsReceived)
    assert event.contexts == (EncodedContext(0xFF01, bytes(2036) + b"the end."),)


def test_nothing_is_answered_where_a_is_not_set() -> None:
    role = idle()
    role.receive(replace(ctd(), acknowledge=False), PREVIOUS, T)
    role.installed(MN, TRANSFER_ID, (), T)
    assert role.to_send(T) == []
    take_events(role)
    role.receive(replace(ctd(), acknowledge=False), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == []
    role.receive(ctd(), PREVIOUS, T)  # now it asks
    assert role.to_send(T) == [Outgoing(ctdr(True), PREVIOUS)]


# --- answering


def test_the_answer_comes_after_the_node_stored_it_and_again_to_every_repetition() -> None:
    role = idle()
    role.receive(ctd(), PREVIOUS, T)
    assert take_events(role) == [received()]
    role.receive(ctd(elapsed_time=40), PREVIOUS, T + 0.04)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == []
    role.installed(MN, TRANSFER_ID, (ContextStatus(0xFF01, StatusCode.SUCCESS),), T + 0.05)
    assert role.to_send(T) == [Outgoing(ctdr(True), PREVIOUS)]
    for seconds in (0.12, 14, 28):  # each answer is remembered from when it was last given
        role.receive(ctd(elapsed_time=120), PREVIOUS, T + seconds)
        assert drops(role) == [DropReason.DUPLICATE_DATA]
        assert role.to_send(T) == [Outgoing(ctdr(True), PREVIOUS)]


def test_an_answer_is_forgotten_after_the_handover_time() -> None:
    role = idle()
    role.receive(ctd(), PREVIOUS, T)
    role.installed(MN, TRANSFER_ID, (), T)
    take_events(role)
    role.receive(ctd(), PREVIOUS, T + 15)
    assert take_events(role) == [received()]


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Outcome(True), ctdr(True)),
        (Outcome(True, (INSTALL_FAILED,)), ctdr(True, INSTALL_FAILED)),
        (Outcome(False, (INSTALL_FAILED,)), ctdr(False, INSTALL_FAILED)),
    ],
)
def test_the_nodes_records_answer_what_the_role_has_forgotten(outcome: Outcome, answer: ContextTransferData) -> None:
    def outcome_of(peer: Peer, mn_address: object, transfer_id: int) -> Outcome | None:
        return outcome if (peer, mn_address, transfer_id) == (PREVIOUS, MN, TRANSFER_ID) else None

    role = NewRouter(ROUTERS, Fixed(), outcome_of=outcome_of)
    role.receive(ctd(), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == [Outgoing(answer, PREVIOUS)]
    role.receive(ctd(transfer_id=1), PREVIOUS, T)
    assert take_events(role) == [received(transfer_id=1)]


def test_a_failure_says_what_failed_and_stays_one() -> None:
    role = idle()
    role.receive(ctd(), PREVIOUS, T)
    role.installed(MN, TRANSFER_ID, (INSTALL_FAILED, INSTALL_FAILED), T)
    take_events(role)
    assert role.to_send(T) == [Outgoing(ctdr(False, INSTALL_FAILED), PREVIOUS)]
    role.receive(ctd(), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == [Outgoing(ctdr(False, INSTALL_FAILED), PREVIOUS)]


def test_a_success_may_report_what_it_lacks() -> None:
    role = idle()
    role.receive(ctd(), PREVIOUS, T)
    role.installed(MN, TRANSFER_ID, (INSTALL_FAILED,), T, success=True)
    assert role.to_send(T) == [Outgoing(ctdr(True, INSTALL_FAILED), PREVIOUS)]


def test_no_answer_is_given_that_could_not_be_remembered() -> None:
    role = idle(ProtocolConfig(limits=Limits(remembered_requests=1)))
    role.receive(ctd(), PREVIOUS, T)
    take_events(role)
    other = replace(ctd(), mn_previous_address=MN + 1)
    role.receive(other, PREVIOUS, T)
    assert drops(role) == [DropReason.MEMORY_FULL]
    role.installed(MN, TRANSFER_ID, (), T)
    role.to_send(T)
    role.receive(other, PREVIOUS, T)
    assert drops(role) == [DropReason.MEMORY_FULL]
    assert role.to_send(T) == []
    role.receive(other, PREVIOUS, T + 15)
    assert len(take_events(role)) == 1


# --- data that is refused

EXTRA = EncodedContext(0xFF02, b"one more")
REFUSED = {
    "continues nothing": (
        replace(ctd(), blocks=(manifest_block(CONTEXTS), ContextBlock(0xFF00, b"12345678"))),
        StatusCode.MALFORMED,
    ),
    "another digest": (
        replace(ctd(), blocks=(manifest_block(CONTEXTS), *blocks_of((*CONTEXTS[:2], EXTRA)))),
        StatusCode.BAD_CHECKSUM,
    ),
    "another count": (
        replace(ctd(), blocks=(manifest_block(CONTEXTS), *blocks_of(CONTEXTS[:2]))),
        StatusCode.MALFORMED,
    ),
    "too many contexts told": (ctd((*CONTEXTS, EXTRA)), StatusCode.NO_RESOURCES),
    "too many contexts": (
        replace(ctd(), blocks=(manifest_block(CONTEXTS), *blocks_of((*CONTEXTS, EXTRA)))),
        StatusCode.NO_RESOURCES,
    ),
    "too many octets": (ctd((EncodedContext(0xFF01, bytes(201)),)), StatusCode.NO_RESOURCES),
    "no contexts": (ctd(()), StatusCode.MALFORMED),
    "more parts than contexts": (part(0, parts=4), StatusCode.MALFORMED),
    "an unknown algorithm": (replace(pctd(), algorithm=2), StatusCode.UNSUPPORTED_ALGORITHM),
    "no key": (pctd(key=b""), StatusCode.NOT_AUTHORIZED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_is_refused(name: str) -> None:
    message, status = REFUSED[name]
    role = idle(SMALL)
    role.receive(message, PREVIOUS, T)
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, status, PREVIOUS, 7)]
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(status)), PREVIOUS)]
    assert role.deadline() is None
    role.receive(ctd(), PREVIOUS, T)  # a later repetition that is well formed: the answer was given
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(status)), PREVIOUS)]


@pytest.mark.parametrize(
    "other",
    [
        part(1, generation=8),
        part(1, parts=2),
        replace(part(1), acknowledge=False),
        replace(pctd(), blocks=part(1).blocks),
    ],
)
def test_parts_that_do_not_belong_together(other: ContextTransferData) -> None:
    role = idle()
    role.receive(part(0), PREVIOUS, T)
    role.receive(other, PREVIOUS, T)
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.MALFORMED, PREVIOUS, 7)]
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(StatusCode.MALFORMED)), PREVIOUS)]


def test_parts_with_different_keys_do_not_belong_together() -> None:
    role = idle()
    role.receive(replace(pctd(), blocks=part(0).blocks), PREVIOUS, T)
    role.receive(replace(pctd(key=b"another"), blocks=part(1).blocks), PREVIOUS, T)
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.MALFORMED, PREVIOUS, 7)]


def test_a_manifest_that_can_not_be_read_is_refused_without_a_receipt() -> None:
    role = idle()
    message = replace(ctd(), blocks=(ContextBlock(0xFF03, b"\1" + bytes(43)), *blocks_of(CONTEXTS)))
    role.receive(message, PREVIOUS, T)
    assert take_events(role) == [TransferAborted(MN, None, StatusCode.MALFORMED, PREVIOUS)]
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(StatusCode.MALFORMED), receipt=()), PREVIOUS)]


def test_a_refusal_is_told_once_the_node_has_it_on_record() -> None:
    role = idle()
    role.receive(part(0), PREVIOUS, T)
    role.receive(part(1, generation=8), PREVIOUS, T)
    assert take_events(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.MALFORMED, PREVIOUS, 7)]
    assert role.to_send(T) == []
    role.receive(part(2), PREVIOUS, T)
    role.receive(ctd(transfer_id=1), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA, DropReason.BUSY]
    assert role.deadline() is None
    with pytest.raises(LocalError):
        role.refused(MN, 1, (), T)
    role.refused(MN, TRANSFER_ID, (whole(StatusCode.MALFORMED),), T)
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(StatusCode.MALFORMED)), PREVIOUS)]
    with pytest.raises(LocalError):
        role.refused(MN, TRANSFER_ID, (), T)


def test_what_the_node_has_in_hand_is_not_answered_from_its_records() -> None:
    """The record is written before the kernel is asked: a repetition in between must not get that for an answer."""
    records: list[Outcome] = []
    role = NewRouter(ROUTERS, Fixed(9), outcome_of=lambda peer, mn, transfer: records[0] if records else None)
    role.receive(ctd(), PREVIOUS, T)
    assert take_events(role) == [received()]
    records.append(Outcome(True))  # on disk as ours, and the kernel has not said yes
    role.receive(ctd(), PREVIOUS, T + 0.04)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T + 0.04) == []
    role.installed(MN, TRANSFER_ID, (INSTALL_FAILED,), T + 0.05)
    assert role.to_send(T + 0.05) == [Outgoing(ctdr(False, INSTALL_FAILED), PREVIOUS)]


def test_all_transfers_together_have_a_limit() -> None:
    octets = sum(len(context.data) for context in CONTEXTS)
    role = idle(ProtocolConfig(limits=Limits(octets_under_way=2 * octets)))
    for number in range(3):
        role.receive(replace(ctd(), mn_previous_address=MN + number), PREVIOUS, T)
    accepted, other, refused = take_events(role)
    assert isinstance(accepted, ContextsReceived)
    assert isinstance(other, ContextsReceived)
    assert refused == TransferAborted(MN + 2, TRANSFER_ID, StatusCode.NO_RESOURCES, PREVIOUS, 7)
    role.refused(MN + 2, TRANSFER_ID, (), T)
    role.installed(MN, TRANSFER_ID, (), T)
    role.receive(replace(ctd(transfer_id=1), mn_previous_address=MN + 2), PREVIOUS, T)
    assert isinstance(take_events(role)[0], ContextsReceived)


# --- one transfer at a time


def test_data_of_another_transfer_or_router_waits_its_turn() -> None:
    role = idle()
    role.receive(part(0), PREVIOUS, T)
    role.receive(ctd(transfer_id=1), PREVIOUS, T)
    role.receive(part(1), OTHER, T)
    assert drops(role) == [DropReason.BUSY] * 2
    role.receive(part(1), PREVIOUS, T)
    role.receive(part(2), PREVIOUS, T)
    take_events(role)
    role.receive(ctd(transfer_id=1), PREVIOUS, T)
    assert drops(role) == [DropReason.BUSY]
    with pytest.raises(LocalError):
        role.request(MN, PREVIOUS, T)


def test_data_of_a_router_that_was_not_asked() -> None:
    role = idle()
    role.request(MN, PREVIOUS, T)
    role.receive(ctd(), OTHER, T)
    assert drops(role) == [DropReason.BUSY]


# --- time


def test_a_request_is_repeated_with_doubled_waits_until_the_handover_time() -> None:
    role = idle()
    role.request(MN, PREVIOUS, T)
    sent = [T] if role.to_send(T) == [Outgoing(ct_req(9, None), PREVIOUS)] else []
    while (deadline := role.deadline()) is not None and deadline < T + 15:
        role.handle_timer(deadline - 1e-6)
        assert role.to_send(deadline) == []
        role.handle_timer(deadline)
        assert role.to_send(deadline) == [Outgoing(ct_req(9, None), PREVIOUS)]
        sent.append(deadline)
    waits = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert waits == pytest.approx([0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12])
    role.handle_timer(T + 15)
    assert take_events(role) == [TransferAborted(MN, None, StatusCode.TIMED_OUT, PREVIOUS)]
    assert role.to_send(T + 15) == [Outgoing(CTC, PREVIOUS)]
    assert role.deadline() is None


def test_a_request_over_a_reliable_transport_is_sent_once() -> None:
    reliable = replace(PREVIOUS, reliable=True)
    role = NewRouter({reliable.address: reliable}, Fixed(9))
    role.request(MN, reliable, T)
    assert role.deadline() == T + 15
    assert len(role.to_send(T)) == 1


def test_a_transfer_that_stays_incomplete_is_aborted_at_its_deadline() -> None:
    role = idle()
    role.receive(part(0), PREVIOUS, T)
    role.receive(part(1), PREVIOUS, T + 0.1)
    assert role.deadline() == T + 0.2  # from the first part
    role.handle_timer(T + 0.1999)
    assert take_events(role) == []
    role.handle_timer(T + 0.2)
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.TIMED_OUT, PREVIOUS, 7)]
    timed_out = ctdr(False, whole(StatusCode.TIMED_OUT))
    assert role.to_send(T + 0.2) == [Outgoing(timed_out, PREVIOUS)]
    role.receive(part(2), PREVIOUS, T + 0.3)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T + 0.3) == [Outgoing(timed_out, PREVIOUS)]


def test_an_incomplete_transfer_without_a_is_cancelled() -> None:
    role = idle()
    role.receive(replace(part(0), acknowledge=False), PREVIOUS, T)
    role.handle_timer(T + 0.2)
    assert role.to_send(T + 0.2) == [Outgoing(CTC, PREVIOUS)]


def test_contexts_ahead_of_their_mobile_node_wait_the_handover_time() -> None:
    role = standby()
    assert role.deadline() == T + 15
    role.handle_timer(T + 14.999)
    assert take_events(role) == []
    role.handle_timer(T + 15)
    assert take_events(role) == [PredictionExpired(MN, 7, TRANSFER_ID)]
    assert role.deadline() is None
    role.receive(ctar(9, PREVIOUS), MOBILE, T + 15)
    assert role.to_send(T) == [Outgoing(ct_req(9), PREVIOUS)]


def test_newer_contexts_take_the_place_of_those_ahead() -> None:
    role = standby()
    role.receive(ctd(transfer_id=1), PREVIOUS, T)
    assert take_events(role) == [PredictionExpired(MN, 7, TRANSFER_ID), received(transfer_id=1)]


# --- cancel


def test_cancel_before_the_data_comes() -> None:
    role = idle()
    role.request(MN, PREVIOUS, T)
    role.to_send(T)
    role.cancel(MN, T + 0.01)
    assert take_events(role) == [TransferAborted(MN, None, StatusCode.CANCELLED, PREVIOUS)]
    assert role.to_send(T) == [Outgoing(CTC, PREVIOUS)]
    assert role.deadline() is None
    # the data was on its way: it is not installed, and the previous router learns that
    role.receive(ctd(), PREVIOUS, T + 0.02)
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.CANCELLED, PREVIOUS, 7)]
    assert role.to_send(T) == [Outgoing(ctdr(False, whole(StatusCode.CANCELLED)), PREVIOUS)]
    # one transfer answers one request: the next is another matter
    role.receive(ctd(transfer_id=1), PREVIOUS, T + 0.03)
    assert take_events(role) == [received(transfer_id=1)]


def test_a_new_request_takes_the_cancel_back() -> None:
    role = idle()
    role.request(MN, PREVIOUS, T)
    role.cancel(MN, T)
    role.request(MN, PREVIOUS, T)
    take_events(role)
    role.receive(ctd(), PREVIOUS, T)
    assert take_events(role) == [received()]


def test_cancel_amid_the_data() -> None:
    role = idle()
    role.receive(part(0), PREVIOUS, T)
    role.cancel(MN, T)
    cancelled = ctdr(False, whole(StatusCode.CANCELLED))
    assert obey(role) == [TransferAborted(MN, TRANSFER_ID, StatusCode.CANCELLED, PREVIOUS, 7)]
    assert role.to_send(T) == [Outgoing(CTC, PREVIOUS), Outgoing(cancelled, PREVIOUS)]
    role.receive(part(1), PREVIOUS, T)
    assert drops(role) == [DropReason.DUPLICATE_DATA]
    assert role.to_send(T) == [Outgoing(cancelled, PREVIOUS)]


def test_cancel_too_late_or_for_nothing() -> None:
    role = idle()
    with pytest.raises(LocalError):
        role.cancel(MN, T)
    role.receive(ctd(), PREVIOUS, T)
    with pytest.raises(LocalError):
        role.cancel(MN, T)
    role.installed(MN, TRANSFER_ID, (), T)
    assert role.to_send(T) == [Outgoing(ctdr(True), PREVIOUS)]


# --- refusals


def test_data_without_contexts_ends_the_request_that_it_answers() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.to_send(T)
    role.receive(EMPTY_CTD, PREVIOUS, T)
    assert take_events(role) == [TransferAborted(MN, None, StatusCode.NO_SUCH_CONTEXT, PREVIOUS)]
    assert role.to_send(T) == [Outgoing(ctaa(whole(StatusCode.NO_SUCH_CONTEXT)), MOBILE)]
    assert role.deadline() is None
    role.receive(EMPTY_CTD, PREVIOUS, T)
    assert drops(role) == [DropReason.EMPTY_DATA]


def test_data_without_contexts_of_a_router_that_was_not_asked() -> None:
    role = idle()
    role.request(MN, PREVIOUS, T)
    role.receive(EMPTY_CTD, OTHER, T)
    assert drops(role) == [DropReason.EMPTY_DATA]
    assert role.deadline() is not None


# --- limits and local faults


def test_data_is_taken_from_known_routers_alone() -> None:
    role = idle()
    for peer in (STRANGER, MOBILE, replace(PREVIOUS, name="not it"), replace(PREVIOUS, is_router=False)):
        role.receive(ctd(), peer, T)
        role.receive(pctd(), peer, T)
    assert drops(role) == [DropReason.UNKNOWN_ROUTER] * 8
    assert role.to_send(T) == []


def test_transfers_under_way_are_limited() -> None:
    role = idle(ProtocolConfig(limits=Limits(transfers=1)))
    role.request(MN, PREVIOUS, T)
    with pytest.raises(LocalError):
        role.request(MN + 1, PREVIOUS, T)
    role.receive(replace(ctar(9, PREVIOUS), mn_previous_address=MN + 1), MOBILE, T)
    role.receive(replace(ctd(), mn_previous_address=MN + 1), PREVIOUS, T)
    assert drops(role) == [DropReason.TOO_MANY_TRANSFERS, DropReason.MEMORY_FULL]


def test_used_keys_are_remembered_within_a_bound() -> None:
    role = idle(ProtocolConfig(limits=Limits(remembered_requests=4)))
    for number in range(6):
        now = T + number * 20
        role.receive(pctd(key=b"key %d" % number, transfer_id=number), PREVIOUS, now)
        role.installed(MN, number, (), now)
        role.receive(ctar(number, PREVIOUS, b"key %d" % number), MOBILE, now)
        obey(role, now)
    assert role.counters[DropReason.MEMORY_EVICTED] == 2


def test_local_faults() -> None:
    role = idle()
    with pytest.raises(LocalError):
        role.request(MN, STRANGER, T)
    with pytest.raises(LocalError):
        role.installed(MN, TRANSFER_ID, (), T)
    role.receive(ctd(), PREVIOUS, T)
    with pytest.raises(LocalError):
        role.installed(MN, TRANSFER_ID + 1, (), T)
    role.installed(MN, TRANSFER_ID, (), T)
    with pytest.raises(LocalError):
        role.installed(MN, TRANSFER_ID, (), T)


def test_keys_and_contexts_are_in_no_repr() -> None:
    role = idle()
    role.receive(pctd(), PREVIOUS, T)
    text = repr(role._transfers) + repr(take_events(role))
    assert repr(KEY)[2:-1] not in text
    assert "octets that no role reads" not in text
