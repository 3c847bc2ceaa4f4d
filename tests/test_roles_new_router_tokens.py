"""The new router and the mobile node that comes to it: CTARs, tokens, and the keys that they are checked with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import (
    CONTEXTS,
    EMPTY_CTD,
    MN,
    MOBILE,
    PREVIOUS,
    STRANGER,
    TRANSFER_ID,
    ctaa,
    ctar,
    ctdr,
    drops,
    obey,
    pctd,
    take_events,
)
from test_roles_new_router import INSTALL_FAILED, T, idle, received, standby, whole

from cxtp.config import Limits, ProtocolConfig
from cxtp.constants import StatusCode
from cxtp.errors import LocalError
from cxtp.messages import ContextRequest, ContextStatus
from cxtp.roles import DropReason, Outgoing
from cxtp.roles.events import (
    ActivateContexts,
    TokenRefused,
    TransferAborted,
)
from cxtp.wire import build


def test_a_wrong_token_activates_nothing_and_leaves_the_key_for_the_right_one() -> None:
    role = standby()
    role.receive(ctar(9, PREVIOUS, b"a guess"), MOBILE, T)
    assert take_events(role) == [TokenRefused(MN, MOBILE)]
    assert role.counters[DropReason.TOKEN_REFUSED] == 1
    assert role.to_send(T) == [Outgoing(ctaa(whole(StatusCode.NOT_AUTHORIZED)), MOBILE)]
    role.receive(ctar(10, PREVIOUS), MOBILE, T)
    assert obey(role) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]


def test_the_mobile_node_is_told_once_its_contexts_are_in_use() -> None:
    role = standby()
    role.receive(ctar(9, PREVIOUS), MOBILE, T + 14)
    assert take_events(role) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]
    assert role.to_send(T + 14) == []
    role.handle_timer(T + 20)  # nothing expires any more
    assert take_events(role) == []
    role.activated(MN, TRANSFER_ID, (INSTALL_FAILED,), T + 20)
    assert role.to_send(T + 20) == [Outgoing(ctaa(INSTALL_FAILED), MOBILE)]
    with pytest.raises(LocalError):
        role.activated(MN, TRANSFER_ID, (), T + 20)


def test_a_null_token_is_refused_before_it_can_ask_for_the_key() -> None:
    role = idle()
    role.receive(replace(ctar(9, PREVIOUS), authorization_token=bytes(4)), MOBILE, T)
    assert take_events(role) == [TokenRefused(MN, MOBILE)]
    assert role.to_send(T) == [Outgoing(ctaa(whole(StatusCode.NOT_AUTHORIZED)), MOBILE)]
    assert role.deadline() is None


def test_a_replayed_ctar_activates_nothing() -> None:
    role = standby()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    obey(role)
    role.to_send(T)
    role.receive(ctar(9, PREVIOUS), MOBILE, T + 1)
    assert drops(role) == [DropReason.DUPLICATE_REQUEST]
    assert role.to_send(T) == [Outgoing(ctaa(), MOBILE)]  # its answer may have been lost


def test_a_key_proves_one_mobile_node_once() -> None:
    role = standby()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    obey(role)
    role.to_send(T)
    # the same key comes again, for another mobile node or the same
    for mn_address in (MN, MN + 1):
        role.receive(replace(pctd(transfer_id=1), mn_previous_address=mn_address), PREVIOUS, T + 1)
        assert obey(role) == [TransferAborted(mn_address, 1, StatusCode.NOT_AUTHORIZED, PREVIOUS, 7)]


def test_a_key_held_for_two_mobile_nodes_proves_the_first_that_comes() -> None:
    role = standby()
    second = replace(pctd(), mn_previous_address=MN + 1)
    role.receive(second, PREVIOUS, T)
    role.installed(MN + 1, TRANSFER_ID, (), T)
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    obey(role)
    role.to_send(T)
    role.receive(replace(ctar(9, PREVIOUS), mn_previous_address=MN + 1), MOBILE, T)
    assert take_events(role) == [TokenRefused(MN + 1, MOBILE)]


def test_a_key_is_discarded_once_used() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.receive(pctd(), PREVIOUS, T)
    assert take_events(role) == [received(predictive=True, activate=True)]
    collection = role._transfers[MN].collection
    assert collection is not None
    assert collection.key == b""


def test_a_key_that_waited_for_its_mobile_node_is_discarded_once_used() -> None:
    role = standby()
    collection = role._transfers[MN].collection
    assert collection is not None
    assert collection.key != b""
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    assert collection.key == b""


def test_a_ct_req_has_the_ctars_list_as_it_came() -> None:
    """RFC 4067, 2.5.6: verbatim, the token was made over it: order, form and bits that mean nothing to us."""
    requested = (ContextRequest(0xFF02, 1, 0x85), ContextRequest(0x7777), ContextRequest(0xFF02, 0, 1))
    sent = replace(ctar(9, PREVIOUS), requested=requested, authorization_token=b"asis")
    role = idle()
    role.receive(sent, MOBILE, T)
    (outgoing,) = role.to_send(T)
    assert outgoing.peer == PREVIOUS
    behind_address = build(sent)[4 + 4 + 4 :]  # header, the mobile node's address, the router's
    assert build(outgoing.message)[4 + 4 :] == behind_address


def test_a_forged_ctar_that_waits_for_a_prediction_does_not_get_it() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS, b"a guess"), MOBILE, T)
    role.to_send(T)
    role.receive(pctd(), PREVIOUS, T)
    assert take_events(role) == [TokenRefused(MN, MOBILE), received(predictive=True, activate=False)]
    assert role.to_send(T) == [Outgoing(ctaa(whole(StatusCode.NOT_AUTHORIZED)), MOBILE)]


def test_a_ctar_while_the_node_stores_a_prediction() -> None:
    role = idle()
    role.receive(pctd(), PREVIOUS, T)
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    assert take_events(role) == [received(predictive=True, activate=False)]
    role.installed(MN, TRANSFER_ID, (), T)
    assert obey(role) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]
    assert role.to_send(T) == [Outgoing(ctdr(True), PREVIOUS), Outgoing(ctaa(), MOBILE)]
    assert role.deadline() is None


def test_a_prediction_that_can_not_be_stored_waits_for_nobody() -> None:
    role = idle()
    role.receive(pctd(), PREVIOUS, T)
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.installed(MN, TRANSFER_ID, (INSTALL_FAILED,), T)
    assert role.to_send(T) == [Outgoing(ctdr(False, INSTALL_FAILED), PREVIOUS), Outgoing(ctaa(INSTALL_FAILED), MOBILE)]
    assert role.deadline() is None


def test_a_ctar_that_names_an_unknown_router() -> None:
    role = idle()
    role.receive(ctar(9, STRANGER), MOBILE, T)
    assert drops(role) == [DropReason.UNKNOWN_ROUTER]
    assert role.to_send(T) == [Outgoing(ctaa(whole(StatusCode.NOT_AUTHORIZED)), MOBILE)]
    assert role.deadline() is None


def test_a_second_ctar_waits_for_the_first() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.receive(ctar(10, PREVIOUS), MOBILE, T)
    assert drops(role) == [DropReason.BUSY]


def test_a_ctar_without_a_is_not_acknowledged() -> None:
    role = idle()
    role.receive(ctar(9, PREVIOUS, acknowledge=False), MOBILE, T)
    role.to_send(T)
    role.receive(EMPTY_CTD, PREVIOUS, T)
    assert role.to_send(T) == []


def test_ctars_are_rate_limited() -> None:
    role = idle(ProtocolConfig(limits=Limits(request_rate=1.0)))
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    role.receive(ctar(10, PREVIOUS), MOBILE, T)
    assert drops(role) == [DropReason.RATE_LIMITED]


def test_a_ctaa_fits_one_packet() -> None:
    """RFC 4067, 3.2: what failed is told as far as there is room."""
    role = standby()
    role.receive(ctar(9, PREVIOUS), MOBILE, T)
    take_events(role)
    role.to_send(T)
    failures = [ContextStatus(2 + number, StatusCode.INSTALL_FAILED) for number in range(1000)]
    role.activated(MN, TRANSFER_ID, failures, T)
    (outgoing,) = role.to_send(T)
    assert outgoing.message == ctaa(*failures[:256])
    assert len(build(outgoing.message)) <= 1280 - 40 - 8
