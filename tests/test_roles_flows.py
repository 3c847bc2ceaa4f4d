"""The flows of RFC 4067, 2.1 and 5, arrow by arrow: each message against one written by hand."""

from __future__ import annotations

from helpers import (
    CONTEXTS,
    KEY,
    MN,
    MOBILE,
    NEW,
    NEW_ADDRESS,
    PREVIOUS,
    ROUTERS,
    TRANSFER_ID,
    Fixed,
    ct_req,
    ctaa,
    ctar,
    ctd,
    ctdr,
    drops,
    obey,
    pctd,
    take_events,
)

from cxtp.roles import MobileNode, NewRouter, Outgoing, PreviousRouter
from cxtp.roles.events import (
    ActivateContexts,
    ActivationAcknowledged,
    ActivationRequested,
    ContextsReceived,
    ContextsRequested,
    TransferConfirmed,
)

SEQUENCE_NUMBER = 0x5EC0_0001
NOW = 50.0


def previous_router() -> PreviousRouter:
    return PreviousRouter(ROUTERS, Fixed(TRANSFER_ID))


def new_router() -> NewRouter:
    return NewRouter(ROUTERS, Fixed(SEQUENCE_NUMBER))


def received(*, predictive: bool, activate: bool) -> ContextsReceived:
    """What the node at the new router is told, once."""
    return ContextsReceived(MN, CONTEXTS, 7, TRANSFER_ID, predictive, activate, PREVIOUS)


def test_predictive_network_controlled() -> None:
    previous, new = previous_router(), new_router()

    # MN        nAR       pAR      RFC 4067, 5.1
    #  |         |         |       CT trigger
    #  |         |<--PCTD--|
    assert previous.predict(MN, NEW, CONTEXTS, 7, KEY, NOW) == TRANSFER_ID
    assert previous.to_send(NOW) == [Outgoing(pctd(), NEW)]
    new.receive(pctd(), PREVIOUS, NOW)
    assert take_events(new) == [received(predictive=True, activate=False)]
    assert new.to_send(NOW) == []  # nothing is answered before the node has stored it

    #  |         |--CTDR-->|
    new.installed(MN, TRANSFER_ID, (), NOW)
    assert new.to_send(NOW) == [Outgoing(ctdr(True), PREVIOUS)]
    previous.receive(ctdr(True), NEW, NOW)
    assert take_events(previous) == [TransferConfirmed(MN, TRANSFER_ID, ())]
    assert previous.deadline() is None

    #  |--CTAR-->|         |       the mobile node has moved
    #  |<--CTAA--|         |
    new.receive(ctar(9, PREVIOUS), MOBILE, NOW + 3)
    assert obey(new) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]
    assert new.to_send(NOW + 3) == [Outgoing(ctaa(), MOBILE)]
    assert new.deadline() is None


def test_reactive_network_controlled_with_a_null_token() -> None:
    previous, new = previous_router(), new_router()

    # MN        nAR       pAR      RFC 4067, 5.2
    #  |         |         |       CT trigger
    #  |         |--CTReq->|       null token: no CTAR yet
    new.request(MN, PREVIOUS, NOW)
    assert new.to_send(NOW) == [Outgoing(ct_req(SEQUENCE_NUMBER, None), PREVIOUS)]
    previous.receive(ct_req(SEQUENCE_NUMBER, None), NEW, NOW)
    assert take_events(previous) == [ContextsRequested(MN, (), NEW, SEQUENCE_NUMBER, null_token=True)]

    #  |         |<--PCTD--|       and so the key comes with the contexts
    assert previous.provide(MN, CONTEXTS, 7, KEY, NOW) == TRANSFER_ID
    assert previous.to_send(NOW) == [Outgoing(pctd(), NEW)]

    #  |--CTAR-->|         |       on its way meanwhile
    new.receive(ctar(9, PREVIOUS), MOBILE, NOW)
    assert new.to_send(NOW) == []
    new.receive(pctd(), PREVIOUS, NOW)
    assert take_events(new) == [received(predictive=True, activate=True)]

    #  |         |--CTDR-->|
    #  |<--CTAA--|         |
    new.installed(MN, TRANSFER_ID, (), NOW)
    assert new.to_send(NOW) == [Outgoing(ctdr(True), PREVIOUS), Outgoing(ctaa(), MOBILE)]
    previous.receive(ctdr(True), NEW, NOW)
    assert take_events(previous) == [TransferConfirmed(MN, TRANSFER_ID, ())]
    assert previous.deadline() is None
    assert new.deadline() is None


def test_mobile_controlled_predictive() -> None:
    previous, new, mobile = previous_router(), new_router(), MobileNode(Fixed(9))

    # MN        nAR       pAR      RFC 4067, 5.3, predictive
    #  |--CTAR------------>|
    #  |--CTAR-->|         |       the same sequence number to both
    assert mobile.activate(MN, PREVIOUS, NEW, NOW, KEY, predictive=True) == 9
    assert mobile.to_send(NOW) == [Outgoing(ctar(9, NEW), PREVIOUS), Outgoing(ctar(9, PREVIOUS), NEW)]
    previous.receive(ctar(9, NEW), MOBILE, NOW)
    assert take_events(previous) == [ActivationRequested(MN, NEW_ADDRESS, ctar(9, NEW), MOBILE)]

    #  |         |<--PCTD--|
    assert previous.authorize(MN, KEY, NOW)
    assert previous.provide(MN, CONTEXTS, 7, KEY, NOW) == TRANSFER_ID
    assert previous.to_send(NOW) == [Outgoing(pctd(), NEW)]
    new.receive(pctd(), PREVIOUS, NOW)
    assert take_events(new) == [received(predictive=True, activate=False)]

    #  |         |--CTDR-->|
    #  |<--CTAA------------|
    new.installed(MN, TRANSFER_ID, (), NOW)
    assert new.to_send(NOW) == [Outgoing(ctdr(True), PREVIOUS)]
    previous.receive(ctdr(True), NEW, NOW)
    assert take_events(previous) == [TransferConfirmed(MN, TRANSFER_ID, ())]
    assert previous.to_send(NOW) == [Outgoing(ctaa(), MOBILE)]
    mobile.receive(ctaa(), PREVIOUS, NOW)
    assert take_events(mobile) == [ActivationAcknowledged(MN, (), PREVIOUS)]
    assert mobile.deadline() is not None  # the new router's answer is still to come

    #  |         |                 the CTAR to nAR of above arrives
    #  |<--CTAA--|
    new.receive(ctar(9, PREVIOUS), MOBILE, NOW)
    assert obey(new) == [ActivateContexts(MN, CONTEXTS, 7, TRANSFER_ID)]
    assert new.to_send(NOW) == [Outgoing(ctaa(), MOBILE)]
    mobile.receive(ctaa(), NEW, NOW)
    assert take_events(mobile) == [ActivationAcknowledged(MN, (), NEW)]
    assert mobile.deadline() is None


def test_mobile_controlled_reactive() -> None:
    previous, new, mobile = previous_router(), new_router(), MobileNode(Fixed(9))

    # MN        nAR       pAR      RFC 4067, 5.3, reactive
    #  |--CTAR-->|         |
    mobile.activate(MN, PREVIOUS, NEW, NOW, KEY)
    assert mobile.to_send(NOW) == [Outgoing(ctar(9, PREVIOUS), NEW)]
    new.receive(ctar(9, PREVIOUS), MOBILE, NOW)

    #  |         |--CTReq->|       sequence number and token verbatim
    assert new.to_send(NOW) == [Outgoing(ct_req(9), PREVIOUS)]
    previous.receive(ct_req(9), NEW, NOW)
    assert take_events(previous) == [ContextsRequested(MN, (), NEW, 9, null_token=False)]

    #  |         |<--CTD---|       the previous router has checked the token: no key travels
    assert previous.provide(MN, CONTEXTS, 7, KEY, NOW) == TRANSFER_ID
    assert previous.to_send(NOW) == [Outgoing(ctd(), NEW)]
    new.receive(ctd(), PREVIOUS, NOW)
    assert take_events(new) == [received(predictive=False, activate=True)]

    #  |         |--CTDR-->|
    #  |<--CTAA--|         |
    new.installed(MN, TRANSFER_ID, (), NOW)
    assert new.to_send(NOW) == [Outgoing(ctdr(True), PREVIOUS), Outgoing(ctaa(), MOBILE)]
    previous.receive(ctdr(True), NEW, NOW)
    assert take_events(previous) == [TransferConfirmed(MN, TRANSFER_ID, ())]
    mobile.receive(ctaa(), NEW, NOW)
    assert take_events(mobile) == [ActivationAcknowledged(MN, (), NEW)]
    assert (previous.deadline(), new.deadline(), mobile.deadline()) == (None, None, None)


def test_unsolicited_for_a_mobile_node_that_knows_no_cxtp() -> None:
    previous, new = previous_router(), new_router()

    # nAR       pAR
    #  |         |       the network decides
    #  |<--CTD---|
    #  |--CTDR-->|
    assert previous.transfer(MN, NEW, CONTEXTS, 7, NOW) == TRANSFER_ID
    assert previous.to_send(NOW) == [Outgoing(ctd(), NEW)]
    new.receive(ctd(), PREVIOUS, NOW)
    assert take_events(new) == [received(predictive=False, activate=True)]
    new.installed(MN, TRANSFER_ID, (), NOW)
    assert new.to_send(NOW) == [Outgoing(ctdr(True), PREVIOUS)]
    previous.receive(ctdr(True), NEW, NOW)
    assert take_events(previous) == [TransferConfirmed(MN, TRANSFER_ID, ())]
    assert (previous.deadline(), new.deadline()) == (None, None)


def test_a_ctar_ahead_of_the_prediction_is_served_by_it() -> None:
    previous, new = previous_router(), new_router()

    # MN        nAR       pAR
    #  |--CTAR------------>|
    #  |--CTAR-->|         |       arrives first
    #  |         |--CTReq->|       the same sequence number: ask for the cached data
    #  |         |<--PCTD--|
    #  |         |<--PCTD--|
    previous.receive(ctar(9, NEW), MOBILE, NOW)
    take_events(previous)
    new.receive(ctar(9, PREVIOUS), MOBILE, NOW)
    assert new.to_send(NOW) == [Outgoing(ct_req(9), PREVIOUS)]
    previous.provide(MN, CONTEXTS, 7, KEY, NOW)
    assert previous.to_send(NOW) == [Outgoing(pctd(), NEW)]
    previous.receive(ct_req(9), NEW, NOW + 0.01)
    assert previous.to_send(NOW + 0.01) == [Outgoing(pctd(elapsed_time=10), NEW)]
    assert take_events(previous) == []
    new.receive(pctd(), PREVIOUS, NOW + 0.02)
    assert take_events(new) == [received(predictive=True, activate=True)]
    new.receive(pctd(elapsed_time=10), PREVIOUS, NOW + 0.02)
    assert [reason.name for reason in drops(new)] == ["DUPLICATE_DATA"]

    #  |         |--CTDR-->|
    #  |<--CTAA--|         |
    new.installed(MN, TRANSFER_ID, (), NOW + 0.03)
    assert new.to_send(NOW + 0.03) == [Outgoing(ctdr(True), PREVIOUS), Outgoing(ctaa(), MOBILE)]
