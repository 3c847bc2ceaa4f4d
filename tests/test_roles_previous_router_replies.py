"""Replies of other implementations, which know no receipt: when one decides, and when it leaves the doubt."""

from __future__ import annotations

import pytest
from helpers import (
    CONTEXTS,
    MN,
    NEW,
    TRANSFER_ID,
    ctdr,
    drops,
    take_events,
)
from test_roles_previous_router import T, idle, sending

from cxtp.config import Limits, ProtocolConfig
from cxtp.constants import StatusCode
from cxtp.messages import ContextStatus
from cxtp.roles import DropReason, Event
from cxtp.roles.events import (
    TransferConfirmed,
    TransferRefused,
    TransferUnconfirmed,
)

UNKNOWN_MANIFEST = ContextStatus(0xFF03, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE)
KNOWN = ContextStatus(0xFF01, StatusCode.SUCCESS)
FAILED_1, FAILED_2 = ContextStatus(0xFF01, 6), ContextStatus(0xFF02, 6)


@pytest.mark.parametrize(
    ("success", "statuses", "event"),
    [
        (True, (), TransferConfirmed(MN, TRANSFER_ID, ())),
        (True, (KNOWN,), TransferConfirmed(MN, TRANSFER_ID, ())),
        (True, (UNKNOWN_MANIFEST,), TransferConfirmed(MN, TRANSFER_ID, (UNKNOWN_MANIFEST,))),
        (False, (UNKNOWN_MANIFEST,), TransferConfirmed(MN, TRANSFER_ID, (UNKNOWN_MANIFEST,))),
        (False, (FAILED_1, FAILED_2), TransferRefused(MN, TRANSFER_ID, (FAILED_1, FAILED_2))),
    ],
)
def test_a_reply_without_receipt_that_is_clear(
    success: bool, statuses: tuple[ContextStatus, ...], event: Event
) -> None:
    role = sending()
    role.receive(ctdr(success, *statuses, receipt=()), NEW, T)
    assert take_events(role) == [event]


@pytest.mark.parametrize("statuses", [(), (FAILED_1,), (FAILED_2, UNKNOWN_MANIFEST)])
def test_a_failure_of_only_some_leaves_the_transfer_in_doubt(statuses: tuple[ContextStatus, ...]) -> None:
    role = sending()
    role.receive(ctdr(False, *statuses, receipt=()), NEW, T)
    assert drops(role) == [DropReason.AMBIGUOUS_REPLY]
    role.handle_timer(T + 0.2)
    assert take_events(role) == [TransferUnconfirmed(MN, TRANSFER_ID)]


def test_a_reply_without_receipt_is_ambiguous_where_receipts_are_required() -> None:
    role = sending(require_receipt=True)
    role.receive(ctdr(True, receipt=()), NEW, T)
    assert drops(role) == [DropReason.AMBIGUOUS_REPLY]


def test_a_reply_without_receipt_is_ambiguous_soon_after_another_transfer() -> None:
    role = sending()
    role.receive(ctdr(True, receipt=()), NEW, T)
    role.transfer(MN, NEW, CONTEXTS, 9, T + 14.9)
    take_events(role)
    role.receive(ctdr(True, receipt=()), NEW, T + 14.9)
    assert drops(role) == [DropReason.AMBIGUOUS_REPLY]


def test_a_reply_without_receipt_is_clear_long_after_another_transfer() -> None:
    role = sending()
    role.receive(ctdr(True, receipt=()), NEW, T)
    role.transfer(MN, NEW, CONTEXTS, 9, T + 15)
    take_events(role)
    role.receive(ctdr(True, receipt=()), NEW, T + 15)
    assert take_events(role) == [TransferConfirmed(MN, 0, ())]


def test_a_reply_without_receipt_is_ambiguous_for_data_of_several_messages() -> None:
    role = idle(config=ProtocolConfig(limits=Limits(message_octets=220)))
    role.transfer(MN, NEW, CONTEXTS, 7, T)
    assert len(role.to_send(T)) > 1
    role.receive(ctdr(True, receipt=()), NEW, T)
    assert drops(role) == [DropReason.AMBIGUOUS_REPLY]
